/* Route: see route.h. */
#include "server/route.h"

#include <string.h>

#include "server/admission.h"
#include "server/affinity.h"
#include "server/completion.h"

/* What a worker can do for a request; the higher ones first. */
enum rank { RANK_LOST, RANK_DOWN, RANK_STALLED, RANK_FULL, RANK_OPEN };

static enum rank rank_of(const struct completion *c, const struct gateway_replica *r)
{
    struct err ignored;
    int ignored_s;
    int64_t n = (int64_t)c->prompt.n_ids * c->params.n, left_ms = c->deadline_ms - loop_now_ms(c->gateway->loop);
    if (worker_lost(r->worker)) return RANK_LOST;
    if (!worker_is_ready(r->worker)) return RANK_DOWN;
    if (!worker_is_moving(r->worker)) return RANK_STALLED;
    return admission_check_prompt(r, n, c->params.n, left_ms, &ignored_s, &ignored) ? RANK_FULL : RANK_OPEN;
}

static bool is_less_loaded(const struct gateway_replica *a, const struct gateway_replica *b)
{
    int64_t a_ms = (int64_t)admission_load_ms(a), b_ms = (int64_t)admission_load_ms(b);
    if (a_ms != b_ms) return a_ms < b_ms;
    if (a->queue.sequences != b->queue.sequences) return a->queue.sequences < b->queue.sequences;
    return a->turn < b->turn;
}

/* Where a picture is, its tiles' hashes stand for it: the ids there are the same for all pictures. */
static void read_marks(const struct completion *c, struct affinity_marks *marks)
{
    const struct gateway_model *m = c->model;
    const struct prompt_info *info = prompt_model_info(m->prompt);
    size_t picture = 0, row = 0;
    int tile = 0;
    affinity_begin(m->affinity, marks, m->shared_cache ? 0 : (uint64_t)c->account);
    for (size_t i = 0; i < c->prompt.n_ids; i++) {
        uint64_t word = (uint32_t)c->prompt.ids[i];
        if (info->has_images && c->prompt.ids[i] == info->image_token && picture < c->n_pictures) {
            const struct picture *p = &c->pictures[picture];
            if (p->hash) memcpy(&word, p->hash[tile], sizeof word);
            if (++row == (size_t)info->images.tokens_per_tile) {
                row = 0;
                if (++tile >= p->n_tiles) {
                    tile = 0;
                    picture++;
                }
            }
        }
        if (!affinity_add(marks, word)) return;
    }
}

/* NULL: no worker of these (bits) is known to have read its beginning, or going there does not pay. */
static struct gateway_replica *affine(const struct completion *c, uint32_t among, const struct gateway_replica *least)
{
    struct affinity_marks marks;
    uint32_t n_tokens = 0;
    read_marks(c, &marks);
    int at = affinity_find(c->model->affinity, &marks, among, &n_tokens);
    if (at < 0 || 2 * n_tokens < marks.ends[marks.n - 1]) return NULL;
    struct gateway_replica *r = &c->model->replicas[at];
    bool pays = admission_load_ms(r) <= admission_load_ms(least) + admission_prompt_ms(r, n_tokens);
    return pays && r->queue.sequences <= least->queue.sequences + ROUTE_MORE_SEQUENCES ? r : NULL;
}

struct gateway_replica *route_choose(const struct completion *c)
{
    struct gateway_model *m = c->model;
    struct gateway_replica *least = &m->replicas[0], *best;
    if (m->n_replicas == 1) return least;
    enum rank highest = rank_of(c, least);
    uint32_t among = 1;
    for (size_t i = 1; i < m->n_replicas; i++) {
        struct gateway_replica *r = &m->replicas[i];
        enum rank rank = rank_of(c, r);
        if (rank < highest) continue;
        if (rank > highest) {
            highest = rank;
            among = 0;
            least = r;
        } else if (is_less_loaded(r, least))
            least = r;
        among |= 1u << i;
    }
    best = affine(c, among, least);
    if (!best) best = least;
    best->n_routed++;
    best->turn = ++m->n_routed;
    return best;
}

void route_note(const struct completion *c)
{
    struct affinity_marks marks;
    if (!c->model->affinity) return;
    read_marks(c, &marks);
    affinity_note(c->model->affinity, &marks, (int)(c->replica - c->model->replicas));
}
