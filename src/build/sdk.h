/* Where the C SDK lies: $ASTRID_SDK, the build tree, or the installed share folder. Private to astrid-build. */
#pragma once

#include "base/error.h"

struct build_sdk {
    char *sources; /* folder with astrid.h, astrid.c, astrid_json.c; owned */
    char *header;  /* folder with the generated astrid_host.h; owned */
};

void build_sdk_done(struct build_sdk *s);
AST_DEFINE_AUTO_VALUE(struct build_sdk, build_sdk_done)
enum ast_rc build_sdk_find(struct build_sdk *ret, struct ast_err *err);
