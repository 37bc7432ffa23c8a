/* What the fuzz targets of the wires' decoders share. */
#ifndef SPILLWAY_TESTS_FUZZ_WIRE_STREAM_H
#define SPILLWAY_TESTS_FUZZ_WIRE_STREAM_H

#include <stddef.h>
#include <stdint.h>

/* The bytes as an answer of this provider: whole, and in random pieces; what must hold of the events holds. */
void wire_stream_check(const char *provider, uint32_t n_choices, const uint8_t *p, size_t n);

#endif
