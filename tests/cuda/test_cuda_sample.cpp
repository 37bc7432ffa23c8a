/* kernels/cuda/sample.cu on the CPU simulator, held against two others: plain double arithmetic done here (adjust, sort, cut, draw in rising
 * order of ids), which gives the token wherever no cut and no draw is nearer than float32's rounding; and the CPU backend, which gives
 * greedy tokens and logprobs. The device around the sampler is made here: each of its pieces of memory is an allocation of its own, with the
 * simulator's guards at its ends. */
#include "kernels/cuda/cuda.cuh"

extern "C" {
#include "kernels/philox.h"
}
#include "tests/sim/cuda/test_harness.h"

#include <algorithm>
#include <cmath>
#include <cstring>

int cuda_check(struct device *, const char *what, cudaError_t rc, struct err *e)
{
    return rc == cudaSuccess ? 0 : err_set(e, ERR_INTERNAL, "%s: %s", what, cudaGetErrorString(rc));
}

int cuda_wait(struct device *d, struct err *e)
{
    return cuda_check(d, "wait", cudaStreamSynchronize(d->stream), e);
}

namespace {
std::vector<void *> regions;
}

int cuda_region_take(struct device *d, size_t bytes, void **out, struct err *e)
{
    int rc = cuda_check(d, "memory", cudaMalloc(out, bytes), e);
    if (rc) return rc;
    regions.push_back(*out);
    return cuda_check(d, "memory", cudaMemset(*out, 0, bytes), e);
}

namespace {

/* The sampler's device, opened and reserved. */
struct sampler_device {
    struct device d = {};
    struct err e = {};
    volatile uint64_t launches = 0;
    int rc;
    sampler_device(size_t max_rows, size_t vocab)
    {
        d.limits.max_rows = max_rows, d.limits.vocab = vocab, d.progress = &launches;
        rc = cuda_check(&d, "stream", cudaStreamCreate(&d.stream), &e);
        if (!rc) rc = cuda_sample_reserve(&d, &e);
    }
    ~sampler_device()
    {
        cuda_sample_close(&d);
        for (void *p : regions) cudaFree(p);
        regions.clear();
        if (d.stream) cudaStreamDestroy(d.stream);
    }
    sampler_device(const sampler_device &) = delete;
};

/* A row and what it points to, on the host. */
struct test_row {
    std::vector<float> logits;
    std::vector<int32_t> prompt, made, banned, banned_now;
    std::vector<struct token_bias> bias;
    std::vector<uint32_t> mask;
    struct sample_params params = {};
    uint32_t position = 0;
    test_row() { params.top_p = 1, params.repetition_penalty = 1, params.top_logprobs = -1; }
    explicit test_row(const std::vector<float> &l, float temperature = 0) : test_row() { logits = l, params.temperature = temperature; }

    struct sample_row row(const float *at) const
    {
        struct sample_row r = {};
        r.logits = at, r.params = params, r.position = position;
        r.prompt = prompt.data(), r.n_prompt = prompt.size(), r.made = made.data(), r.n_made = made.size();
        r.bias = bias.data(), r.n_bias = bias.size();
        r.banned = banned.data(), r.n_banned = banned.size(), r.banned_now = banned_now.data(), r.n_banned_now = banned_now.size();
        r.mask = mask.empty() ? nullptr : mask.data();
        return r;
    }
};

/* Rows of one vocabulary, in one call; a row begins where the one before ends, as in the engine. */
std::string sample(sampler_device &s, const std::vector<test_row> &rows, std::vector<struct sample_result> *out)
{
    const size_t vocab = rows[0].logits.size();
    std::vector<float> all;
    for (const test_row &r : rows) all.insert(all.end(), r.logits.begin(), r.logits.end());
    device_array<float> logits(all);
    std::vector<struct sample_row> in;
    for (size_t i = 0; i < rows.size(); i++) in.push_back(rows[i].row(logits.p + i * vocab));
    out->resize(rows.size());
    std::memset(static_cast<void *>(out->data()), 0x55, rows.size() * sizeof(*out)[0]);
    int rc = s.rc ? s.rc : cuda_sample(&s.d, in.data(), in.size(), vocab, out->data(), &s.e);
    if (!rc) rc = cuda_sampled(&s.d, &s.e);
    return rc ? std::string(s.e.msg) + " " + sim::last_report() : "";
}

std::string say(const char *fmt, double a = 0, double b = 0, double c = 0, double d = 0)
{
    char text[200];
    std::snprintf(text, sizeof text, fmt, a, b, c, d);
    return text;
}

/* --- plain arithmetic --- */

struct verdict {
    int token = -1;
    double margin = 1;     /* of the cuts and of a greedy choice: how near they are to falling elsewhere, in shares or logits */
    double draw_margin = 1; /* likewise of the draw, in shares */
    double tolerance = 0;
    std::vector<int> kept;        /* rising */
    std::vector<double> up_to;    /* share of the kept ids up to each */
};

bool has(const std::vector<int32_t> &ids, size_t id)
{
    return std::find(ids.begin(), ids.end(), int32_t(id)) != ids.end();
}

bool is_adjusted(const test_row &r)
{
    const struct sample_params &p = r.params;
    return !r.bias.empty() || p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0;
}

std::vector<double> adjusted(const test_row &r)
{
    const struct sample_params &p = r.params;
    std::vector<double> v(r.logits.begin(), r.logits.end());
    std::vector<int> made(v.size()), seen(v.size());
    for (const struct token_bias &b : r.bias)
        if (b.token >= 0 && size_t(b.token) < v.size()) v[size_t(b.token)] += double(b.bias);
    for (int32_t t : r.prompt)
        if (t >= 0 && size_t(t) < v.size()) seen[size_t(t)] = 1;
    for (int32_t t : r.made)
        if (t >= 0 && size_t(t) < v.size()) seen[size_t(t)] = 1, made[size_t(t)]++;
    for (size_t i = 0; i < v.size(); i++) {
        if (seen[i] && p.repetition_penalty != 1) v[i] = v[i] > 0 ? v[i] / double(p.repetition_penalty) : v[i] * double(p.repetition_penalty);
        if (made[i]) v[i] -= made[i] * double(p.frequency_penalty) + double(p.presence_penalty);
        v[i] = double(float(v[i]));
        if (has(r.banned, i) || has(r.banned_now, i) || (!r.mask.empty() && !(r.mask[i / 32] >> i % 32 & 1))) v[i] = -INFINITY;
    }
    return v;
}

/* Of ids sorted by value: how many are kept. */
size_t cut(const std::vector<double> &v, const std::vector<int> &order, const struct sample_params &p, bool exact, verdict *out)
{
    size_t n = order.size(), keep = 0;
    const double best = v[size_t(order[0])];
    auto weight = [&](size_t i) { return std::exp((v[size_t(order[i])] - best) / double(p.temperature)); };
    if (p.top_k > 0 && size_t(p.top_k) < n) {
        n = size_t(p.top_k);
        const double gap = v[size_t(order[n - 1])] - v[size_t(order[n])];
        if (gap != 0 && !exact) out->margin = std::min(out->margin, gap / std::max(1.0, std::fabs(best))); /* of equals the lowest id: no doubt */
    }
    double total = 0, before = 0;
    for (size_t i = 0; i < n; i++) total += weight(i);
    for (; keep < n; before += weight(keep++)) {
        if (keep == 0) continue;
        if (p.top_p < 1) out->margin = std::min(out->margin, std::fabs(before / total - double(p.top_p)));
        if (p.min_p > 0 && weight(keep) != 1) out->margin = std::min(out->margin, std::fabs(weight(keep) - double(p.min_p)));
        if ((p.top_p < 1 && before >= double(p.top_p) * total) || weight(keep) < double(p.min_p)) break;
    }
    return keep;
}

verdict judge(const test_row &r)
{
    const struct sample_params &p = r.params;
    verdict out;
    for (float x : r.logits)
        if (!(x < INFINITY)) return out;
    const std::vector<double> v = adjusted(r);
    const bool exact = !is_adjusted(r);
    std::vector<int> order;
    for (size_t i = 0; i < v.size(); i++) {
        if (!(v[i] < INFINITY)) return out;
        if (v[i] > -INFINITY) order.push_back(int(i));
    }
    if (order.empty()) return out;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return v[size_t(a)] > v[size_t(b)]; });
    out.token = order[0];
    const double best = v[size_t(order[0])], second = order.size() > 1 ? v[size_t(order[1])] : -INFINITY;
    out.tolerance = exact ? 0 : 4e-7; /* a few roundings of an adjusted logit */
    if (!(p.temperature > 0)) {
        out.margin = exact || best == second ? 1 : (best - second) / std::max(1.0, std::fabs(best));
        return out;
    }
    /* a share: exp2 and its argument, rounded, of what weighs 2^-13 and more; and the logits' own roundings, magnified by the temperature */
    out.tolerance = 5e-6 + (exact ? 0 : 4e-7 * std::max(1.0, std::fabs(best)) / double(p.temperature));
    const size_t keep = cut(v, order, p, exact, &out);
    out.kept.assign(order.begin(), order.begin() + long(keep));
    std::sort(out.kept.begin(), out.kept.end());
    double sum = 0;
    const double u = philox_uniform(p.seed, p.choice, r.position);
    for (int id : out.kept) out.up_to.push_back(sum += std::exp((v[size_t(id)] - best) / double(p.temperature)));
    out.token = -1;
    for (size_t i = 0; i < keep; i++) {
        out.up_to[i] /= sum;
        if (out.token < 0 && out.up_to[i] > u) out.token = out.kept[i];
        if (i + 1 < keep) out.draw_margin = std::min(out.draw_margin, std::fabs(out.up_to[i] - u));
    }
    return out;
}

int n_judged, n_doubtful, n_sets_doubtful;

/* Where a cut is in doubt only that the token may come; where only the draw is, that it falls within rounding of its place. */
std::string hold(const test_row &r, const struct sample_result &got)
{
    const verdict want = judge(r);
    n_judged++;
    if (want.token < 0) return got.token == -1 ? "" : say("token %g of a row that has none", got.token);
    if (got.token < 0 || size_t(got.token) >= r.logits.size()) return say("token %g, want %g", got.token, want.token);
    if (want.margin <= want.tolerance) {
        n_sets_doubtful++;
        return adjusted(r)[size_t(got.token)] > -INFINITY ? "" : say("token %g may not come", got.token);
    }
    if (got.token == want.token) return "";
    if (want.draw_margin > want.tolerance) return say("token %g, want %g (margins %g, %g)", got.token, want.token, want.margin, want.draw_margin);
    n_doubtful++;
    const auto at = std::lower_bound(want.kept.begin(), want.kept.end(), got.token);
    if (at == want.kept.end() || *at != got.token) return say("token %g is not kept", got.token);
    const size_t i = size_t(at - want.kept.begin());
    const double u = philox_uniform(r.params.seed, r.params.choice, r.position), low = i ? want.up_to[i - 1] : 0, high = want.up_to[i];
    return u >= low - want.tolerance && u <= high + want.tolerance ? "" : say("token %g lies at %g..%g, drawn was %g", got.token, low, high, u);
}

/* --- the CPU backend --- */

struct cpu_device {
    struct device *d = nullptr;
    cpu_device(size_t vocab)
    {
        struct err e;
        struct device_options o = {};
        struct device_limits l = {};
        o.threads = 1, l.vocab = vocab, l.head_dim = 16;
        if (ops_cpu.open(&d, &o, &e) || ops_cpu.reserve(d, &l, &e)) std::printf("%s\n", e.msg), std::abort();
    }
    ~cpu_device() { ops_cpu.close(d); }
    cpu_device(const cpu_device &) = delete;
};

/* Greedy tokens, and logprobs of whatever token was drawn: on the CPU a mask leaves no other. */
std::string hold_to_cpu(const cpu_device &cpu, const test_row &r, const struct sample_result &got)
{
    struct sample_result want;
    struct err e;
    test_row forced = r;
    if (got.token >= 0 && r.params.temperature > 0) {
        forced = test_row(r.logits);
        forced.params.top_logprobs = r.params.top_logprobs;
        forced.mask.assign((r.logits.size() + 31) / 32, 0);
        forced.mask[size_t(got.token) / 32] = 1u << got.token % 32;
    }
    const struct sample_row row = forced.row(forced.logits.data());
    if (ops_cpu.sample(cpu.d, &row, 1, r.logits.size(), &want, &e)) return e.msg;
    const verdict sure = judge(r);
    if (got.token != want.token) return sure.margin <= sure.tolerance ? "" : say("token %g, the CPU's is %g", got.token, want.token);
    if (got.n_top != want.n_top) return say("%g alternatives, the CPU has %g", got.n_top, want.n_top);
    auto differ = [](float a, float b) { return !(a == b) && !(std::fabs(a - b) <= 2e-6f * std::max(1.0f, std::fabs(b))); };
    if (differ(got.logprob, want.logprob)) return say("logprob %.9g, the CPU's is %.9g", got.logprob, want.logprob);
    for (int i = 0; i < want.n_top; i++)
        if (got.top_token[i] != want.top_token[i] || differ(got.top_logprob[i], want.top_logprob[i]))
            return say("alternative %g: %g, the CPU's is %g", i, got.top_token[i], want.top_token[i]);
    return "";
}

/* --- random rows --- */

/* Built for the sanitizers or race checks: slower, and what is computed is the same. */
bool is_checked()
{
#ifdef __SANITIZE_ADDRESS__
    return true;
#else
    return sim::race_checked();
#endif
}

size_t below(size_t n)
{
    return size_t((test_uniform() + 1) / 2 * float(n)) % n;
}

template <class T, size_t N> T one_of(const T (&from)[N])
{
    return from[below(N)];
}

std::vector<float> random_logits(size_t vocab, int kind)
{
    std::vector<float> l(vocab);
    const float level = test_uniform() * 20;
    for (float &x : l) {
        x = level + 3 * (test_uniform() + test_uniform() + test_uniform());
        switch (kind) {
        case 1: x = std::round(x * 2) / 2; break; /* ties */
        case 2: x = below(3) ? x : -INFINITY; break;
        case 3: x = level; break;
        case 4: x = test_uniform() * 90; break;
        case 5: x = below(2) ? 0.0f : below(2) ? -0.0f : test_uniform() * 1e-39f; break; /* zeros and subnormals */
        default: break;
        }
    }
    return l;
}

void random_lists(test_row *r)
{
    const size_t vocab = r->logits.size();
    auto ids = [&](size_t n) {
        std::vector<int32_t> v(n);
        for (int32_t &id : v) id = below(20) ? int32_t(below(std::min<size_t>(vocab, 40))) : one_of({-1, int32_t(vocab), 1 << 30, -2147483647 - 1});
        return v;
    };
    if (below(2)) r->banned = ids(below(4) ? below(4) : 70), r->banned_now = ids(below(3));
    if (below(3) == 0) {
        r->mask.resize((vocab + 31) / 32);
        for (uint32_t &w : r->mask) w = uint32_t(below(1u << 16)) | uint32_t(below(1u << 16)) << 16;
    }
    if (below(3) == 0)
        for (int32_t id : ids(1 + below(12))) r->bias.push_back({id, test_uniform() * one_of({1.0f, 5.0f, 100.0f})});
    if (below(2)) return;
    r->prompt = ids(below(60)), r->made = ids(below(30));
    if (below(2)) r->params.repetition_penalty = 1.3f + test_uniform() / 2;
    if (below(2)) r->params.frequency_penalty = test_uniform();
    if (below(2)) r->params.presence_penalty = test_uniform();
}

test_row random_row(size_t vocab, int kind)
{
    test_row r(random_logits(vocab, kind));
    r.params.temperature = one_of({0.0f, 0.3f, 0.7f, 1.0f, 1.0f, 1.5f, 1e-6f, 1e6f});
    r.params.top_k = one_of({0, 0, -1, 1, 2, 5, 40, 300, 1500, int32_t(vocab) - 1, int32_t(vocab), int32_t(vocab) + 5});
    r.params.top_p = one_of({1.0f, 1.0f, 0.999f, 0.9f, 0.5f, 0.1f, 1e-6f, 0.0f});
    r.params.min_p = one_of({0.0f, 0.0f, 0.0f, 0.05f, 0.5f, 1.0f});
    r.params.top_logprobs = one_of({-1, -1, 0, 5, 20, 25});
    r.params.seed = uint64_t(below(1u << 20)) << 30, r.params.choice = uint32_t(below(4)), r.position = uint32_t(below(5000));
    random_lists(&r);
    if (is_adjusted(r) && r.params.temperature > 0) r.params.temperature = std::max(r.params.temperature, 0.1f); /* roundings would decide */
    return r;
}

std::string hold_all(const cpu_device &cpu, const std::vector<test_row> &rows, const std::vector<struct sample_result> &got)
{
    for (size_t i = 0; i < rows.size(); i++) {
        const struct sample_params &p = rows[i].params;
        std::string why = hold(rows[i], got[i]);
        if (why.empty()) why = hold_to_cpu(cpu, rows[i], got[i]);
        if (!why.empty())
            return why + say(" [row %g of %g, temperature %g,", double(i), double(rows.size()), double(p.temperature)) +
                   say(" vocab %g, top_k %g, top_p %g, min_p %g]", double(rows[i].logits.size()), p.top_k, double(p.top_p), double(p.min_p));
    }
    return "";
}

/* More rows than the device holds at once, at times. */
std::string random_calls(size_t calls, const std::vector<size_t> &vocabs, size_t most_rows)
{
    const size_t largest = *std::max_element(vocabs.begin(), vocabs.end());
    sampler_device s(5, largest);
    cpu_device cpu(largest);
    std::string why;
    n_judged = n_doubtful = n_sets_doubtful = 0;
    for (size_t c = 0; c < calls && why.empty(); c++) {
        const size_t vocab = vocabs[c % vocabs.size()];
        std::vector<test_row> rows;
        for (size_t i = 1 + below(most_rows); i > 0; i--) rows.push_back(random_row(vocab, int(below(7))));
        std::vector<struct sample_result> got;
        why = sample(s, rows, &got);
        if (why.empty()) why = hold_all(cpu, rows, got);
    }
    if (why.empty() && n_sets_doubtful > 2 + n_judged / 10) why = say("%g of %g rows had a doubtful cut", n_sets_doubtful, n_judged);
    return why;
}

std::string test_random_rows()
{
    return random_calls(is_checked() ? 6 : 18, {3001, 1, 31, 257, 1025, 50, 2, 255, 1000}, 7);
}

std::string test_large_vocabulary()
{
    return random_calls(is_checked() ? 1 : 3, {49155, 49152}, 2);
}

/* --- single properties --- */

std::string expect(sampler_device &s, const test_row &r, int token, const char *what)
{
    std::vector<struct sample_result> got;
    const std::string why = sample(s, {r}, &got);
    if (!why.empty()) return why;
    return got[0].token == token ? "" : std::string(what) + say(": token %g, want %g", got[0].token, token);
}

std::string test_greedy()
{
    sampler_device s(2, 600);
    std::vector<float> l(600, -1);
    l[70] = l[500] = 5, l[599] = 4.5f;
    test_row r(l);
    std::string why = expect(s, r, 70, "of equals the lowest id");
    r.banned = {70, -5, 600};
    if (why.empty()) why = expect(s, r, 500, "banned");
    r.banned_now = {500};
    if (why.empty()) why = expect(s, r, 599, "banned now");
    r.mask.assign(19, 0);
    if (why.empty()) why = expect(s, r, -1, "nothing allowed");
    r.mask[70 / 32] = 1u << 70 % 32;
    if (why.empty()) why = expect(s, r, -1, "only a banned one allowed");
    r.mask[3] = 1u << 7;
    if (why.empty()) why = expect(s, r, 103, "one allowed");
    r = test_row(l);
    r.bias = {{3, 3.0f}, {-1, 9}, {600, 9}, {3, 4.0f}};
    if (why.empty()) why = expect(s, r, 3, "bias twice");
    r.bias = {{3, 1e30f}, {9, 1e31f}, {9, -1e31f}};
    if (why.empty()) why = expect(s, r, 3, "huge bias");
    r.bias = {{3, INFINITY}};
    if (why.empty()) why = expect(s, r, -1, "infinite bias");
    r.banned = {3};
    return why.empty() ? expect(s, r, 70, "infinite bias of a banned token") : why;
}

std::string test_non_finite()
{
    sampler_device s(2, 700);
    for (float bad : {float(NAN), float(INFINITY)})
        for (float temperature : {0.0f, 1.0f})
            for (size_t at : {size_t(0), size_t(300), size_t(699)}) {
                test_row r(std::vector<float>(700, 1), temperature);
                r.logits[at] = bad;
                if (at == 300) r.banned = {300}; /* it counts even where it may not come */
                const std::string why = expect(s, r, -1, "not finite");
                if (!why.empty()) return why;
                r.params.presence_penalty = 1;
                r.made = {int32_t(at)};
                const std::string adjusted_too = expect(s, r, -1, "not finite, in a slot");
                if (!adjusted_too.empty()) return adjusted_too;
            }
    test_row r(std::vector<float>(700, -INFINITY), 1);
    std::string why = expect(s, r, -1, "minus infinity alone");
    r.logits[650] = -1e30f;
    r.params.top_logprobs = 20;
    std::vector<struct sample_result> got;
    if (why.empty()) why = sample(s, {r}, &got);
    if (!why.empty()) return why;
    if (got[0].token != 650 || got[0].logprob != 0 || got[0].n_top != 20 || got[0].top_token[0] != 650 || got[0].top_token[19] != 18)
        return "alternatives that are -inf come by id";
    return "";
}

/* Penalties as in test_sampler.c, beside ids out of range. */
std::string test_penalties()
{
    sampler_device s(2, 4);
    test_row r({2.0f, 1.5f, -1.0f, 1.9f});
    r.prompt = {0, 0, 2, 99, -4}, r.made = {0, 3, 3};
    r.params.repetition_penalty = 1.5f; /* 0: 1.33, 2: -1.5, 3: 1.27; 1 was never said and stays 1.5 */
    std::string why = expect(s, r, 1, "repetition");
    r.params.repetition_penalty = 1;
    r.params.frequency_penalty = 0.3f; /* 0: 1.7, 3: 1.3 */
    if (why.empty()) why = expect(s, r, 0, "frequency");
    r.params.presence_penalty = 0.25f; /* 0: 1.45, 3: 1.05 */
    if (why.empty()) why = expect(s, r, 1, "presence");
    r.params.presence_penalty = 0;
    r.params.frequency_penalty = -0.3f; /* 3: 2.5 */
    return why.empty() ? expect(s, r, 3, "frequency below 0") : why;
}

/* Ties at a cut: exactly k are kept, those of the lowest ids; every digit of the rank is needed to find them. */
std::string test_ties()
{
    const size_t vocab = 3000;
    sampler_device s(8, vocab);
    std::vector<test_row> rows;
    for (int k : {1500, 1023, 2}) {
        if (is_checked() && k != 1500) break;
        test_row r(std::vector<float>(vocab, 2.5f), 1);
        r.params.top_k = k;
        for (uint32_t p = 0; p < 2; p++) r.position = p, rows.push_back(r);
        r.params.top_p = 0.25f;
        rows.push_back(r);
    }
    std::vector<struct sample_result> got;
    std::string why = sample(s, rows, &got);
    for (size_t i = 0; i < rows.size() && why.empty(); i++) {
        const double n = rows[i].params.top_p < 1 ? std::ceil(rows[i].params.top_k * 0.25) : rows[i].params.top_k;
        const int want = int(philox_uniform(0, 0, rows[i].position) * n); /* all weigh the same, in rising order */
        if (got[i].token != want) why = say("of %g equals: token %g, want %g", n, got[i].token, want);
    }
    return why;
}

bool same(const struct sample_result &a, const struct sample_result &b)
{
    return std::memcmp(&a, &b, sizeof a) == 0;
}

/* A row alone, among others, in another place and another call: the same bytes. */
std::string test_rows_do_not_depend_on_each_other()
{
    sampler_device s(8, 2500);
    std::vector<test_row> rows, turned;
    for (int i = 0; i < 8; i++) rows.push_back(random_row(2500, i % 7));
    std::vector<struct sample_result> together, other, alone;
    std::string why = sample(s, rows, &together);
    for (size_t i = 0; i < 8; i++) turned.push_back(rows[(i + 3) % 8]);
    if (why.empty()) why = sample(s, turned, &other);
    for (size_t i = 0; i < 8 && why.empty(); i++) {
        if (!same(other[i], together[(i + 3) % 8])) return say("row %g differs in another place", double(i));
        if (i % 3 == 0) why = sample(s, {rows[i]}, &alone);
        if (why.empty() && i % 3 == 0 && !same(alone[0], together[i])) return say("row %g differs alone", double(i));
    }
    return why;
}

/* The bytes of a run are those of the first schedule. */
std::string test_schedules_agree()
{
    static std::vector<struct sample_result> first;
    test_random_state = 99;
    sampler_device s(6, 1300);
    std::vector<test_row> rows;
    for (int i = 0; i < 6; i++) rows.push_back(random_row(1300, i));
    std::vector<struct sample_result> got;
    const std::string why = sample(s, rows, &got);
    if (!why.empty()) return why;
    if (first.empty()) first = got;
    for (size_t i = 0; i < 6; i++)
        if (!same(first[i], got[i])) return say("row %g differs", double(i));
    return "";
}

std::string call(sampler_device &s, const std::vector<test_row> &rows, uint64_t launches)
{
    cpu_device cpu(rows[0].logits.size());
    std::vector<struct sample_result> got;
    s.launches = 0;
    std::string why = sample(s, rows, &got);
    if (why.empty()) why = hold_all(cpu, rows, got);
    return why.empty() && s.launches != launches ? say("%g launches, want %g", double(s.launches), double(launches)) : why;
}

test_row penalised_row(size_t vocab)
{
    test_row r(random_logits(vocab, 0));
    r.params.presence_penalty = 0.5f;
    r.made = {3, int32_t(std::max_element(r.logits.begin(), r.logits.end()) - r.logits.begin())};
    return r;
}

/* 64 rows that anything adjusts go in a launch; others do not count. */
std::string test_more_rows_than_slots()
{
    sampler_device s(70, 40);
    std::vector<test_row> rows;
    for (size_t i = 0; i < 67; i++) rows.push_back(i == 50 ? test_row(random_logits(40, 0)) : penalised_row(40));
    return call(s, rows, 2);
}

/* The staging buffer holds three such rows. */
std::string test_long_lists()
{
    sampler_device s(8, 200);
    std::vector<test_row> rows;
    for (int i = 0; i < 5; i++) {
        rows.push_back(penalised_row(200));
        rows.back().params.top_logprobs = i;
        if (i != 1) rows.back().made.resize(270000, i);
    }
    return call(s, rows, 2);
}

/* Pearson's chi-square below its 0.999 quantile, for each setting, with the seeds given. Neither schedules nor sanitizers matter: once. */
std::string test_distribution()
{
    static bool done = is_checked();
    if (done) return "";
    done = true;
    const size_t vocab = 10, draws = 240;
    sampler_device s(64, vocab);
    for (int setting = 0; setting < 4; setting++) {
        test_random_state = 1234u + unsigned(setting);
        test_row r(random_logits(vocab, 0), setting == 1 ? 0.5f : 2.0f);
        r.params.top_k = setting == 2 ? 6 : 0, r.params.top_p = setting == 3 ? 0.8f : 1, r.params.seed = 40 + uint64_t(setting);
        std::vector<test_row> rows(draws, r);
        for (size_t i = 0; i < draws; i++) rows[i].position = uint32_t(i);
        std::vector<struct sample_result> got;
        const std::string why = sample(s, rows, &got);
        if (!why.empty()) return why;
        const verdict want = judge(r);
        double chi2 = 0, rest_want = 0, rest = 0, n = -1;
        for (size_t k = 0; k < want.kept.size(); k++) {
            const double expected = (want.up_to[k] - (k ? want.up_to[k - 1] : 0)) * draws;
            const auto count = std::count_if(got.begin(), got.end(), [&](const struct sample_result &g) { return g.token == want.kept[k]; });
            if (expected < 5)
                rest_want += expected, rest += double(count);
            else
                chi2 += (double(count) - expected) * (double(count) - expected) / expected, n++;
        }
        if (rest_want >= 5) chi2 += (rest - rest_want) * (rest - rest_want) / rest_want, n++;
        for (const struct sample_result &g : got)
            if (std::find(want.kept.begin(), want.kept.end(), g.token) == want.kept.end())
                return say("setting %g: token %g may not come", setting, g.token);
        const double quantile = n * std::pow(1 - 2 / (9 * n) + 3.0902 * std::sqrt(2 / (9 * n)), 3); /* Wilson and Hilferty's approximation */
        if (n < 1 || chi2 > quantile) return say("setting %g: chi-square %.1f is over %.1f", setting, chi2, quantile);
    }
    return "";
}

#ifndef ORACLE_DEVICE
/* Each call of the runtime that can fail, failed in turn: an error, and nothing held. */
std::string test_failures()
{
    const size_t before = sim::device_bytes();
    for (int n = 1;; n++) {
        int rc, calls;
        {
            device_array<float> logits(std::vector<float>(50, 1));
            test_row r(std::vector<float>(50, 1), 1);
            const struct sample_row row = r.row(logits.p);
            struct sample_result out;
            sim::fail_call(n, cudaErrorMemoryAllocation);
            sampler_device s(2, 50);
            rc = s.rc ? s.rc : cuda_sample(&s.d, &row, 1, 50, &out, &s.e);
            if (!rc) rc = cuda_sampled(&s.d, &s.e);
            calls = sim::fallible_calls();
            sim::fail_call(0, cudaSuccess);
            if (calls >= n && rc != -ERR_INTERNAL) return say("call %g failed and nothing was said", n);
            cudaGetLastError();
        }
        if (sim::device_bytes() != before) return say("call %g failed and left memory", n);
        if (calls < n) return rc || n < 8 ? say("ended after %g calls", n) : "";
    }
}
#endif

} // namespace

int main(int argc, char **argv)
{
    static const test_case cases[] = {{"greedy", test_greedy},
                                      {"non-finite", test_non_finite},
                                      {"penalties", test_penalties},
                                      {"ties", test_ties},
                                      {"random rows", test_random_rows},
                                      {"large vocabulary", test_large_vocabulary},
                                      {"rows do not depend on each other", test_rows_do_not_depend_on_each_other},
                                      {"schedules agree", test_schedules_agree},
                                      {"more rows than slots", test_more_rows_than_slots},
                                      {"long lists", test_long_lists},
#ifndef ORACLE_DEVICE
                                      {"failures", test_failures},
#endif
                                      {"distribution", test_distribution}};
    return run_cases(cases, argc, argv);
}
