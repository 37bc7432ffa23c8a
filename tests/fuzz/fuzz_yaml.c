/* The configuration file: YAML read into the options of `serve`. Faults have a place and UTF-8 text of our own; what is read without a fault is printed
 * as --print-config does and read again to the very same print, and its limits lie within their rows' bounds. */
#include <string.h>

#include "base/str.h"
#include "server/cli/options_config.h"
#include "tests/fuzz/fuzz.h"

static const char *const words[] = {"listen",
                                    "data",
                                    "models",
                                    "path",
                                    "name",
                                    "limits",
                                    "max_headers",
                                    "max_body_bytes",
                                    "header_deadline",
                                    "trusted_proxy",
                                    "allow_host",
                                    "allow_origin",
                                    "no_auth",
                                    "log_level",
                                    "log_format",
                                    "media_processes",
                                    "device",
                                    "threads",
                                    "api_key_file",
                                    "tls_cert",
                                    "tls_key",
                                    ": ",
                                    ":\n  ",
                                    "\n",
                                    "\n- ",
                                    "\n  - ",
                                    "- ",
                                    "[",
                                    "]",
                                    "{",
                                    "}",
                                    ", ",
                                    "\"",
                                    "'",
                                    "&a ",
                                    "*a",
                                    "!!str ",
                                    "!x ",
                                    "<<: *a",
                                    "---\n",
                                    "...\n",
                                    "%YAML 1.1\n",
                                    "# x\n",
                                    "| \n  a\n",
                                    "> \n  a\n",
                                    "? ",
                                    "~",
                                    "null",
                                    "true",
                                    "false",
                                    "yes",
                                    "0",
                                    "1",
                                    "-1",
                                    "20MB",
                                    "10s",
                                    "16KiB",
                                    "500ms",
                                    "127.0.0.1:8080",
                                    "[::1]:0",
                                    "10.0.0.0/8",
                                    "\\u00e9",
                                    "\\x00",
                                    "\\ud800",
                                    "\xC3\xA9",
                                    "\xEF\xBB\xBF",
                                    "\xFF",
                                    "\t",
                                    "\r\n",
                                    "\xE2\x80\xA8",
                                    "\xC2\x85",
                                    "a: a\n",
                                    "demo",
                                    "9223372036854775808",
                                    "1e9",
                                    "0x10",
                                    NULL};

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    return seed % 4 ? fuzz_mutate_words(p, n, max, seed, words) : LLVMFuzzerMutate(p, n, max);
}

/* The file is in memory: the linker sends all reading of whole files here. Its path is a regular file, which is what is asked of it. */
static struct {
    const char *p;
    size_t n;
} file;
int __wrap_buf_read_file(struct buf *b, const char *path, struct err *e);
int __wrap_buf_read_file(struct buf *b, const char *path, struct err *e)
{
    int rc = buf_append(b, file.p, file.n);
    return rc ? err_set(e, (enum err_code) - rc, "%s: too large", path) : 0;
}

static int read_options(struct options *o, const char *p, size_t n, struct config_file **held, struct config_faults *faults)
{
    file.p = p;
    file.n = n;
    *faults = (struct config_faults){0};
    options_init(COMMAND_SERVE, o);
    return options_read_config(o, SPILLWAY_SOURCE_DIR "/README.md", held, faults);
}

static void check_faults(const struct config_faults *f)
{
    FUZZ_CHECK(f->n >= 1 && f->n <= CONFIG_MAX_FAULTS && (f->n == CONFIG_MAX_FAULTS || f->more == 0));
    for (size_t i = 0; i < f->n; i++) {
        const struct config_fault *row = &f->rows[i];
        FUZZ_CHECK(memchr(row->text, 0, sizeof row->text) && row->text[0] && utf8_valid(row->text, strlen(row->text)));
        FUZZ_CHECK((row->line == 0) == (row->column == 0));
        FUZZ_CHECK(strcmp(row->text, "cannot be loaded") != 0); /* the scan saw nothing wrong, and libcyaml did */
        FUZZ_CHECK(i == 0 || f->rows[i - 1].line < row->line || (f->rows[i - 1].line == row->line && f->rows[i - 1].column <= row->column));
    }
}

static void print(const struct options *o, char **text, size_t *n)
{
    struct err e = {0};
    FILE *f = open_memstream(text, n);
    FUZZ_CHECK(f);
    int rc = options_print_config(o, f, &e);
    fclose(f);
    if (rc) fuzz_check_err(rc, &e); /* a text that YAML cannot say */
    if (rc) *n = 0;
}

static void check_round_trip(const struct options *o)
{
    char *first, *second;
    size_t n_first, n_second;
    print(o, &first, &n_first);
    if (n_first) {
        struct options again;
        struct config_file *held;
        struct config_faults faults;
        FUZZ_CHECK(read_options(&again, first, n_first, &held, &faults) == 0);
        print(&again, &second, &n_second);
        FUZZ_CHECK(n_first == n_second && memcmp(first, second, n_first) == 0);
        free(second);
        config_file_free(held);
    }
    free(first);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct options o;
    struct config_file *held;
    struct config_faults faults;
    int rc = read_options(&o, (const char *)p, n, &held, &faults);
    FUZZ_CHECK(rc == 0 || rc == -ERR_INPUT);
    if (rc) {
        check_faults(&faults);
    } else {
        for (size_t i = 0; i < n_limit_rows; i++) {
            int64_t v = limit_get(&o.limits, &limit_rows[i]);
            FUZZ_CHECK(v >= limit_rows[i].min && v <= limit_rows[i].max);
        }
        check_round_trip(&o);
    }
    config_file_free(held);
    return 0;
}
