/* server/providers/table, host: rows that make sense, hosts that cannot be talked into sending a key elsewhere, and a page of
 * documentation that is in step. SPILLWAY_SHOW=1 prints the page's table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/providers/wire.h"

static void test_rows_make_sense(void **state)
{
    (void)state;
    size_t n = 0;
    for (const struct provider *p; (p = provider_at(n)); n++) {
        assert_ptr_equal(provider_find(p->name), p); /* no name twice */
        assert_true(p->title && p->wire);
        assert_true(p->capabilities & CAP_CHAT && p->capabilities & CAP_STREAM);
        assert_true(p->base_url ? strncmp(p->base_url, "https://", 8) == 0 : p->key_env == NULL);
        for (const struct provider_rename *r = p->renames; r && r->from; r++) assert_true(!r->to || strcmp(r->to, r->from) != 0);
        for (const struct limit_header *h = p->limits; h && h->name; h++)
            for (const char *c = h->name; *c; c++) assert_false(*c >= 'A' && *c <= 'Z');
    }
    assert_int_equal(n, 13);
    assert_null(provider_find("nobody"));
}

static int try_host(const struct provider_host_config *c, struct err *e)
{
    struct provider_host h;
    *e = (struct err){0};
    int rc = provider_host_init(&h, c, e);
    if (!rc) provider_host_free(&h);
    return rc;
}

static const char *const good_keys[] = {"secret-canary-1"};

/* With what every host has, where the row says nothing else. */
static struct provider_host_config filled(struct provider_host_config c, bool no_key)
{
    if (!c.provider) c.provider = "openai";
    if (!c.keys && !no_key) c.keys = good_keys;
    if (!c.n_keys && !no_key) c.n_keys = 1;
    return c;
}

static void test_t07_settings_that_would_send_keys_elsewhere_are_refused(void **state)
{
    (void)state;
    static const char *const blank[] = {"se cret"}, *const broken[] = {"secret\r\nx: y"}, *const empty[] = {""};
    static const char *const lines[] = {"x: y\r\nz: w"}, *const auth[] = {"Authorization: Bearer other"}, *const no_value[] = {"x:"},
                             *const no_colon[] = {"x"}, *const host[] = {"Host: other"};
    const struct {
        const char *param;
        struct provider_host_config c;
        bool no_key;
    } rows[] = {{"base_url", {.base_url = "ftp://h/v1"}, false},
                {"base_url", {.base_url = "https://"}, false},
                {"base_url", {.base_url = "https://user:pass@h/v1"}, false},
                {"base_url", {.base_url = "https://h/v1?x=y"}, false},
                {"base_url", {.base_url = "https://h/v1#x"}, false},
                {"base_url", {.base_url = "https://h/\r\nx: y"}, false},
                {"base_url", {.base_url = "https://h/x{y"}, false},
                {"region", {.base_url = "https://{region}.h/v1"}, false},
                {"region", {.base_url = "https://{region}.h/v1", .region = "evil.example/"}, false},
                {"resource", {.provider = "azure", .resource = "a.evil.example/"}, false},
                {"api_version", {.provider = "azure", .resource = "a", .api_version = "1&x=y"}, false},
                {"keys", {.keys = blank}, false},
                {"keys", {.keys = broken}, false},
                {"keys", {.keys = empty}, false},
                {"keys", {0}, true},
                {"keys", {.n_keys = HOST_MAX_KEYS + 1}, false},
                {"headers", {.headers = lines, .n_headers = 1}, false},
                {"headers", {.headers = auth, .n_headers = 1}, false},
                {"headers", {.headers = host, .n_headers = 1}, false},
                {"headers", {.headers = no_value, .n_headers = 1}, false},
                {"headers", {.headers = no_colon, .n_headers = 1}, false},
                {"auth", {.auth = "basic"}, false},
                {"name", {.name = "a/b"}, false},
                {"name", {.name = ""}, false},
                {"provider", {.provider = "nobody"}, false},
                {"base_url", {.provider = "openai-compatible"}, false}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err e;
        const struct provider_host_config c = filled(rows[i].c, rows[i].no_key);
        if (try_host(&c, &e) == 0 || strcmp(e.param, rows[i].param) != 0)
            fail_msg("row %zu, %s: %s (%s)", i, rows[i].param, e.msg, e.param);
        assert_null(strstr(e.msg, "secret"));
    }
}

static void start_host(struct provider_host *h, struct provider_host_config c)
{
    struct err e;
    c = filled(c, false);
    if (provider_host_init(h, &c, &e)) fail_msg("%s", e.msg);
}

static void test_hosts_fill_in_their_urls(void **state)
{
    (void)state;
    struct provider_host h;
    start_host(&h, (struct provider_host_config){.provider = "bedrock", .region = "eu-west-1", .name = "mine"});
    assert_string_equal(h.base_url, "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1");
    assert_string_equal(h.name, "mine");
    assert_true(h.tls && !h.loopback);
    provider_host_free(&h);
    start_host(&h, (struct provider_host_config){.provider = "openai-compatible", .base_url = "http://127.0.0.1:8000/v1///"});
    assert_string_equal(h.base_url, "http://127.0.0.1:8000/v1");
    assert_true(!h.tls && h.loopback);
    provider_host_free(&h);
    start_host(&h, (struct provider_host_config){.base_url = "http://localhost.evil.example/v1"});
    assert_false(h.loopback);
    provider_host_free(&h);
}

/* --- docs/providers.md --- */

static const char *mark(const struct provider *p, uint32_t bits)
{
    return (p->capabilities & bits) == bits ? "yes" : p->capabilities & bits ? "part" : "–";
}

static void write_row(struct buf *b, const struct provider *p)
{
    static const char *const leaves[] = {[DISCONNECT_CANCEL] = "closes", [DISCONNECT_DRAIN] = "reads on"};
    const char *images = p->capabilities & CAP_IMAGE_URL ? "data, URL" : p->capabilities & CAP_IMAGE_DATA ? "data" : "–";
    const char *json = p->capabilities & CAP_JSON_OBJECT   ? p->capabilities & CAP_JSON_SCHEMA ? "schema, object" : "object"
                       : p->capabilities & CAP_JSON_SCHEMA ? "schema"
                                                           : "–";
    buf_printf(b, "| `%s` | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", p->name, p->title,
               provider_wire_name(p), p->key_env ? p->key_env : "–", mark(p, CAP_TOOLS), images, json, mark(p, CAP_REASONING),
               mark(p, CAP_LOGPROBS), mark(p, CAP_CHOICES), mark(p, CAP_SEED), mark(p, CAP_PROMPT_CACHE), mark(p, CAP_TIERS),
               p->limits ? "yes" : "–", leaves[p->on_disconnect]);
}

static void test_the_documentation_is_in_step(void **state)
{
    (void)state;
    struct buf page, row;
    struct err e;
    buf_init(&page, 1 << 20);
    buf_init(&row, 1 << 16);
    if (buf_read_file(&page, SPILLWAY_TEST_DIR "/../../docs/providers.md", &e)) fail_msg("%s", e.msg);
    const char *at = page.data;
    for (size_t i = 0; provider_at(i); i++) {
        buf_clear(&row);
        write_row(&row, provider_at(i));
        if (getenv("SPILLWAY_SHOW")) {
            printf("%s", row.data);
            continue;
        }
        const char *found = strstr(at, row.data);
        if (!found) fail_msg("docs/providers.md lacks, in its place: %s", row.data);
        at = found;
    }
    buf_free(&page);
    buf_free(&row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_make_sense),
        cmocka_unit_test(test_t07_settings_that_would_send_keys_elsewhere_are_refused),
        cmocka_unit_test(test_hosts_fill_in_their_urls),
        cmocka_unit_test(test_the_documentation_is_in_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
