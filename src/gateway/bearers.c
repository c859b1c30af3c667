/* Bearers: the prefix, the verification, the memory of verified ones.
 *
 * The memory is a fixed table of sets with four ways. A bearer that finds its set full takes the place of the one
 * used longest ago. Only a verified bearer enters, so a client without one cannot push others out.
 */
#include "gateway/bearers_priv.h"

#include <stdlib.h>

#include "base/thread.h"
#include "gateway/gateway_limits.h"

#include "base/banned.h"

#define WAYS 4u
#define SETS (AST_GATEWAY_BEARERS / WAYS)

struct known {
    uint64_t hash;
    uint64_t used; /* clock of the table; 0: empty */
    struct ast_bearer bearer;
    uint16_t n;
    char token[AST_BEARER_MAX];
};

/* Owner: any thread, under `lock`; key and revocations are immutable. */
struct gw_bearers {
    const struct ast_key *key;
    struct gw_revocations *revocations;
    struct ast_lock lock;
    uint64_t clock AST_GUARDED_BY(lock);
    struct known *known AST_GUARDED_BY(lock); /* owned: SETS * WAYS; untouched pages cost nothing */
    atomic_uint_least64_t signature_checks;
};

enum ast_rc gw_bearers_new(const struct ast_key *key, struct gw_revocations *revocations,
                           struct gw_bearers **ret, struct ast_err *err)
{
    struct gw_bearers *b = calloc(1, sizeof *b);
    struct known *known = calloc(SETS * WAYS, sizeof *known);
    if (!b || !known) {
        free(b);
        free(known);
        return ast_fail(err, AST_E_NO_MEMORY, "bearer table");
    }
    b->key = key;
    b->revocations = revocations;
    b->known = known;
    ast_lock_init(&b->lock, AST_LOCK_cache);
    *ret = b;
    return AST_OK;
}

void gw_bearers_free(struct gw_bearers *b)
{
    if (!b)
        return;
    ast_lock_done(&b->lock);
    free(b->known);
    free(b);
}

static struct known *set_of(struct gw_bearers *b, uint64_t hash) AST_REQUIRES(b->lock)
{
    return b->known + hash % SETS * WAYS;
}

static bool recall(struct gw_bearers *b, uint64_t hash, struct ast_str token,
                   struct ast_bearer *ret)
{
    AST_WITH_LOCK(&b->lock);
    struct known *set = set_of(b, hash);
    for (unsigned i = 0; i < WAYS; i++) {
        if (!set[i].used || set[i].hash != hash ||
            !ast_str_eq(ast_str_n(set[i].token, set[i].n), token))
            continue;
        set[i].used = ++b->clock;
        *ret = set[i].bearer;
        return true;
    }
    return false;
}

static void remember(struct gw_bearers *b, uint64_t hash, struct ast_str token,
                     const struct ast_bearer *bearer)
{
    AST_WITH_LOCK(&b->lock);
    struct known *set = set_of(b, hash), *victim = set;
    for (unsigned i = 1; i < WAYS; i++)
        if (set[i].used < victim->used)
            victim = &set[i];
    victim->hash = hash;
    victim->used = ++b->clock;
    victim->bearer = *bearer;
    victim->n = (uint16_t)token.n;
    memcpy(victim->token, token.p, token.n);
}

bool gw_bearers_check(struct gw_bearers *b, struct ast_str authorization, uint64_t now_secs,
                      struct ast_bearer *ret)
{
    if (!ast_str_starts(authorization, AST_STR("Bearer ")))
        return false;
    struct ast_str token = ast_str_from(authorization, 7);
    if (!token.n || token.n > AST_BEARER_MAX)
        return false;
    uint64_t hash = ast_str_hash(token);
    struct ast_bearer bearer;
    if (!recall(b, hash, token, &bearer)) {
        atomic_fetch_add_explicit(&b->signature_checks, 1, memory_order_relaxed);
        if (ast_bearer_verify(b->key->public_key, token, now_secs, &bearer, /* err= */ NULL))
            return false;
        remember(b, hash, token, &bearer);
    }
    if (bearer.expires_at <= now_secs ||
        gw_revocations_hit(b->revocations, ast_principal_str(&bearer.principal), bearer.issued_at))
        return false;
    *ret = bearer;
    return true;
}

uint64_t gw_bearers_signature_checks(const struct gw_bearers *b)
{
    return atomic_load_explicit(&b->signature_checks, memory_order_relaxed);
}
