/* Disk: a VFS of SQLite for tests, over the system's, that fails as disks do, and whose power can be cut.
 *
 * It keeps what a file durably is (as of its last xSync) and what was written since. disk_cut makes of that the files that a machine finds after the
 * power was cut: of what was not synced nothing, all, some, only the later part, or torn sectors and rubbish. The system's own fsync is never
 * called. An fsync that fails loses what it should have kept, and the next one says that all is well, as Linux does.
 *
 * disk_install makes it the process's default. Any thread. What it does not model: the order of directory entries (files that are there stay). */
#ifndef SPILLWAY_TESTS_ACCOUNTS_DISK_H
#define SPILLWAY_TESTS_ACCOUNTS_DISK_H

#include <stdint.h>

enum disk_fault {
    DISK_WELL,
    DISK_DEAD,      /* the power is gone: from then on nothing works */
    DISK_FULL,      /* writes: ENOSPC */
    DISK_READ_ONLY, /* writes: EROFS */
    DISK_EIO,       /* writes: EIO, and half of the bytes are there */
    DISK_SYNC,      /* syncs: EIO */
    DISK_LIES       /* syncs say that they have and have not: for the tests of these tests */
};

enum disk_damage { DAMAGE_NONE_KEPT, DAMAGE_ALL_KEPT, DAMAGE_SOME_KEPT, DAMAGE_LATER_KEPT, DAMAGE_TORN, DAMAGES };

void disk_install(void);
/* All files are as they are found when they are opened next; no fault. */
void disk_new(void);
/* There is power; from the first-th write on (of DISK_SYNC: sync), counted from this call as 1, n of them. */
void disk_fail(enum disk_fault fault, int64_t first, int64_t n);
int64_t disk_writes(void); /* since disk_fail or disk_new */
int64_t disk_syncs(void);
/* Keeps what there was when the power went, for disk_make. */
void disk_cut(void);
/* Writes the files. All handles must be closed. As often as wanted for one disk_cut; until disk_new the disk is well and keeps no account of itself. */
void disk_make(enum disk_damage damage, uint64_t seed);

#endif
