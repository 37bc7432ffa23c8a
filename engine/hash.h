/* Chained hash tables of the engine's bookkeeping: how many chains, and which one an id is in. Heads are an array whose length is a power of
 * two, the mask is one less. */
#ifndef SPILLWAY_ENGINE_HASH_H
#define SPILLWAY_ENGINE_HASH_H

#include <stdint.h>

/* A power of two, at least 16 and (up to 2^31) at least this. */
static inline uint32_t hash_chains(uint32_t at_least)
{
    uint32_t n = 16;
    while (n < at_least && n < (uint32_t)1 << 31) n *= 2;
    return n;
}

/* Ids may be small numbers that follow each other. */
static inline uint32_t hash_chain_of(uint64_t id, uint32_t mask)
{
    return (uint32_t)((id ^ id >> 29) * 0x9E3779B97F4A7C15u >> 32) & mask;
}

#endif
