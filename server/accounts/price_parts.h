/* What the price book's files share with each other and with nobody else. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_PRICE_PARTS_H
#define SPILLWAY_SERVER_ACCOUNTS_PRICE_PARTS_H

#include "server/accounts/price_book.h"

enum { PRICE_MOST_UNITS = 1000000 }; /* every rate's units divide it */

/* By provider, model, region; for qsort and bsearch. */
int price_compare(const void *a, const void *b);

#endif
