/* The media process's cage: what it may still do once it reads hostile bytes.
 *
 * In this order: limits of memory, descriptors, file size, processes, stack and processor time; namespaces without a network and with an
 * empty, read-only root, where the kernel gives them; no user, group, capability or memory image of its own; then the list of system calls
 * (media_seccomp.c). The list is what holds; all before it is depth. Under the address and thread sanitizers, which need what the cage
 * forbids, only the limits of descriptors and core files, death with the parent and no-new-privileges remain. */
#ifndef SPILLWAY_ENGINE_MEDIA_MEDIA_SANDBOX_H
#define SPILLWAY_ENGINE_MEDIA_MEDIA_SANDBOX_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* MEDIA_CPU_MAX_S: of the whole process; it asks to be replaced at half of it (media_serve.c), so only one that misbehaves meets it. */
enum { MEDIA_SOCKET_FD = 3, MEDIA_MAX_FDS = 6, MEDIA_CPU_MAX_S = 600 };

/* For a process with one thread whose descriptors are 0 to 2 and its socket. notes: what the kernel refused and the cage can do without,
 * "name: reason, ..." or "". An error (a limit, no-new-privileges or the list of system calls could not be set) leaves the process
 * half caged: it must end. */
MUST_USE int media_sandbox_enter(int64_t memory_bytes, char *notes, size_t n_notes, struct err *e);

/* The list of system calls; any other kills the process. Called last by media_sandbox_enter. */
MUST_USE int media_seccomp_enter(struct err *e);

#endif
