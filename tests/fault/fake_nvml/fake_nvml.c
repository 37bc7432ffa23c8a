/* NVML as far as engine/device_watch.c uses it. The environment variable FAKE_NVML names a file; once it is there, with "BUS_ID XID", whoever listens to
 * that device gets the event and the file is removed. FAKE_NVML_FAILS=1: no driver. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK, UNINITIALIZED, INVALID_ARGUMENT, DRIVER_NOT_LOADED = 9, TIMED_OUT = 10, STEP_MS = 5, XID_EVENTS = 8 };

struct event {
    void *device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
};

static int users;
static char bus_id[32];       /* of the one device that was asked for */
static unsigned long long on; /* events that are listened to */

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **out);
int nvmlEventSetCreate(void **out);
int nvmlEventSetFree(void *set);
int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set);
int nvmlEventSetWait_v2(void *set, struct event *out, unsigned ms);
const char *nvmlErrorString(int rc);

int nvmlInit_v2(void)
{
    if (getenv("FAKE_NVML_FAILS")) return DRIVER_NOT_LOADED;
    users++;
    return OK;
}

int nvmlShutdown(void)
{
    return users-- > 0 ? OK : UNINITIALIZED;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **out)
{
    if (!users || strlen(id) != strlen("0000:00:00.0")) return INVALID_ARGUMENT;
    snprintf(bus_id, sizeof bus_id, "%s", id);
    *out = bus_id;
    return OK;
}

int nvmlEventSetCreate(void **out)
{
    *out = &on;
    return users ? OK : UNINITIALIZED;
}

int nvmlEventSetFree(void *set)
{
    return set == &on ? OK : INVALID_ARGUMENT;
}

int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set)
{
    if (device != bus_id || set != &on) return INVALID_ARGUMENT;
    on = types;
    return OK;
}

/* true: the file holds an event of our device, which is nobody else's any more. */
static int take(unsigned long long *xid)
{
    const char *path = getenv("FAKE_NVML");
    char of[32];
    FILE *f = path ? fopen(path, "r") : NULL;
    if (!f) return 0;
    int n = fscanf(f, "%31s %llu", of, xid);
    fclose(f);
    return n == 2 && strcmp(of, bus_id) == 0 && unlink(path) == 0;
}

int nvmlEventSetWait_v2(void *set, struct event *out, unsigned ms)
{
    if (!users || set != &on || !(on & XID_EVENTS)) return INVALID_ARGUMENT;
    for (unsigned waited = 0; waited < ms; waited += STEP_MS) {
        unsigned long long xid;
        if (take(&xid)) {
            *out = (struct event){.device = bus_id, .type = XID_EVENTS, .data = xid};
            return OK;
        }
        usleep(STEP_MS * 1000);
    }
    return TIMED_OUT;
}

const char *nvmlErrorString(int rc)
{
    return rc == DRIVER_NOT_LOADED ? "Driver Not Loaded" : rc == TIMED_OUT ? "Timeout" : "Unknown Error";
}
