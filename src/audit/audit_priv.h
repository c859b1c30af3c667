/* Shared inside the audit room: keys of the store's rows and the log itself. */
#pragma once

#include "audit/audit.h"
#include "base/map.h"
#include "base/thread.h"
#include "crypto/secret.h"

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

/* ---- block.c: how rows and lists of numbers lie in the store ---- */

static inline uint32_t audit_get_le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t audit_get_le64(const uint8_t *p)
{
    return audit_get_le32(p) | (uint64_t)audit_get_le32(p + 4) << 32;
}
static inline void audit_put_le32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}
static inline void audit_put_le64(uint8_t *p, uint64_t v)
{
    audit_put_le32(p, (uint32_t)v);
    audit_put_le32(p + 4, (uint32_t)(v >> 32));
}

#define AUDIT_BLOCK_MAX 65520u /* 16 pages of the store without their head */
#define AUDIT_BLOCK_TAIL                                                                           \
    4080u /* one page: a block grows in place up to here, later rows begin another */
#define AUDIT_LIST_MAX     1800u /* bytes of a list's block: it stays beside its key */
#define AUDIT_LIST_NUMBERS (AUDIT_LIST_MAX + 1u)

/* A record's head; behind it what was signed, without the key, and the outcome. */
enum {
    AUDIT_AT_SEQ = 4,
    AUDIT_AT_TIME = 12,
    AUDIT_AT_SIGNATURE = 20,
    AUDIT_AT_OUTCOME = 84, /* lengths */
    AUDIT_AT_AUTHORIZATION = 88,
    AUDIT_RECORD_HEAD = 92,
    AUDIT_RECORD_MIN = 224, /* form 2's action alone has 110 bytes */
};

/* One stored row, borrowed from a value of the log: a record of a block, or a JSON text. */
struct audit_stored {
    uint64_t seq;
    struct ast_str text;                /* JSON; empty for a record */
    struct ast_str record, signed_part; /* empty for JSON */
    const uint8_t *key;                 /* of the block */
};
typedef bool audit_each_stored(void *arg, const struct audit_stored *row);
typedef bool audit_each_value(void *arg, uint64_t first, struct ast_str value);

/* Ids that say where their row is: 60 random bits, and 62 that hide the number behind them. */
void audit_id_make(const struct ast_uuid *session, struct ast_uuid *ret, uint64_t *ret_mask);
void audit_id_seal(uint64_t mask, uint64_t seq, uint8_t id[static 16]);
uint64_t audit_id_seq(const struct ast_uuid *session, const struct ast_uuid *id);

bool audit_block_is(struct ast_str value);
bool audit_block_is_of(struct ast_str value, const uint8_t key[static AST_KEY_PUBLIC_BYTES]);
void audit_block_begin(struct ast_buf *block, const uint8_t key[static AST_KEY_PUBLIC_BYTES]);
/* Every row of one value of the log, whose key carries `first`; false when `each` ended it. Damage is given as a row that
 * cannot be read. */
bool audit_value_each(struct ast_str value, uint64_t first, bool backwards, audit_each_stored *each,
                      void *arg);
enum ast_rc audit_stored_read(const struct audit_stored *s, struct ast_audit_entry *ret,
                              struct ast_err *err);
/* Appends the row's JSON text. */
enum ast_rc audit_stored_text(const struct audit_stored *s, struct ast_buf *out,
                              struct ast_err *err);

void audit_list_begin(struct ast_buf *block, uint64_t first);
void audit_list_add(struct ast_buf *block, uint64_t seq);
bool audit_list_last(struct ast_str value, uint64_t *ret); /* false: no block */
/* The numbers of one value, ascending; how many. */
size_t audit_list_read(struct ast_str value, uint64_t first,
                       uint64_t out[static AUDIT_LIST_NUMBERS]);

/* Numbers in [lo, hi), lo >= 1, in one snapshot. */
struct audit_range {
    uint64_t lo, hi;
    bool oldest_first;
    struct ast_str ns;              /* audit_rows() sets these two itself */
    const struct audit_key *prefix; /* borrowed */
};
/* The values that hold them; those at the borders hold others too. */
enum ast_rc audit_walk(struct ast_audit *a, const struct audit_range *r, audit_each_value *each,
                       void *arg, struct ast_err *err);
/* The rows. */
enum ast_rc audit_rows(struct ast_audit *a, const struct ast_uuid *session,
                       const struct audit_range *range, audit_each_stored *each, void *arg,
                       struct ast_err *err);

/* What an action is filed under: the method of an admin_request, else the type. Borrowed from `action`'s document. */
struct ast_str audit_method_of(const struct ast_json *action);

struct audit_row;
struct audit_lists;

/* One chain in memory. Owner: under the log's lock. */
struct audit_chain {
    struct ast_audit_head head;           /* as placed: where the next row links to */
    struct ast_audit_head durable;        /* as stored */
    unsigned waiting;                     /* rows with a place that are not done */
    const struct audit_row *last_applied; /* owner: the store's writer, inside one batch */
    struct audit_lists *lists;            /* owner: the writer while a row waits; batch.c */
    struct ast_principal principal;
};

/* A row on its way. Owner: the appender until it is signed, then whoever has it in its list. */
struct audit_row {
    struct audit_row *next;
    struct audit_chain *chain;
    uint64_t seq, count, life, id_mask;
    struct ast_uuid id;
    struct ast_principal principal;
    int64_t time_ns;
    uint8_t previous[AST_BLAKE3_BYTES], hash[AST_BLAKE3_BYTES];
    bool is_signed, opens_era, has_intent;
    /* record's head, what is signed, the outcome, the method's name */
    struct ast_buf bytes;
    size_t signed_n, outcome_n, method_n, seal_at;
    struct ast_uuid intent;
    ast_audit_done_fn *done;
    void *arg;
};
void audit_row_free(struct audit_row *r);
AST_DEFINE_AUTO(struct audit_row, audit_row_free)
static inline struct ast_str audit_row_signed(const struct audit_row *r)
{
    return ast_str_n(r->bytes.p + AUDIT_RECORD_HEAD, r->signed_n);
}
static inline struct ast_str audit_row_outcome(const struct audit_row *r)
{
    return ast_str_n(r->bytes.p + AUDIT_RECORD_HEAD + r->signed_n, r->outcome_n);
}
static inline struct ast_str audit_row_method(const struct audit_row *r)
{
    return ast_str_n(r->bytes.p + AUDIT_RECORD_HEAD + r->signed_n + r->outcome_n, r->method_n);
}

/* batch.c: what the store's writer does with a batch. */
enum ast_rc audit_batch_apply(struct ast_store_op *op, struct ast_store_txn *txn,
                              struct ast_err *err);
/* The writer's notes are ahead of the store: a batch failed. Also at the end. */
void audit_batch_forget(struct ast_audit *a);
void audit_lists_free(struct audit_lists *l);

/* intent.c, for it and append.c: the compact texts of form 1 that a row is made of. */
struct audit_parts {
    struct ast_str principal, action, authorization, outcome_text;
    bool is_failure;
};
void audit_append_parts(struct ast_audit *a, const struct audit_parts *p,
                        const struct ast_uuid *intent, ast_audit_done_fn *done, void *arg);
enum ast_rc audit_append_parts_wait(struct ast_audit *a, const struct audit_parts *p,
                                    const struct ast_uuid *intent, struct ast_err *err);

/* Owner: any thread; what changes is under `lock`. */
struct ast_audit {
    struct ast_store *store;
    const struct ast_key *key;
    struct ast_uuid session;
    uint8_t mac_key[32]; /* for cursors; immutable */

    struct ast_lock lock;
    pthread_cond_t idle;                        /* signalled when a batch is done */
    struct ast_map chains AST_GUARDED_BY(lock); /* principal -> struct audit_chain, owned */
    uint64_t evictions AST_GUARDED_BY(lock); /* a chain read from the store before one may be old */
    uint64_t next_seq AST_GUARDED_BY(lock);
    int64_t last_ns AST_GUARDED_BY(lock); /* time of the last row placed */
    uint64_t life AST_GUARDED_BY(lock);   /* grows when a batch fails: older places are void */
    struct audit_row *first AST_GUARDED_BY(lock), **last AST_GUARDED_BY(lock);
    bool in_flight AST_GUARDED_BY(lock);  /* `op` is with the store */
    unsigned busy AST_GUARDED_BY(lock);   /* callbacks of finished batches that still run */
    bool is_era_due AST_GUARDED_BY(lock); /* the row that should open an era was lost */
    /* of rows with a place that are not done */
    size_t waiting_rows AST_GUARDED_BY(lock), waiting_bytes AST_GUARDED_BY(lock);

    struct ast_store_op op;               /* owner: whoever set in_flight, then the writer */
    struct audit_row *batch;              /* its rows, in order */
    struct ast_buf block;                 /* owner: the writer; scratch */
    struct ast_map lists;                 /* owner: the writer; key of a list -> its last block */
    uint64_t lists_life;                  /* owner: the writer; grows when `lists` is emptied */
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

/* anchor.c: signed files that name ends of chains. A missing file gives none. */
enum audit_ends { AUDIT_ANCHORS, AUDIT_CHECKPOINT };
typedef enum ast_rc audit_fill_ends(void *arg, struct ast_buf *out, struct ast_err *err);
enum ast_rc audit_ends_write(struct ast_audit *a, const char *path, enum audit_ends kind,
                             audit_fill_ends *fill, void *arg, struct ast_err *err);
enum ast_rc audit_ends_each(struct ast_audit *a, const char *path, enum audit_ends kind,
                            bool (*each)(void *arg, struct ast_str chain,
                                         const struct ast_audit_head *head),
                            void *arg, struct ast_err *err);
