/* GET /admin/export/transfers and /admin/export/requests (?from=&to=&format=csv|json): all rows of one moment, in memory that does not grow with
 * them. A thread of the desk reads a piece, the loop hands it to the client, and the next is read when the client has taken most of it. Who takes longer than a
 * request may (--request-timeout) is cut: the store keeps what it was for so long. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "server/accounts/db.h"
#include "server/accounts/export.h"
#include "server/accounts/report.h"
#include "server/accounts/words.h"
#include "server/api/admin.h"
#include "server/api/endpoint.h"
#include "server/api/errors.h"

enum { MOST_AT_ONCE = 4, LEAST_LOOK_MS = 1, MOST_LOOK_MS = 64 };
static const char prefix[] = "/admin/export/";

struct order {
    struct gateway *g;
    struct http_request *r; /* NULL: the client has left, or is answered */
    char request_id[HTTP_REQUEST_ID_BYTES];
    enum export_what what;
    bool json;
    int64_t from_ms, to_ms, until_ms, look_ms;
    struct pool_job job;
    struct loop_timer look;
    bool working, begun, ran, over; /* over: the job is to close the store */
    /* on its thread while `working` */
    struct db *db;
    struct export *export;
    struct buf piece;
    int more;
    struct err e;
};

static struct order *order_of(struct pool_job *j)
{
    return (struct order *)((char *)j - offsetof(struct order, job));
}

/* --- on a thread of the desk --- */

static void close_store(struct order *o)
{
    export_close(o->export);
    db_close(o->db);
    o->export = NULL;
    o->db = NULL;
}

static void work(struct pool_job *j)
{
    struct order *o = order_of(j);
    o->ran = true;
    if (o->over) {
        close_store(o);
        return;
    }
    int rc = o->db ? 0 : db_open(&o->db, o->g->store, &o->e);
    if (!rc && !o->export) rc = export_open(&o->export, o->db, o->what, o->json, o->from_ms, o->to_ms, &o->e);
    buf_clear(&o->piece);
    o->more = rc ? rc : export_next(o->export, &o->piece, &o->e);
    if (o->more != 1) close_store(o);
}

/* --- on the loop --- */

static void submit(struct order *o)
{
    o->working = true;
    o->ran = false;
    o->look_ms = LEAST_LOOK_MS;
    pool_submit(o->g->desk, &o->job);
}

static void order_free(struct order *o)
{
    o->g->n_exports--;
    close_store(o);
    buf_free(&o->piece);
    free(o);
}

/* Nobody waits for it any more, and no job is under way. */
static void end(struct order *o)
{
    o->r = NULL;
    loop_timer_clear(o->g->loop, &o->look);
    if (o->db && o->g->desk) {
        o->over = true;
        submit(o);
    } else
        order_free(o);
}

static void gone(void *ctx)
{
    struct order *o = ctx;
    o->r = NULL;
    if (!o->working) end(o);
}

static void fail(struct order *o)
{
    struct http_request *r = o->r;
    o->r = NULL;
    if (o->begun) {
        log_request(LOG_ERROR, o->request_id, "an export is cut: %s", o->e.msg);
        http_stream_cut(r);
    } else
        api_error_reply(r, admin_error_of(-(int)o->e.code), &o->e);
    end(o);
}

/* The next piece, once the client has taken most of those before. A slow one is looked at less and less often. */
static void look(void *ctx)
{
    struct order *o = ctx;
    int64_t now_ms = loop_now_ms(o->g->loop);
    if (now_ms >= o->until_ms) {
        err_set(&o->e, ERR_DEADLINE, "its time is up (--request-timeout)");
        fail(o);
    } else if (http_stream_waiting(o->r) > (size_t)o->g->limits.stream_bytes / 2) {
        (void)!loop_timer_set(o->g->loop, &o->look, now_ms + o->look_ms);
        if (o->look_ms < MOST_LOOK_MS) o->look_ms *= 2;
    } else
        submit(o);
}

static void add_headers(const struct order *o, struct http_request *r)
{
    const char *what = o->what == EXPORT_TRANSFERS ? "transfers" : "requests", *ending = o->json ? "json" : "csv";
    char name[64];
    snprintf(name, sizeof name, "attachment; filename=\"%s.%s\"", what, ending);
    http_add_header(r, "content-disposition", name);
}

static const char *type_of(const struct order *o)
{
    return o->json ? "application/json" : "text/csv; charset=utf-8; header=present";
}

static void give(struct order *o)
{
    if (!o->begun) {
        add_headers(o, o->r);
        http_stream_begin(o->r, 200, type_of(o));
        o->begun = true;
    }
    if (o->more == 0) {
        struct http_request *r = o->r;
        o->r = NULL;
        http_stream_finish(r, o->piece.data, o->piece.len);
        end(o);
        return;
    }
    o->working = true; /* should the client be seen to leave now */
    int rc = http_stream_write(o->r, o->piece.data, o->piece.len);
    o->working = false;
    if (!o->r)
        end(o);
    else if (rc) {
        err_set(&o->e, ERR_MEMORY, "out of memory");
        fail(o);
    } else
        look(o);
}

static void done(struct pool_job *j)
{
    struct order *o = order_of(j);
    o->working = false;
    if (!o->ran && !o->over) o->more = err_set(&o->e, ERR_CLOSING, "The server is shutting down.");
    if (o->over)
        order_free(o);
    else if (!o->r)
        end(o);
    else if (o->more < 0)
        fail(o);
    else
        give(o);
}

static int read_wish(struct order *o, json_t *in, struct err *e)
{
    const struct admin_call c = {.in = in};
    const char *from = NULL, *to = NULL, *format = "csv", *what = http_path(o->r) + strlen(prefix);
    int64_t from_day, to_day;
    bool transfers = strcmp(what, "transfers") == 0;
    if (!transfers && strcmp(what, "requests") != 0)
        return err_set(e, ERR_NOT_FOUND, "There are exports of transfers and of requests: %stransfers.", prefix);
    int rc = admin_check_fields(in, "from to format", e);
    if (!rc) rc = admin_text(&c, "from", &from, e);
    if (!rc) rc = admin_text(&c, "to", &to, e);
    if (!rc) rc = admin_text(&c, "format", &format, e);
    if (!rc) rc = words_days("from", from, "to", to, 0, &from_day, &to_day, e);
    if (rc) return rc;
    o->what = transfers ? EXPORT_TRANSFERS : EXPORT_REQUESTS;
    o->json = strcmp(format, "json") == 0;
    o->from_ms = from_day * REPORT_DAY_MS;
    o->to_ms = (to_day + 1) * REPORT_DAY_MS;
    if (!o->json && strcmp(format, "csv") != 0) return err_set_param(e, ERR_INPUT, "format", "'format' must be csv or json.");
    return 0;
}

static int begin_order(struct order *o, struct err *e)
{
    if (o->g->n_exports > MOST_AT_ONCE) return err_set(e, ERR_BUSY, "There are %d exports under way: try again later.", MOST_AT_ONCE);
    json_t *in = admin_read_query(o->r, e);
    if (!in) return -(int)e->code;
    int rc = read_wish(o, in, e);
    json_decref(in);
    return rc;
}

static void handle(struct gateway *g, struct http_request *r)
{
    struct err e = {0};
    if (!admin_has_accounts(g, r)) return;
    struct order *o = calloc(1, sizeof *o);
    if (!o) {
        err_set(&e, ERR_MEMORY, "out of memory");
        api_error_reply(r, API_QUEUE_FULL, &e);
        return;
    }
    *o = (struct order){.g = g, .r = r, .job = {.work = work, .done = done}, .until_ms = loop_now_ms(g->loop) + g->limits.request_ms};
    o->look = (struct loop_timer){.fn = look, .ctx = o};
    snprintf(o->request_id, sizeof o->request_id, "%s", http_request_id(r));
    buf_init(&o->piece, EXPORT_PIECE_BYTES + EXPORT_ROW_BYTES);
    g->n_exports++;
    int rc = begin_order(o, &e);
    if (rc) {
        api_error_reply(r, rc == -ERR_BUSY ? API_QUEUE_FULL : admin_error_of(rc), &e);
        order_free(o);
        return;
    }
    if (strcmp(http_method(r), "HEAD") == 0) {
        add_headers(o, r);
        http_reply(r, 200, type_of(o), "", 0);
        order_free(o);
        return;
    }
    http_on_gone(r, gone, o);
    submit(o);
}

const struct endpoint endpoint_export = {.method = "GET", .path = prefix, .access = ACCESS_ADMIN, .handle = handle};
