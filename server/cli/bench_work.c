/* bench's built-in workloads: data, and one generator. A request is a function of the workload, the seed and its number: every target gets
 * the same ones in the same order, and no two begin alike (but where a shared beginning is what is measured), so that a prompt cache does
 * not make them cheaper or faster than new questions are. No sampling parameters: some hosts refuse them. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "server/cli/bench_parts.h"

enum { MAX_TEXT_BYTES = 1 << 20 };

/* Takes turns with the sentences below: the text of all prompts. */
static const char *const sentences[] = {
    "A spillway lets water pass a dam when the reservoir is full, so that the dam itself is never overtopped.",
    "Most of the year it is dry, and people who walk across it may forget what it is for.",
    "Engineers size it for a flood that comes once in ten thousand years, then add a margin for what they do not know.",
    "Water that falls from the crest gathers speed, and its energy must be spent before it reaches the river bed.",
    "A stilling basin does that with a standing wave, a row of concrete teeth, or a deep pool.",
    "Gates allow the operator to choose when to release, but a gate that is stuck is worse than none.",
    "In one valley the keeper wrote the level into a book every hour for forty years, by hand and in pencil.",
    "His books show that the worst night was not the one with the highest level but the one with the fastest rise.",
    "A side channel carries the first of the overflow to a canal, where a mill used to take it.",
    "The mill is a museum now; its wheel turns on holidays, driven by a small electric motor.",
    "Every spring divers look at the joints below the water line and measure each crack with a brass gauge.",
    "The council pays for the inspection, the power company for the repairs, and both think the other pays too little.",
    "When the new turbine was planned, someone computed how many litres each kilowatt hour would cost downstream.",
    "The answer depended on the price of electricity at night, which had fallen by a third since the first plan.",
    "So the plan was kept, but the pumps run only when the wind farm on the ridge has more than it can sell.",
    "Fish pass the dam by a ladder of forty pools, each a hand's breadth lower than the one before it.",
};
static const char *const questions[] = {
    "Explain in two sentences how this works.",
    "What would you check first, and why?",
    "Name three risks and how to lessen each of them.",
    "Write a short notice about this for the people in the valley.",
    "What does this mean for the costs over ten years?",
    "Give a plain example that a child would understand.",
    "What would go wrong if nobody looked after it?",
    "Compare this with one other way to do the same.",
};
enum { N_SENTENCES = sizeof sentences / sizeof *sentences, N_QUESTIONS = sizeof questions / sizeof *questions };

struct bench_workload {
    const char *name;
    int n_system;   /* sentences that every request begins with */
    int n_turns;    /* of a talk before the question, each question and answer */
    int n_turn;     /* sentences of such an answer */
    int n_text;     /* sentences of the last message */
    const char *ask; /* what is asked; NULL: one of the questions */
    bool picture;
    int max_tokens;
};
static const struct bench_workload workloads[] = {
    {.name = "chat-short", .n_text = 1, .max_tokens = 64},
    {.name = "chat-long", .n_turns = 6, .n_turn = 8, .n_text = 2, .max_tokens = 256},
    {.name = "shared-prefix", .n_system = 96, .n_text = 1, .max_tokens = 64},
    {.name = "summarise", .n_text = 64, .ask = "Summarise the text above in three sentences.", .max_tokens = 128},
    {.name = "image", .n_text = 0, .ask = "Describe this picture in one sentence.", .picture = true, .max_tokens = 64},
};

/* SplitMix64. */
uint64_t bench_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static void put_sentences(struct buf *b, int n, uint64_t *state)
{
    for (int i = 0; i < n; i++) buf_printf(b, "%s%s", b->len ? " " : "", sentences[bench_random(state) % N_SENTENCES]);
}

static void add_message(json_t *messages, const char *role, json_t *content)
{
    json_array_append_new(messages, json_pack("{s:s,s:o}", "role", role, "content", content));
}

static json_t *take_text(struct buf *b)
{
    json_t *text = json_stringn(b->data ? b->data : "", b->len);
    buf_clear(b);
    return text;
}

/* The last message: note, text, question; a picture before them. */
static json_t *question(const struct bench_workload *w, struct buf *b, size_t i, uint64_t *state)
{
    json_t *parts = w->picture ? json_array() : NULL;
    if (w->picture) {
        bench_picture(b, bench_random(state));
        json_array_append_new(parts, json_pack("{s:s,s:{s:o}}", "type", "image_url", "image_url", "url", take_text(b)));
    }
    buf_printf(b, "Note %zu of %04" PRIx64 ".", i + 1, bench_random(state) & 0xFFFF);
    put_sentences(b, w->n_text, state);
    buf_printf(b, "\n\n%s", w->ask ? w->ask : questions[bench_random(state) % N_QUESTIONS]);
    if (!parts) return take_text(b);
    json_array_append_new(parts, json_pack("{s:s,s:o}", "type", "text", "text", take_text(b)));
    return parts;
}

static json_t *make(const struct bench_workload *w, uint64_t seed, size_t i)
{
    uint64_t shared = seed, own = seed;
    own = bench_random(&own) + i; /* neighbours, which SplitMix64 makes unlike each other */
    struct buf b;
    buf_init(&b, MAX_TEXT_BYTES);
    json_t *messages = json_array();
    if (w->n_system) {
        put_sentences(&b, w->n_system, &shared);
        add_message(messages, "system", take_text(&b));
    }
    for (int turn = 0; turn < w->n_turns; turn++) {
        if (turn == 0) buf_printf(&b, "Talk %zu of %04" PRIx64 ".", i + 1, bench_random(&own) & 0xFFFF);
        put_sentences(&b, 1, &own);
        buf_printf(&b, " %s", questions[bench_random(&own) % N_QUESTIONS]);
        add_message(messages, "user", take_text(&b));
        put_sentences(&b, w->n_turn, &own);
        add_message(messages, "assistant", take_text(&b));
    }
    add_message(messages, "user", question(w, &b, i, &own));
    buf_free(&b);
    return json_pack("{s:s,s:o,s:i}", "model", "bench", "messages", messages, "max_tokens", w->max_tokens);
}

int bench_work_open(struct bench_work *w, const char *name, const char *file, uint64_t seed, int64_t max_tokens, struct err *e)
{
    *w = (struct bench_work){.seed = seed, .max_tokens = max_tokens};
    if (file) return bench_requests_read(w, file, e);
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++)
        if (strcmp(workloads[i].name, name) == 0) w->built_in = &workloads[i];
    return w->built_in ? 0 : err_set(e, ERR_INPUT, "--workload: there is no '%s'", name);
}

void bench_work_close(struct bench_work *w)
{
    for (size_t i = 0; i < w->n; i++) json_decref(w->bodies[i]);
    free(w->bodies);
    free(w->lines);
    *w = (struct bench_work){0};
}

const char *bench_work_name(const struct bench_work *w)
{
    return w->built_in ? w->built_in->name : "requests of a file";
}

int bench_work_make(const struct bench_work *w, size_t i, struct bench_request *out, struct err *e)
{
    size_t at = w->built_in ? i : i % w->n;
    *out = (struct bench_request){.body = w->built_in ? make(w->built_in, w->seed, i) : json_incref(w->bodies[at])};
    if (!out->body) return err_set(e, ERR_MEMORY, "out of memory");
    int rc = bench_request_measure(out, w->max_tokens, e);
    if (rc) bench_request_free(out);
    return rc;
}

void bench_request_free(struct bench_request *r)
{
    json_decref(r->body);
    *r = (struct bench_request){0};
}
