/* Physical keys: namespace, 0x00, key.
 *
 * Invariant: a namespace has no NUL, so the first NUL of a physical key ends it and the keys of one
 * namespace are the range [ns 00, ns 01) (spec 05 §8.2). The texts are those of spec 09 §20.1.
 */
#include "store/store_priv.h"

#include "base/banned.h"

_Static_assert(AST_STORE_MAX_NS + 1 + 256 <= AST_STORE_MAX_PHYSICAL, "the longest kv key must fit");

enum ast_rc store_ns_check(struct ast_str ns, struct ast_err *err)
{
    if (ns.n == 0)
        return ast_fail(err, AST_E_INVALID, "invalid key: namespace must not be empty");
    if (ns.n > AST_STORE_MAX_NS)
        return ast_fail(err, AST_E_INVALID,
                        "invalid key: namespace must not be longer than %u bytes",
                        AST_STORE_MAX_NS);
    if (memchr(ns.p, 0, ns.n))
        return ast_fail(err, AST_E_INVALID, "invalid key: namespace must not contain null bytes");
    return AST_OK;
}

static void build(struct ast_str ns, struct ast_str key, struct store_key *ret)
{
    memcpy(ret->b, ns.p, ns.n);
    ret->b[ns.n] = 0;
    if (key.n)
        memcpy(ret->b + ns.n + 1, key.p, key.n);
    ret->n = ns.n + 1 + key.n;
}

enum ast_rc store_key_make(struct ast_str ns, struct ast_str key, struct store_key *ret,
                           struct ast_err *err)
{
    enum ast_rc rc = store_ns_check(ns, err);
    if (rc)
        return rc;
    if (key.n == 0)
        return ast_fail(err, AST_E_INVALID, "invalid key: key must not be empty");
    if (key.n > AST_STORE_MAX_PHYSICAL - 1 - ns.n)
        return ast_fail(err, AST_E_INVALID,
                        "invalid key: namespace and key must not be longer than %u bytes together",
                        AST_STORE_MAX_PHYSICAL - 1);
    if (memchr(key.p, 0, key.n))
        return ast_fail(err, AST_E_INVALID, "invalid key: key must not contain null bytes");
    build(ns, key, ret);
    return AST_OK;
}

enum ast_rc store_prefix_make(struct ast_str ns, struct ast_str prefix, struct store_key *ret,
                              struct ast_err *err)
{
    enum ast_rc rc = store_ns_check(ns, err);
    if (rc)
        return rc;
    if (prefix.n && memchr(prefix.p, 0, prefix.n))
        return ast_fail(err, AST_E_INVALID, "invalid key: prefix must not contain null bytes");
    if (prefix.n > AST_STORE_MAX_PHYSICAL - 1 - ns.n)
        return ast_fail(
            err, AST_E_INVALID,
            "invalid key: namespace and prefix must not be longer than %u bytes together",
            AST_STORE_MAX_PHYSICAL - 1);
    build(ns, prefix, ret);
    return AST_OK;
}

bool store_key_find(struct ast_str ns, struct ast_str key, struct store_key *ret)
{
    if (store_ns_check(ns, NULL) || key.n == 0 || key.n > AST_STORE_MAX_PHYSICAL - 1 - ns.n ||
        memchr(key.p, 0, key.n))
        return false;
    build(ns, key, ret);
    return true;
}
