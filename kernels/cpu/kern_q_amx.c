/* Quantised products for AMX-INT8, over AVX512-VNNI's. See kern_q_amx_impl.h. */
#include <immintrin.h>

#define TILE_CONFIG(config) _tile_loadconfig(config)
#define TILE_RELEASE() _tile_release()
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define TILE_DOT(c, x, w) _tile_dpbsud(c, x, w)
#define VECTOR_SET quant_kernels_avx512vnni
#include "kernels/cpu/kern_q_amx_impl.h"

AMX_KERNELS(amx);
