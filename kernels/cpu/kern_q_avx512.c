/* Quantised products for AVX-512 F and BW, without VNNI. See kern_q_impl.h. */
#define HAS_DOT 0
#include "kernels/cpu/kern_q_512.h"

#define INT8_MANY 13
#define INT4_MANY 13
#include "kernels/cpu/kern_q_impl.h"

QUANT_KERNELS(avx512);
