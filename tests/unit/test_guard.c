/* Guard pages: every parser that takes a pointer and a length gets the fuzz corpora (tests/fuzz/corpus), whole and cut short at every byte, at the
 * end of a page that is followed by one without access: a read of one byte too many ends the test, also in a build without sanitizers. The
 * corpora hold what has ever crashed a parser. Longer files are cut at a bounded number of places. */
#include <dirent.h>
#include <signal.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/json.h"
#include "base/str.h"
#include "engine/frame_wire.h"
#include "engine/media/data_url.h"
#include "engine/media/decode.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"
#include "server/accounts/price_book.h"
#include "server/http_parse.h"
#include "weights/safetensors.h"

enum { ROOM_BYTES = 64 << 10, MAX_CUTS = 400 };

static char *wall; /* the first byte without access; ROOM_BYTES before it are ours */

static char *guarded_room(size_t n)
{
    char *p = mmap(NULL, n + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(mprotect(p + n, 4096, PROT_NONE), 0);
    return p + n;
}

/* The bytes right before the wall. */
static const char *at_wall(const void *p, size_t n)
{
    assert_true(n <= ROOM_BYTES);
    if (n) memcpy(wall - n, p, n);
    return wall - n;
}

typedef void (*parse_fn)(const char *p, size_t n);

/* All cuts of a short file; of a longer one the ends and evenly spaced ones. */
static void run_cuts(parse_fn parse, const char *bytes, size_t n)
{
    size_t step = n <= MAX_CUTS ? 1 : n / MAX_CUTS + 1;
    for (size_t cut = 0; cut < n; cut += step) parse(at_wall(bytes, cut), cut);
    for (size_t back = 0; step > 1 && back < 32 && back < n; back++) parse(at_wall(bytes, n - back), n - back);
    parse(at_wall(bytes, n), n);
}

static void run_corpus(const char *name, parse_fn parse)
{
    char dir[512], path[1024];
    assert_true((size_t)snprintf(dir, sizeof dir, "%s/../fuzz/corpus/%s", SPILLWAY_TEST_DIR, name) < sizeof dir);
    DIR *folder = opendir(dir);
    if (!folder) fail_msg("%s", dir);
    size_t files = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.') continue;
        struct buf b;
        struct err e;
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        buf_init(&b, ROOM_BYTES);
        if (buf_read_file(&b, path, &e)) fail_msg("%s", e.msg);
        run_cuts(parse, b.data ? b.data : "", b.len);
        buf_free(&b);
        files++;
    }
    closedir(folder);
    assert_true(files >= 10);
}

/* --- the guard itself --- */
static void test_guard_sees_one_byte_too_many(void **state)
{
    (void)state;
    const volatile char *p = at_wall("abc", 3);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        _exit(p[3] == 'x');
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) < 2); /* a signal, or the sanitizer's report */
}

/* --- parsers --- */
static void parse_json(const char *p, size_t n)
{
    json_t *v;
    struct err e;
    (void)!json_read(p, n, &json_limits_request, "text", &v, &e);
    json_decref(v);
    (void)utf8_valid(p, n);
}

static void test_guard_json(void **state)
{
    (void)state;
    run_corpus("body", parse_json);
    run_corpus("chat", parse_json);
    run_corpus("tokenizer", parse_json);
}

static void parse_prices(const char *p, size_t n)
{
    struct price_book *b;
    struct err e;
    (void)!price_book_read(&b, p, n, "prices", &e);
    price_book_release(b);
}

static void test_guard_prices(void **state)
{
    (void)state;
    run_corpus("prices", parse_prices);
}

static void parse_data_url(const char *p, size_t n)
{
    struct buf out;
    struct err e;
    buf_init(&out, 4096);
    (void)!data_url_decode(p, n, 4096, &out, &e);
    buf_free(&out);
}

static void test_guard_data_url(void **state)
{
    (void)state;
    run_corpus("data_url", parse_data_url);
}

static void parse_image(const char *p, size_t n)
{
    struct image_info info;
    struct pixels px;
    struct err e;
    (void)!image_probe((const uint8_t *)p, n, 1 << 14, &info, &e);
    if (image_decode((const uint8_t *)p, n, 1 << 14, &px, &e) == 0) pixels_free(&px);
}

static void test_guard_image(void **state)
{
    (void)state;
    run_corpus("image", parse_image);
}

static void parse_template(const char *p, size_t n)
{
    static const struct template_limits limits = {.fuel = 2000, .depth = 64};
    struct template *t;
    struct err e;
    if (template_compile(&t, p, n, &e)) return;
    struct arena arena;
    struct marked_text out;
    json_t *request = json_pack("{s:[{s:s, s:s}]}", "messages", "role", "user", "content", "hi");
    struct template_input in = {.request = request, .limits = &limits};
    in.now.tm_mday = 1;
    arena_init(&arena, 16 << 20);
    (void)!template_render(t, &in, &arena, &out, &e);
    arena_free(&arena);
    json_decref(request);
    template_free(t);
}

static void test_guard_template(void **state)
{
    (void)state;
    run_corpus("template", parse_template);
}

/* Bodies of the frames of a stream, each at the wall, as long as what is left of the stream. */
static void parse_frames(const char *p, size_t n)
{
    static const int fds[FRAME_MAX_FDS];
    struct arena arena;
    arena_init(&arena, 16 << 20);
    while (n >= FRAME_HEADER_BYTES) {
        const uint8_t *h = (const uint8_t *)p;
        size_t body = (size_t)h[0] | (size_t)h[1] << 8 | (size_t)h[2] << 16 | (size_t)h[3] << 24;
        if (body > n - FRAME_HEADER_BYTES) body = n - FRAME_HEADER_BYTES;
        struct frame f;
        struct err e;
        arena_reset(&arena);
        (void)!frame_decode((enum frame_type)(h[4] | h[5] << 8), h + FRAME_HEADER_BYTES, body, fds, h[6] & 31, &arena, &f, &e);
        p += FRAME_HEADER_BYTES + body;
        n -= FRAME_HEADER_BYTES + body;
    }
    arena_free(&arena);
}

static void test_guard_frame(void **state)
{
    (void)state;
    run_corpus("frame", parse_frames);
}

static void parse_http(const char *p, size_t n)
{
    struct limits l;
    struct http_scan s = {0};
    struct http_head h = {0};
    limits_init(&l);
    int head = http_head_scan(&s, p, n, &l);
    if (head > 0 && (size_t)head == n && http_head_parse(&h, p, n) == 0) { /* the header itself ends at the wall */
        struct http_slice name, value;
        for (size_t at = 0; http_head_next(p, n, &at, &name, &value);) (void)http_slice_is(name, "host");
    }
    struct http_chunked c = {0};
    for (size_t at = 0, used; at < n; at += used) {
        struct http_slice data;
        used = 0;
        if (http_chunked_next(&c, p + at, n - at, &used, &data) || used == 0) break;
    }
    char *own = wall - n; /* in place */
    (void)!http_unescape(own, n);
}

static void test_guard_http(void **state)
{
    (void)state;
    run_corpus("http", parse_http);
}

static struct tokenizer *tokenizer;
static void parse_text(const char *p, size_t n)
{
    struct tokens ids;
    struct err e;
    tokens_init(&ids, 1 << 16);
    (void)!tokenizer_encode(tokenizer, (struct marked_text){p, NULL, n}, 0, &ids, &e);
    tokens_free(&ids);
}

/* As text: the parsers of templates and bodies have every kind of UTF-8, whole and broken. */
static void test_guard_tokenizer(void **state)
{
    (void)state;
    char path[1024];
    json_t *file;
    struct err e;
    snprintf(path, sizeof path, "%s/../fuzz/corpus/tokenizer/split", SPILLWAY_TEST_DIR);
    if (json_read_file(path, &json_limits_file, &file, &e) || tokenizer_load(&tokenizer, file, NULL, &e)) fail_msg("%s", e.msg);
    json_decref(file);
    run_corpus("body", parse_text);
    run_corpus("template", parse_text);
    tokenizer_close(tokenizer);
}

/* safetensors.c maps files: the linker sends its mmap here, where files land at a wall. */
static size_t mapped_bytes;
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *p, size_t n);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *p, size_t n);

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    if (fd < 0 || flags & MAP_SHARED) return __real_mmap(at, n, prot, flags, fd, offset);
    assert_true(n <= ROOM_BYTES && pread(fd, wall - n, n, offset) == (ssize_t)n);
    mapped_bytes = n;
    return wall - n;
}

int __wrap_munmap(void *p, size_t n)
{
    return p == wall - mapped_bytes && n == mapped_bytes ? 0 : __real_munmap(p, n);
}

static void parse_safetensors(const char *p, size_t n)
{
    static int fd = -1;
    struct safetensors s;
    struct err e;
    char name[32];
    if (fd < 0) fd = memfd_create("weights", MFD_CLOEXEC);
    assert_true(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, p, n, 0) == (ssize_t)n);
    snprintf(name, sizeof name, "%d", fd);
    if (safetensors_open_file(&s, "/proc/self/fd", name, &e)) return;
    volatile unsigned char last;
    for (size_t i = 0; i < s.n_tensors; i++)
        for (size_t k = 0; k < s.tensors[i].bytes; k++) last = ((const unsigned char *)s.tensors[i].data)[k];
    (void)last;
    safetensors_close(&s);
}

static void test_guard_safetensors(void **state)
{
    (void)state;
    run_corpus("safetensors", parse_safetensors);
    assert_true(mapped_bytes > 0); /* the wall was used */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guard_sees_one_byte_too_many),
        cmocka_unit_test(test_guard_json),
        cmocka_unit_test(test_guard_prices),
        cmocka_unit_test(test_guard_data_url),
        cmocka_unit_test(test_guard_image),
        cmocka_unit_test(test_guard_template),
        cmocka_unit_test(test_guard_frame),
        cmocka_unit_test(test_guard_http),
        cmocka_unit_test(test_guard_tokenizer),
        cmocka_unit_test(test_guard_safetensors),
    };
    wall = guarded_room(ROOM_BYTES);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
