/* What the operator's Distro.toml tells strangers (spec 03 §20): two bodies, made once at boot. */
#pragma once

#include "base/buf.h"

struct gw_distro {
    struct ast_buf info, onboarding; /* JSON */
};
void gw_distro_done(struct gw_distro *d);
AST_DEFINE_AUTO_VALUE(struct gw_distro, gw_distro_done)

/* `path` empty: the single tenant without a distribution. Errors: unreadable, no TOML, no [distro] table. */
AST_MUST_CHECK
enum ast_rc gw_distro_load(struct ast_str path, struct gw_distro *ret, struct ast_err *err);
