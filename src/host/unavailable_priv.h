/* Functions that link but do nothing yet: what they say and who hears of it. */
#pragma once

#include "host/bindings.h"

#define HOST_UNAVAILABLE_MAX 256

/* Logs `text` once per capsule and function; returns it for the error. `index` < HOST_UNAVAILABLE_MAX. */
struct ast_str host_unavailable(struct ast_abi *a, unsigned index, struct ast_str text);
