/* The media process's cage: what it may still do once it reads hostile bytes. */
#ifndef SPILLWAY_ENGINE_MEDIA_MEDIA_SANDBOX_H
#define SPILLWAY_ENGINE_MEDIA_MEDIA_SANDBOX_H

#include "base/err.h"

/* Dies with its parent, gains no privileges, at most 1 GiB of address space and 16 descriptors, no core file, and a
 * list of system calls; any other call kills the process. Memory and system-call limits are left out under the address
 * sanitizer, which needs both. */
MUST_USE int media_sandbox_enter(struct err *e);

#endif
