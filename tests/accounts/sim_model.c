/* Model of the ledger: see sim_model.h. */
#include "tests/accounts/sim_model.h"

#include "base/err.h"

struct model_account *model_account(struct model *m, int64_t id)
{
    for (int i = 0; i < m->n_accounts; i++)
        if (m->accounts[i].id == id) return &m->accounts[i];
    CHECK(m->n_accounts < MODEL_ACCOUNTS);
    m->accounts[m->n_accounts] = (struct model_account){.id = id};
    return &m->accounts[m->n_accounts++];
}

struct model_window *model_window(struct model *m, int64_t budget, int64_t starts_s)
{
    for (int i = 0; i < m->n_windows; i++)
        if (m->windows[i].budget == budget && m->windows[i].starts_s == starts_s) return &m->windows[i];
    CHECK(m->n_windows < MODEL_WINDOWS);
    m->windows[m->n_windows] = (struct model_window){.budget = budget, .starts_s = starts_s};
    return &m->windows[m->n_windows++];
}

struct model_request *model_request(struct model *m, int64_t id)
{
    for (int i = 0; i < m->n_requests; i++)
        if (m->requests[i].id == id) return &m->requests[i];
    return NULL;
}

void model_transfer(struct model *m, int64_t debit, int64_t credit, int64_t amount)
{
    model_account(m, debit)->posted -= amount;
    model_account(m, credit)->posted += amount;
}

static int key_index(const struct model *m, int64_t key)
{
    for (int i = 0; i < 4; i++)
        if (m->keys[i] == key) return i;
    return -1;
}

/* --- holds --- */

static int64_t more_of(const struct budget *b, const struct ledger_op *op, bool anew, int64_t held)
{
    if (b->unit == UNIT_NUSD) return op->amount_nusd + (anew ? held : 0);
    return b->unit == UNIT_TOKENS ? op->tokens : anew;
}

/* The budgets that a request of this scope counts in beyond those of `from`, in the order in which they are asked. */
static void add_windows(struct model *m, struct model_request *r, int from, int to, int64_t now_ms)
{
    const int64_t above[] = {r->key, r->project, 1, m->house};
    for (int a = 0; a < 4; a++)
        for (int i = 0; i < m->n_budgets; i++) {
            const struct budget *b = &m->budgets[i];
            if (b->account != above[a] || b->ended || (int)b->scope < from || (int)b->scope > to) continue;
            r->windows[r->n_windows++] = (struct model_held){.budget = i, .starts_s = ledger_window_start_s(b->period, now_ms / 1000)};
        }
}

/* Asks all, then takes from all. */
static int hold(struct model *m, struct model_request *r, const struct ledger_op *op, int n_before)
{
    struct model_account *p = model_account(m, r->project);
    if (p->has_floor && op->amount_nusd > 0 && p->posted - p->pending - op->amount_nusd < p->floor)
        return p->posted - r->held - op->amount_nusd >= p->floor ? -ERR_HELD : -ERR_BUDGET;
    for (int i = 0; i < r->n_windows; i++) {
        const struct budget *b = &m->budgets[r->windows[i].budget];
        const struct model_window *w = model_window(m, b->id, r->windows[i].starts_s);
        int64_t more = more_of(b, op, i >= n_before, r->held);
        if (!b->hard || b->ended || more == 0 || w->posted + w->pending + more <= b->amount) continue;
        if (b->unit != UNIT_NUSD) return -ERR_RATE;
        return w->posted + r->windows[i].amount + more <= b->amount ? -ERR_HELD : -ERR_BUDGET;
    }
    p->pending += op->amount_nusd;
    for (int i = 0; i < r->n_windows; i++) {
        const struct budget *b = &m->budgets[r->windows[i].budget];
        int64_t more = more_of(b, op, i >= n_before, r->held);
        model_window(m, b->id, r->windows[i].starts_s)->pending += more;
        r->windows[i].amount += more;
    }
    r->held += op->amount_nusd;
    return 0;
}

static int reserve(struct model *m, const struct ledger_op *op)
{
    int k = key_index(m, op->account);
    if (m->closed[k] || m->frozen[k / 2]) return -ERR_DENIED;
    CHECK(m->n_requests < MODEL_REQUESTS);
    struct model_request *r = &m->requests[m->n_requests];
    *r =
        (struct model_request){.id = op->request, .key = op->account, .project = m->projects[k / 2], .scope = (int)op->scope, .open = true};
    add_windows(m, r, 0, r->scope, op->now_ms);
    int rc = hold(m, r, op, 0);
    if (rc) return rc;
    r->run = op->request >> 32;
    r->deadline_ms = op->now_ms + op->lasts_ms;
    if (op->attempt.supplier) {
        r->n_attempts = 1;
        r->sale_estimate[0] = op->attempt.sale_estimate_nusd;
        r->cost_estimate[0] = op->attempt.cost_estimate_nusd;
    }
    m->n_requests++;
    return 0;
}

static int more(struct model *m, struct model_request *r, const struct ledger_op *op)
{
    struct model_request was = *r;
    int n_before = r->n_windows, wider = op->type == LEDGER_ATTEMPT && (int)op->scope > r->scope;
    if (wider) add_windows(m, r, r->scope + 1, (int)op->scope, op->now_ms);
    int rc = hold(m, r, op, n_before);
    if (rc) {
        *r = was;
        return rc;
    }
    if (wider) r->scope = (int)op->scope;
    r->sale_estimate[op->n - 1] = op->attempt.sale_estimate_nusd;
    r->cost_estimate[op->n - 1] = op->attempt.cost_estimate_nusd;
    if (op->type == LEDGER_ATTEMPT) r->n_attempts = op->n;
    return 0;
}

/* --- ends --- */

static void release(struct model *m, struct model_request *r, bool post, int64_t tokens)
{
    model_account(m, r->project)->pending -= r->held;
    for (int i = 0; i < r->n_windows; i++) {
        const struct budget *b = &m->budgets[r->windows[i].budget];
        struct model_window *w = model_window(m, b->id, r->windows[i].starts_s);
        w->pending -= r->windows[i].amount;
        if (b->period != PERIOD_NOW) w->posted += b->unit == UNIT_NUSD ? r->charged : b->unit == UNIT_TOKENS ? tokens : post;
    }
    r->held = 0;
    r->open = r->kept = false;
    r->state = post ? "posted" : "void";
}

static void sell(struct model *m, struct model_request *r, int64_t sale)
{
    r->charged = sale < r->held ? sale : r->held;
    model_transfer(m, r->project, m->house, r->charged);
    model_transfer(m, m->overrun, m->house, sale - r->charged);
}

void model_end(struct model *m, struct model_request *r, const struct ledger_op *op)
{
    int64_t tokens = 0;
    bool post = op->type == LEDGER_POST;
    if (post) sell(m, r, op->sale_nusd);
    for (int i = 0; i < op->n_used; i++) {
        model_transfer(m, m->house, m->supplier, op->used[i].cost_nusd);
        if (op->used[i].n == op->served)
            for (int c = 0; c < USAGE_SEARCHES; c++) tokens += op->used[i].usage.count[c];
    }
    release(m, r, post, tokens);
}

void model_recover(struct model *m, struct model_request *r)
{
    if (r->n_attempts) sell(m, r, r->sale_estimate[r->n_attempts - 1]);
    for (int i = 0; i < r->n_attempts; i++) model_transfer(m, m->house, m->supplier, r->cost_estimate[i]);
    release(m, r, r->n_attempts > 0, 0);
}

int model_do(struct model *m, const struct ledger_op *op)
{
    if (op->now_ms > m->now_ms) m->now_ms = op->now_ms;
    if (op->type == LEDGER_RESERVE) return reserve(m, op);
    struct model_request *r = model_request(m, op->request);
    if (!r || !r->open) return -ERR_NOT_FOUND;
    if (op->type == LEDGER_EXTEND || op->type == LEDGER_ATTEMPT) return more(m, r, op);
    model_end(m, r, op);
    return 0;
}
