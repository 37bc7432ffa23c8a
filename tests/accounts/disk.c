/* Disk: see disk.h. */
#include "tests/accounts/disk.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"

enum { MAX_FILES = 8, SECTOR_BYTES = 512 };

struct image {
    unsigned char *bytes;
    size_t n;
};

/* A write or, without bytes, a change of size. */
struct step {
    struct step *next;
    int64_t at;
    size_t n;
    bool is_size;
    unsigned char bytes[];
};

struct file {
    char path[512];
    struct image durable;
    struct step *first, **last; /* what is not durable */
};

static struct {
    pthread_mutex_t lock;
    sqlite3_vfs *real;
    struct file files[MAX_FILES];
    size_t n_files;
    enum disk_fault fault;
    int64_t first, end, n_writes, n_syncs;
    bool dead, resting; /* resting: after disk_make, what is opened is looked at and nothing more */
    int error;          /* errno of the last fault */
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct handle {
    sqlite3_file base;
    struct file *file; /* NULL: a temporary one, which nothing happens to */
    sqlite3_file real[];
};

#define REAL(f) (((struct handle *)(f))->real)
#define FORWARD(f, call, ...) (REAL(f)->pMethods->call(REAL(f), ##__VA_ARGS__))

/* --- images --- */

static void image_size(struct image *i, size_t n)
{
    if (n > i->n) {
        i->bytes = realloc(i->bytes, n);
        CHECK(i->bytes);
        memset(i->bytes + i->n, 0, n - i->n);
    }
    i->n = n;
}

static void image_put(struct image *i, int64_t at, const void *p, size_t n)
{
    if ((size_t)at + n > i->n) image_size(i, (size_t)at + n);
    memcpy(i->bytes + at, p, n);
}

static void image_read(struct image *i, const char *path)
{
    FILE *f = fopen(path, "rb");
    *i = (struct image){.bytes = NULL};
    if (!f) return;
    fseek(f, 0, SEEK_END);
    image_size(i, (size_t)ftell(f));
    rewind(f);
    CHECK(i->n == 0 || fread(i->bytes, 1, i->n, f) == i->n);
    fclose(f);
}

static void image_write(const struct image *i, const char *path)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && (i->n == 0 || fwrite(i->bytes, 1, i->n, f) == i->n));
    CHECK(fclose(f) == 0);
}

static void step_do(struct image *i, const struct step *s)
{
    if (s->is_size)
        image_size(i, (size_t)s->at);
    else
        image_put(i, s->at, s->bytes, s->n);
}

/* --- files --- */

static void forget_steps(struct file *f)
{
    for (struct step *s = f->first, *next; s; s = next) {
        next = s->next;
        free(s);
    }
    f->first = NULL;
    f->last = &f->first;
}

static struct file *file_of(const char *path)
{
    for (size_t i = 0; i < disk.n_files; i++)
        if (strcmp(disk.files[i].path, path) == 0) return &disk.files[i];
    CHECK(disk.n_files < MAX_FILES);
    struct file *f = &disk.files[disk.n_files++];
    *f = (struct file){.last = NULL};
    snprintf(f->path, sizeof f->path, "%s", path);
    image_read(&f->durable, path);
    f->last = &f->first;
    return f;
}

static void note(struct file *f, bool is_size, int64_t at, const void *p, size_t n)
{
    struct step *s = malloc(sizeof *s + n);
    CHECK(s);
    *s = (struct step){.at = at, .n = n, .is_size = is_size};
    if (n) memcpy(s->bytes, p, n);
    *f->last = s;
    f->last = &s->next;
}

/* --- faults; under the lock --- */

static bool is_due(int64_t i)
{
    return i >= disk.first && i < disk.end;
}

/* What becomes of a write: SQLITE_OK, or its error. */
static int write_fault(void)
{
    int64_t i = ++disk.n_writes;
    if (disk.fault == DISK_DEAD && i >= disk.first) disk.dead = true;
    if (disk.dead) return disk.error = EIO, SQLITE_IOERR_WRITE;
    if (!is_due(i)) return SQLITE_OK;
    if (disk.fault == DISK_FULL) return disk.error = ENOSPC, SQLITE_FULL;
    if (disk.fault == DISK_READ_ONLY) return disk.error = EROFS, SQLITE_IOERR_WRITE;
    return disk.fault == DISK_EIO ? (disk.error = EIO, SQLITE_IOERR_WRITE) : SQLITE_OK;
}

static int d_write(sqlite3_file *h, const void *p, int n, sqlite3_int64 at)
{
    struct file *f = ((struct handle *)h)->file;
    if (!f) return FORWARD(h, xWrite, p, n, at);
    pthread_mutex_lock(&disk.lock);
    bool was_dead = disk.dead;
    int rc = write_fault(), done = rc == SQLITE_OK ? n : disk.error == EIO && !was_dead ? (disk.dead ? n : n / 2) : 0;
    if (done) {
        note(f, false, at, p, (size_t)done);
        int real = FORWARD(h, xWrite, p, done, at);
        if (rc == SQLITE_OK) rc = real;
    }
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

static int d_truncate(sqlite3_file *h, sqlite3_int64 size)
{
    struct file *f = ((struct handle *)h)->file;
    if (!f) return FORWARD(h, xTruncate, size);
    pthread_mutex_lock(&disk.lock);
    int rc = write_fault();
    if (rc == SQLITE_OK) {
        note(f, true, size, NULL, 0);
        rc = FORWARD(h, xTruncate, size);
    } else if (disk.fault == DISK_FULL) /* that needs no room */
        rc = FORWARD(h, xTruncate, size);
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

static int d_sync(sqlite3_file *h, int flags)
{
    struct file *f = ((struct handle *)h)->file;
    (void)flags;
    if (!f) return SQLITE_OK;
    pthread_mutex_lock(&disk.lock);
    bool fails = disk.dead || (disk.fault == DISK_SYNC && is_due(++disk.n_syncs));
    if (!fails && disk.fault != DISK_LIES)
        for (const struct step *s = f->first; s; s = s->next) step_do(&f->durable, s);
    if (!disk.dead && disk.fault != DISK_LIES) forget_steps(f); /* if it fails: the system takes them for written */
    if (fails) disk.error = EIO;
    pthread_mutex_unlock(&disk.lock);
    return fails ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

/* --- what is only handed on --- */

static int d_close(sqlite3_file *h)
{
    return FORWARD(h, xClose);
}

static int d_read(sqlite3_file *h, void *p, int n, sqlite3_int64 at)
{
    return FORWARD(h, xRead, p, n, at);
}

static int d_size(sqlite3_file *h, sqlite3_int64 *n)
{
    return FORWARD(h, xFileSize, n);
}

static int d_lock(sqlite3_file *h, int how)
{
    return FORWARD(h, xLock, how);
}

static int d_unlock(sqlite3_file *h, int how)
{
    return FORWARD(h, xUnlock, how);
}

static int d_check(sqlite3_file *h, int *out)
{
    return FORWARD(h, xCheckReservedLock, out);
}

/* The hint to make room in large steps is a write that nobody counts. */
static int d_control(sqlite3_file *h, int op, void *arg)
{
    if (op == SQLITE_FCNTL_SIZE_HINT || op == SQLITE_FCNTL_CHUNK_SIZE) return SQLITE_OK;
    if (op == SQLITE_FCNTL_LAST_ERRNO && ((struct handle *)h)->file) {
        *(int *)arg = disk.error;
        return SQLITE_OK;
    }
    return FORWARD(h, xFileControl, op, arg);
}

static int d_sector(sqlite3_file *h)
{
    return FORWARD(h, xSectorSize);
}

static int d_traits(sqlite3_file *h)
{
    return FORWARD(h, xDeviceCharacteristics);
}

static int d_shm_map(sqlite3_file *h, int i, int n, int extend, void volatile **p)
{
    return FORWARD(h, xShmMap, i, n, extend, p);
}

static int d_shm_lock(sqlite3_file *h, int at, int n, int flags)
{
    return FORWARD(h, xShmLock, at, n, flags);
}

static void d_shm_barrier(sqlite3_file *h)
{
    FORWARD(h, xShmBarrier);
}

static int d_shm_unmap(sqlite3_file *h, int away)
{
    return FORWARD(h, xShmUnmap, away);
}

static const sqlite3_io_methods methods = {.iVersion = 2,
                                           .xClose = d_close,
                                           .xRead = d_read,
                                           .xWrite = d_write,
                                           .xTruncate = d_truncate,
                                           .xSync = d_sync,
                                           .xFileSize = d_size,
                                           .xLock = d_lock,
                                           .xUnlock = d_unlock,
                                           .xCheckReservedLock = d_check,
                                           .xFileControl = d_control,
                                           .xSectorSize = d_sector,
                                           .xDeviceCharacteristics = d_traits,
                                           .xShmMap = d_shm_map,
                                           .xShmLock = d_shm_lock,
                                           .xShmBarrier = d_shm_barrier,
                                           .xShmUnmap = d_shm_unmap};

static int d_open(sqlite3_vfs *v, const char *name, sqlite3_file *file, int flags, int *out)
{
    struct handle *h = (struct handle *)file;
    (void)v;
    h->base.pMethods = NULL;
    h->file = NULL;
    pthread_mutex_lock(&disk.lock);
    bool kept = name && (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL));
    int rc = disk.dead ? SQLITE_CANTOPEN : disk.real->xOpen(disk.real, name, h->real, flags, out);
    if (rc == SQLITE_OK && kept && !disk.resting) h->file = file_of(name);
    if (rc == SQLITE_OK) h->base.pMethods = &methods;
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

static int d_delete(sqlite3_vfs *v, const char *name, int sync)
{
    (void)v;
    pthread_mutex_lock(&disk.lock);
    int rc = disk.dead ? SQLITE_IOERR_DELETE : disk.real->xDelete(disk.real, name, sync);
    for (size_t i = 0; i < disk.n_files && rc == SQLITE_OK && !disk.resting; i++)
        if (strcmp(disk.files[i].path, name) == 0) {
            image_size(&disk.files[i].durable, 0);
            forget_steps(&disk.files[i]);
        }
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

/* --- for tests --- */

void disk_install(void)
{
    static sqlite3_vfs vfs;
    sqlite3_initialize();
    disk.real = sqlite3_vfs_find(NULL);
    vfs = *disk.real;
    vfs.zName = "disk";
    vfs.szOsFile = (int)sizeof(struct handle) + disk.real->szOsFile;
    vfs.xOpen = d_open;
    vfs.xDelete = d_delete;
    CHECK(sqlite3_vfs_register(&vfs, 1) == SQLITE_OK);
}

void disk_new(void)
{
    pthread_mutex_lock(&disk.lock);
    for (size_t i = 0; i < disk.n_files; i++) {
        forget_steps(&disk.files[i]);
        free(disk.files[i].durable.bytes);
    }
    disk.n_files = 0;
    disk.fault = DISK_WELL;
    disk.dead = disk.resting = false;
    disk.n_writes = disk.n_syncs = disk.first = disk.end = 0;
    disk.error = 0;
    pthread_mutex_unlock(&disk.lock);
}

void disk_fail(enum disk_fault fault, int64_t first, int64_t n)
{
    pthread_mutex_lock(&disk.lock);
    disk.fault = fault;
    disk.dead = false;
    disk.first = first;
    disk.end = n > INT64_MAX - first ? INT64_MAX : first + n;
    disk.n_writes = disk.n_syncs = 0;
    pthread_mutex_unlock(&disk.lock);
}

int64_t disk_writes(void)
{
    pthread_mutex_lock(&disk.lock);
    int64_t n = disk.n_writes;
    pthread_mutex_unlock(&disk.lock);
    return n;
}

int64_t disk_syncs(void)
{
    pthread_mutex_lock(&disk.lock);
    int64_t n = disk.n_syncs;
    pthread_mutex_unlock(&disk.lock);
    return n;
}

void disk_cut(void)
{
    pthread_mutex_lock(&disk.lock);
    disk.dead = true;
    pthread_mutex_unlock(&disk.lock);
}

static uint64_t random_next(uint64_t *x)
{
    *x += 0x9e3779b97f4a7c15u;
    uint64_t z = (*x ^ *x >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* A sector of what was written is there, or what was there before, or, where there was nothing, rubbish. */
static void tear(struct image *i, const struct step *s, uint64_t *rng)
{
    for (size_t done = 0; done < s->n;) {
        size_t at = (size_t)s->at + done, n = SECTOR_BYTES - at % SECTOR_BYTES;
        if (n > s->n - done) n = s->n - done;
        if (random_next(rng) % 2)
            image_put(i, (int64_t)at, s->bytes + done, n);
        else if (at >= i->n)
            for (size_t k = 0; k < n; k++) image_put(i, (int64_t)(at + k), &(unsigned char){(unsigned char)random_next(rng)}, 1);
        done += n;
    }
}

static void make(const struct file *f, enum disk_damage damage, uint64_t *rng)
{
    struct image i = {.bytes = malloc(f->durable.n + 1), .n = f->durable.n};
    size_t n_steps = 0, at = 0;
    CHECK(i.bytes);
    if (i.n) memcpy(i.bytes, f->durable.bytes, i.n);
    for (const struct step *s = f->first; s; s = s->next) n_steps++;
    size_t from = n_steps ? (size_t)(random_next(rng) % n_steps) : 0;
    for (const struct step *s = f->first; s; s = s->next, at++) {
        bool kept = damage == DAMAGE_ALL_KEPT || (damage == DAMAGE_SOME_KEPT && random_next(rng) % 2) ||
                    (damage == DAMAGE_LATER_KEPT && at >= from) || (damage == DAMAGE_TORN && s->is_size && random_next(rng) % 2);
        if (kept) step_do(&i, s);
        if (damage == DAMAGE_TORN && !s->is_size) tear(&i, s, rng);
    }
    image_write(&i, f->path);
    free(i.bytes);
}

void disk_make(enum disk_damage damage, uint64_t seed)
{
    pthread_mutex_lock(&disk.lock);
    uint64_t rng = seed * 0x9e3779b97f4a7c15u + (uint64_t)damage;
    disk.dead = false;
    disk.resting = true;
    for (size_t i = 0; i < disk.n_files; i++) {
        char shm[600];
        make(&disk.files[i], damage, &rng);
        snprintf(shm, sizeof shm, "%s-shm", disk.files[i].path);
        unlink(shm);
    }
    pthread_mutex_unlock(&disk.lock);
}
