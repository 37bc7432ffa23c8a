/* Ids for clients: a request's number in the ledger as 16 hexadecimal digits that tell nothing of how many there are, and back.
 *
 * A Feistel network of four rounds over the two halves, each round a SipHash-2-4 keyed with the data directory's secret (Luby and Rackoff
 * 1988: a pseudorandom permutation). It hides a count; it protects nothing else. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_ID_TEXT_H
#define SPILLWAY_SERVER_ACCOUNTS_ID_TEXT_H

#include <stdbool.h>
#include <stdint.h>

enum { ID_TEXT_BYTES = 17, ID_KEY_BYTES = 16 };

void id_text_write(const unsigned char key[ID_KEY_BYTES], int64_t id, char out[ID_TEXT_BYTES]);
/* false: not 16 hexadecimal digits in lower case. Any such text is some id; whether it is there is for the store to say. */
bool id_text_read(const unsigned char key[ID_KEY_BYTES], const char *text, int64_t *id);

#endif
