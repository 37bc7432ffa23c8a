/* Reconciliation: reading a provider's export. Whether it is CSV or JSON its first byte tells. */
#include "server/accounts/reconcile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/str.h"
#include "server/accounts/money.h"

enum { MAX_FIELDS = 64, WORD_BYTES = 64, FILE_BYTES = 256 << 20, DAY_S = 86400 };

enum field { FIELD_NONE, FIELD_DAY, FIELD_MODEL, FIELD_REQUESTS, FIELD_IN, FIELD_OUT, FIELD_AMOUNT, FIELDS };

/* Names in lower case. What is named twice in one record (input tokens and those of a cache beside them) is summed. */
static const struct {
    const char *name;
    enum field field;
} names[] = {
    {"day", FIELD_DAY},
    {"date", FIELD_DAY},
    {"usage_date", FIELD_DAY},
    {"usage_date_utc", FIELD_DAY},
    {"start_time", FIELD_DAY},
    {"starting_at", FIELD_DAY},
    {"timestamp", FIELD_DAY},
    {"model", FIELD_MODEL},
    {"model_id", FIELD_MODEL},
    {"model_name", FIELD_MODEL},
    {"model_version", FIELD_MODEL},
    {"requests", FIELD_REQUESTS},
    {"num_model_requests", FIELD_REQUESTS},
    {"n_requests", FIELD_REQUESTS},
    {"request_count", FIELD_REQUESTS},
    {"tokens_in", FIELD_IN},
    {"input_tokens", FIELD_IN},
    {"prompt_tokens", FIELD_IN},
    {"n_context_tokens_total", FIELD_IN},
    {"uncached_input_tokens", FIELD_IN},
    {"cache_read_input_tokens", FIELD_IN},
    {"cache_creation_input_tokens", FIELD_IN},
    {"tokens_out", FIELD_OUT},
    {"output_tokens", FIELD_OUT},
    {"completion_tokens", FIELD_OUT},
    {"n_generated_tokens_total", FIELD_OUT},
    {"amount", FIELD_AMOUNT},
    {"amount_usd", FIELD_AMOUNT},
    {"amount_value", FIELD_AMOUNT},
    {"cost", FIELD_AMOUNT},
    {"cost_usd", FIELD_AMOUNT},
    {"total_cost", FIELD_AMOUNT},
};

struct reading {
    struct reconcile_file *f;
    const char *path;
    size_t n_record; /* the record, from 1 */
    struct err *e;
};

static enum field field_of(const char *name)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcasecmp(names[i].name, name) == 0) return names[i].field;
    return FIELD_NONE;
}

static int refuse(struct reading *r, const char *what, const char *text)
{
    return err_set(r->e, ERR_INPUT, "%s: record %zu: '%.80s' is not %s", r->path, r->n_record, text, what);
}

/* "2026-11-29", whatever follows after T or a blank; or seconds since 1970. */
static bool parse_day(const char *text, int64_t *day)
{
    int64_t seconds;
    struct tm tm = {0}, back;
    if (str_parse_int64(text, DAY_S, INT64_MAX / 2, &seconds)) {
        *day = seconds / DAY_S;
        return true;
    }
    const char *end = strptime(text, "%Y-%m-%d", &tm);
    if (!end || (*end && *end != 'T' && *end != ' ')) return false;
    int of_month = tm.tm_mday;
    time_t t = timegm(&tm);
    *day = (int64_t)t / DAY_S;
    return t >= DAY_S && gmtime_r(&t, &back) && back.tm_mday == of_month;
}

static int take(struct reading *r, struct reconcile_row *row, unsigned *seen, enum field field, const char *text)
{
    int64_t *count = field == FIELD_REQUESTS ? &row->requests : field == FIELD_IN ? &row->tokens_in : &row->tokens_out, n = 0;
    bool first = !(*seen & 1u << field);
    *seen |= 1u << field;
    switch (field) {
    case FIELD_DAY:
        return !first || parse_day(text, &row->day) ? 0 : refuse(r, "a day (2026-11-29, or seconds since 1970)", text);
    case FIELD_MODEL:
        if (first && snprintf(row->model, sizeof row->model, "%s", text) >= (int)sizeof row->model)
            return refuse(r, "a model's name", text);
        return row->model[0] ? 0 : refuse(r, "a model's name", text);
    case FIELD_AMOUNT:
        return !first || money_parse_report(text, &row->amount_nusd) ? 0 : refuse(r, "an amount in dollars", text);
    case FIELD_REQUESTS:
    case FIELD_IN:
    case FIELD_OUT:
        if (*text && !str_parse_int64(text, 0, INT64_MAX, &n)) return refuse(r, "a count", text);
        return __builtin_add_overflow(*count, n, count) ? refuse(r, "a count that fits", text) : 0;
    case FIELD_NONE:
    case FIELDS:
        break;
    }
    return 0;
}

static int end_row(struct reading *r, const struct reconcile_row *row, unsigned seen)
{
    static const char *const must[] = {[FIELD_DAY] = "day", [FIELD_MODEL] = "model", [FIELD_AMOUNT] = "amount"};
    for (enum field f = FIELD_DAY; f < FIELDS; f++)
        if (f < sizeof must / sizeof must[0] && must[f] && !(seen & 1u << f))
            return err_set(r->e, ERR_INPUT, "%s: record %zu has no %s", r->path, r->n_record, must[f]);
    r->f->has_requests |= seen >> FIELD_REQUESTS & 1;
    r->f->has_tokens_in |= seen >> FIELD_IN & 1;
    r->f->has_tokens_out |= seen >> FIELD_OUT & 1;
    return reconcile_add(r->f, row, r->e);
}

/* --- CSV --- */

/* One record into its fields, in place; quotes are taken off. Returns how many, or -1: more than MAX_FIELDS, or a quote that does not
 * end. */
static int csv_record(char **p, char *end, char *fields[MAX_FIELDS])
{
    int n = 0;
    for (;;) {
        if (n == MAX_FIELDS) return -1;
        char *from = *p, *to = from;
        fields[n++] = to;
        bool quoted = from < end && *from == '"';
        if (quoted) from++;
        while (from < end && (quoted || (*from != ',' && *from != '\n'))) {
            if (quoted && *from == '"' && !(from + 1 < end && from[1] == '"')) {
                quoted = false;
                from++;
                continue;
            }
            if (quoted && *from == '"') from++;
            *to++ = *from++;
        }
        if (quoted) return -1;
        bool more = from < end && *from == ',';
        *p = from < end ? from + 1 : from;
        if (!more && to > fields[n - 1] && to[-1] == '\r') to--;
        *to = '\0'; /* at the latest where the separator stood, or the buffer's own NUL */
        if (!more) return n;
    }
}

static int read_csv(struct reading *r, char *p, size_t length)
{
    char *end = p + length, *fields[MAX_FIELDS];
    enum field columns[MAX_FIELDS];
    int n_columns = csv_record(&p, end, fields);
    for (int i = 0; i < n_columns; i++) columns[i] = field_of(fields[i]);
    if (n_columns < 0) return err_set(r->e, ERR_INPUT, "%s: its first line is no header of CSV", r->path);
    for (r->n_record = 1; p < end; r->n_record++) {
        struct reconcile_row row = {0};
        unsigned seen = 0;
        int n = csv_record(&p, end, fields), rc = 0;
        if (n == 1 && !*fields[0]) continue; /* an empty line */
        if (n != n_columns) return err_set(r->e, ERR_INPUT, "%s: record %zu has not as many fields as the header", r->path, r->n_record);
        for (int i = 0; i < n && !rc; i++)
            if (columns[i]) rc = take(r, &row, &seen, columns[i], fields[i]);
        if (!rc) rc = end_row(r, &row, seen);
        if (rc) return rc;
    }
    return 0;
}

/* --- JSON --- */

/* A number or a string as text. A number with a fraction has become a double: written with 15 digits it is the decimal that stood in the
 * file, if that had no more than 15 (IEEE 754 binary64 keeps these). */
static const char *value_text(const json_t *v, char out[WORD_BYTES])
{
    if (json_is_object(v)) v = json_object_get(v, "value"); /* OpenAI: {"value": 0.06, "currency": "usd"} */
    if (json_is_string(v)) return json_string_value(v);
    if (json_is_integer(v))
        snprintf(out, WORD_BYTES, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        snprintf(out, WORD_BYTES, "%.15g", json_real_value(v));
    else
        return v && !json_is_null(v) ? "(not a number or text)" : "";
    return out;
}

static int read_records(struct reading *r, const json_t *list, const struct reconcile_row *around, unsigned told_around);

/* around: what holds of it is told, too: the day, and nothing else. told_around: whether. */
static int read_record(struct reading *r, const json_t *v, const struct reconcile_row *around, unsigned told_around)
{
    struct reconcile_row row = {.day = around->day};
    unsigned seen = 0;
    const char *name;
    json_t *value;
    char word[WORD_BYTES];
    int rc = 0;
    r->n_record++;
    if (!json_is_object(v)) return err_set(r->e, ERR_INPUT, "%s: record %zu is no object", r->path, r->n_record);
    json_object_foreach((json_t *)v, name, value)
    {
        enum field field = field_of(name);
        if (field && !rc) rc = take(r, &row, &seen, field, value_text(value, word));
    }
    if (rc) return rc;
    seen |= told_around;
    const json_t *inner = json_object_get(v, "results");
    return inner ? read_records(r, inner, &row, seen & 1u << FIELD_DAY) : end_row(r, &row, seen);
}

static int read_records(struct reading *r, const json_t *list, const struct reconcile_row *around, unsigned told_around)
{
    if (!json_is_array(list)) return err_set(r->e, ERR_INPUT, "%s: is no list of records, and has none as `data`", r->path);
    int rc = 0;
    for (size_t i = 0; i < json_array_size(list) && !rc; i++) rc = read_record(r, json_array_get(list, i), around, told_around);
    return rc;
}

static int read_json(struct reading *r, const char *p, size_t n)
{
    const struct reconcile_row none = {0};
    json_t *v;
    int rc = json_read(p, n, &json_limits_file, r->path, &v, r->e);
    if (rc) return rc;
    rc = read_records(r, json_is_object(v) ? json_object_get(v, "data") : v, &none, 0);
    json_decref(v);
    return rc;
}

int reconcile_read_text(struct reconcile_file *out, char *text, size_t n, const char *what, struct err *e)
{
    struct reading r = {.f = out, .path = what, .e = e};
    int rc;
    *out = (struct reconcile_file){0};
    if (n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) { /* a byte order mark */
        text += 3;
        n -= 3;
    }
    size_t blanks = n ? strspn(text, " \t\r\n") : 0;
    if (blanks == n)
        rc = err_set(e, ERR_INPUT, "%s: is empty", what);
    else if (memchr(text, '\0', n) || !utf8_valid(text, n))
        rc = err_set(e, ERR_INPUT, "%s: is no text in UTF-8", what);
    else
        rc = text[blanks] == '[' || text[blanks] == '{' ? read_json(&r, text, n) : read_csv(&r, text, n);
    if (!rc) rc = reconcile_sort(out, e);
    if (rc) reconcile_free(out);
    return rc;
}

int reconcile_read(struct reconcile_file *out, const char *path, struct err *e)
{
    struct buf b;
    *out = (struct reconcile_file){0};
    buf_init(&b, FILE_BYTES);
    int rc = buf_read_file(&b, path, e);
    if (!rc) rc = reconcile_read_text(out, b.data, b.len, path, e);
    buf_free(&b);
    return rc;
}
