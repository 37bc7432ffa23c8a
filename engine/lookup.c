/* Prompt lookup: see lookup.h. */
#include "engine/lookup.h"

#include <string.h>

enum { LOOK_BACK = 16384, TRY_AGAIN_AFTER = 32 };

/* Where the final `n_gram` tokens stood last before; what follows begins there. 0: nowhere. */
static size_t find_before(const int32_t *tokens, size_t n, size_t n_gram)
{
    const int32_t *tail = tokens + n - n_gram;
    size_t least = n > LOOK_BACK ? n - LOOK_BACK : 0;
    for (size_t at = n - n_gram; at-- > least;)
        if (tokens[at] == tail[0] && memcmp(tokens + at, tail, n_gram * sizeof *tail) == 0) return at + n_gram;
    return 0;
}

size_t lookup_guess(const int32_t *tokens, size_t n, size_t max, int32_t *guess)
{
    for (size_t n_gram = 3; n_gram >= 2; n_gram--) {
        size_t from = n > n_gram ? find_before(tokens, n, n_gram) : 0;
        if (from == 0) continue;
        for (size_t i = 0; i < max; i++) guess[i] = from + i < n ? tokens[from + i] : guess[from + i - n]; /* past the end: it goes round */
        return max;
    }
    return 0;
}

void lookup_learn(struct lookup_record *r, size_t n_guessed, size_t n_right)
{
    enum { MEMORY = 32 };
    size_t tried = n_right < n_guessed ? n_right + 1 : n_right; /* what comes after the first wrong one was not tried */
    for (size_t i = 0; i < tried; i++) {
        float weight = r->n_tried < MEMORY ? 1.0f / (float)(r->n_tried + 1) : 1.0f / MEMORY;
        r->right += weight * ((i < n_right ? 1.0f : 0.0f) - r->right);
        r->n_tried++;
    }
}

size_t lookup_length(struct lookup_record *r, size_t rows, const float *row_cost, size_t n_costs)
{
    if (rows == 0 || rows >= n_costs) return 0;
    float right = r->n_tried ? r->right : 0.5f, best = 1, tokens = 1, share = right;
    size_t length = 0;
    for (size_t k = 1; k <= LOOKUP_MAX && rows + k <= n_costs; k++, share *= right) {
        tokens += share; /* a guess counts if all before it are right, too */
        float gain = tokens / (row_cost[rows + k - 1] / row_cost[rows - 1]);
        if (gain > best * 1.02f) best = gain, length = k;
    }
    if (length > 0 || r->n_tried == 0) return length;
    if (++r->n_idle < TRY_AGAIN_AFTER) return 0; /* the text may have changed */
    r->n_idle = 0;
    return rows + 1 <= n_costs;
}
