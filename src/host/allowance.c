/* The store of allowances: in memory by principal, the lasting ones also in the database.
 *
 * Invariants: an allowance in memory that is not of a session is durable; a session allowance never survives
 * the end of the session it was given in, even when both happen at once (see struct host_asking).
 * differs: lasting allowances exist at all, signed as a whole by the runtime key (spec 05 §12.2, 09 §8).
 */
#include "host/allowance.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/json.h"
#include "base/time.h"
#include "base/vec.h"
#include "host/host_priv.h"
#include "policy/command.h"

#include "base/banned.h"

#define RECORD_MAX    16384u /* bytes of one record's JSON */
#define KEY_MAX       (AST_PRINCIPAL_MAX + 1 + AST_UUID_TEXT)
#define SIGNATURE_HEX (2 * AST_KEY_SIGNATURE_BYTES)
#define NEVER         INT64_MAX

/* Immutable but for `uses_left`, which is under the store's lock. `pattern` and `workspace` lie behind it. */
struct allowance {
    struct ast_uuid id;
    struct ast_principal who;
    int64_t created_ns; /* wall clock */
    int64_t expires_ns; /* wall clock; NEVER */
    bool session_only;
    bool is_limited; /* by number: max_uses and uses_left count */
    uint32_t max_uses, uses_left;
    struct ast_str pattern;
    struct ast_str workspace; /* empty: any */
    char texts[];
};

struct person {
    AST_VEC(struct allowance *) v; /* owned */
};

/* Owner: any thread, under `lock`. */
struct ast_allowances {
    struct ast_store *store;
    const struct ast_key *key;
    struct ast_lock lock;
    uint64_t forgets AST_GUARDED_BY(lock);       /* principals deleted since boot */
    struct ast_map people AST_GUARDED_BY(lock);  /* principal -> struct person, owned */
    struct ast_list asking AST_GUARDED_BY(lock); /* struct host_asking */
};

static struct allowance *allowance_new(const struct ast_principal *who, struct ast_str pattern,
                                       struct ast_str workspace, bool session_only)
{
    struct allowance *w = malloc(sizeof *w + pattern.n + workspace.n);
    if (!w)
        return NULL;
    *w = (struct allowance){
        .id = ast_uuid_v4(),
        .who = *who,
        .created_ns = ast_wall_ns(),
        .expires_ns = NEVER,
        .session_only = session_only,
        .pattern = ast_str_n(w->texts, pattern.n),
        .workspace = ast_str_n(w->texts + pattern.n, workspace.n),
    };
    memcpy(w->texts, pattern.p, pattern.n);
    if (workspace.n)
        memcpy(w->texts + pattern.n, workspace.p, workspace.n);
    return w;
}

static void allowance_free(struct allowance *w)
{
    free(w);
}
AST_DEFINE_AUTO(struct allowance, allowance_free)

/* --- In memory ----------------------------------------------------------------------------------- */

static bool covers(const struct allowance *w, struct ast_str workspace, struct ast_str command)
{
    return (!w->workspace.n || ast_str_eq(w->workspace, workspace)) &&
           ast_command_match(w->pattern, command);
}

static bool is_valid(const struct allowance *w, int64_t now_ns)
{
    return w->expires_ns >= now_ns && (!w->is_limited || w->uses_left > 0);
}

/* Those that end by number are never the same: each has its own uses. */
static bool is_same(const struct allowance *a, const struct allowance *b)
{
    return a->session_only == b->session_only && a->expires_ns == b->expires_ns && !a->is_limited &&
           !b->is_limited && ast_str_eq(a->pattern, b->pattern) &&
           ast_str_eq(a->workspace, b->workspace);
}

static struct person *person_get(struct ast_allowances *a, struct ast_str principal)
    AST_REQUIRES(a->lock)
{
    struct person *p = ast_map_get(&a->people, principal);
    if (p)
        return p;
    p = calloc(1, sizeof *p);
    if (p && !ast_map_set(&a->people, principal, p, NULL)) {
        free(p);
        return NULL;
    }
    return p;
}

/* The first n allowances stay; a person without any goes. `p` may be NULL. */
static void person_keep(struct ast_allowances *a, struct ast_str principal, struct person *p,
                        size_t n) AST_REQUIRES(a->lock)
{
    if (!p)
        return;
    p->v.n = n;
    if (n)
        return;
    ast_map_remove(&a->people, principal);
    ast_vec_done(&p->v);
    free(p);
}

/* Takes the allowance. OK: the principal has it now, or had the same before. CLOSED: its session has ended. */
static enum ast_rc put(struct ast_allowances *a, struct allowance *w,
                       const struct host_asking *asking)
{
    AST_AUTO(allowance_free) struct allowance *own = w;
    AST_WITH_LOCK(&a->lock);
    if (asking && (w->session_only ? asking->has_ended : asking->forgets != a->forgets))
        return AST_E_CLOSED;
    struct person *p = person_get(a, ast_principal_str(&w->who));
    if (!p)
        return AST_E_NO_MEMORY;
    ast_vec_each (&p->v, it)
        if (is_same(*it, w))
            return AST_OK;
    if (p->v.n >= AST_ALLOWANCES_OF_ONE)
        return AST_E_NO_CAPACITY;
    if (!ast_vec_push(&p->v, w))
        return AST_E_NO_MEMORY;
    (void)ast_steal(&own);
    return AST_OK;
}

size_t ast_allowances_count(struct ast_allowances *a, struct ast_str principal, size_t *ret_lasting)
{
    AST_WITH_LOCK(&a->lock);
    const struct person *p = ast_map_get(&a->people, principal);
    size_t lasting = 0;
    for (size_t i = 0; p && i < p->v.n; i++)
        lasting += !p->v.v[i]->session_only;
    if (ret_lasting)
        *ret_lasting = lasting;
    return p ? p->v.n : 0;
}

void host_asking_begin(struct ast_allowances *a, const struct ast_principal *who,
                       struct host_asking *ret)
{
    ret->who = *who;
    ret->has_ended = false;
    ret->forgets = 0;
    ast_list_init(&ret->node);
    if (!a)
        return;
    AST_WITH_LOCK(&a->lock);
    ret->forgets = a->forgets;
    ast_list_push_back(&a->asking, &ret->node);
}

void host_asking_end(struct ast_allowances *a, struct host_asking *asking)
{
    if (!a)
        return;
    AST_WITH_LOCK(&a->lock);
    ast_list_remove(&asking->node);
}

/* Drops the principal's session allowances, or all; what is being asked for it leaves none of the kind (a lasting one
 * is caught by `forgets`). */
static void drop(struct ast_allowances *a, struct ast_str principal, bool also_lasting)
{
    AST_WITH_LOCK(&a->lock);
    a->forgets += also_lasting;
    ast_list_each (&a->asking, node) {
        struct host_asking *asking = AST_CONTAINER_OF(node, struct host_asking, node);
        if (ast_str_eq(ast_principal_str(&asking->who), principal))
            asking->has_ended = true;
    }
    struct person *p = ast_map_get(&a->people, principal);
    size_t kept = 0;
    for (size_t i = 0; p && i < p->v.n; i++) {
        if (also_lasting || p->v.v[i]->session_only)
            allowance_free(p->v.v[i]);
        else
            p->v.v[kept++] = p->v.v[i];
    }
    person_keep(a, principal, p, kept);
}

void ast_allowances_end_session(struct ast_allowances *a, struct ast_str principal)
{
    if (a)
        drop(a, principal, /* also_lasting= */ false);
}

/* --- On disk ------------------------------------------------------------------------------------- */

static struct ast_str record_key(const struct allowance *w, char out[static KEY_MAX])
{
    char id[AST_UUID_TEXT];
    int n = snprintf(out, KEY_MAX, "%s/%s", w->who.name, ast_uuid_format(&w->id, id).p);
    return ast_str_n(out, (size_t)n);
}

/* The object of spec 09 §8.1. With an empty signature: the text that is signed. */
static enum ast_rc write_record(const struct allowance *w, struct ast_str signature,
                                struct ast_buf *out)
{
    char id[AST_UUID_TEXT], when[AST_RFC3339_BYTES];
    struct ast_jw j = AST_JW_INIT(out);

    ast_jw_object(&j);
    ast_jw_kv_string(&j, "id", ast_uuid_format(&w->id, id));
    ast_jw_kv_string(&j, "principal", ast_principal_str(&w->who));
    ast_jw_key(&j, AST_STR("action_pattern"));
    ast_jw_object(&j);
    ast_jw_kv_string(&j, "type", AST_STR("command_pattern"));
    ast_jw_kv_string(&j, "command", w->pattern);
    ast_jw_end(&j);
    ast_jw_kv_string(&j, "created_at", ast_time_format(w->created_ns, AST_TIME_Z, when));
    if (w->expires_ns == NEVER)
        ast_jw_kv_null(&j, "expires_at");
    else
        ast_jw_kv_string(&j, "expires_at", ast_time_format(w->expires_ns, AST_TIME_Z, when));
    if (w->is_limited) {
        ast_jw_kv_u64(&j, "max_uses", w->max_uses);
        ast_jw_kv_u64(&j, "uses_remaining", w->uses_left);
    } else {
        ast_jw_kv_null(&j, "max_uses");
        ast_jw_kv_null(&j, "uses_remaining");
    }
    ast_jw_kv_bool(&j, "session_only", w->session_only);
    if (w->workspace.n)
        ast_jw_kv_string(&j, "workspace_root", w->workspace);
    else
        ast_jw_kv_null(&j, "workspace_root");
    if (signature.n)
        ast_jw_kv_string(&j, "signature", signature);
    ast_jw_end(&j);
    return out->fail;
}

static enum ast_rc sign_record(const struct ast_key *key, const struct allowance *w,
                               struct ast_buf *out, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(RECORD_MAX);
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];
    char hex[SIGNATURE_HEX + 1];

    if (write_record(w, AST_STR_NONE, &text))
        return ast_buf_check(&text, "allowance", err);
    ast_key_sign(key, ast_buf_view(&text), signature);
    ast_hex_encode(signature, sizeof signature, hex);
    (void)write_record(w, ast_str_n(hex, SIGNATURE_HEX), out); /* asked about on the next line */
    return ast_buf_check(out, "allowance", err);
}

/* False: something else than null or a number that fits. *ret stays as it was for null. */
static bool read_uses(const struct ast_json *root, struct ast_str key, bool *ret_is_set,
                      uint32_t *ret)
{
    const struct ast_json *v = ast_json_get(root, key);
    uint64_t n;

    *ret_is_set = ast_json_type(v) != AST_JSON_NULL;
    if (!*ret_is_set)
        return true;
    if (!ast_json_u64(v, &n) || n > UINT32_MAX)
        return false;
    *ret = (uint32_t)n;
    return true;
}

static bool read_limits(const struct ast_json *root, struct allowance *w)
{
    const struct ast_json *expires = ast_json_get(root, AST_STR("expires_at"));
    struct ast_str text;
    bool has_max, has_left;

    if (ast_json_type(expires) != AST_JSON_NULL &&
        (ast_json_type(expires) != AST_JSON_STRING || !ast_json_string(expires, &text) ||
         !ast_time_parse(text, &w->expires_ns)))
        return false;
    if (!read_uses(root, AST_STR("max_uses"), &has_max, &w->max_uses) ||
        !read_uses(root, AST_STR("uses_remaining"), &has_left, &w->uses_left) ||
        has_max != has_left)
        return false;
    w->is_limited = has_max;
    return true;
}

/* The allowance of a record; NULL when it lacks something. */
static struct allowance *read_record(const struct ast_json *root)
{
    const struct ast_json *pattern = ast_json_member(root, "action_pattern");
    struct ast_str command = ast_json_str_or(pattern, AST_STR("command"), AST_STR_NONE);
    struct ast_str workspace = ast_json_str_or(root, AST_STR("workspace_root"), AST_STR_NONE);
    struct ast_principal who;
    struct ast_uuid id;
    int64_t created;

    if (!command.n ||
        ast_principal_parse(ast_json_str_or(root, AST_STR("principal"), AST_STR_NONE), &who,
                            /* err= */ NULL) ||
        !ast_uuid_parse(ast_json_str_or(root, AST_STR("id"), AST_STR_NONE), &id) ||
        !ast_time_parse(ast_json_str_or(root, AST_STR("created_at"), AST_STR_NONE), &created))
        return NULL;
    AST_AUTO(allowance_free)
    struct allowance *w = allowance_new(&who, command, workspace, /* session_only= */ false);
    if (!w || !read_limits(root, w))
        return NULL;
    w->id = id;
    w->created_ns = created;
    return ast_steal(&w);
}

/* Signed by the key, and byte for byte what we would write: nothing in it goes unread. */
static bool is_ours(const struct ast_key *key, const struct allowance *w, struct ast_str hex,
                    struct ast_str value)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(RECORD_MAX);
    AST_AUTO(ast_buf_done) struct ast_buf whole = AST_BUF_INIT(RECORD_MAX);
    uint8_t signature[AST_KEY_SIGNATURE_BYTES];

    return ast_hex_decode(hex, signature, sizeof signature) &&
           !write_record(w, AST_STR_NONE, &text) && !write_record(w, hex, &whole) &&
           ast_str_eq(ast_buf_view(&whole), value) &&
           ast_key_verify(key->public_key, ast_buf_view(&text), signature);
}

struct load {
    struct ast_allowances *a;
    int64_t now_ns;
    size_t seen, refused;
};

static bool load_one(void *arg, struct ast_str key, struct ast_str value)
{
    struct load *l = arg;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    AST_AUTO(allowance_free) struct allowance *w = NULL;
    char own_key[KEY_MAX];

    if (value.n <= RECORD_MAX && !ast_json_parse(value, &doc, /* err= */ NULL))
        w = read_record(ast_json_root(doc));
    struct ast_str hex =
        ast_json_str_or(doc ? ast_json_root(doc) : NULL, AST_STR("signature"), AST_STR_NONE);
    if (!w || !ast_str_eq(record_key(w, own_key), key) || !is_ours(l->a->key, w, hex, value))
        l->refused++;
    else if (is_valid(w, l->now_ns) && put(l->a, ast_steal(&w), /* asking= */ NULL))
        l->refused++;
    return ++l->seen < AST_ALLOWANCES_RECORDS;
}

enum ast_rc ast_allowances_new(struct ast_store *store, const struct ast_key *key,
                               struct ast_allowances **ret, struct ast_err *err)
{
    AST_AUTO(ast_allowances_free) struct ast_allowances *a = calloc(1, sizeof *a);
    if (!a)
        return ast_fail(err, AST_E_NO_MEMORY, "allowances");
    a->store = store;
    a->key = key;
    ast_lock_init(&a->lock, AST_LOCK_cache);
    ast_list_init(&a->asking);
    struct load l = { .a = a, .now_ns = ast_wall_ns() };
    enum ast_rc rc =
        ast_store_scan(store, AST_ALLOWANCES_NS, AST_STR_NONE, AST_STR_NONE, load_one, &l, err);
    if (rc)
        return ast_wrap(err, rc, "allowances");
    if (l.refused)
        ast_log_fields(AST_LOG_WARN, HOST_LOG, "ignoring allowances that cannot be trusted",
                       AST_F_SECURITY, AST_F_U64("count", l.refused));
    *ret = ast_steal(&a);
    return AST_OK;
}

void ast_allowances_free(struct ast_allowances *a)
{
    if (!a)
        return;
    AST_ASSERT(ast_list_empty(&a->asking));
    size_t pos = 0;
    void *value;
    while (ast_map_next(&a->people, &pos, NULL, &value)) {
        struct person *p = value;
        ast_vec_each (&p->v, it)
            allowance_free(*it);
        ast_vec_done(&p->v);
        free(p);
    }
    ast_map_done(&a->people);
    ast_lock_done(&a->lock);
    free(a);
}

/* --- Adding -------------------------------------------------------------------------------------- */

/* A record on its way to the disk, or one whose use was spent. Owner: the fiber and the writer, two references. */
struct save {
    struct ast_store_op op;
    struct ast_allowances *a;
    uint64_t forgets; /* when the question was asked */
    struct ast_principal who;
    struct ast_uuid id;
    struct ast_call *call; /* reference */
    atomic_uint refs;
    atomic_bool is_done; /* written last by the writer: rc and err are final then */
    enum ast_rc rc;
    struct ast_err err;
    struct ast_buf value;
    struct ast_str key;
    char key_text[KEY_MAX];
};

static void save_unref(struct save *s)
{
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    ast_call_unref(s->call);
    ast_buf_done(&s->value);
    free(s);
}
AST_DEFINE_AUTO(struct save, save_unref)

static enum ast_rc save_apply(struct ast_store_op *op, struct ast_store_txn *txn,
                              struct ast_err *err)
{
    struct save *s = AST_CONTAINER_OF(op, struct save, op);
    {
        /* A clearing comes after us, or we come after it and see its count: no record of a deleted principal stays.
         * Another principal's deletion in that minute costs a plain approval. */
        AST_WITH_LOCK(&s->a->lock);
        if (s->forgets != s->a->forgets)
            return ast_fail(err, AST_E_CLOSED, "a principal was deleted meanwhile");
    }
    return ast_store_txn_put(txn, AST_ALLOWANCES_NS, s->key, ast_buf_view(&s->value), err);
}

/* On the writer thread. */
static void save_done(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err)
{
    struct save *s = AST_CONTAINER_OF(op, struct save, op);
    s->rc = rc;
    if (rc && err)
        s->err = *err;
    atomic_store_explicit(&s->is_done, true, memory_order_release);
    ast_call_wake(s->call);
    save_unref(s);
}

static struct save *save_new(struct ast_abi *abi, struct ast_allowances *a,
                             const struct allowance *w)
{
    struct save *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->call = ast_call_ref(ast_abi_call(abi));
    atomic_init(&s->refs, 1);
    s->a = a;
    s->who = w->who;
    s->id = w->id;
    s->value = (struct ast_buf)AST_BUF_INIT(RECORD_MAX);
    s->key = record_key(w, s->key_text);
    s->op.done = save_done;
    return s;
}

/* Parks until it is durable. A cancelled call leaves it to the writer. */
static enum ast_rc save_run(struct ast_abi *abi, struct ast_allowances *a, struct save *s,
                            struct ast_err *err)
{
    atomic_store_explicit(&s->refs, 2, memory_order_relaxed); /* the submit publishes it */
    ast_store_submit(a->store, &s->op);
    while (!atomic_load_explicit(&s->is_done, memory_order_acquire))
        if (ast_call_park(abi, AST_NO_DEADLINE) == AST_E_CANCELLED)
            return ast_fail(err, AST_E_CANCELLED, "%s", ast_rc_text(AST_E_CANCELLED));
    if (s->rc && err)
        *err = s->err;
    return s->rc;
}

static enum ast_rc save(struct ast_abi *abi, struct ast_allowances *a, const struct allowance *w,
                        uint64_t forgets, struct ast_err *err)
{
    AST_AUTO(save_unref) struct save *s = save_new(abi, a, w);
    if (!s)
        return ast_fail(err, AST_E_NO_MEMORY, "allowance");
    s->forgets = forgets;
    enum ast_rc rc = sign_record(a->key, w, &s->value, err);
    if (rc)
        return rc;
    s->op.apply = save_apply;
    return save_run(abi, a, s, err);
}

/* --- Using --------------------------------------------------------------------------------------- */

/* Writes what is left in memory now, not when the use was spent: uses that are spent side by side may arrive in any
 * order, and the record only ever loses. */
static enum ast_rc spend_apply(struct ast_store_op *op, struct ast_store_txn *txn,
                               struct ast_err *err)
{
    struct save *s = AST_CONTAINER_OF(op, struct save, op);
    enum ast_rc rc = AST_OK;
    bool is_left = false;

    ast_buf_reset(&s->value);
    {
        AST_WITH_LOCK(&s->a->lock);
        const struct person *p = ast_map_get(&s->a->people, ast_principal_str(&s->who));
        for (size_t i = 0; p && !is_left && i < p->v.n; i++) {
            is_left = ast_uuid_eq(&p->v.v[i]->id, &s->id);
            if (is_left)
                rc = sign_record(s->a->key, p->v.v[i], &s->value, err);
        }
    }
    if (rc)
        return rc;
    return is_left ? ast_store_txn_put(txn, AST_ALLOWANCES_NS, s->key, ast_buf_view(&s->value), err)
                   : ast_store_txn_delete(txn, AST_ALLOWANCES_NS, s->key, NULL, err);
}

/* Spends a use; the allowance goes with the last one. *ret_spent: what has to be written. */
static bool spend(struct ast_abi *abi, struct ast_allowances *a, struct person *p, size_t at,
                  struct save **ret_spent) AST_REQUIRES(a->lock)
{
    struct allowance *w = p->v.v[at];
    if (!w->session_only && !(*ret_spent = save_new(abi, a, w)))
        return false;
    if (--w->uses_left == 0) {
        struct ast_principal who = w->who;
        ast_vec_remove_swap(&p->v, at);
        allowance_free(w);
        person_keep(a, ast_principal_str(&who), p, p->v.n);
    }
    return true;
}

/* The principal's allowances without those whose time is over; NULL: none. */
static struct person *person_now(struct ast_allowances *a, struct ast_str principal)
    AST_REQUIRES(a->lock)
{
    struct person *p = ast_map_get(&a->people, principal);
    int64_t now_ns = ast_wall_ns();
    size_t kept = 0;

    for (size_t i = 0; p && i < p->v.n; i++) {
        if (is_valid(p->v.v[i], now_ns))
            p->v.v[kept++] = p->v.v[i];
        else
            allowance_free(p->v.v[i]);
    }
    person_keep(a, principal, p, kept);
    return kept ? p : NULL;
}

/* One that does not wear out if there is one, else one that does. */
static bool find(struct ast_abi *abi, struct ast_allowances *a, struct ast_str principal,
                 struct ast_str workspace, struct ast_str command, struct save **ret_spent)
    AST_REQUIRES(a->lock)
{
    struct person *p = person_now(a, principal);
    size_t limited = SIZE_MAX;

    for (size_t i = 0; p && i < p->v.n; i++) {
        const struct allowance *w = p->v.v[i];
        if (!covers(w, workspace, command))
            continue;
        if (!w->is_limited)
            return true;
        limited = i;
    }
    return limited != SIZE_MAX && spend(abi, a, p, limited, ret_spent);
}

bool host_allowance_covers(struct ast_abi *abi, struct ast_allowances *a, struct ast_str principal,
                           struct ast_str workspace, struct ast_str command)
{
    AST_AUTO(save_unref) struct save *spent = NULL;
    struct ast_err err = AST_ERR_INIT;
    bool is_covered;

    if (!a)
        return false;
    ast_lock(&a->lock);
    is_covered = find(abi, a, principal, workspace, command, &spent);
    ast_unlock(&a->lock);
    if (!spent)
        return is_covered;
    spent->op.apply = spend_apply;
    if (save_run(abi, a, spent, &err) == AST_OK)
        return is_covered;
    ast_log_fields(AST_LOG_WARN, HOST_LOG, "use of an allowance not recorded, asking instead",
                   AST_F_SECURITY, AST_F_STR("principal", principal), AST_F_CSTR("error", err.msg));
    return false;
}

/* Clears the principal's records. */
struct forget {
    struct ast_store_op op;
    struct ast_str prefix; /* "<principal>/" */
};

static enum ast_rc forget_apply(struct ast_store_op *op, struct ast_store_txn *txn,
                                struct ast_err *err)
{
    const struct forget *f = AST_CONTAINER_OF(op, struct forget, op);
    uint64_t count;
    return ast_store_txn_clear(txn, AST_ALLOWANCES_NS, f->prefix, /* spare= */ AST_STR_NONE, &count,
                               err);
}

enum ast_rc ast_allowances_forget(struct ast_allowances *a, struct ast_str principal,
                                  struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf prefix = AST_BUF_INIT(KEY_MAX);
    ast_buf_add(&prefix, principal);
    ast_buf_add_byte(&prefix, '/');
    enum ast_rc rc = ast_buf_check(&prefix, "allowances", err);
    if (rc)
        return rc;
    struct forget f = { .op = { .apply = forget_apply }, .prefix = ast_buf_view(&prefix) };
    /* The count first: a record on its way is written before the clearing, or refused. */
    drop(a, principal, /* also_lasting= */ true);
    return ast_store_run(a->store, &f.op, err);
}

enum ast_rc host_allowance_add(struct ast_abi *abi, struct ast_allowances *a,
                               const struct host_asking *asking, struct ast_str workspace,
                               struct ast_str action, bool session_only, struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf pattern = AST_BUF_INIT(AST_COMMAND_MAX_PATTERN);
    AST_AUTO(allowance_free) struct allowance *w = NULL;

    enum ast_rc rc = ast_command_pattern(action, &pattern);
    if (rc)
        return ast_buf_check(&pattern, "allowance", err);
    w = allowance_new(&asking->who, ast_buf_view(&pattern), workspace, session_only);
    if (!w)
        return ast_fail(err, AST_E_NO_MEMORY, "allowance");
    if (!session_only && (rc = save(abi, a, w, asking->forgets, err)))
        return rc;
    rc = put(a, ast_steal(&w), asking);
    if (rc == AST_E_CLOSED)
        return ast_fail(err, rc, "the session has ended, or the principal is gone");
    return rc ? ast_fail(err, rc, "allowance: %s", ast_rc_text(rc)) : AST_OK;
}
