/* Export: transfers and requests, row by row, for other programs: CSV (RFC 4180) or JSON (one array).
 *
 * Amounts are dollars as decimal text, exact. Times are UTC, to the millisecond. What a text field of CSV begins with that a spreadsheet
 * would compute (= + - @, a tab) gets a ' before it: notes and tags are written by others. All rows are of one snapshot, read some thousand
 * at a time. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_EXPORT_H
#define SPILLWAY_SERVER_ACCOUNTS_EXPORT_H

#include <stdio.h>

#include "base/buf.h"
#include "server/accounts/db.h"

enum export_what { EXPORT_TRANSFERS, EXPORT_REQUESTS };

/* In pieces, for who cannot take all of it at once. The db is the export's until export_close: it is in a transaction. Two calls may come from
 * two threads, one after the other. */
struct export;
MUST_USE int export_open(struct export **out, struct db *db, enum export_what what, bool json, int64_t from_ms, int64_t to_ms, struct err *e);
enum { EXPORT_PIECE_BYTES = 64 << 10, EXPORT_ROW_BYTES = 1 << 20 };
/* Appends whole rows, EXPORT_PIECE_BYTES of them or a row more; b can have EXPORT_PIECE_BYTES + EXPORT_ROW_BYTES more. 1: there are more; 0: that was
 * the end. */
MUST_USE int export_next(struct export *x, struct buf *b, struct err *e);
size_t export_rows(const struct export *x); /* so far */
void export_close(struct export *x);        /* accepts NULL */

/* Those that were made from from_ms until before to_ms. *n: how many rows. Whether f took them is the caller's to ask of it (ferror). */
MUST_USE int export_write(struct db *db, enum export_what what, bool json, int64_t from_ms, int64_t to_ms, FILE *f, size_t *n,
                          struct err *e);

#endif
