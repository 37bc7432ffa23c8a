/* Fake worker: `spillway_fake_worker` is the whole of spillway with this `worker` command in place of the real one, so the gateway, its
 * supervision and the frame protocol are the real ones and only the engine is scripted.
 *
 * It opens the real model for its hello (hash, shapes, limits) and answers each submit with max_tokens tokens at a set speed. The environment
 * variable SPILLWAY_FAKE_WORKER names a JSON file, read at the start and again at each submit (all members optional):
 *   tokens_per_s   1 .. 50,000 (default 1,000), of each sequence
 *   first_ms       that much after the submit comes the first token (default 0)
 *   tokens         the ids that are made, over and over (default: a few words of the demo's tokenizer)
 *   start          how the process starts: a word of start_words below (default "ok")
 *   prediction     {"first_token_ms", "prompt_token_ms", "side_by_side"}: sent after each submit
 *   cached         prompt tokens said to be cached, of choice 0, 1, ... of each request
 *   deadlines      true: sequences are dropped at their deadline, as the real engine does; else only the gateway looks at it
 *   submit         what is done with every submit: a word of submit_words below (default "answer")
 *   only_gpu       start and submit hold for the worker on that GPU (--gpus), the others answer
 *   record         a file to which one JSON line is appended for each start, submit, cancel and expiry: {"t_ms", "event", "pid", "gpu", ...}; t_ms is the boot
 *                  clock
 * A request's `seed` of SEED_BASE + i does what submit_words[i] says, whatever the file says: one server can have good and bad requests at once. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/frame.h"
#include "engine/worker.h"
#include "server/cli/command.h"
#include "server/cli/model_run.h"

enum { SEED_BASE = 9000, MAX_SEQUENCES = 16384, MAX_IDS = 64, MAX_CHOICES = 8, MAX_A_ROW = 64, BEFORE_FAULT = 3, FRAME_BYTES = 900 << 10 };

enum start {
    START_OK,
    START_EXIT_1,
    START_EXIT_78,
    START_EXIT_139,
    START_NEVER_HELLO,
    START_HANG,
    START_WRONG_VERSION,
    START_WRONG_HASH,
    START_HELLO_TWICE,
    START_GARBAGE,
    START_OTHER_LIMITS,
    START_NO_ROOM,
    STARTS
};
static const char *const start_words[STARTS] = {"ok",          "exit 1",  "exit 78",       "exit 139",
                                                "never hello", "hang",    "wrong version", "wrong hash",
                                                "hello twice", "garbage", "other limits",  "no room"};

/* All but ANSWER, QUEUE, SLOW and the exit at once come after BEFORE_FAULT tokens. */
enum submit {
    ANSWER,
    QUEUE,
    SLOW,
    EXIT_139,
    ABORT,
    HANG,
    NAN_ROW,
    TOKEN_TOO_LARGE,
    TOKEN_NEGATIVE,
    GARBAGE,
    TRUNCATED,
    TOO_LONG,
    UNKNOWN_SEQUENCE,
    TWO_FINISHES,
    SECOND_HELLO,
    CLOSE_SOCKET,
    STOP_READING,
    BAD_PREDICTION,
    EXIT_139_LATE,
    ODD_ERROR,
    SUBMITS
};
static const char *const submit_words[SUBMITS] = {"answer",
                                                  "queue",
                                                  "slow",
                                                  "exit 139",
                                                  "abort",
                                                  "hang",
                                                  "nan",
                                                  "token too large",
                                                  "token negative",
                                                  "garbage",
                                                  "truncated",
                                                  "too long",
                                                  "unknown sequence",
                                                  "two finishes",
                                                  "second hello",
                                                  "close socket",
                                                  "stop reading",
                                                  "bad prediction",
                                                  "exit 139 late",
                                                  "odd error"};

struct fake_sequence {
    uint64_t id;
    enum submit what;
    uint32_t max_tokens, made;
    bool logprobs;
    uint32_t cached;
    int64_t start_ms, deadline_ms;
};

static struct {
    struct frame_conn *conn;
    struct frame_hello hello;
    uint64_t *progress;
    int gpu; /* -1: none was named */
    double tokens_per_s;
    int64_t first_ms;
    struct frame_prediction prediction;
    uint32_t cached[MAX_CHOICES];
    bool deadlines;
    int32_t ids[MAX_IDS];
    size_t n_ids;
    enum submit submit;
    enum start start;
    char record[4096];
    struct fake_sequence sequences[MAX_SEQUENCES];
    size_t n_sequences;
    bool stopped_reading;
} w;

static int word_index(const json_t *v, const char *const *words, int n, int otherwise)
{
    for (int i = 0; v && i < n; i++)
        if (json_is_string(v) && strcmp(json_string_value(v), words[i]) == 0) return i;
    if (v) log_error("fake worker: unknown word in the script");
    return otherwise;
}

static void script_read(void)
{
    static const int32_t words[] = {273, 288, 274, 265, 291};
    const char *path = getenv("SPILLWAY_FAKE_WORKER");
    w.tokens_per_s = 1000;
    memcpy(w.ids, words, sizeof words);
    w.n_ids = sizeof words / sizeof *words;
    w.submit = ANSWER;
    w.start = START_OK;
    w.record[0] = '\0';
    w.deadlines = false;
    w.prediction = (struct frame_prediction){.error_p90 = -1};
    memset(w.cached, 0, sizeof w.cached);
    json_t *script = NULL;
    struct err e;
    if (!path) return;
    if (json_read_file(path, &json_limits_request, &script, &e)) {
        log_error("fake worker: %s", e.msg);
        return;
    }
    const json_t *speed = json_object_get(script, "tokens_per_s"), *ids = json_object_get(script, "tokens");
    if (json_is_number(speed)) w.tokens_per_s = json_number_value(speed);
    if (json_is_array(ids)) w.n_ids = json_array_size(ids) < MAX_IDS ? json_array_size(ids) : MAX_IDS;
    for (size_t i = 0; json_is_array(ids) && i < w.n_ids; i++) w.ids[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    w.first_ms = json_integer_value(json_object_get(script, "first_ms"));
    w.start = (enum start)word_index(json_object_get(script, "start"), start_words, STARTS, START_OK);
    w.submit = (enum submit)word_index(json_object_get(script, "submit"), submit_words, SUBMITS, ANSWER);
    const json_t *only = json_object_get(script, "only_gpu");
    if (only && json_integer_value(only) != w.gpu) {
        w.start = START_OK;
        w.submit = ANSWER;
    }
    const json_t *prediction = json_object_get(script, "prediction"), *cached = json_object_get(script, "cached");
    w.prediction.first_token_ms = (float)json_number_value(json_object_get(prediction, "first_token_ms"));
    w.prediction.side_by_side = (uint32_t)json_integer_value(json_object_get(prediction, "side_by_side"));
    w.prediction.prompt_token_ms = (float)json_number_value(json_object_get(prediction, "prompt_token_ms"));
    for (size_t i = 0; i < MAX_CHOICES; i++) w.cached[i] = (uint32_t)json_integer_value(json_array_get(cached, i));
    w.deadlines = json_is_true(json_object_get(script, "deadlines"));
    const char *record = json_string_value(json_object_get(script, "record"));
    if (record) snprintf(w.record, sizeof w.record, "%s", record);
    json_decref(script);
}

static void record(const char *event, uint64_t sequence, const struct frame_submit *f)
{
    static const struct frame_submit none;
    if (!w.record[0]) return;
    if (!f) f = &none;
    char line[512];
    int n = snprintf(
        line, sizeof line,
        "{\"t_ms\":%lld,\"event\":\"%s\",\"pid\":%d,\"gpu\":%d,\"sequence\":%llu,\"n_ids\":%u,\"seed\":%llu,\"account\":%llu,\"weight\":%u,"
        "\"priority\":%d,\"deadline_ms\":%lld}\n",
        (long long)clock_boot_ms(), event, (int)getpid(), w.gpu, (unsigned long long)sequence, f->n_ids, (unsigned long long)f->sampling.seed,
        (unsigned long long)f->account, f->weight, (int)f->priority, (long long)f->deadline_ms);
    int fd = open(w.record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, line, (size_t)n) == n);
    close(fd);
}

static _Noreturn void hang(void)
{
    for (;;) pause();
}

static struct buf *out(void)
{
    return frame_conn_out(w.conn);
}

static void flush_all(void)
{
    struct err ignored;
    while (frame_conn_flush(w.conn, &ignored) == 1) poll(&(struct pollfd){.fd = frame_conn_fd(w.conn), .events = POLLOUT}, 1, 100);
}

static void put_row(const struct frame_step_row *row)
{
    CHECK(frame_put_step(out(), &(struct frame_step){.rows = row, .n_rows = 1}) == 0);
}

static void put_hello(uint32_t version, uint8_t flip)
{
    struct frame_hello h = w.hello;
    h.version = version;
    h.model_hash[0] ^= flip;
    CHECK(frame_put_hello(out(), &h) == 0);
}

static void put_raw(uint32_t length, const char *body, size_t n)
{
    uint8_t head[8] = {(uint8_t)length, (uint8_t)(length >> 8), (uint8_t)(length >> 16), (uint8_t)(length >> 24), FRAME_STEP, 0, 0, 0};
    CHECK(buf_append(out(), head, sizeof head) == 0 && buf_append(out(), body, n) == 0);
}

/* --- faults of a sequence --- */

static void fault(struct fake_sequence *s)
{
    struct frame_step_row row = {.sequence = s->id, .finish = FINISH_LENGTH};
    int32_t token = s->what == TOKEN_NEGATIVE ? -1 : (int32_t)w.hello.vocab;
    switch (s->what) {
    case EXIT_139:
    case EXIT_139_LATE:
        flush_all();
        _exit(139);
    case ABORT:
        flush_all();
        abort();
    case HANG:
        flush_all();
        hang();
    case ODD_ERROR: /* not a worker's to say */
        row.finish = FINISH_ERROR;
        err_set(&row.err, ERR_DENIED, "your key is not good enough");
        put_row(&row);
        break;
    case NAN_ROW:
        row.finish = FINISH_ERROR;
        err_set(&row.err, ERR_NUMERIC, "a logit is not finite");
        put_row(&row);
        break;
    case TOKEN_TOO_LARGE:
    case TOKEN_NEGATIVE:
        row.finish = FINISH_NONE;
        row.tokens = &token;
        row.n_tokens = 1;
        put_row(&row);
        break;
    case GARBAGE:
        CHECK(buf_append(out(), "\xff\xfe\xfd\xfc garbage garbage", 20) == 0);
        break;
    case TRUNCATED:
        put_raw(100, "only this", 9);
        flush_all();
        _exit(0);
    case TOO_LONG:
        put_raw(2u << 20, "long", 4);
        break;
    case UNKNOWN_SEQUENCE:
        row.sequence = s->id + 1000000;
        put_row(&row);
        break;
    case TWO_FINISHES:
        put_row(&row);
        put_row(&row);
        break;
    case SECOND_HELLO:
        put_hello(FRAME_VERSION, 0);
        break;
    case CLOSE_SOCKET:
        flush_all();
        close(WORKER_SOCKET_FD);
        hang();
    case STOP_READING:
        w.stopped_reading = true;
        break;
    case BAD_PREDICTION: {
        struct frame_prediction p = {
            .running = UINT32_MAX, .waiting = UINT32_MAX, .free_blocks = UINT32_MAX, .first_token_ms = NAN, .tokens_per_s = -INFINITY};
        CHECK(frame_put_prediction(out(), &p) == 0);
        break;
    }
    default:
        break;
    }
    s->what = QUEUE; /* nothing more comes of it, but a cancel still finds it */
}

/* --- sequences --- */

static void sequence_drop(struct fake_sequence *s)
{
    *s = w.sequences[--w.n_sequences];
}

/* What is due of one sequence. false: it has ended. */
static bool sequence_advance(struct fake_sequence *s, int64_t now_ms)
{
    if (w.deadlines && now_ms >= s->deadline_ms) {
        record("expire", s->id, NULL);
        put_row(&(struct frame_step_row){.sequence = s->id, .finish = FINISH_CANCELLED});
        return false;
    }
    if (s->what == QUEUE || now_ms < s->start_ms) return true;
    double speed = s->what == SLOW ? 2 : w.tokens_per_s;
    bool faulty = s->what != ANSWER && s->what != SLOW;
    uint32_t due = (uint32_t)((double)(now_ms - s->start_ms) * speed / 1000) + 1, end = faulty ? BEFORE_FAULT : s->max_tokens;
    if (s->what == EXIT_139) end = 0;
    if (due > end) due = end;
    int32_t tokens[MAX_A_ROW];
    struct frame_logprob logprobs[MAX_A_ROW];
    struct frame_step_row row = {.sequence = s->id, .tokens = tokens, .cached_tokens = s->made ? 0 : s->cached};
    while (s->made < due && row.n_tokens < MAX_A_ROW) {
        tokens[row.n_tokens] = w.ids[s->made++ % w.n_ids];
        logprobs[row.n_tokens] = (struct frame_logprob){.token = tokens[row.n_tokens], .logprob = -1};
        row.n_tokens++;
    }
    if (s->logprobs) row.logprobs = logprobs;
    bool ended = !faulty && s->made >= end;
    if (ended) row.finish = FINISH_LENGTH;
    if (row.n_tokens || ended) put_row(&row);
    if (faulty && s->made >= end) fault(s);
    return !ended;
}

static void on_submit(const struct frame_submit *f)
{
    script_read();
    for (uint32_t i = 0; i < f->n_fds; i++) close(f->fds[i]);
    uint64_t word = f->sampling.seed - SEED_BASE;
    CHECK(w.n_sequences < MAX_SEQUENCES);
    w.sequences[w.n_sequences++] = (struct fake_sequence){.id = f->sequence,
                                                          .what = word < SUBMITS ? (enum submit)word : w.submit,
                                                          .max_tokens = f->sampling.max_tokens,
                                                          .logprobs = f->sampling.top_logprobs >= 0,
                                                          .cached = w.cached[f->sampling.choice % MAX_CHOICES],
                                                          .deadline_ms = f->deadline_ms,
                                                          .start_ms = clock_boot_ms() + w.first_ms};
    record("submit", f->sequence, f);
    if (w.prediction.prompt_token_ms > 0) CHECK(frame_put_prediction(out(), &w.prediction) == 0);
}

static void on_cancel(uint64_t id)
{
    record("cancel", id, NULL);
    for (size_t i = 0; i < w.n_sequences; i++)
        if (w.sequences[i].id == id) {
            put_row(&(struct frame_step_row){.sequence = id, .finish = FINISH_CANCELLED});
            sequence_drop(&w.sequences[i]);
            return;
        }
}

/* false: the gateway is gone. */
static bool take_frames(void)
{
    struct err e;
    struct frame f;
    int gone = frame_conn_read(w.conn, &e), rc;
    while ((rc = frame_conn_next(w.conn, &f, &e)) == 1) {
        if (f.type == FRAME_SUBMIT) on_submit(&f.u.submit);
        if (f.type == FRAME_CANCEL) on_cancel(f.u.cancel.sequence);
    }
    if (rc < 0) log_error("fake worker: the gateway sent no frame: %s", e.msg);
    return gone >= 0 && rc >= 0;
}

static int serve(void)
{
    for (;;) {
        bool answering = false;
        int64_t wait_ms = 100, left_ms, from_ms = clock_boot_ms();
        for (size_t i = 0; i < w.n_sequences; i++) {
            answering |= w.sequences[i].what != QUEUE;
            left_ms = w.sequences[i].deadline_ms - from_ms;
            if (w.deadlines && left_ms < wait_ms) wait_ms = left_ms > 0 ? left_ms : 0;
        }
        struct pollfd p = {.fd = frame_conn_fd(w.conn), .events = (short)((w.stopped_reading ? 0 : POLLIN) | (out()->len ? POLLOUT : 0))};
        poll(&p, 1, answering ? 1 : w.n_sequences ? (int)wait_ms : -1);
        __atomic_fetch_add(w.progress, 1, __ATOMIC_RELAXED);
        if (!w.stopped_reading && p.revents && !take_frames()) return WORKER_EXIT_OK;
        int64_t now_ms = clock_boot_ms();
        for (size_t i = 0; i < w.n_sequences && out()->len < FRAME_BYTES;)
            if (sequence_advance(&w.sequences[i], now_ms))
                i++;
            else
                sequence_drop(&w.sequences[i]);
        struct err e;
        if (frame_conn_flush(w.conn, &e) < 0) return WORKER_EXIT_OK;
    }
}

static void start(void)
{
    record("start", 0, NULL);
    switch (w.start) {
    case START_EXIT_1:
        log_error("the model cannot be opened: scripted");
        _exit(WORKER_EXIT_FAILED);
    case START_EXIT_78:
        log_error("the model needs 12.0 GB, 3.0 GB are free: scripted");
        _exit(WORKER_EXIT_NO_ROOM);
    case START_NO_ROOM: /* as the real one says it */
        CHECK(frame_put_failed(
                  out(), &(struct frame_failed){.err = {.code = ERR_MEMORY, .msg = "needs 12.0 GB, 3.0 GB are free: scripted"}}) == 0);
        flush_all();
        _exit(WORKER_EXIT_NO_ROOM);
    case START_EXIT_139:
        _exit(139);
    case START_NEVER_HELLO: /* but alive: the counter moves */
        for (;;) {
            poll(NULL, 0, 20);
            __atomic_fetch_add(w.progress, 1, __ATOMIC_RELAXED);
        }
    case START_HANG:
        hang();
    case START_GARBAGE:
        CHECK(buf_append(out(), "this is no frame, whatever you may think", 40) == 0);
        break;
    case START_WRONG_VERSION:
        put_hello(FRAME_VERSION + 1, 0);
        break;
    case START_WRONG_HASH:
        put_hello(FRAME_VERSION, 1);
        break;
    case START_OTHER_LIMITS: /* as of another model, whose hash is the same */
        w.hello.vocab++;
        put_hello(FRAME_VERSION, 0);
        break;
    case START_HELLO_TWICE:
        put_hello(FRAME_VERSION, 0);
        put_hello(FRAME_VERSION, 0);
        break;
    default:
        put_hello(FRAME_VERSION, 0);
    }
    flush_all();
}

int command_worker(const struct options *o)
{
    struct err e = {0};
    struct model *model = NULL;
    struct engine *engine = NULL;
    const char *dir;
    char path[4096];
    struct options on_cpu = *o; /* its hello is all that is wanted of the model */
    on_cpu.device = "cpu";
    on_cpu.gpus = NULL;
    w.gpu = o->gpus ? atoi(o->gpus) : -1;
    worker_prepare();
    log_setup(LOG_INFO, "fake worker");
    w.progress = worker_progress_map();
    int rc = model_run_dir(o, path, sizeof path, &dir, &e);
    if (!rc) rc = model_run_open(&model, dir, &on_cpu, COMPUTE_BF16, (uint64_t)o->kv_tokens, w.progress, &e);
    if (!rc) rc = engine_new(&engine, model, &e);
    if (!rc) rc = frame_conn_new(&w.conn, WORKER_SOCKET_FD, 64 << 20, &e);
    if (rc) {
        log_error("%s", e.msg);
        return WORKER_EXIT_FAILED;
    }
    engine_hello(engine, &w.hello);
    engine_free(engine);
    model_close(model);
    script_read();
    start();
    return serve();
}
