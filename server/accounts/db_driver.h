/* Db, inside: what db.c asks of a driver. */
#ifndef SPILLWAY_SERVER_ACCOUNTS_DB_DRIVER_H
#define SPILLWAY_SERVER_ACCOUNTS_DB_DRIVER_H

#include "server/accounts/db.h"

struct db_driver {
    enum db_kind kind;
    int (*open)(struct db *db, const char *where, struct err *e);
    void (*close)(struct db *db);
    int (*revive)(struct db *db, struct err *e);
    void (*wait_for_locks)(struct db *db, int ms);
    int (*script)(struct db *db, const char *sql, struct err *e);
    int (*begin)(struct db *db, struct err *e);
    int (*commit)(struct db *db, struct err *e);
    void (*rollback)(struct db *db);
    /* text: with ?1 or $1 as the driver has them. *place: the driver's, of this statement, NULL at its first use. */
    int (*query)(struct db *db, struct db_rows *rows, const char *text, void **place, const struct db_arg *args, int n, int64_t *n_changed,
                 struct err *e);
    int (*send)(struct db *db, const char *text, void **place, const struct db_arg *args, int n, int64_t expected, struct err *e);
    int (*next)(struct db_rows *rows, struct err *e);
    void (*done)(struct db_rows *rows);
    bool (*null)(const struct db_rows *rows, int column);
    int64_t (*get_int)(const struct db_rows *rows, int column);
    const char *(*get_text)(const struct db_rows *rows, int column);
    size_t (*get_blob)(struct db_rows *rows, int column, void *out, size_t max);
    void (*forget)(void *place); /* of a statement, at the end */
};

extern const struct db_driver db_sqlite, db_postgres;

struct db_statement {
    const char *sql; /* the caller's: found again by its address */
    char *text;      /* of the driver's dialect */
    void *place;
};

enum { DB_STATEMENTS = 256 }; /* a power of two; a program has some dozens */

struct db {
    const struct db_driver *driver;
    void *handle;
    char *where;
    bool in_transaction;
    const char *trouble; /* db_trouble; a constant */
    struct db_statement statements[DB_STATEMENTS];
    size_t n_statements;
};

#endif
