/* What a capsule did with a right of its own, for whoever keeps a record (spec 05 §13, §14): the call, a hash of its
 * arguments, how it ended. The arguments themselves stay out: they name people.
 */
#include "crypto/hash.h"
#include "host/host_priv.h"

#include "base/banned.h"

#define ARGS_MAX (64u * 1024)

void host_deed_begin(struct host_deed *d, const char *fn, const struct ast_host_pair *args,
                     size_t count)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(ARGS_MAX);
    struct ast_jw w = AST_JW_INIT(&text);

    d->fn = fn;
    ast_jw_object(&w);
    for (size_t i = 0; i < count; i++) {
        AST_ASSERT(!i || ast_str_cmp(args[i - 1].key, args[i].key) < 0); /* spec 09 §12.2: sorted */
        ast_jw_key(&w, args[i].key);
        ast_jw_string(&w, args[i].value);
    }
    ast_jw_end(&w);
    /* What does not fit, or is no text, is no argument of any call that succeeds: its hash says as much as none. */
    ast_blake3_hex(text.fail ? AST_STR("") : ast_buf_view(&text), d->args_hash);
}

void host_deed_end(const struct host_deed *d, const struct ast_host_call *call, bool is_lookup,
                   const char *error)
{
    const struct ast_host *host = call->env->host;
    const struct ast_host_deed what = {
        .principal = ast_principal_str(&call->invoking),
        .capsule = call->env->capsule_id,
        .fn = ast_str_c(d->fn),
        .args_hash = ast_str_c(d->args_hash),
        .error = error ? ast_str_c(error) : AST_STR_NONE,
        .is_denied = error && strcmp(error, "capability-denied") == 0,
        .is_lookup = is_lookup,
    };
    if (host->on_deed)
        host->on_deed(host->on_deed_arg, &what);
}
