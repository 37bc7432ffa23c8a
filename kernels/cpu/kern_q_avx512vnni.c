/* Quantised products for AVX-512 with VNNI. See kern_q_impl.h. */
#define HAS_DOT 1
#include "kernels/cpu/kern_q_512.h"

#define DOT4(acc, u, s) __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s))
#define INT8_MANY 13
#define INT4_MANY 13
#include "kernels/cpu/kern_q_impl.h"

QUANT_KERNELS(avx512vnni);
