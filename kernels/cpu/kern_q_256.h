/* The wrappers of kern_q_impl.h for 256-bit vectors, with what AVX2 and FMA have. */
#include <immintrin.h>

#define VW 8
typedef __m256i ivec;
#define IV_LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define IV_STORE(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
/* 32 lanes that fit as bytes (gcc 12 makes vectors of bytes one by one) */
#define IV_STORE_BYTES(p, q)                                                                                                               \
    do {                                                                                                                                   \
        const ivec front = _mm256_packs_epi32((ivec)(q)[0], (ivec)(q)[1]), back = _mm256_packs_epi32((ivec)(q)[2], (ivec)(q)[3]);          \
        const ivec bytes = _mm256_packs_epi16(front, back); /* four of each vector in turn, half by half */                                \
        IV_STORE(p, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));                                        \
    } while (0)
#define IV_SET1(v) _mm256_set1_epi32(v)
#define IV_ADD(a, b) _mm256_add_epi32(a, b)
#define IV_AND(a, b) _mm256_and_si256(a, b)
#define IV_SRL4(a) _mm256_srli_epi16(a, 4)
#define IV_ABS8(a) _mm256_abs_epi8(a)
#define IV_SIGN8(a, s) _mm256_sign_epi8(a, s)
/* The first, or the last, two bytes of each lane as int16 */
#define IV_LOW_PAIR(a) _mm256_srai_epi16(_mm256_shuffle_epi8(a, PAIR_BYTES(0x01800080)), 8)
#define IV_HIGH_PAIR(a) _mm256_srai_epi16(_mm256_shuffle_epi8(a, PAIR_BYTES(0x03800280)), 8)
#define PAIR_BYTES(first)                                                                                                                  \
    _mm256_add_epi32(_mm256_set1_epi32(first),                                                                                             \
                     _mm256_setr_epi32(0, 0x04000400, 0x08000800, 0x0C000C00, 0, 0x04000400, 0x08000800, 0x0C000C00))
#define IV_FLOAT(a) (vf)_mm256_cvtepi32_ps(a)
#define IV_ROUND(a) (vi)_mm256_cvtps_epi32((__m256)(a)) /* to nearest even, as the rounding mode is at all times */
#define FMA(a, b, c) (vf)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#define TWO_STEPS(first, second, acc, a, b)                                                                                                \
    do {                                                                                                                                   \
        ivec product;                                                                                                                      \
        __asm__(first " %3, %2, %1\n\t" second " %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(b));                                \
    } while (0)
#define MADD_ADD(acc, w, x) TWO_STEPS("vpmaddwd", "vpaddd", acc, w, x)
#if !HAS_DOT
#define ADD_HALVES(acc) __asm__("vpmaddwd %1, %0, %0" : "+x"(acc) : "m"(ones_16)) /* from memory: there is no register left for it */
#endif
#define MADDUBS(to, u, s) __asm__("vpmaddubsw %2, %1, %0" : "=x"(to) : "x"(u), "x"(s))
#define MADDUBS_ADD(acc, u, s) TWO_STEPS("vpmaddubsw", "vpaddw", acc, u, s) /* AT&T order: the unsigned operand is the middle one */
#define DOT4_SIGNED(acc, u, s, ones)                                                                                                       \
    do {                                                                                                                                   \
        ivec product;                                                                                                                      \
        __asm__("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"                                                         \
                : "+x"(acc), "=&x"(product)                                                                                                \
                : "x"(u), "x"(s), "x"(ones));                                                                                                \
    } while (0)

/* 16 registers: 12 sums, two of weights, one of activations, one of products. */
#define MANY_ROWS 6
#define MANY_CASES MANY_TILE(1) MANY_TILE(2) MANY_TILE(3) MANY_TILE(4) MANY_TILE(5) MANY_TILE(6)
