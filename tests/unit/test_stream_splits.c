/* T24: text cut into tokens at random, also inside characters and inside stop strings, with empty deltas between, through the streaming decoder,
 * the stop matcher and the real SSE sink over a real socket. However it is cut, every event is whole JSON in UTF-8, the text is the same, and
 * one [DONE] comes last. 1,000 cuts in the short form, 100,000 with SPILLWAY_FAULT=long. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/str.h"
#include "engine/text/tokenizer.h"
#include "server/completion.h"

enum { CHOICES = 8, MAX_TOKEN_BYTES = 5, MAX_TEXT_BYTES = 512 };

/* Every piece of up to five bytes of these is a token. */
static const char *const texts[] = {
    "plain words, and the END of it",
    "caf\xC3\xA9 \xE4\xB8\xAD\xE6\x96\x87 \xF0\x9F\x98\x80\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x9A\x80 e\xCC\x81",
    "quote \" back \\ line\nfeed\r\ttab \x01\x1F\x7F",
    "data: [DONE]\n\ndata: {\"a\":1}\n\n: comment\nevent: x",
    "\xE2\x80\xA8\xE2\x80\xA9 \xEF\xBF\xBD \xEF\xBB\xBF \xC2\xA0",
    "aaaaaaaabaaaaaaaab</s><|im_end|>",
    "\xF0\x9F\x98\x80\xF0\x9F\x98\x80\xF0\x9F\x98\x80",
};
enum { N_TEXTS = sizeof texts / sizeof *texts };
static const char *const stop_words[] = {"END",
                                         "aab",
                                         "\xC3\xA9 ",
                                         "\xF0\x9F\x98\x80\xF0\x9F\x91",
                                         "DONE]",
                                         "\n\n",
                                         "\xF0\x9F\x98\x80\xF0\x9F\x98\x80\xF0\x9F\x98\x80\xF0\x9F\x98\x80",
                                         "zzz"};
enum { N_STOPS = sizeof stop_words / sizeof *stop_words };

static struct {
    struct gateway g;
    struct gateway_model model;
    struct tokenizer *tokenizer;
    uint32_t round, rounds;
    struct loop_call ended;
    char fault[512]; /* of the client's thread; "": none */
    size_t n_stopped, n_events;
} t;

static uint32_t next_random(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

/* What choice `choice` of a round says, and where it stops: both threads know it, the cuts only one. */
struct script {
    char text[MAX_TEXT_BYTES];
    size_t n;
    struct stop_string stops[2];
    size_t n_stops;
    uint64_t random;
};

static void script_make(struct script *s, uint32_t round, uint32_t choice)
{
    s->random = (uint64_t)round * CHOICES + choice + 1;
    for (int i = 0; i < 4; i++) next_random(&s->random);
    s->n = 0;
    for (uint32_t k = 1 + next_random(&s->random) % 3; k > 0; k--) {
        const char *text = texts[next_random(&s->random) % N_TEXTS];
        memcpy(s->text + s->n, text, strlen(text));
        s->n += strlen(text);
    }
    s->n_stops = next_random(&s->random) % 3;
    for (size_t i = 0; i < s->n_stops; i++) {
        const char *word = stop_words[next_random(&s->random) % N_STOPS];
        s->stops[i] = (struct stop_string){.p = word, .n = strlen(word)};
    }
}

/* The definition: up to the first byte at which a stop string is complete, the longest of those. */
static size_t shown_by_definition(const struct script *s, bool *stopped)
{
    *stopped = true;
    for (size_t end = 1; end <= s->n; end++) {
        size_t best = 0;
        for (size_t i = 0; i < s->n_stops; i++)
            if (s->stops[i].n <= end && s->stops[i].n > best && !memcmp(s->text + end - s->stops[i].n, s->stops[i].p, s->stops[i].n))
                best = s->stops[i].n;
        if (best) return end - best;
    }
    *stopped = false;
    return s->n;
}

/* --- the server: on the loop's thread --- */

static void say(struct completion *c, uint32_t choice, struct buf *text)
{
    completion_event(c, &(struct event){.type = EVENT_DELTA, .choice = choice, .text = text->data ? text->data : "", .n_text = text->len});
    buf_clear(text);
}

/* As source_local.c does it with a worker's tokens. */
static void run_choice(struct completion *c, uint32_t choice)
{
    struct script s;
    struct detok detok = {{0}, 0};
    struct stop_match stop;
    struct buf piece, text;
    script_make(&s, t.round, choice);
    stop_match_init(&stop, s.stops, s.n_stops);
    buf_init(&piece, 1 << 16);
    buf_init(&text, 1 << 16);
    int stopped = 0;
    for (size_t at = 0; at < s.n && !stopped;) {
        size_t len = 1 + next_random(&s.random) % MAX_TOKEN_BYTES;
        if (len > s.n - at) len = s.n - at;
        int32_t id = tokenizer_id(t.tokenizer, s.text + at, len);
        if (id < 0) id = tokenizer_id(t.tokenizer, s.text + at, len = 1); /* over the joint of two texts */
        assert_true(id >= 0);
        assert_int_equal(detok_push(&detok, t.tokenizer, id, true, &piece), 0);
        stopped = stop_match_push(&stop, piece.data ? piece.data : "", piece.len, &text);
        assert_true(stopped >= 0);
        buf_clear(&piece);
        at += len;
        if (text.len || next_random(&s.random) % 4 == 0) say(c, choice, &text); /* empty deltas, too */
    }
    if (!stopped) {
        assert_int_equal(detok_flush(&detok, &piece), 0);
        stopped = stop_match_push(&stop, piece.data ? piece.data : "", piece.len, &text);
        assert_int_equal(stop_match_flush(&stop, &text), 0);
    }
    say(c, choice, &text);
    completion_event(c, &(struct event){.type = EVENT_FINISH, .choice = choice, .finish = stopped ? FINISH_STOP : FINISH_LENGTH});
    stop_match_free(&stop);
    buf_free(&piece);
    buf_free(&text);
}

static void handle(void *ctx, struct http_request *r)
{
    (void)ctx;
    struct completion *c = calloc(1, sizeof *c);
    struct err e;
    assert_non_null(c);
    t.g.n_completions++;
    c->gateway = &t.g;
    c->limits = t.g.limits;
    c->http = r;
    c->model = &t.model;
    c->model_name = t.model.id;
    t.model.gateway = &t.g;
    t.model.holders++;
    arena_init(&c->arena, 1 << 20);
    strcpy(c->id, "chatcmpl-1");
    c->params = (struct chat_params){.n = CHOICES, .stream = true, .include_usage = true};
    c->sink = &sink_chat_sse;
    assert_int_equal(c->sink->open(c, &e), 0);
    c->opened = true;
    for (uint32_t choice = 0; choice < CHOICES; choice++) run_choice(c, choice);
}

static void begin(void *ctx, struct http_request *r)
{
    (void)ctx;
    (void)r;
}

static void refuse(void *ctx, struct http_request *r, enum http_refusal why, const char *text)
{
    (void)ctx;
    (void)why;
    http_reply(r, 400, "text/plain", text, strlen(text));
}

/* --- the client: a thread of its own --- */

static bool fault(const char *what)
{
    snprintf(t.fault, sizeof t.fault, "round %u: %.400s", t.round, what);
    return false;
}

static bool take_event(const char *p, size_t n, char text[CHOICES][MAX_TEXT_BYTES], size_t *len, unsigned *finishes, bool *stop)
{
    json_t *v;
    struct err e;
    if (json_read(p, n, &json_limits_request, "event", &v, &e)) return fault(e.msg);
    json_t *choice = json_array_get(json_object_get(v, "choices"), 0);
    size_t i = (size_t)json_integer_value(json_object_get(choice, "index"));
    json_t *content = json_object_get(json_object_get(choice, "delta"), "content"), *reason = json_object_get(choice, "finish_reason");
    size_t more = json_string_length(content);
    bool ok = !choice || (i < CHOICES && len[i] + more <= MAX_TEXT_BYTES && (!more || utf8_valid(json_string_value(content), more)));
    if (ok && choice) {
        if (more) memcpy(text[i] + len[i], json_string_value(content), more);
        len[i] += more;
        if (json_is_string(reason)) finishes[i]++, stop[i] = strcmp(json_string_value(reason), "stop") == 0;
    }
    json_decref(v);
    t.n_events++;
    return ok ? true : fault("an event's content does not fit");
}

static bool check_body(const char *p)
{
    char text[CHOICES][MAX_TEXT_BYTES];
    size_t len[CHOICES] = {0};
    unsigned finishes[CHOICES] = {0};
    bool stop[CHOICES] = {false};
    for (const char *end; strncmp(p, "data: [DONE]\n\n", 14) != 0; p = end + 2) {
        end = strstr(p, "\n\n");
        if (!end || strncmp(p, "data: ", 6) != 0) return fault("not an event, or no [DONE]");
        if (!take_event(p + 6, (size_t)(end - p - 6), text, len, finishes, stop)) return false;
    }
    if (p[14] != '\0') return fault("something after [DONE]");
    for (uint32_t i = 0; i < CHOICES; i++) {
        struct script s;
        bool want_stop;
        script_make(&s, t.round, i);
        size_t want = shown_by_definition(&s, &want_stop);
        if (len[i] != want || memcmp(text[i], s.text, want) != 0) return fault("another text");
        if (finishes[i] != 1 || stop[i] != want_stop) return fault("another finish");
        t.n_stopped += want_stop;
    }
    return true;
}

static bool exchange(void)
{
    static char raw[1 << 20];
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(http_port(t.g.http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    static const char request[] = "GET / HTTP/1.0\r\n\r\n"; /* so that the body comes without chunks */
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) || send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0)
        return fault("connect");
    size_t n = 0;
    for (ssize_t got; n < sizeof raw - 1 && (got = recv(fd, raw + n, sizeof raw - 1 - n, 0)) > 0;) n += (size_t)got;
    close(fd);
    raw[n] = '\0';
    const char *body = strstr(raw, "\r\n\r\n");
    if (strncmp(raw, "HTTP/1.", 7) != 0 || strncmp(raw + 8, " 200", 4) != 0 || !body) return fault("no answer");
    return check_body(body + 4);
}

static void on_ended(struct loop_call *call)
{
    (void)call;
    loop_stop(t.g.loop);
}

static void *client(void *arg)
{
    (void)arg;
    for (t.round = 0; t.round < t.rounds && exchange();) t.round++;
    t.ended.fn = on_ended;
    loop_post(t.g.loop, &t.ended);
    return NULL;
}

/* A byte-level vocabulary of all pieces, in GPT-2's spelling. */
static void make_tokenizer(void)
{
    json_t *vocab = json_object();
    for (size_t k = 0; k < N_TEXTS; k++)
        for (size_t at = 0, n = strlen(texts[k]); at < n; at++)
            for (size_t len = 1; len <= MAX_TOKEN_BYTES && at + len <= n; len++) {
                char name[MAX_TOKEN_BYTES * 2 + 1];
                size_t o = 0;
                for (size_t i = 0; i < len; i++) {
                    unsigned b = (unsigned char)texts[k][at + i];
                    unsigned cp = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b
                                  : b <= 32                                                   ? 256 + b
                                  : b <= 160                                                  ? 256 + 33 + b - 127
                                                                                              : 256 + 67;
                    o += utf8_encode(cp, name + o);
                }
                name[o] = '\0';
                if (!json_object_get(vocab, name)) json_object_set_new(vocab, name, json_integer((json_int_t)json_object_size(vocab)));
            }
    json_t *file = json_pack("{s:{s:o, s:[]}, s:{s:s, s:b}, s:{s:s}}", "model", "vocab", vocab, "merges", "pre_tokenizer", "type",
                             "ByteLevel", "add_prefix_space", 0, "decoder", "type", "ByteLevel");
    struct err e;
    if (!file || tokenizer_load(&t.tokenizer, file, NULL, &e)) fail_msg("%s", e.msg);
    json_decref(file);
}

static void t24_streams_are_the_same_however_cut(void **state)
{
    (void)state;
    const char *size = getenv("SPILLWAY_FAULT");
    t.rounds = (size && strcmp(size, "long") == 0 ? 100000 : 1000) / CHOICES;
    struct http_config config;
    pthread_t thread;
    limits_init(&t.g.limits);
    strcpy(t.model.id, "m");
    make_tokenizer();
    http_config_init(&config);
    config.port = 0;
    config.begin = begin;
    config.handle = handle;
    config.refuse = refuse;
    assert_int_equal(loop_new(&t.g.loop, NULL), 0);
    assert_int_equal(http_new(&t.g.http, t.g.loop, &config, NULL), 0);
    assert_int_equal(pthread_create(&thread, NULL, client, NULL), 0);
    assert_int_equal(loop_run(t.g.loop, NULL), 0);
    pthread_join(thread, NULL);
    http_free(t.g.http);
    loop_run_posted(t.g.loop);
    loop_free(t.g.loop);
    tokenizer_close(t.tokenizer);
    if (t.fault[0]) fail_msg("%s", t.fault);
    assert_int_equal(t.g.n_completions, 0);
    assert_true(t.n_stopped > t.rounds && t.n_stopped < t.rounds * (CHOICES - 1)); /* both ends were seen */
    print_message("%u cuts, %zu events, %zu stopped by a string\n", t.rounds * CHOICES, t.n_events, t.n_stopped);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t24_streams_are_the_same_however_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
