/* Name-based UUIDs, version 5 (RFC 4122 §4.3), in the URL namespace. SHA-1 is used as a name digest only, never for security.
 * Threads: any. */
#pragma once

#include "base/uuid.h"

struct ast_uuid ast_uuid_v5_url(struct ast_str name);
