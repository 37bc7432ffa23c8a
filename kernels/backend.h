/* Which backend computes: the CPU's, built in, or CUDA's, a library that is opened at run time so that one program runs with and without a GPU. */
#ifndef SPILLWAY_KERNELS_BACKEND_H
#define SPILLWAY_KERNELS_BACKEND_H

#include "kernels/ops.h"

/* device: "cpu", "cuda", or "auto": cuda where an NVIDIA device is there, and then never the CPU instead: what is wrong with it is an error.
 * library: NULL or "": libspillway_cuda.so beside the program, else in ../lib/spillway of it. Stays open for good.
 * NULL with -ERR_UNSUPPORTED in e: no library, a broken one, one of another version. Whether there is a device that can be used is ops->open's to say. */
const struct ops *backend_find(const char *device, const char *library, struct err *e);
/* An NVIDIA device file is there. */
bool backend_has_gpu(void);

#endif
