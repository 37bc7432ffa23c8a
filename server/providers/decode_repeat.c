/* Events that repeat: most of a stream's events are the one before with another text in one place. Such an event is recognised by its bytes: the same before the
 * text and the same behind it, and between them a string's plain inside. Its tree would be the former one but for that string, so what it says is known
 * without building the tree.
 *
 * What is learnt from an event that was read as a tree holds only until the next such event: nothing that the decoder remembers may have changed
 * meanwhile. Learnt is only what told one thing, a text; what it may have said of the choice's end it says again. Escapes end it, as a text could then be
 * spelled in two ways. */
#include "server/providers/wire_parts.h"

#include <string.h>

#include "base/str.h"

enum { MAX_LEARNT_TEXT_BYTES = 256 };

void repeat_note(struct decoder *d, const struct event *ev)
{
    struct decoder_repeat *r = &d->repeat;
    const struct event_extra *x = &ev->extra;
    r->n_told++;
    r->is_text = ev->type == EVENT_DELTA && ev->n_text > 0 && ev->n_logprobs == 0 && !x->chunk && !x->choice && !x->delta;
    r->text = ev->text;
    r->n_text = ev->n_text;
    r->choice = ev->choice;
}

void repeat_begin(struct decoder *d)
{
    struct decoder_repeat *r = &d->repeat;
    r->n_before = r->n_told = 0;
}

/* The only place where the text stands as a string; NULL: there are several, or none. */
static const char *find_string(const char *data, size_t n, const char *text, size_t n_text)
{
    char quoted[MAX_LEARNT_TEXT_BYTES + 2];
    if (n_text > MAX_LEARNT_TEXT_BYTES) return NULL;
    quoted[0] = quoted[n_text + 1] = '"';
    memcpy(quoted + 1, text, n_text);
    const char *at = memmem(data, n, quoted, n_text + 2);
    if (!at || memmem(at + 1, n - (size_t)(at + 1 - data), quoted, n_text + 2)) return NULL;
    return at + 1;
}

void repeat_learn(struct decoder *d, const char *data, size_t n)
{
    struct decoder_repeat *r = &d->repeat;
    if (r->n_told != 1 || !r->is_text || memchr(data, '\\', n)) return;
    const char *at = find_string(data, n, r->text, r->n_text);
    buf_clear(&r->event);
    if (!at || buf_append(&r->event, data, n)) return; /* without memory: every event's tree */
    r->n_before = (size_t)(at - data);
    r->n_behind = n - r->n_before - r->n_text;
}

static bool is_plain(const char *p, size_t n)
{
    unsigned char any = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c < 0x20 || c == '"' || c == '\\') return false;
        any |= c;
    }
    return n > 0 && (any < 0x80 || utf8_valid(p, n));
}

bool repeat_take(struct decoder *d, const char *data, size_t n, int *rc)
{
    const struct decoder_repeat *r = &d->repeat;
    if (r->n_before == 0 || n <= r->n_before + r->n_behind) return false;
    const char *text = data + r->n_before, *behind = data + n - r->n_behind;
    if (memcmp(data, r->event.data, r->n_before) != 0) return false;
    if (memcmp(behind, r->event.data + r->event.len - r->n_behind, r->n_behind) != 0) return false;
    if (!is_plain(text, (size_t)(behind - text))) return false;
    d->has_content = true;
    *rc = decoder_emit(d, &(struct event){.type = EVENT_DELTA, .choice = r->choice, .text = text, .n_text = (size_t)(behind - text)});
    d->n_events++;
    return true;
}
