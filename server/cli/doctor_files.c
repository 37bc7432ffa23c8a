/* doctor: the port, the data directory, key files, the disk. Nothing is made or changed. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/str.h"
#include "server/cli/doctor_parts.h"
#include "server/cli/env.h"

enum { PATH_BYTES = 4096 };
static const uint64_t enough_disk = (uint64_t)256 << 20, little_disk = (uint64_t)16 << 20;

/* --- port --- */

static bool split_address(const char *text, char host[64], char port[8])
{
    const char *colon = strrchr(text, ':');
    int64_t number;
    if (!colon || !str_parse_int64(colon + 1, 0, 65535, &number)) return false;
    size_t n = (size_t)(colon - text);
    bool v6 = n >= 2 && text[0] == '[' && text[n - 1] == ']';
    if (n >= 64) return false;
    snprintf(host, 64, "%.*s", (int)(v6 ? n - 2 : n), text + v6);
    if (strcmp(host, "localhost") == 0) strcpy(host, "127.0.0.1");
    snprintf(port, 8, "%lld", (long long)number);
    return true;
}

/* The inode of the socket that listens on a port, from /proc/net/tcp and tcp6; 0: none seen. */
static unsigned long listener_inode(unsigned port)
{
    static const char *const tables[] = {"/proc/net/tcp", "/proc/net/tcp6"};
    unsigned long found = 0;
    for (size_t i = 0; i < 2 && !found; i++) {
        FILE *f = fopen(tables[i], "re");
        char line[512];
        while (f && !found && fgets(line, sizeof line, f)) {
            unsigned local, state;
            unsigned long inode;
            if (sscanf(line, " %*d: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x %*x:%*x %*x:%*x %*x %*d %*d %lu", &local, &state, &inode) == 3 &&
                local == port && state == 10)
                found = inode;
        }
        if (f) fclose(f);
    }
    return found;
}

static bool holds_socket(const char *pid, unsigned long inode)
{
    char dir[300], want[48];
    snprintf(want, sizeof want, "socket:[%lu]", inode);
    snprintf(dir, sizeof dir, "/proc/%s/fd", pid);
    DIR *d = opendir(dir);
    bool holds = false;
    for (struct dirent *f; d && !holds && (f = readdir(d));) {
        char path[600], link[64];
        snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
        ssize_t n = readlink(path, link, sizeof link - 1);
        link[n > 0 ? n : 0] = '\0';
        holds = strcmp(link, want) == 0;
    }
    if (d) closedir(d);
    return holds;
}

/* " by nginx (process 712)", or "" where it cannot be seen. */
static void who_listens(unsigned port, char *out, size_t n)
{
    unsigned long inode = listener_inode(port);
    DIR *d = inode ? opendir("/proc") : NULL;
    *out = '\0';
    for (struct dirent *f; d && !*out && (f = readdir(d));) {
        if (f->d_name[0] < '1' || f->d_name[0] > '9' || !holds_socket(f->d_name, inode)) continue;
        char path[300], name[64] = "?";
        snprintf(path, sizeof path, "/proc/%s/comm", f->d_name);
        FILE *comm = fopen(path, "re");
        if (comm && fgets(name, sizeof name, comm)) name[strcspn(name, "\n")] = '\0';
        if (comm) fclose(comm);
        snprintf(out, n, " by %s (process %.10s)", name, f->d_name);
    }
    if (d) closedir(d);
}

void doctor_port(struct doctor *d)
{
    const char *listen = doctor_options(d)->listen;
    char host[64], port[8], who[128];
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE},
                    *a = NULL;
    if (!split_address(listen, host, port) || getaddrinfo(host, port, &hints, &a)) {
        doctor_say(d, "port", DOCTOR_PROBLEM, "give --listen HOST:PORT with a numeric address", "'%s' is no address to listen on", listen);
        return;
    }
    int on = 1, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* as serve does */
    int rc = fd < 0 || bind(fd, a->ai_addr, a->ai_addrlen) ? errno : 0;
    freeaddrinfo(a);
    if (fd >= 0) close(fd);
    who_listens((unsigned)atoi(port), who, sizeof who);
    if (rc == EADDRINUSE)
        doctor_say(d, "port", DOCTOR_PROBLEM, "end that program, or give serve another --listen", "%s is in use%s", listen, who);
    else if (rc == EACCES)
        doctor_say(d, "port", DOCTOR_PROBLEM, "take a port from 1024 on, and a proxy or systemd socket in front",
                   "%s: only root may listen there", listen);
    else if (rc)
        doctor_say(d, "port", DOCTOR_PROBLEM, "give serve another --listen", "%s: %s", listen, strerror(rc));
    else
        doctor_say(d, "port", DOCTOR_OK, NULL, "%s is free", listen);
}

/* --- files --- */

static bool data_dir(struct doctor *d, const char *name, char *out, size_t n)
{
    struct err e = {0};
    if (doctor_options(d)->data) {
        snprintf(out, n, "%s", doctor_options(d)->data);
        return true;
    }
    if (env_data_dir(out, n, &e) == 0) return true;
    doctor_say(d, name, DOCTOR_PROBLEM, "give --data DIR", "%s", e.msg);
    return false;
}

/* The directory itself, or the nearest above it that is there. */
static void nearest(const char *path, char *out, size_t n)
{
    snprintf(out, n, "%s", path);
    struct stat st;
    while (stat(out, &st) != 0) {
        char *slash = strrchr(out, '/');
        if (!slash) {
            snprintf(out, n, ".");
            return;
        }
        slash[slash == out] = '\0';
        if (strcmp(out, "/") == 0) return;
    }
}

/* What is kept there tells who may call: nobody else may read it. */
static bool open_to_others(const char *dir, char *out, size_t n, unsigned *mode)
{
    DIR *d = opendir(dir);
    bool found = false;
    for (struct dirent *f; d && !found && (f = readdir(d));) {
        char path[PATH_BYTES + 300];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
        if (f->d_name[0] == '.' || lstat(path, &st) || !S_ISREG(st.st_mode) || !(st.st_mode & 077)) continue;
        snprintf(out, n, "%.*s", (int)n - 1, path);
        *mode = (unsigned)st.st_mode & 07777;
        found = true;
    }
    if (d) closedir(d);
    return found;
}

void doctor_data(struct doctor *d)
{
    char dir[PATH_BYTES], parent[PATH_BYTES], file[PATH_BYTES];
    unsigned mode;
    struct stat st;
    if (!data_dir(d, "data", dir, sizeof dir)) return;
    nearest(dir, parent, sizeof parent);
    bool there = stat(dir, &st) == 0;
    if (there && !S_ISDIR(st.st_mode))
        doctor_say(d, "data", DOCTOR_PROBLEM, "give another --data DIR", "%.900s is not a directory", dir);
    else if (access(parent, R_OK | W_OK | X_OK))
        doctor_say(d, "data", DOCTOR_PROBLEM, "give --data DIR, or the directory to this user", "%.900s cannot be written: %s", parent,
                   strerror(errno));
    else if (!there)
        doctor_say(d, "data", DOCTOR_OK, NULL, "%.900s will be made at the first start", dir);
    else if (st.st_mode & 077)
        doctor_say(d, "data", DOCTOR_WARNING, "chmod 700", "%.900s is open to other users (mode %04o)", dir, (unsigned)st.st_mode & 07777);
    else if (open_to_others(dir, file, sizeof file, &mode))
        doctor_say(d, "data", DOCTOR_WARNING, "chmod 600", "%.900s is open to other users (mode %04o)", file, mode);
    else
        doctor_say(d, "data", DOCTOR_OK, NULL, "%.900s is this user's alone", dir);
}

void doctor_key_file(struct doctor *d)
{
    const char *file = doctor_options(d)->api_key_file;
    struct stat st;
    if (!file) return;
    if (stat(file, &st) || access(file, R_OK))
        doctor_say(d, "key file", DOCTOR_PROBLEM, "make it, readable for this user only (chmod 600)", "%.900s: %s", file, strerror(errno));
    else if (st.st_mode & 077)
        doctor_say(d, "key file", DOCTOR_WARNING, "chmod 600", "%.900s is open to other users (mode %04o)", file,
                   (unsigned)st.st_mode & 07777);
    else
        doctor_say(d, "key file", DOCTOR_OK, NULL, "%.900s is this user's alone", file);
}

void doctor_disk(struct doctor *d)
{
    char dir[PATH_BYTES], parent[PATH_BYTES];
    struct statvfs v;
    if (!data_dir(d, "disk", dir, sizeof dir)) return;
    nearest(dir, parent, sizeof parent);
    if (statvfs(parent, &v)) {
        doctor_say(d, "disk", DOCTOR_WARNING, "look at it with df", "%.900s: %s", parent, strerror(errno));
        return;
    }
    uint64_t have = (uint64_t)v.f_bavail * v.f_frsize;
    enum doctor_level level = have >= enough_disk ? DOCTOR_OK : have >= little_disk ? DOCTOR_WARNING : DOCTOR_PROBLEM;
    if (v.f_flag & ST_RDONLY)
        doctor_say(d, "disk", DOCTOR_PROBLEM, "give --data DIR on a disk that can be written", "%.900s is mounted read-only", parent);
    else
        doctor_say(d, "disk", level, level ? "make room" : NULL, "%.1f GiB are free for %.900s", (double)have / (double)(1 << 30), dir);
}
