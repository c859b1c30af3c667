/* The border between toml.c and the C++ bridge: plain types only, so that neither side needs the
 * other's headers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum toml_outcome { TOML_OUTCOME_OK, TOML_OUTCOME_INVALID, TOML_OUTCOME_NO_MEMORY };

/* The bridge: parses and reports the document through the functions below, tables as objects with
 * their members in source order. `why` gets a NUL-terminated reason when the text is invalid. */
enum toml_outcome toml_bridge_parse(const char *text, size_t n, void *out, char *why,
                                    size_t why_bytes);

/* toml.c: append JSON to `out` (a struct ast_buf, whose failures are sticky). */
void toml_put_text(void *out, const char *p, size_t n); /* punctuation and words, as they are */
void toml_put_string(void *out, const char *p, size_t n);
void toml_put_integer(void *out, int64_t v);
void toml_put_real(void *out, double v);

#ifdef __cplusplus
}
#endif
