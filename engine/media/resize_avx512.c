/* Resize kernels for AVX-512 (F and BW, run-time chosen): as resize_avx2.c with twice the lanes. Row: four taps of RGB
 * a step, 12 bytes from one 16-byte load; it reads up to 4 bytes past the last tap, plus 9 for taps of weight 0. */
#ifdef __x86_64__
#include <immintrin.h>
#include <string.h>

#include "engine/media/resize_kernels.h"

#define TARGET __attribute__((target("avx512f,avx512bw")))

TARGET void resize_row_avx512(const struct resize_taps *taps, const uint8_t *from, uint8_t *to)
{
    const __m128i spread = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    const __m512i four = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    for (int i = 0; i < taps->n_out; i++, to += 3) {
        const int32_t *w = taps->weights + (size_t)i * (size_t)taps->stride;
        const uint8_t *p = from + (size_t)taps->first[i] * 3;
        __m512i sum = _mm512_setzero_si512();
        for (int k = 0; k < taps->count[i]; k += 4, p += 12) {
            __m128i bytes = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)p), spread);
            __m512i weight = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(w + k)));
            weight = _mm512_permutexvar_epi32(four, weight);
            sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(_mm512_cvtepu8_epi32(bytes), weight));
        }
        __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
        __m128i rgb = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
        rgb = _mm_srai_epi32(_mm_add_epi32(rgb, _mm_set1_epi32(RESIZE_ROUND)), RESIZE_BITS);
        rgb = _mm_packus_epi16(_mm_packs_epi32(rgb, rgb), rgb);
        uint32_t packed = (uint32_t)_mm_cvtsi128_si32(rgb);
        memcpy(to, &packed, 3);
    }
}

TARGET void resize_column_avx512(const int32_t *weights, int count, const uint8_t *from, size_t row_bytes, uint8_t *to)
{
    size_t x = 0;
    for (; x + 32 <= row_bytes; x += 32) {
        __m512i low = _mm512_set1_epi32(RESIZE_ROUND), high = low;
        const uint8_t *p = from + x;
        for (int k = 0; k < count; k++, p += row_bytes) {
            __m512i weight = _mm512_set1_epi32(weights[k]);
            __m512i first = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
            __m512i second = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p + 16)));
            low = _mm512_add_epi32(low, _mm512_mullo_epi32(first, weight));
            high = _mm512_add_epi32(high, _mm512_mullo_epi32(second, weight));
        }
        const __m512i zero = _mm512_setzero_si512(); /* the narrowing store saturates above only */
        low = _mm512_max_epi32(_mm512_srai_epi32(low, RESIZE_BITS), zero);
        high = _mm512_max_epi32(_mm512_srai_epi32(high, RESIZE_BITS), zero);
        _mm_storeu_si128((__m128i *)(to + x), _mm512_cvtusepi32_epi8(low));
        _mm_storeu_si128((__m128i *)(to + x + 16), _mm512_cvtusepi32_epi8(high));
    }
    resize_column_tail(weights, count, from, row_bytes, x, to);
}
#endif
