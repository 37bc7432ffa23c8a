/* Marked text: bytes with their provenance (text provenance, docs/architecture.md).
 *
 * marks[i] says where byte i came from: MARK_TEMPLATE (the model's own files or our code: control tokens may be matched here) or
 * MARK_REQUEST (a value of the request, kept through filters, slices and concatenation). The tokenizer does not match a
 * `special: true` added token or a media placeholder where the match touches a request byte. marks == NULL means that every byte
 * is MARK_TEMPLATE. Both pointers are borrowed from the arena that the text was made in. */
#ifndef SPILLWAY_ENGINE_TEXT_MARKED_TEXT_H
#define SPILLWAY_ENGINE_TEXT_MARKED_TEXT_H

#include <stddef.h>
#include <stdint.h>

enum mark { MARK_TEMPLATE = 0, MARK_REQUEST = 1 };

struct marked_text {
    const char *text; /* n bytes of valid UTF-8, followed by a NUL that is not counted */
    const uint8_t *marks;
    size_t n;
};

#endif
