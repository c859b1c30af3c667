/* etc/gateway-http.toml from anywhere: refused with a text, or every origin in it passes the rules and the address parses. */
#include "gateway/config_priv.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AST_AUTO(gw_config_done) struct gw_config config = { 0 };
    struct gw_address address;
    struct ast_err err = AST_ERR_INIT;
    enum ast_rc rc = gw_config_parse(ast_str_n(data, size), &config, &err);

    if (rc) {
        AST_ASSERT(err.rc == rc && err.msg[0]);
        return 0;
    }
    if (gw_address_parse(config.listen, &address, &err))
        AST_ASSERT(err.msg[0]);
    ast_vec_each (&config.origins, origin)
        AST_ASSERT(!gw_origin_check(*origin, &err));
    return 0;
}
