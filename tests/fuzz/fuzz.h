/* Fuzz targets: one file each, in libFuzzer's form, so that clang's fuzzer (`make fuzz P=name`) and our own small driver (driver.c, an
 * ordinary test without clang) run the same code. A target hands hostile bytes to the real parser and checks what must hold of
 * whatever was accepted, with FUZZ_CHECK; it never asserts that bytes are refused. Mutators that know a format are in mutate.c. */
#ifndef SPILLWAY_TESTS_FUZZ_FUZZ_H
#define SPILLWAY_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"

/* libFuzzer's names. A target defines the first, and the second if it knows its format. */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed) __attribute__((weak));
/* Given to targets: one blind mutation. */
size_t LLVMFuzzerMutate(uint8_t *p, size_t n, size_t max);

/* A finding. Prints what did not hold and aborts. */
_Noreturn void fuzz_failed(const char *file, int line, const char *what);
#define FUZZ_CHECK(x) ((x) ? (void)0 : fuzz_failed(__FILE__, __LINE__, #x))
/* A parser gave this error: a code of the table, the code that was returned, a message of valid UTF-8. */
void fuzz_check_err(int rc, const struct err *e);

/* A small random generator; the sequence depends on the seed alone. */
struct fuzz_random {
    uint64_t state;
};
uint32_t fuzz_next(struct fuzz_random *r);
uint32_t fuzz_below(struct fuzz_random *r, uint32_t n); /* 0 .. n-1; n > 0 */

/* Puts a word of the list (NULL-terminated) somewhere, in place of some bytes or between them, or copies a piece of the input elsewhere. Returns
 * the new length, at most max. */
size_t fuzz_mutate_words(uint8_t *p, size_t n, size_t max, unsigned seed, const char *const *words);
/* One change to the tree: a value is replaced, copied, moved, renamed, doubled or taken away; new keys and values come from words. Bytes
 * that are no JSON are mutated blindly. */
size_t fuzz_mutate_json(uint8_t *p, size_t n, size_t max, unsigned seed, const char *const *words);
/* The same on a tree, for targets whose JSON lies inside another format. */
void fuzz_change_json(json_t *root, struct fuzz_random *r, const char *const *words);

/* A folder of the test's own under /tmp, taken away at exit, and files in it that are links to memory: writing a file costs one system
 * call. Every function ends the process when the system refuses. */
const char *fuzz_dir(void);
void fuzz_file(const char *name, const void *p, size_t n); /* creates or replaces */
void fuzz_file_none(const char *name);                     /* as if it were not there */
/* The repository's path + "/" + name, in a buffer of the caller. */
const char *fuzz_source_path(char out[4096], const char *name);

#endif
