/* Guest texts that people will read: trimmed, without control characters, not too long (spec 05 §12.1). */
#pragma once

#include "base/arena.h"

/* Unicode scalar values; the text is UTF-8. */
size_t host_char_count(struct ast_str s);

/* Trims white space, drops control characters, cuts to `max` characters. *ret lies in the arena. *ret_whole: nothing
 * but the outer white space was taken away. False: the arena is full. */
bool host_sanitise(struct ast_arena *arena, struct ast_str s, size_t max, struct ast_str *ret,
                   bool *ret_whole);
