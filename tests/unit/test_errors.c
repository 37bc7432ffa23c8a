/* Errors told to clients (T34): every kind has a whole row, every code of the layers below has a kind, and what the system, a library or our
 * inside has written is never told. tests/fault/test_errors_text.py makes a running server give them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "server/api/errors.h"
#include "server/routing/reason.h"

/* The error object, parsed. */
static json_t *written(enum api_error kind, const struct err *e)
{
    struct buf b;
    struct err je;
    json_t *v;
    buf_init(&b, 8192);
    assert_int_equal(api_error_write(&b, kind, e, "req_test"), 0);
    if (json_read(b.data, b.len, &json_limits_request, "error", &v, &je)) fail_msg("%s: %s", je.msg, b.data);
    buf_free(&b);
    return v;
}

static const char *member(const json_t *v, const char *name)
{
    return json_string_value(json_object_get(json_object_get(v, "error"), name));
}

static void test_t34_every_kind_has_a_whole_row(void **state)
{
    (void)state;
    for (int i = 0; i < API_ERRORS; i++) {
        assert_true(api_errors[i].status >= 400 && api_errors[i].status < 600);
        assert_true(api_errors[i].type && api_errors[i].type[0] && api_errors[i].code && api_errors[i].code[0]);
        bool busy = api_errors[i].status == 429 || api_errors[i].status == 503 || i == API_IDEMPOTENCY_IN_FLIGHT;
        assert_int_equal(busy, api_errors[i].retry_after != NULL); /* who may come again is told when */
    }
}

static void test_t34_every_code_has_a_kind_that_fits(void **state)
{
    (void)state;
    static const bool ours[ERR_CODES] = {[ERR_NONE] = true,    [ERR_IO] = true,      [ERR_GONE] = true,     [ERR_TIMEOUT] = true,
                                         [ERR_CLOSING] = true, [ERR_NUMERIC] = true, [ERR_INTERNAL] = true, [ERR_DEADLINE] = true,
                                         [ERR_UNKNOWN] = true, [ERR_STORE] = true,  [ERR_PROVIDER] = true,
                                         [ERR_BROKEN] = true};
    for (int i = 0; i < ERR_CODES; i++) {
        enum api_error kind = api_error_of(&(struct err){.code = (enum err_code)i});
        assert_int_equal(api_errors[kind].status / 100, ours[i] ? 5 : 4);
        if (kind == API_INVALID_VALUE)
            assert_true(i == ERR_INPUT || i == ERR_LIMIT); /* the first kind: what a code without a row would be */
    }
    assert_int_equal(api_error_of(&(struct err){.code = (enum err_code)999}), API_INTERNAL_ERROR);
}

/* What routing refuses with is what a client is told. */
static void test_t34_reasons_of_routing_are_these_errors(void **state)
{
    (void)state;
    for (int i = 0; i < ROUTE_REASONS; i++) {
        const struct route_reason_row *r = &route_reasons[i];
        if (!r->rank) continue;
        enum api_error kind = api_error_of(&(struct err){.code = r->err});
        assert_int_equal(api_errors[kind].status, r->status);
        assert_string_equal(api_errors[kind].code, r->code);
    }
}

static const char inner[] = "/home/x/model.safetensors: Permission denied at 0x7ffd0123 (sqlite, jansson)";

/* Whatever kind they are told as. */
static void test_t34_inner_messages_are_never_told(void **state)
{
    (void)state;
    const enum err_code codes[] = {ERR_NONE, ERR_MEMORY, ERR_IO, ERR_INTERNAL, (enum err_code)999};
    for (int kind = 0; kind < API_ERRORS; kind++) {
        for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
            struct err e = {.code = codes[i]};
            strcpy(e.msg, inner);
            json_t *v = written((enum api_error)kind, &e);
            assert_string_equal(member(v, "code"), api_errors[kind].code);
            assert_null(strchr(member(v, "message"), '/'));
            assert_null(strstr(member(v, "message"), "0x"));
            assert_null(strstr(member(v, "message"), "denied"));
            assert_true(strlen(member(v, "message")) > 10);
            json_decref(v);
        }
    }
}

static void test_t34_server_errors_tell_a_fixed_text(void **state)
{
    (void)state;
    for (int kind = 0; kind < API_ERRORS; kind++) {
        bool http = kind == API_HTTP_VERSION; /* the client's fault; its text is the parser's own */
        if (api_errors[kind].status < 500 || http) continue;
        for (int code = 0; code < ERR_CODES; code++) {
            struct err e = {.code = (enum err_code)code};
            strcpy(e.msg, inner);
            json_t *v = written((enum api_error)kind, &e);
            assert_null(strchr(member(v, "message"), '/'));
            json_decref(v);
        }
    }
}

static void test_client_errors_tell_their_message(void **state)
{
    (void)state;
    struct err e;
    err_set_param(&e, ERR_INPUT, "messages[3]", "a \"quoted\" \\ fault");
    json_t *v = written(API_INVALID_VALUE, &e);
    assert_string_equal(member(v, "message"), e.msg);
    assert_string_equal(member(v, "param"), "messages[3]");
    json_decref(v);
}

static void test_text_that_is_not_utf8_keeps_the_rest(void **state)
{
    (void)state;
    struct err e;
    err_set_param(&e, ERR_INPUT, "a\xc3", "Unknown: '\xff\xe2\x82' and \xc3\xa9.");
    json_t *v = written(API_INVALID_VALUE, &e);
    assert_string_equal(member(v, "message"), "Unknown: '\xef\xbf\xbd\xef\xbf\xbd' and \xc3\xa9.");
    assert_string_equal(member(v, "param"), "a\xef\xbf\xbd");
    json_decref(v);
}

/* The longest message, all of it escaped, still fits what api_error_reply writes into. */
static void test_longest_message_fits(void **state)
{
    (void)state;
    struct err e = {.code = ERR_INPUT};
    memset(e.msg, 1, sizeof e.msg - 1);
    memset(e.param, '"', sizeof e.param - 1);
    json_t *v = written(API_INVALID_VALUE, &e);
    assert_int_equal(strlen(member(v, "message")), sizeof e.msg - 1);
    json_decref(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_t34_every_kind_has_a_whole_row),
        cmocka_unit_test(test_t34_every_code_has_a_kind_that_fits),
        cmocka_unit_test(test_t34_reasons_of_routing_are_these_errors),
        cmocka_unit_test(test_t34_inner_messages_are_never_told),
        cmocka_unit_test(test_t34_server_errors_tell_a_fixed_text),
        cmocka_unit_test(test_client_errors_tell_their_message),
        cmocka_unit_test(test_text_that_is_not_utf8_keeps_the_rest),
        cmocka_unit_test(test_longest_message_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
