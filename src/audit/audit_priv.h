/* Shared inside the audit room: keys of the store's rows and the log itself. */
#pragma once

#include "audit/audit.h"
#include "base/map.h"
#include "base/thread.h"

#define AUDIT_NS_LOG      AST_STR("audit:log")
#define AUDIT_NS_IDS      AST_STR("audit:ids")
#define AUDIT_NS_INDEX    AST_STR("audit:index")
#define AUDIT_NS_HEADS    AST_STR("audit:heads")
#define AUDIT_NS_SESSIONS AST_STR("audit:sessions")
#define AUDIT_NS_ERAS     AST_STR("audit:eras")
#define AUDIT_NS_INTENTS  AST_STR("audit:intents")
#define AUDIT_NS_KEYS     AST_STR("audit:keys")

#define AUDIT_SEQ_DIGITS 20u
#define AUDIT_KEY_MAX    256u /* session, tag, principal, method, sequence and three slashes fit */

/* A key under construction; every piece is bounded, so it always fits. */
struct audit_key {
    size_t n;
    char b[AUDIT_KEY_MAX];
};
static inline struct ast_str audit_key_str(const struct audit_key *k)
{
    return ast_str_n(k->b, k->n);
}
void audit_key_add(struct audit_key *k, struct ast_str piece);
void audit_key_add_seq(struct audit_key *k, uint64_t seq);
/* "<session>/<seq>" */
void audit_key_log(struct audit_key *k, const struct ast_uuid *session, uint64_t seq);
/* "<session>" or "<session>:<principal>" */
void audit_key_chain(struct audit_key *k, const struct ast_uuid *session, struct ast_str principal);
/* The list that holds the rows of a filter, without the sequence number: "<session>/p/<principal>/", "<session>/m/<method>/",
 * "<session>/x/<principal>/<method>/". */
void audit_key_list(struct audit_key *k, const struct ast_uuid *session,
                    const struct ast_str *principal, struct ast_str method);
/* The sequence number at the end of a key; 0 when it is none. */
uint64_t audit_key_seq(struct ast_str key);
bool audit_seq_parse(struct ast_str digits, uint64_t *ret);

/* Head rows: "<seq> <count> <hash> <id>". */
#define AUDIT_HEAD_TEXT 160
struct ast_str audit_head_write(const struct ast_audit_head *h, char out[static AUDIT_HEAD_TEXT]);
bool audit_head_read(struct ast_str text, struct ast_audit_head *ret);

/* What an action is filed under: the method of an admin_request, else the type. Borrowed from `action`'s document. */
struct ast_str audit_method_of(const struct ast_json *action);

struct audit_row;

/* One chain in memory. Owner: under the log's lock. */
struct audit_chain {
    struct ast_audit_head head;           /* as placed: where the next row links to */
    struct ast_audit_head durable;        /* as stored */
    unsigned waiting;                     /* rows with a place that are not done */
    const struct audit_row *last_applied; /* owner: the store's writer, inside one batch */
    struct ast_principal principal;
};

/* Owner: any thread; what changes is under `lock`. */
struct ast_audit {
    struct ast_store *store;
    const struct ast_key *key;
    struct ast_uuid session;
    uint8_t mac_key[32]; /* for cursors; immutable */

    struct ast_lock lock;
    pthread_cond_t idle;                        /* signalled when nothing is queued any more */
    struct ast_map chains AST_GUARDED_BY(lock); /* principal -> struct audit_chain, owned */
    uint64_t evictions AST_GUARDED_BY(lock); /* a chain read from the store before one may be old */
    uint64_t next_seq AST_GUARDED_BY(lock);
    int64_t last_ns AST_GUARDED_BY(lock); /* time of the last row placed */
    uint64_t life AST_GUARDED_BY(lock);   /* grows when a batch fails: older places are void */
    struct audit_row *first AST_GUARDED_BY(lock), **last AST_GUARDED_BY(lock);
    bool in_flight AST_GUARDED_BY(lock);  /* `op` is with the store */
    unsigned busy AST_GUARDED_BY(lock);   /* callbacks of finished batches that still run */
    bool is_era_due AST_GUARDED_BY(lock); /* the row that should open an era was lost */

    struct ast_store_op op;               /* owner: whoever set in_flight, then the writer */
    struct audit_row *batch;              /* its rows, in order */
    _Atomic uint64_t rows, anchored_rows; /* stored in this life; those the anchor file knows */

    struct ast_lock keys_lock;
    AST_VEC(struct audit_public_key) keys AST_GUARDED_BY(keys_lock); /* trusted besides our own */
};
struct audit_public_key {
    uint8_t b[AST_KEY_PUBLIC_BYTES];
};

/* keys.c */
enum ast_rc audit_keys_load(struct ast_audit *a, struct ast_err *err);
bool audit_key_is_trusted(struct ast_audit *a, const uint8_t key[static AST_KEY_PUBLIC_BYTES]);

/* anchor.c: gives each chain end of the file; a missing file gives none. */
enum ast_rc audit_anchor_each(struct ast_audit *a, const char *path,
                              bool (*each)(void *arg, struct ast_str chain,
                                           const struct ast_audit_head *head),
                              void *arg, struct ast_err *err);

/* The row at a sequence number, or the next one behind it. *ret_seq 0: none. Appends its text to `out`. */
enum ast_rc audit_row_at(struct ast_audit *a, const struct ast_uuid *session, uint64_t seq,
                         uint64_t *ret_seq, struct ast_buf *out, struct ast_err *err);
