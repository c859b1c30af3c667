/* One character at a time, for text that must be escaped or repaired. Pure functions. */
#pragma once

#include <stdint.h>

#include "base/str.h"

#define BASE_UTF8_BAD UINT32_MAX

/* Decodes the character at the front of a non-empty view. *ret_bytes is how many bytes to step
 * over; for ill-formed input the result is BASE_UTF8_BAD and the step is the longest prefix that
 * could have begun a character (one U+FFFD stands for it), at least 1. */
uint32_t base_utf8_decode(struct ast_str s, size_t *ret_bytes);
