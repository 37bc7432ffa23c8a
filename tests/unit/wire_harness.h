/* Case files of the wires' tests: a sentence that says what the case shows, settings ("provider groq"), then sections that begin with
 * "--- name". And a decoder's events as text, one a line. */
#ifndef SPILLWAY_TESTS_UNIT_WIRE_HARNESS_H
#define SPILLWAY_TESTS_UNIT_WIRE_HARNESS_H

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/providers/wire.h"

struct case_file {
    char name[256];
    struct buf text;
};

static inline void case_read(struct case_file *c, const char *dir, const char *name)
{
    char path[1024];
    struct err e;
    snprintf(path, sizeof path, "%s/data/providers/%s/%s", SPILLWAY_TEST_DIR, dir, name);
    snprintf(c->name, sizeof c->name, "%s", name);
    buf_init(&c->text, 16u << 20);
    if (buf_read_file(&c->text, path, &e)) fail_msg("%s", e.msg);
}

/* What stands between "--- name" and the next "---", without its last line end if strip. A copy, NULL if there is no such section. */
static inline char *case_section(const struct case_file *c, const char *name, bool strip)
{
    char mark[64];
    snprintf(mark, sizeof mark, "\n--- %s\n", name);
    const char *from = strstr(c->text.data, mark);
    if (!from) return NULL;
    from += strlen(mark);
    const char *end = strncmp(from, "--- ", 4) == 0 ? from - 1 : strstr(from, "\n--- ");
    size_t n = end ? (size_t)(end + 1 - from) : strlen(from);
    if (strip && n && from[n - 1] == '\n') n--;
    return strndup(from, n);
}

/* A setting's value, or `otherwise`. In a buffer of the caller. */
static inline const char *case_setting(const struct case_file *c, const char *name, char out[256], const char *otherwise)
{
    char mark[64];
    snprintf(mark, sizeof mark, "\n%s ", name);
    const char *head = strstr(c->text.data, "\n--- "), *from = strstr(c->text.data, mark);
    if (!from || from > head) return otherwise;
    from += strlen(mark);
    snprintf(out, 256, "%.*s", (int)strcspn(from, "\n"), from);
    return out;
}

static inline void case_host(struct provider_host *h, const struct case_file *c)
{
    static const char *const keys[] = {"test-key-0123456789"};
    char provider[256], version[256];
    struct err e;
    struct provider_host_config config = {.provider = case_setting(c, "provider", provider, "openai"),
                                          .region = "eu-west-1",
                                          .resource = "res",
                                          .api_version = case_setting(c, "api_version", version, NULL),
                                          .keys = keys,
                                          .n_keys = 1};
    if (!provider_find(config.provider)->base_url) config.base_url = "http://127.0.0.1:1/v1";
    if (provider_host_init(h, &config, &e)) fail_msg("%s: %s", c->name, e.msg);
}

/* Runs check with each file of the folder. */
static inline void case_each(const char *dir, void (*check)(const struct case_file *c))
{
    char path[1024];
    struct dirent **list;
    snprintf(path, sizeof path, "%s/data/providers/%s", SPILLWAY_TEST_DIR, dir);
    int n = scandir(path, &list, NULL, alphasort), n_cases = 0;
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        size_t len = strlen(list[i]->d_name);
        if (len > 5 && strcmp(list[i]->d_name + len - 5, ".case") == 0) {
            struct case_file c;
            case_read(&c, dir, list[i]->d_name);
            check(&c);
            buf_free(&c.text);
            n_cases++;
        }
        free(list[i]);
    }
    free(list);
    assert_true(n_cases > 10);
}

/* --- events as text --- */

static const char *const meter_words[USAGE_METERS] = {"in",    "cache_read", "write_5m",  "write_1h", "in_audio",
                                                      "image", "out",        "reasoning", "audio",    "searches"};

static inline void write_extra(struct buf *b, const char *name, const json_t *v)
{
    if (!v) return;
    buf_printf(b, " %s=", name);
    json_write(b, v);
}

static inline void write_usage(struct buf *b, const struct usage *u)
{
    for (int i = 0; i < USAGE_METERS; i++)
        if (u->present & 1u << i) buf_printf(b, " %s=%lld", meter_words[i], (long long)u->count[i]);
    if (u->inconsistent) buf_puts(b, " inconsistent");
}

static inline int write_event(void *ctx, const struct event *ev)
{
    static const char *const names[] = {"delta", "finish", "usage", "error", "reasoning", "call"};
    static const char *const finishes[] = {"none", "stop", "length", "cancelled", "error", "tool_calls", "content_filter"};
    struct buf *b = ctx;
    buf_printf(b, "%s", names[ev->type]);
    if (ev->choice) buf_printf(b, " of %u", ev->choice);
    if (ev->type == EVENT_DELTA || ev->type == EVENT_REASONING) {
        buf_putc(b, ' ');
        json_write_string(b, ev->text, ev->n_text);
    }
    for (size_t i = 0; i < ev->n_logprobs; i++) {
        const struct event_logprob *p = &ev->logprobs[i];
        buf_printf(b, " %.*s:%.2f", (int)p->token.n_bytes, p->token.bytes, (double)p->token.logprob);
        for (size_t k = 0; k < p->n_top; k++)
            buf_printf(b, "/%.*s:%.2f", (int)p->top[k].n_bytes, p->top[k].bytes, (double)p->top[k].logprob);
    }
    if (ev->type == EVENT_TOOL_CALL) {
        const struct event_tool_call *call = &ev->tool_call;
        buf_printf(b, " %u", call->index);
        if (call->id) buf_printf(b, " id=%s", call->id);
        if (call->name) buf_printf(b, " name=%s", call->name);
        buf_putc(b, ' ');
        json_write_string(b, call->arguments, call->n_arguments);
        write_extra(b, "extra", call->extra);
    }
    if (ev->type == EVENT_FINISH) buf_printf(b, " %s", finishes[ev->finish]);
    if (ev->type == EVENT_USAGE) write_usage(b, ev->metered);
    write_extra(b, "chunk", ev->extra.chunk);
    write_extra(b, "choice", ev->extra.choice);
    write_extra(b, "delta", ev->extra.delta);
    buf_putc(b, '\n');
    return 0;
}

#endif
