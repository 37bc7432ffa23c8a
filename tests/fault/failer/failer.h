/* The failer inside a unit test: link failer.c into it. See failer.c for the library that is preloaded. */
#ifndef SPILLWAY_TESTS_FAILER_H
#define SPILLWAY_TESTS_FAILER_H

#include <stdbool.h>
#include <stdint.h>

/* The k-th allocation from now on fails, and with `forever` all after it; k 0: none. */
void failer_fail_alloc(int64_t k, bool forever);
int64_t failer_failed(void); /* how many did since */
int64_t failer_allocs(void); /* asked for so far */
int64_t failer_blocks(void); /* held now */

#endif
