/* Device watch: a thread of the worker that hears what NVIDIA's driver reports of its GPU (NVML), also while the worker computes or hangs. A critical event
 * (kernels/xid.h) is written down for the gateway and logged; what becomes of the worker is the gateway's to decide. It changes nothing on the
 * device. NVML (libnvidia-ml.so.1) is opened at run time; where there is none, or it knows no such events, nothing is heard. */
#ifndef SPILLWAY_ENGINE_DEVICE_WATCH_H
#define SPILLWAY_ENGINE_DEVICE_WATCH_H

#include <stdint.h>

struct device_watch;

/* bus_id: "0000:3b:00.0"; NULL or "": no GPU. *event (borrowed until device_watch_stop) becomes the Xid of the first critical event. NULL: nothing is heard. */
struct device_watch *device_watch_start(const char *bus_id, uint64_t *event);
/* Listens for a moment more: what ends the worker and what tells why may come at the same time. Accepts NULL. */
void device_watch_stop(struct device_watch *w);

#endif
