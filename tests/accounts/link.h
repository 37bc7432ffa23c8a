/* Link: a TCP link to PostgreSQL for tests, which can be cut at a COMMIT, or be away. Clients connect to link_url. It reads what they send as the
 * protocol has it (version 3, without TLS), so it knows which message a COMMIT is; of the rest it knows nothing. */
#ifndef SPILLWAY_TESTS_ACCOUNTS_LINK_H
#define SPILLWAY_TESTS_ACCOUNTS_LINK_H

#include <stdbool.h>

enum link_cut {
    LINK_BEFORE, /* the server never sees it */
    LINK_AFTER,  /* it is done, and nobody is told */
    LINK_RACE,   /* it is sent, and both ends are closed at once */
    LINK_LATE,   /* the client is cut off, and the server gets it a while later */
    LINK_CUTS
};

/* url: of a server on 127.0.0.1. */
void link_open(const char *url);
void link_close(void);
const char *link_url(void);
/* The next COMMIT but n is cut. One at a time. */
void link_cut_after(enum link_cut how, int n);
int link_n_cut(void); /* so far */
/* away: what is connected is cut, and nobody can connect. */
void link_set_away(bool away);

#endif
