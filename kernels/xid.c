/* Xid events: see xid.h. */
#include "kernels/xid.h"

#include <stddef.h>

static const struct xid_event events[] = {
    {48, "its memory has an error that cannot be corrected (double-bit ECC)", false},
    {62, "its internal controller has halted", false},
    {64, "a faulty part of its memory cannot be taken out of use", false},
    {74, "its NVLink has an error", false},
    {XID_GPU_LOST, "it has fallen off the bus", false},
    {94, "an error of its memory was contained: only the programs that used it must end", true},
    {95, "an error of its memory was not contained", false},
    {119, "its system processor does not answer", false},
    {120, "its system processor has an error", false},
};

const struct xid_event *xid_find(uint64_t xid)
{
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (events[i].xid == xid) return &events[i];
    return NULL;
}
