/* What the files of `doctor` share: doctor.c (command, printing), doctor_machine.c (processor, memory, kernel, GPU), doctor_files.c (port, data
 * directory, key files, disk), doctor_model.c (model folders). Nobody else includes it. */
#ifndef SPILLWAY_SERVER_CLI_DOCTOR_PARTS_H
#define SPILLWAY_SERVER_CLI_DOCTOR_PARTS_H

#include <stdint.h>

#include "base/err.h"
#include "server/cli/options.h"

enum doctor_level { DOCTOR_OK, DOCTOR_WARNING, DOCTOR_PROBLEM, DOCTOR_LEVELS };

struct doctor;
/* One finding. advice: what to do, NULL with DOCTOR_OK. */
void doctor_say(struct doctor *d, const char *name, enum doctor_level level, const char *advice, const char *fmt, ...) PRINTF_LIKE(5, 6);
const struct options *doctor_options(const struct doctor *d);

/* Bytes that a new process may take: the system's MemAvailable, or what a cgroup still allows if that is less. 0: unknown. */
uint64_t doctor_memory_free(void);

void doctor_processor(struct doctor *d);
void doctor_memory(struct doctor *d);
void doctor_gpu(struct doctor *d);
void doctor_descriptors(struct doctor *d);
void doctor_kernel(struct doctor *d);
void doctor_cage(struct doctor *d);
void doctor_clock(struct doctor *d);
void doctor_port(struct doctor *d);
void doctor_data(struct doctor *d);
void doctor_key_file(struct doctor *d);
void doctor_disk(struct doctor *d);
void doctor_model(struct doctor *d, const char *arg);

#endif
