/* A provider's usage export, CSV or JSON: what is accepted has one row a day and model, in their order, counts that are not negative, and
 * is the same when it is written as CSV and read again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/accounts/money.h"
#include "server/accounts/reconcile.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {"date",
                                    "start_time",
                                    "model",
                                    "input_tokens",
                                    "output_tokens",
                                    "n_requests",
                                    "cost",
                                    "amount",
                                    "value",
                                    "data",
                                    "results",
                                    "2026-11-29",
                                    "1790000000",
                                    "1e-05",
                                    "0.06",
                                    "-1",
                                    "\"",
                                    "\"\"",
                                    ",",
                                    "\n",
                                    "\r\n",
                                    "[",
                                    "]",
                                    "{",
                                    "}",
                                    ":",
                                    "9223372036854775807",
                                    "-9223372036.854775808",
                                    "0.0000000005",
                                    "date,model,cost\n",
                                    "T00:00:00Z",
                                    "\xEF\xBB\xBF",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return n && (*p == '[' || *p == '{') && seed % 4 ? fuzz_mutate_json(p, n, max, seed, words) : fuzz_mutate_words(p, n, max, seed, words);
}

static void write_quoted(struct buf *b, const char *s)
{
    buf_putc(b, '"');
    for (; *s; s++) {
        if (*s == '"') buf_putc(b, '"');
        buf_putc(b, *s);
    }
    buf_putc(b, '"');
}

static void check_again(const struct reconcile_file *f)
{
    struct reconcile_file again;
    struct err e = {0};
    struct buf b;
    char usd[MONEY_BYTES], day[64];
    buf_init(&b, 1 << 24);
    buf_puts(&b, "date,model,n_requests,input_tokens,output_tokens,cost\n");
    for (size_t i = 0; i < f->n; i++) {
        const struct reconcile_row *r = &f->rows[i];
        snprintf(day, sizeof day, "%lld", (long long)r->day * 86400);
        buf_puts(&b, day);
        buf_putc(&b, ',');
        write_quoted(&b, r->model);
        buf_printf(&b, ",%lld,%lld,%lld,%s\r\n", (long long)r->requests, (long long)r->tokens_in, (long long)r->tokens_out,
                   money_write(r->amount_nusd, usd));
    }
    FUZZ_CHECK(!b.failed && reconcile_read_text(&again, b.data, b.len, "again", &e) == 0);
    FUZZ_CHECK(again.n == f->n && (f->n == 0 || memcmp(again.rows, f->rows, f->n * sizeof *f->rows) == 0));
    reconcile_free(&again);
    buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct reconcile_file f;
    struct err e = {0};
    char *text = malloc(n + 1);
    FUZZ_CHECK(text);
    memcpy(text, p, n);
    text[n] = '\0';
    int rc = reconcile_read_text(&f, text, n, "invoice", &e);
    free(text);
    if (rc) {
        fuzz_check_err(rc, &e);
        FUZZ_CHECK(!f.rows && f.n == 0);
        return 0;
    }
    for (size_t i = 0; i < f.n; i++) {
        const struct reconcile_row *r = &f.rows[i];
        FUZZ_CHECK(r->model[0] && memchr(r->model, '\0', sizeof r->model));
        FUZZ_CHECK(r->day >= 0 && r->requests >= 0 && r->tokens_in >= 0 && r->tokens_out >= 0);
        if (i) FUZZ_CHECK(r[-1].day < r->day || (r[-1].day == r->day && strcmp(r[-1].model, r->model) < 0));
    }
    check_again(&f);
    reconcile_free(&f);
    return 0;
}
