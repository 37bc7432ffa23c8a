/* GET /v1/organization/usage/completions and /v1/organization/costs, in OpenAI's shape (platform.openai.com/docs/api-reference/usage), for
 * admin keys: what was used by UTC day, and what projects paid. Ids are those of accounts, as text; a cost's line item is the model.
 *
 * The database is asked by a thread of the desk, on a connection of its own. Buckets are days only; a parameter that is not known is refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "server/accounts/db.h"
#include "server/accounts/money.h"
#include "server/accounts/report.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"
#include "server/http_parse.h"

enum { DAY_S = 86400, QUERY_BYTES = 4096, REPLY_MAX_BYTES = 16 << 20, DEFAULT_DAYS = 7, MAX_USAGE_DAYS = 31, MAX_COST_DAYS = 180, TAG_BYTES = 64 * 4 + 1 };

struct order {
    struct gateway *g;
    struct http_request *r; /* NULL: the client has left */
    bool costs;
    int64_t start_s, end_s, limit, page_day; /* -1: not given */
    struct report_query q;
    char tag[TAG_BYTES]; /* q's */
    struct pool_job job;
    struct buf out;
    int64_t next_day;      /* whose bucket is the next to be opened */
    bool open, more, done; /* open: a bucket is; more: there are days after to_day */
    int rc;
    struct err e;
};

/* --- what is asked for --- */

static int take_number(const char *name, const char *value, int64_t min, int64_t max, int64_t *out, struct err *e)
{
    if (str_parse_int64(value, min, max, out)) return 0;
    return err_set_param(e, ERR_INPUT, name, "'%s' must be a whole number from %lld to %lld.", name, (long long)min, (long long)max);
}

static int take_start(struct order *o, const char *value, struct err *e)
{
    return take_number("start_time", value, 0, INT64_MAX / 2000, &o->start_s, e);
}

static int take_end(struct order *o, const char *value, struct err *e)
{
    return take_number("end_time", value, 1, INT64_MAX / 2000, &o->end_s, e);
}

static int take_limit(struct order *o, const char *value, struct err *e)
{
    return take_number("limit", value, 1, o->costs ? MAX_COST_DAYS : MAX_USAGE_DAYS, &o->limit, e);
}

/* As it stands in next_page: the day that the page begins with. */
static int take_page(struct order *o, const char *value, struct err *e)
{
    if (str_starts_with(value, "page_") && str_parse_int64(value + 5, 0, INT32_MAX, &o->page_day)) return 0;
    return err_set_param(e, ERR_INPUT, "page", "'page' must be the next_page of the page before.");
}

static int take_width(struct order *o, const char *value, struct err *e)
{
    (void)o;
    return strcmp(value, "1d") == 0 ? 0 : err_set_param(e, ERR_INPUT, "bucket_width", "'bucket_width' can only be 1d here.");
}

static int take_project(struct order *o, const char *value, struct err *e)
{
    if (o->q.project) return err_set_param(e, ERR_INPUT, "project_ids", "'project_ids' can name one project only here.");
    return take_number("project_ids", value, 1, INT64_MAX, &o->q.project, e);
}

static const struct {
    const char *word;
    enum report_by by;
    bool costs, usage;
} groups[] = {{"project_id", REPORT_PROJECT, true, true},
              {"api_key_id", REPORT_KEY, false, true},
              {"model", REPORT_MODEL, false, true},
              {"line_item", REPORT_MODEL, true, false},
              {"provider", REPORT_SUPPLIER, true, true}};
enum { N_GROUPS = sizeof groups / sizeof groups[0] };

/* tag:NAME. The name may have commas in it, so nothing follows. */
static int take_tag(struct order *o, const char *name, struct err *e)
{
    if (strlen(name) >= sizeof o->tag || o->tag[0] || !name[0])
        return err_set_param(e, ERR_INPUT, "group_by", "'group_by' can have one tag, tag:NAME with a name of metadata.");
    snprintf(o->tag, sizeof o->tag, "%s", name);
    o->q.tag = o->tag;
    o->q.by |= REPORT_TAG;
    return 0;
}

/* One of them, or several with commas between. */
static int take_group(struct order *o, const char *value, struct err *e)
{
    for (const char *p = value, *comma; p; p = comma ? comma + 1 : NULL) {
        if (str_starts_with(p, "tag:")) return take_tag(o, p + 4, e);
        comma = strchr(p, ',');
        size_t n = comma ? (size_t)(comma - p) : strlen(p), i = 0;
        for (; i < N_GROUPS; i++)
            if ((o->costs ? groups[i].costs : groups[i].usage) && strlen(groups[i].word) == n && memcmp(groups[i].word, p, n) == 0) break;
        if (i == N_GROUPS)
            return err_set_param(e, ERR_INPUT, "group_by", "'group_by' can be %s, provider or tag:NAME here.",
                                 o->costs ? "project_id, line_item" : "project_id, api_key_id, model");
        o->q.by |= groups[i].by;
    }
    return 0;
}

static const struct {
    const char *name;
    int (*take)(struct order *o, const char *value, struct err *e);
} parameters[] = {{"start_time", take_start},   {"end_time", take_end},        {"limit", take_limit},           {"page", take_page},
                  {"bucket_width", take_width}, {"project_ids", take_project}, {"project_ids[]", take_project}, {"group_by", take_group},
                  {"group_by[]", take_group}};
enum { N_PARAMETERS = sizeof parameters / sizeof parameters[0] };

static int take_parameter(struct order *o, char *pair, struct err *e)
{
    char *equals = strchr(pair, '='), *value = equals ? equals + 1 : pair + strlen(pair);
    if (equals) *equals = '\0';
    int n_name = http_unescape(pair, strlen(pair)), n_value = http_unescape(value, strlen(value));
    if (n_name < 0 || n_value < 0) return err_set(e, ERR_INPUT, "An escape in the URL's query is broken.");
    pair[n_name] = value[n_value] = '\0';
    for (int i = 0; i < N_PARAMETERS; i++)
        if (strcmp(parameters[i].name, pair) == 0) return parameters[i].take(o, value, e);
    return err_set_param(e, ERR_UNSUPPORTED, pair, "'%.60s' is not supported here.", pair);
}

/* The days of this page: from q.from_day to q.to_day. */
static int choose_days(struct order *o, struct err *e)
{
    if (o->start_s < 0) return err_set_param(e, ERR_INPUT, "start_time", "'start_time' must be given.");
    int64_t last = ((o->end_s < 0 ? clock_wall_s() + 1 : o->end_s) - 1) / DAY_S;
    if (o->end_s >= 0 && o->end_s <= o->start_s) return err_set_param(e, ERR_INPUT, "end_time", "'end_time' must be after 'start_time'.");
    o->q.from_day = o->page_day >= 0 ? o->page_day : o->start_s / DAY_S;
    o->q.to_day = last;
    if (o->q.to_day - o->q.from_day >= o->limit) o->q.to_day = o->q.from_day + o->limit - 1;
    o->next_day = o->q.from_day;
    o->more = last > o->q.to_day;
    return 0;
}

static int read_query(struct order *o, struct err *e)
{
    char text[QUERY_BYTES];
    size_t n;
    const char *query = http_query(o->r, &n);
    if (n >= sizeof text) return err_set(e, ERR_INPUT, "The URL's query is too long.");
    memcpy(text, query, n);
    text[n] = '\0';
    int rc = 0;
    for (char *p = text, *next; p && *p && !rc; p = next) {
        next = strchr(p, '&');
        if (next) *next++ = '\0';
        if (*p) rc = take_parameter(o, p, e);
    }
    if (!rc && (o->q.by & REPORT_TAG) && (o->q.by & (REPORT_KEY | REPORT_MODEL | REPORT_SUPPLIER)))
        rc = err_set_param(e, ERR_INPUT, "group_by", "'group_by' can have a tag alone or with project_id.");
    return rc ? rc : choose_days(o, e);
}

/* --- the page; on a thread of the desk --- */

/* Buckets up to this day, which stays open. */
static void open_bucket(struct order *o, int64_t day)
{
    for (; o->next_day <= day; o->next_day++) {
        if (o->open) buf_puts(&o->out, "]},");
        buf_printf(&o->out, "{\"object\":\"bucket\",\"start_time\":%lld,\"end_time\":%lld,\"results\":[", (long long)o->next_day * DAY_S,
                   (long long)(o->next_day + 1) * DAY_S);
        o->open = true;
    }
}

static void put_id(struct buf *b, const char *name, bool grouped, int64_t id)
{
    if (grouped)
        buf_printf(b, ",\"%s\":\"%lld\"", name, (long long)id);
    else
        buf_printf(b, ",\"%s\":null", name);
}

static void put_text(struct buf *b, const char *name, bool grouped, const char *text)
{
    buf_printf(b, ",\"%s\":", name);
    if (grouped)
        json_write_string(b, text, strlen(text));
    else
        buf_puts(b, "null");
}

/* What OpenAI's shape has no place for is there only when it is asked for. */
static void put_ours(struct buf *b, unsigned by, const struct report_usage *u)
{
    if (by & REPORT_SUPPLIER) put_text(b, "provider", true, u->supplier_name);
    if (by & REPORT_TAG) put_text(b, "tag", true, u->tag);
    if (by & REPORT_TAG) put_text(b, "tag_value", true, u->value);
}

static void put_result(void *ctx, const struct report_usage *u)
{
    struct order *o = ctx;
    struct buf *b = &o->out;
    char usd[MONEY_BYTES];
    open_bucket(o, u->day);
    if (b->len && b->data[b->len - 1] == '}') buf_putc(b, ',');
    if (o->costs) {
        buf_printf(b, "{\"object\":\"organization.costs.result\",\"amount\":{\"value\":%s,\"currency\":\"usd\"}",
                   money_write(u->sale_nusd, usd));
        put_text(b, "line_item", o->q.by & REPORT_MODEL, u->model);
        put_id(b, "project_id", o->q.by & REPORT_PROJECT, u->project);
        put_ours(b, o->q.by, u);
        buf_putc(b, '}');
        return;
    }
    buf_printf(b,
               "{\"object\":\"organization.usage.completions.result\",\"input_tokens\":%lld,\"input_cached_tokens\":%lld,"
               "\"output_tokens\":%lld,\"input_audio_tokens\":0,\"output_audio_tokens\":0,\"num_model_requests\":%lld",
               (long long)u->tokens_in, (long long)u->tokens_cached, (long long)u->tokens_out, (long long)u->requests);
    put_id(b, "project_id", o->q.by & REPORT_PROJECT, u->project);
    buf_puts(b, ",\"user_id\":null");
    put_id(b, "api_key_id", o->q.by & REPORT_KEY, u->key);
    put_text(b, "model", o->q.by & REPORT_MODEL, u->model);
    buf_puts(b, ",\"batch\":null");
    put_ours(b, o->q.by, u);
    buf_putc(b, '}');
}

static void work(struct pool_job *j)
{
    struct order *o = (struct order *)((char *)j - offsetof(struct order, job));
    struct db *db;
    o->done = true;
    buf_puts(&o->out, "{\"object\":\"page\",\"data\":[");
    o->rc = db_open(&db, o->g->store, &o->e);
    if (!o->rc) o->rc = report_usage(db, &o->q, put_result, o, &o->e);
    db_close(db);
    open_bucket(o, o->q.to_day);
    buf_puts(&o->out, o->open ? "]}]" : "]");
    if (o->more)
        buf_printf(&o->out, ",\"has_more\":true,\"next_page\":\"page_%lld\"}", (long long)o->q.to_day + 1);
    else
        buf_puts(&o->out, ",\"has_more\":false,\"next_page\":null}");
    if (!o->rc && o->out.failed) o->rc = err_set(&o->e, ERR_MEMORY, "the page does not fit");
}

/* --- on the loop --- */

static void order_free(struct order *o)
{
    buf_free(&o->out);
    free(o);
}

static void done(struct pool_job *j)
{
    struct order *o = (struct order *)((char *)j - offsetof(struct order, job));
    if (o->r && !o->done) o->rc = err_set(&o->e, ERR_CLOSING, "The server is shutting down.");
    if (o->r && o->rc)
        api_error_reply(o->r, o->rc == -ERR_CLOSING ? API_DRAINING : API_ACCOUNTS_DOWN, &o->e);
    else if (o->r)
        http_reply(o->r, 200, "application/json", o->out.data, o->out.len);
    order_free(o);
}

static void gone(void *ctx)
{
    ((struct order *)ctx)->r = NULL;
}

static void answer(struct gateway *g, struct http_request *r, bool costs)
{
    struct err e = {0};
    if (!g->accounts) {
        err_set(&e, ERR_NOT_FOUND, "This server has no accounts (--no-auth).");
        api_error_reply(r, API_NOT_FOUND, &e);
        return;
    }
    struct order *o = calloc(1, sizeof *o);
    if (!o) {
        err_set(&e, ERR_MEMORY, "out of memory");
        api_error_reply(r, API_INTERNAL_ERROR, &e);
        return;
    }
    *o = (struct order){.g = g,
                        .r = r,
                        .costs = costs,
                        .start_s = -1,
                        .end_s = -1,
                        .page_day = -1,
                        .limit = DEFAULT_DAYS,
                        .q = {.by = REPORT_DAY},
                        .job = {.work = work, .done = done}};
    buf_init(&o->out, REPLY_MAX_BYTES);
    if (read_query(o, &e)) {
        api_error_reply(r, api_error_of(&e), &e);
        order_free(o);
        return;
    }
    http_on_gone(r, gone, o);
    pool_submit(g->desk, &o->job);
}

static void usage_get(struct gateway *g, struct http_request *r)
{
    answer(g, r, false);
}

static void costs_get(struct gateway *g, struct http_request *r)
{
    answer(g, r, true);
}

const struct endpoint endpoint_organization_usage = {
    .method = "GET", .path = "/v1/organization/usage/completions", .access = ACCESS_ADMIN, .handle = usage_get};
const struct endpoint endpoint_organization_costs = {
    .method = "GET", .path = "/v1/organization/costs", .access = ACCESS_ADMIN, .handle = costs_get};
