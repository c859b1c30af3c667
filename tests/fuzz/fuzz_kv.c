/* Cursors and pages of the key-value view: any keys, prefixes, cursors and limits, guest and kernel writing
 * in turn. A sorted array stands beside the store: every page, every count and every value must agree,
 * and walking by the last key of each page, as the host does, meets every visible key exactly once. */
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "store/kv.h"

#include "base/banned.h"

#define MAX_KEYS  96u
#define MAX_TEXT  300u /* a little more than a key may have */
#define MAX_STEPS 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ast_store *store;
static char dir[] = "/tmp/ast-fuzz-kv-XXXXXX";

/* What the store must hold, in byte order. */
static struct pair {
    size_t key_n;
    uint8_t key[AST_KV_MAX_KEY];
    uint8_t value;
} pairs[MAX_KEYS];
static size_t pair_count;

/* --- Input --------------------------------------------------------------------------------------- */

struct input {
    const uint8_t *p;
    size_t n;
};

static uint8_t next_byte(struct input *in)
{
    if (!in->n)
        return 0;
    in->n--;
    return *in->p++;
}

/* A length byte, 255 for one that is too long, then the bytes. */
static struct ast_str next_text(struct input *in, char out[static MAX_TEXT])
{
    size_t n = next_byte(in);
    n = n == 255 ? MAX_TEXT : n % 32;
    memset(out, 'k', n);
    size_t there = AST_MIN(n, in->n);
    if (there)
        memcpy(out, in->p, there);
    in->p += there;
    in->n -= there;
    return ast_str_n(out, n);
}

/* --- The array ----------------------------------------------------------------------------------- */

static struct ast_str key_of(size_t i)
{
    return ast_str_n(pairs[i].key, pairs[i].key_n);
}

/* As memcmp, the shorter first. */
static int order(struct ast_str a, struct ast_str b)
{
    size_t n = AST_MIN(a.n, b.n);
    int c = n ? memcmp(a.p, b.p, n) : 0;
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static size_t find(struct ast_str key, bool *ret_found)
{
    size_t i = 0;
    while (i < pair_count && order(key_of(i), key) < 0)
        i++;
    *ret_found = i < pair_count && order(key_of(i), key) == 0;
    return i;
}

static void array_set(struct ast_str key, uint8_t value)
{
    bool found;
    size_t i = find(key, &found);
    if (!found) {
        memmove(&pairs[i + 1], &pairs[i], (pair_count - i) * sizeof pairs[0]);
        pair_count++;
        pairs[i].key_n = key.n;
        memcpy(pairs[i].key, key.p, key.n);
    }
    pairs[i].value = value;
}

static void array_remove(size_t i)
{
    memmove(&pairs[i], &pairs[i + 1], (pair_count - i - 1) * sizeof pairs[0]);
    pair_count--;
}

static bool is_secret(struct ast_str key)
{
    return ast_str_starts(key, AST_STR("__secret:"));
}

static bool is_visible(struct ast_str key, struct ast_str prefix, bool guest)
{
    return ast_str_starts(key, prefix) && ast_str_is_utf8(key) && !(guest && is_secret(key));
}

/* --- Changes ------------------------------------------------------------------------------------- */

struct pending {
    struct ast_kv_op kv;
    enum ast_rc rc;
    sem_t done;
};

static void on_done(struct ast_store_op *op, enum ast_rc rc, const struct ast_err *err)
{
    (void)err;
    struct pending *p = AST_CONTAINER_OF(op, struct pending, kv.op);
    p->rc = rc;
    sem_post(&p->done);
}

/* Refused at once or carried out. */
static enum ast_rc change(struct ast_kv_op op, bool guest, uint64_t *ret_count)
{
    struct pending p = { .kv = op };
    enum ast_rc rc = ast_kv_prepare(&p.kv, guest, NULL);
    if (rc)
        return rc;
    p.kv.op.done = on_done;
    sem_init(&p.done, 0, 0);
    ast_store_submit(store, &p.kv.op);
    while (sem_wait(&p.done)) {
    }
    sem_destroy(&p.done);
    *ret_count = p.kv.ret_count;
    return p.rc;
}

/* No control character, of neither half of Latin-1. */
static bool may_be_a_key(struct ast_str key)
{
    bool ok = key.n > 0 && key.n <= AST_KV_MAX_KEY;
    for (size_t i = 0; i < key.n; i++) {
        uint8_t c = (uint8_t)key.p[i], after = i + 1 < key.n ? (uint8_t)key.p[i + 1] : 0;
        ok &= c >= 0x20 && c != 0x7f && !(c == 0xc2 && after >= 0x80 && after < 0xa0);
    }
    return ok;
}

static void step_set(struct ast_str ns, struct ast_str key, uint8_t value, bool guest)
{
    uint64_t count;
    if (pair_count == MAX_KEYS)
        return;
    struct ast_kv_op op = {
        .kind = AST_KV_SET, .ns = ns, .key = key, .value = ast_str_n(&value, 1)
    };
    enum ast_rc rc = change(op, guest, &count);
    AST_ASSERT(rc == AST_OK || rc == AST_E_INVALID);
    if (rc)
        AST_ASSERT(!may_be_a_key(key) || !ast_str_is_utf8(key) || (guest && is_secret(key)));
    else
        AST_ASSERT(may_be_a_key(key) && !(guest && is_secret(key)));
    if (!rc)
        array_set(key, value);
}

static void step_delete(struct ast_str ns, struct ast_str key, bool guest)
{
    bool found;
    uint64_t count = 0;
    size_t i = find(key, &found);
    struct ast_kv_op op = { .kind = AST_KV_DELETE, .ns = ns, .key = key };
    if (change(op, guest, &count))
        return;
    AST_ASSERT(count == found && !(guest && is_secret(key)));
    if (found)
        array_remove(i);
}

static void step_clear(struct ast_str ns, struct ast_str prefix, bool guest)
{
    uint64_t count = 0, expected = 0;
    struct ast_kv_op op = { .kind = AST_KV_CLEAR, .ns = ns, .key = prefix };
    if (change(op, guest, &count))
        return;
    for (size_t i = pair_count; i-- > 0;) {
        if (!ast_str_starts(key_of(i), prefix) || (guest && is_secret(key_of(i))))
            continue;
        array_remove(i);
        expected++;
    }
    AST_ASSERT(count == expected);
}

/* --- Reads --------------------------------------------------------------------------------------- */

struct page {
    struct ast_str prefix, cursor;
    bool guest;
    size_t at; /* in the array: where the next key is looked for */
    size_t n;
    char last[AST_KV_MAX_KEY];
    size_t last_n;
};

/* The next visible key after the cursor; pair_count: none. */
static size_t expect_next(const struct page *p)
{
    size_t i = p->at;
    while (i < pair_count &&
           (order(key_of(i), p->cursor) <= 0 || !is_visible(key_of(i), p->prefix, p->guest)))
        i++;
    return i;
}

static bool on_key(void *arg, struct ast_str key)
{
    struct page *p = arg;
    size_t i = expect_next(p);
    AST_ASSERT(i < pair_count && order(key_of(i), key) == 0);
    p->at = i + 1;
    p->n++;
    memcpy(p->last, key.p, key.n);
    p->last_n = key.n;
    return true;
}

/* One page; false: refused. */
static bool read_page(struct ast_str ns, struct page *p, size_t limit, bool *ret_more)
{
    p->at = p->n = 0;
    enum ast_rc rc =
        ast_kv_list(store, ns, p->prefix, p->cursor, limit, p->guest, on_key, p, ret_more, NULL);
    if (rc) {
        AST_ASSERT(rc == AST_E_INVALID && ast_str_find_byte(p->prefix, 0) != AST_STR_NPOS);
        return false;
    }
    size_t most = limit == 0 || limit > AST_KV_MAX_LIST ? AST_KV_MAX_LIST : limit;
    bool any_left = expect_next(p) < pair_count;
    AST_ASSERT(p->n <= most && *ret_more == any_left);
    if (any_left)
        AST_ASSERT(p->n == most); /* a page is full unless it is the last */
    return true;
}

static void step_walk(struct ast_str ns, struct ast_str prefix, size_t limit, bool guest)
{
    struct page p = { .prefix = prefix, .guest = guest };
    char cursor[AST_KV_MAX_KEY];
    size_t met = 0, visible = 0;
    bool more = true;
    while (more) {
        if (!read_page(ns, &p, limit, &more))
            return;
        met += p.n;
        memcpy(cursor, p.last, p.last_n);
        p.cursor = ast_str_n(cursor, p.last_n);
    }
    for (size_t i = 0; i < pair_count; i++)
        visible += is_visible(key_of(i), prefix, guest);
    AST_ASSERT(met == visible);
}

static void step_get(struct ast_str ns, struct ast_str key, bool guest)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(16);
    bool found = false, expected;
    size_t i = find(key, &expected);
    if (ast_kv_get(store, ns, key, guest, &out, &found, NULL))
        return;
    AST_ASSERT(found == (expected && !(guest && is_secret(key))));
    if (found)
        AST_ASSERT(out.n == 1 && (uint8_t)out.p[0] == pairs[i].value);
}

/* --- Main ---------------------------------------------------------------------------------------- */

static void remove_dir(void)
{
    ast_store_close(store);
    (void)ast_fs_remove_tree(dir, NULL); /* at exit there is nobody to tell */
}

static void setup(void)
{
    struct ast_store_config cfg = { .path = dir, .no_sync = true, .max_bytes = 64u << 20 };
    AST_ASSERT(mkdtemp(dir) && !ast_store_open(&cfg, &store, NULL));
    atexit(remove_dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct ast_str ns = AST_STR("fuzz:capsule:kv"), other = AST_STR("fuzz:capsule:kw");
    if (!store)
        setup();
    struct input in = { data, size };
    char a[MAX_TEXT], b[MAX_TEXT];
    bool more;
    pair_count = 0;
    /* Neighbours of the namespace, which no listing and no clear of ours may meet. */
    AST_ASSERT(!ast_kv_set(store, other, AST_STR("other"), AST_STR("1"), NULL));
    for (unsigned step = 0; step < MAX_STEPS && in.n; step++) {
        uint8_t what = next_byte(&in);
        bool guest = what & 0x80;
        struct ast_str text = next_text(&in, a);
        switch (what % 8) {
        case 0:
        case 1:
        case 2: step_set(ns, text, next_byte(&in), guest); break;
        case 3: step_delete(ns, text, guest); break;
        case 4: step_clear(ns, text, guest); break;
        case 5: step_get(ns, text, guest); break;
        case 6: {
            struct page p = { .prefix = text, .cursor = next_text(&in, b), .guest = guest };
            (void)read_page(ns, &p, next_byte(&in), &more);
            break;
        }
        default: step_walk(ns, text, next_byte(&in) % 8, guest); break;
        }
    }
    step_walk(ns, AST_STR_NONE, 3, /* guest= */ false);
    step_clear(ns, AST_STR_NONE, /* guest= */ false);
    AST_ASSERT(pair_count == 0);
    AST_AUTO(ast_buf_done) struct ast_buf left = AST_BUF_INIT(16);
    bool found = false;
    AST_ASSERT(!ast_kv_get(store, other, AST_STR("other"), true, &left, &found, NULL) && found);
    return 0;
}
