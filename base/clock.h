/* Clock: boot time for waiting and measuring (goes on during suspend, never jumps), wall time only for showing. */
#ifndef SPILLWAY_BASE_CLOCK_H
#define SPILLWAY_BASE_CLOCK_H

#include <stdint.h>

int64_t clock_boot_ns(void);
int64_t clock_boot_ms(void);
int64_t clock_wall_s(void); /* seconds since 1970, UTC */

#endif
