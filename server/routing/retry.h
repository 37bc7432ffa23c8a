/* Retry: what an upstream's fault means, and whether there is another attempt. PROVIDERS' table of errors and actions, as data.
 *
 * A request has at most RETRY_ATTEMPTS attempts and one deadline for all of them; none begins after its first content byte. Each retry is
 * paid from the budget of the host that it goes to: a tenth of what that host has lately answered well, RETRY_MOST at most, and one each
 * RETRY_FLOOR_MS, so that a host that was idle or has just come back gets some, too. Requests are never hedged.
 *
 * Pure: time is an argument (boot clock, ms). Loop's thread. */
#ifndef SPILLWAY_SERVER_ROUTING_RETRY_H
#define SPILLWAY_SERVER_ROUTING_RETRY_H

#include <stdbool.h>
#include <stdint.h>

enum { RETRY_ATTEMPTS = 2, RETRY_SHARE = 10 /* per cent */, RETRY_MOST = 10, RETRY_FLOOR_MS = 10 * 1000 };

/* Whose fault it was. */
enum fault {
    FAULT_NONE,
    FAULT_CALLER,      /* the request is wrong: nobody else would take it */
    FAULT_UNSUPPORTED, /* the host lacks a feature that it was thought to have, or the model is gone there */
    FAULT_KEY,         /* the key is wrong, blocked or without money */
    FAULT_LIMITED,     /* 429: this key has too much at once */
    FAULT_OVERLOADED,  /* 503, 529, 498: the host has too much at once */
    FAULT_BROKEN,      /* no connection, time-out, 5xx, EOF or an error event before the first content */
    FAULT_CUT,         /* the same after the first content */
    FAULT_LEFT,        /* nobody's: the client is gone, or the deadline passed while all was well */
    FAULTS
};

struct fault_row {
    const char *name;
    bool is_hosts;   /* counts against the breaker */
    bool other_key;  /* the same host with another key may do */
    bool other_host; /* another host may do */
    bool wait;       /* the same host may do after a while */
};
extern const struct fault_row fault_rows[FAULTS];

/* status 0: there was no answer. code: the host's own error code, "" if none. What only one host does (a 403 that means a long prompt) is
 * for its adapter to say. */
enum fault fault_of(int status, const char *code);

struct retry_budget {
    int64_t tenths;   /* of a retry */
    int64_t floor_ms; /* when the last one was given for nothing; 0: never yet */
};

bool retry_allowed(const struct retry_budget *b, int64_t now_ms);
void retry_take(struct retry_budget *b, int64_t now_ms); /* it is allowed */
void retry_earn(struct retry_budget *b);                 /* the host has answered a request well, be it a retry */

enum retry_action {
    RETRY_NO,        /* the error goes to the client */
    RETRY_OTHER_KEY, /* the same host at once, another key */
    RETRY_WAIT,      /* the same host, after the hint */
    RETRY_OTHER_HOST /* decide again; this candidate has been tried */
};

struct retry_case {
    enum fault fault;
    unsigned attempts;   /* that have begun, this one counted */
    bool content;        /* a content byte has been sent */
    int64_t hint_ms;     /* Retry-After; 0: none */
    int64_t left_ms;     /* until the deadline */
    int64_t first_ms;    /* what the host's first token takes; 0: not known */
    bool has_other_key;  /* usable now */
    bool has_other_host; /* a candidate that has not been tried: try route_decide */
    bool budget;         /* retry_allowed of this host; another one's is route_decide's to look at */
};
/* What is to be done. An other host is better than waiting, if there is one. */
enum retry_action retry_next(const struct retry_case *r);

#endif
