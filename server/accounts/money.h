/* Money: dollars as people write them, and the int64 nano-dollars that everything computes with. No floating point: what is written is
 * exactly what was read. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_MONEY_H
#define SPILLWAY_SERVER_ACCOUNTS_MONEY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { MONEY_BYTES = 24 };

/* "12.50", "-3", "0.000038874": digits, and after a point 1 to 9 more. false: it is not that, or past int64. */
MUST_USE bool money_parse(const char *text, int64_t *nusd);
/* What others write: also "1.5e-05", and more decimals than 9, which are rounded half away from 0. */
MUST_USE bool money_parse_report(const char *text, int64_t *nusd);
/* "12.50", "-3.00", "0.000038874": at least two decimals, no more than it needs. Returns out. */
char *money_write(int64_t nusd, char out[MONEY_BYTES]);

#endif
