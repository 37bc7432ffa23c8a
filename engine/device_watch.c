/* Device watch: see device_watch.h. The few functions of NVML that are used are declared here as its public API has them (nvml.h): no header and no library
 * of it is needed to build. */
#include "engine/device_watch.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "kernels/xid.h"

enum { NVML_SUCCESS = 0, NVML_ERROR_TIMEOUT = 10, NVML_ERROR_GPU_IS_LOST = 15, NVML_EVENT_XID = 8, WAIT_MS = 50 };

struct nvml_event {
    void *device;
    unsigned long long type, data; /* data: the Xid */
    unsigned gpu_instance, compute_instance;
};

struct nvml {
    int (*init)(void);
    int (*shutdown)(void);
    int (*find)(const char *bus_id, void **out);
    int (*events_new)(void **out);
    int (*events_free)(void *set);
    int (*listen)(void *device, unsigned long long types, void *set);
    int (*wait)(void *set, struct nvml_event *out, unsigned ms);
    const char *(*error)(int rc);
};

struct device_watch {
    struct nvml nvml;
    void *library;
    void *set;
    uint64_t *event;
    pthread_t thread;
    bool initialised, stopping;
};

static bool nvml_open(struct device_watch *w)
{
    const struct {
        const char *name;
        void *to;
    } symbols[] = {
        {"nvmlInit_v2", &w->nvml.init},
        {"nvmlShutdown", &w->nvml.shutdown},
        {"nvmlDeviceGetHandleByPciBusId_v2", &w->nvml.find},
        {"nvmlEventSetCreate", &w->nvml.events_new},
        {"nvmlEventSetFree", &w->nvml.events_free},
        {"nvmlDeviceRegisterEvents", &w->nvml.listen},
        {"nvmlEventSetWait_v2", &w->nvml.wait},
        {"nvmlErrorString", &w->nvml.error},
    };
    w->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!w->library) {
        log_debug("NVML: %s: events of the GPU are not heard", dlerror());
        return false;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *symbol = dlsym(w->library, symbols[i].name);
        if (!symbol) {
            log_debug("NVML: it has no %s: events of the GPU are not heard", symbols[i].name);
            return false;
        }
        memcpy(symbols[i].to, &symbol, sizeof symbol);
    }
    return true;
}

static void say(struct device_watch *w, uint64_t xid)
{
    const struct xid_event *x = xid_find(xid);
    if (!x) {
        log_debug("the GPU reports Xid %llu", (unsigned long long)xid);
        return;
    }
    log_error("the GPU reports Xid %llu: %s", (unsigned long long)xid, x->what);
    if (!__atomic_load_n(w->event, __ATOMIC_RELAXED)) __atomic_store_n(w->event, xid, __ATOMIC_RELAXED);
}

static void *watch(void *ctx)
{
    struct device_watch *w = ctx;
    bool last;
    int rc;
    do {
        struct nvml_event event = {0};
        last = __atomic_load_n(&w->stopping, __ATOMIC_ACQUIRE);
        rc = w->nvml.wait(w->set, &event, WAIT_MS);
        if (rc == NVML_SUCCESS && event.type == NVML_EVENT_XID) say(w, event.data);
        if (rc == NVML_ERROR_GPU_IS_LOST) say(w, XID_GPU_LOST);
    } while (!last && (rc == NVML_SUCCESS || rc == NVML_ERROR_TIMEOUT));
    if (!last && rc != NVML_ERROR_GPU_IS_LOST) log_warn("NVML: %s: events of the GPU are heard no longer", w->nvml.error(rc));
    return NULL;
}

static void watch_free(struct device_watch *w)
{
    if (w->set) w->nvml.events_free(w->set);
    if (w->initialised) w->nvml.shutdown();
    if (w->library) dlclose(w->library);
    free(w);
}

/* NVML's own words; NULL: it listens. */
static const char *watch_begin(struct device_watch *w, const char *bus_id)
{
    void *device;
    int rc = w->nvml.find(bus_id, &device);
    if (rc == NVML_SUCCESS) rc = w->nvml.events_new(&w->set);
    if (rc == NVML_SUCCESS) rc = w->nvml.listen(device, NVML_EVENT_XID, w->set);
    if (rc != NVML_SUCCESS) return w->nvml.error(rc);
    return pthread_create(&w->thread, NULL, watch, w) ? "no thread" : NULL;
}

struct device_watch *device_watch_start(const char *bus_id, uint64_t *event)
{
    struct device_watch *w = bus_id && *bus_id ? calloc(1, sizeof *w) : NULL;
    if (!w) return NULL;
    w->event = event;
    if (!nvml_open(w)) {
        watch_free(w);
        return NULL;
    }
    int rc = w->nvml.init();
    w->initialised = rc == NVML_SUCCESS;
    const char *why = w->initialised ? watch_begin(w, bus_id) : w->nvml.error(rc);
    if (!why) {
        log_debug("NVML: listens for events of the GPU %s", bus_id);
        return w;
    }
    log_debug("NVML: %s: events of the GPU %s are not heard", why, bus_id);
    watch_free(w);
    return NULL;
}

void device_watch_stop(struct device_watch *w)
{
    if (!w) return;
    __atomic_store_n(&w->stopping, true, __ATOMIC_RELEASE);
    pthread_join(w->thread, NULL);
    watch_free(w);
}
