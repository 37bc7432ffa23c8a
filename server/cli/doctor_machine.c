/* doctor: processor, memory, GPU, descriptors, kernel, decoder's cage, clock. What is asked of the kernel is tried, not looked up by version. */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"
#include "server/cli/doctor_parts.h"
#include "server/cli/pictures.h"

enum { ENOUGH_DESCRIPTORS = 12600, FEW_DESCRIPTORS = 256 }; /* --max-connections and what we open ourselves */
static const uint64_t enough_memory = (uint64_t)512 << 20, little_memory = (uint64_t)128 << 20; /* beside a model's own */
static const int64_t built_after_s = 1735689600; /* 2025-01-01: older is a clock that was never set */

void doctor_processor(struct doctor *d)
{
    const char *isa = cpu_kernels_choose(NULL)->isa;
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    char some[48] = "";
    if (online > cores) snprintf(some, sizeof some, " (of %ld in the machine)", online);
    bool plain = strcmp(isa, "ref") == 0;
    char features[64] = "";
#if defined(__x86_64__)
    __builtin_cpu_init();
    snprintf(features, sizeof features, "AVX2 %s, AVX-512 %s, BF16 %s; ", __builtin_cpu_supports("avx2") ? "yes" : "no",
             __builtin_cpu_supports("avx512f") ? "yes" : "no", __builtin_cpu_supports("avx512bf16") ? "yes" : "no");
#endif
    doctor_say(d, "processor", plain ? DOCTOR_WARNING : DOCTOR_OK,
               plain ? "models run, but slowly; a processor with AVX2 is many times faster" : NULL,
               "%s%d core%s%s, kernels '%s' will be used", features, cores, cores == 1 ? "" : "s", some, isa);
}

static bool read_number(const char *path, const char *name, uint64_t *out)
{
    FILE *f = fopen(path, "re");
    char line[256];
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f))
        if (str_starts_with(line, name)) found = sscanf(line + strlen(name), "%" SCNu64, out) == 1;
    if (f) fclose(f);
    return found;
}

/* The process's cgroup and those above it; version 2, else version 1. *limit: 0 if there is none. */
static void cgroup_memory(uint64_t *limit, uint64_t *used)
{
    static const struct {
        const char *prefix, *root, *limit, *used;
    } rows[] = {{"0::", "/sys/fs/cgroup", "memory.max", "memory.current"},
                {":memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"}};
    *limit = *used = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[1024];
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            char *at = strstr(line, rows[i].prefix);
            if (!at) continue;
            char *group = at + strlen(rows[i].prefix);
            for (;;) { /* a container sees its own group as the root: the path may lead nowhere, its parents do */
                char path[1200];
                uint64_t l, u = 0;
                snprintf(path, sizeof path, "%s%s/%s", rows[i].root, group, rows[i].limit);
                bool some = read_number(path, "", &l) && l < (uint64_t)1 << 60 && (!*limit || l < *limit);
                snprintf(path, sizeof path, "%s%s/%s", rows[i].root, group, rows[i].used);
                if (some && read_number(path, "", &u)) {
                    *limit = l;
                    *used = u;
                }
                char *slash = strrchr(group, '/');
                if (!slash) break;
                *slash = '\0';
            }
        }
    }
    if (f) fclose(f);
}

uint64_t doctor_memory_free(void)
{
    uint64_t kib = 0, limit, used;
    uint64_t have = read_number("/proc/meminfo", "MemAvailable:", &kib) ? kib << 10 : 0;
    cgroup_memory(&limit, &used);
    uint64_t left = limit > used ? limit - used : 0;
    return limit && (!have || left < have) ? left : have;
}

void doctor_memory(struct doctor *d)
{
    uint64_t total = 0, limit, used, have = doctor_memory_free();
    read_number("/proc/meminfo", "MemTotal:", &total);
    cgroup_memory(&limit, &used);
    char group[96] = "";
    if (limit) snprintf(group, sizeof group, "; this cgroup may have %.1f GiB", (double)limit / (double)(1 << 30));
    enum doctor_level level = have >= enough_memory ? DOCTOR_OK : have >= little_memory ? DOCTOR_WARNING : DOCTOR_PROBLEM;
    doctor_say(d, "memory", level, level ? "end other programs, or raise the limit" : NULL, "%.1f GiB are free of %.1f GiB%s",
               (double)have / (double)(1 << 30), (double)total / (double)(1 << 20), group);
}

/* As a worker opens it; what is wrong here keeps `serve` from starting. */
static void say_cuda(struct doctor *d, int gpu)
{
    struct err e = {0};
    struct device *device = NULL;
    const struct ops *ops = backend_find("cuda", doctor_options(d)->cuda_library, &e);
    if (!ops || ops->open(&device, &(struct device_options){.compute = COMPUTE_BF16, .gpu = gpu}, &e)) {
        doctor_say(d, "gpu", DOCTOR_PROBLEM, "with --device cpu models run on the CPU", "%s", e.msg);
        return;
    }
    char name[128], room[48] = "";
    ops->describe(device, name, sizeof name);
    const uint64_t free_bytes = ops->available(device);
    if (free_bytes != UINT64_MAX) snprintf(room, sizeof room, ", %.1f GiB of its memory are free", (double)free_bytes / (double)(1 << 30));
    doctor_say(d, "gpu", DOCTOR_OK, NULL, "%s%s", name, room);
    ops->close(device);
}

void doctor_gpu(struct doctor *d)
{
    const char *asked = doctor_options(d)->device;
    bool driver = access("/proc/driver/nvidia/version", F_OK) == 0;
    struct err e;
    int gpus[OPTIONS_MAX_GPUS] = {0};
    size_t n = 0;
    if (options_check_device(doctor_options(d), &e) || options_gpus(doctor_options(d)->gpus, gpus, &n, &e))
        doctor_say(d, "gpu", DOCTOR_PROBLEM, "leave out one of the two", "%s", e.msg);
    else if (n || strcmp(asked, "cuda") == 0 || (backend_has_gpu() && strcmp(asked, "cpu") != 0))
        for (size_t i = 0; i < (n ? n : 1); i++) say_cuda(d, gpus[i]);
    else if (backend_has_gpu())
        doctor_say(d, "gpu", DOCTOR_OK, NULL, "there is an NVIDIA GPU; --device cpu leaves it alone");
    else if (driver)
        doctor_say(d, "gpu", DOCTOR_WARNING, "a container needs the device (docker run --gpus all); models run on the CPU",
                   "an NVIDIA driver is loaded, but its devices are not visible here");
    else
        doctor_say(d, "gpu", DOCTOR_OK, NULL, "no NVIDIA GPU: runs on the CPU");
}

void doctor_descriptors(struct doctor *d)
{
    struct rlimit l = {0};
    getrlimit(RLIMIT_NOFILE, &l); /* serve raises it to the hard limit itself */
    enum doctor_level level = l.rlim_max >= ENOUGH_DESCRIPTORS ? DOCTOR_OK
                              : l.rlim_max >= FEW_DESCRIPTORS  ? DOCTOR_WARNING
                                                               : DOCTOR_PROBLEM;
    doctor_say(d, "open files", level,
               level ? "raise the hard limit (ulimit -Hn, LimitNOFILE= of systemd) for as many connections as you need" : NULL,
               "a process may open %llu", (unsigned long long)l.rlim_max);
}

static bool user_namespaces(void)
{
    pid_t pid = fork();
    if (pid == 0) _exit(unshare(CLONE_NEWUSER) ? 1 : 0);
    int status = 1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return pid > 0 && status == 0;
}

void doctor_kernel(struct doctor *d)
{
    char missing[96] = "";
    int fd = memfd_create("spillway-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int pidfd = pidfd_open(getpid(), 0);
    if (fd < 0) strcat(missing, " memfd_create");
    if (pidfd < 0) strcat(missing, " pidfd_open");
    if (fd >= 0) close(fd);
    if (pidfd >= 0) close(pidfd);
    if (missing[0])
        doctor_say(d, "kernel", DOCTOR_PROBLEM, "Linux 5.10 or newer is needed; in a container its seccomp profile must allow them",
                   "missing:%s", missing);
    else
        doctor_say(d, "kernel", DOCTOR_OK, NULL, "memfd and pidfd work; user namespaces %s",
                   user_namespaces() ? "work, too" : "are not allowed (not needed)");
}

void doctor_cage(struct doctor *d)
{
    struct err e = {0};
    char notes[512] = "";
    if (pictures_try_cage(notes, sizeof notes, &e))
        doctor_say(d, "decoder", DOCTOR_PROBLEM, "pictures are refused until seccomp works for this user", "%s", e.msg);
    else
        doctor_say(d, "decoder", DOCTOR_OK, NULL, "pictures are decoded in a cage (seccomp)%s%s", notes[0] ? "; without: " : "", notes);
}

void doctor_clock(struct doctor *d)
{
    int64_t now_s = clock_wall_s();
    if (now_s < built_after_s)
        doctor_say(d, "clock", DOCTOR_PROBLEM, "set it: keys that expire and TLS certificates need the right time",
                   "it shows a time before 2025 (%" PRId64 " s since 1970)", now_s);
    else
        doctor_say(d, "clock", DOCTOR_OK, NULL, "shows a plausible time");
}
