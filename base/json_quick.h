/* JSON, the quick way: for json.c alone. What the library reads byte by byte through a callback and copies twice is read here in runs, four times as fast, with
 * the library's own values as the result.
 *
 * It only ever says yes: NULL means that the library has to judge (malformed text, \u escapes, a member that is there twice, a number that is no
 * int64 and no double), and to say what is wrong. What is read here the library reads to the same value; test_base holds it to that. */
#ifndef SPILLWAY_BASE_JSON_QUICK_H
#define SPILLWAY_BASE_JSON_QUICK_H

#include <jansson.h>

/* A new reference. Depth must be bounded: it is that of calls. allocate may jump away when there is no memory. */
json_t *json_quick(const char *p, size_t n, void *(*allocate)(size_t n), void (*release)(void *p));

#endif
