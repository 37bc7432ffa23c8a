/* Clock: see clock.h. */
#include "base/clock.h"

#include <time.h>

int64_t clock_boot_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t clock_boot_ms(void)
{
    return clock_boot_ns() / 1000000;
}

int64_t clock_wall_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec;
}
