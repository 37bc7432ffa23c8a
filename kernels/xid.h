/* Xid events of NVIDIA's driver: what of them is the end of a worker. The table has those that say the device, not a program, is at fault; what a
 * program did wrong (13, 31, 43, 45 and their like) comes back to it as an error of its own calls and is not here. Source: "XID Errors",
 * docs.nvidia.com/deploy/xid-errors. */
#ifndef SPILLWAY_KERNELS_XID_H
#define SPILLWAY_KERNELS_XID_H

#include <stdbool.h>
#include <stdint.h>

struct xid_event {
    uint64_t xid;
    const char *what;   /* "Xid 79: ..." is said of it */
    bool restart_helps; /* a new process can compute there again; else the device needs a reset or a hand, which is the operator's */
};

enum { XID_GPU_LOST = 79 };

/* NULL: no reason to end anything. */
const struct xid_event *xid_find(uint64_t xid);

#endif
