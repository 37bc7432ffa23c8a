/* Resize kernels for AVX2 (run-time chosen). Sums are int32 and exact, so the bits are those of the plain path.
 * Row: two taps of RGB a step, as lanes [r0 g0 b0 - r1 g1 b1 -]. An 8-byte load covers 2 2/3 pixels and so reads up to
 * 2 bytes past the last pixel it needs, plus 3 for a tap of weight 0; the slack of struct pixels covers that. Column:
 * 16 bytes of the row a step. */
#ifdef __x86_64__
#include <immintrin.h>
#include <string.h>

#include "engine/media/resize_kernels.h"

#define TARGET __attribute__((target("avx2")))

TARGET void resize_row_avx2(const struct resize_taps *taps, const uint8_t *from, uint8_t *to)
{
    const __m128i spread = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i twice = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    for (int i = 0; i < taps->n_out; i++, to += 3) {
        const int32_t *w = taps->weights + (size_t)i * (size_t)taps->stride;
        const uint8_t *p = from + (size_t)taps->first[i] * 3;
        __m256i sum = _mm256_setzero_si256();
        for (int k = 0; k < taps->count[i]; k += 2, p += 6) {
            __m128i bytes = _mm_shuffle_epi8(_mm_loadl_epi64((const __m128i *)p), spread);
            __m256i weight = _mm256_castsi128_si256(_mm_loadl_epi64((const __m128i *)(w + k)));
            weight = _mm256_permutevar8x32_epi32(weight, twice);
            sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), weight));
        }
        __m128i rgb = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        rgb = _mm_srai_epi32(_mm_add_epi32(rgb, _mm_set1_epi32(RESIZE_ROUND)), RESIZE_BITS);
        rgb = _mm_packus_epi16(_mm_packs_epi32(rgb, rgb), rgb); /* both saturate: -..32767 to 0..255 */
        uint32_t packed = (uint32_t)_mm_cvtsi128_si32(rgb);
        memcpy(to, &packed, 3);
    }
}

TARGET void resize_column_avx2(const int32_t *weights, int count, const uint8_t *from, size_t row_bytes, uint8_t *to)
{
    size_t x = 0;
    for (; x + 16 <= row_bytes; x += 16) {
        __m256i low = _mm256_set1_epi32(RESIZE_ROUND), high = low;
        const uint8_t *p = from + x;
        for (int k = 0; k < count; k++, p += row_bytes) {
            __m256i weight = _mm256_set1_epi32(weights[k]);
            __m128i bytes = _mm_loadu_si128((const __m128i *)p);
            low = _mm256_add_epi32(low, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), weight));
            high = _mm256_add_epi32(high, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)), weight));
        }
        __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(low, RESIZE_BITS), _mm256_srai_epi32(high, RESIZE_BITS));
        words = _mm256_permute4x64_epi64(words, 0xD8); /* packs works in each half; put the halves in order */
        _mm_storeu_si128((__m128i *)(to + x), _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    }
    resize_column_tail(weights, count, from, row_bytes, x, to);
}
#endif
