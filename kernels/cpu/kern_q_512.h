/* The wrappers of kern_q_impl.h for 512-bit vectors, with what AVX-512 F and BW have. */
#include <immintrin.h>

#define VW 16
typedef __m512i ivec;
#define IV_LOAD(p) _mm512_loadu_si512(p)
#define IV_STORE(p, v) _mm512_storeu_si512(p, v)
/* 32 lanes that fit as bytes */
#define IV_STORE_BYTES(p, q)                                                                                                               \
    do {                                                                                                                                   \
        _mm_storeu_si128((__m128i *)(void *)(p), _mm512_cvtepi32_epi8((ivec)(q)[0]));                                                      \
        _mm_storeu_si128((__m128i *)(void *)((p) + 16), _mm512_cvtepi32_epi8((ivec)(q)[1]));                                               \
    } while (0)
#define IV_SET1(v) _mm512_set1_epi32(v)
#define IV_ADD(a, b) _mm512_add_epi32(a, b)
#define IV_AND(a, b) _mm512_and_si512(a, b)
#define IV_SRL4(a) _mm512_srli_epi16(a, 4)
#define IV_ABS8(a) _mm512_abs_epi8(a)
#define IV_SIGN8(a, s) _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(s), _mm512_setzero_si512(), a)
/* The first, or the last, two bytes of each lane as int16 */
#define IV_LOW_PAIR(a) _mm512_srai_epi16(_mm512_shuffle_epi8(a, PAIR_BYTES(0x01800080)), 8)
#define IV_HIGH_PAIR(a) _mm512_srai_epi16(_mm512_shuffle_epi8(a, PAIR_BYTES(0x03800280)), 8)
#define PAIR_BYTES(first) _mm512_add_epi32(_mm512_set1_epi32(first), _mm512_set4_epi32(0x0C000C00, 0x08000800, 0x04000400, 0))
#define IV_FLOAT(a) (vf)_mm512_cvtepi32_ps(a)
#define IV_ROUND(a) (vi)_mm512_cvtps_epi32((__m512)(a)) /* to nearest even, as the rounding mode is at all times */
#define FMA(a, b, c) (vf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define TWO_STEPS(first, second, acc, a, b)                                                                                                \
    do {                                                                                                                                   \
        ivec product;                                                                                                                      \
        __asm__(first " %3, %2, %1\n\t" second " %1, %0, %0" : "+v"(acc), "=&v"(product) : "v"(a), "v"(b));                                \
    } while (0)
#define MADD_ADD(acc, w, x) TWO_STEPS("vpmaddwd", "vpaddd", acc, w, x)
#if !HAS_DOT
#define ADD_HALVES(acc) __asm__("vpmaddwd %1, %0, %0" : "+v"(acc) : "m"(ones_16))
#endif
#define MADDUBS(to, u, s) __asm__("vpmaddubsw %2, %1, %0" : "=v"(to) : "v"(u), "v"(s))
#define MADDUBS_ADD(acc, u, s) TWO_STEPS("vpmaddubsw", "vpaddw", acc, u, s) /* AT&T order: the unsigned operand is the middle one */
#define DOT4_SIGNED(acc, u, s, ones)                                                                                                       \
    do {                                                                                                                                   \
        ivec product;                                                                                                                      \
        __asm__("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"                                                         \
                : "+v"(acc), "=&v"(product)                                                                                                \
                : "v"(u), "v"(s), "v"(ones));                                                                                                \
    } while (0)

#include "kernels/cpu/kern_q_rows12.h"
