/* The SDK's JSON against the kernel's: they agree on what is valid, and on the members and texts of what is. */
#include <stdlib.h>
#include <string.h>

#include "astrid_json.h"
#include "base/arena.h"
#include "base/json.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ast_arena memory = AST_ARENA_INIT(1u << 26);

void *astrid_alloc(uint32_t size)
{
    void *p = ast_arena_alloc(&memory, size ? size : 1);
    if (p)
        memset(p, 0, size);
    return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct astrid_str text = { (const char *)data, (uint32_t)size }, value, unescaped;
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    uint32_t at = 0;
    size_t count = 0;

    bool valid = astrid_json_valid(text);
    bool theirs = !ast_json_parse(ast_str_n(data, size), &doc, NULL);
    if (valid && !theirs) {
        /* The kernel refuses only numbers beyond a double. */
        AST_ASSERT(size > 300 || memchr(data, 'e', size) || memchr(data, 'E', size));
        ast_arena_done(&memory);
        memory = (struct ast_arena)AST_ARENA_INIT(1u << 26);
        return 0;
    }
    if (valid && ast_json_type(ast_json_root(doc)) == AST_JSON_ARRAY) {
        while (astrid_json_element(text, &at, &value)) {
            AST_ASSERT(astrid_json_valid(value));
            count++;
        }
        AST_ASSERT(count == ast_json_count(ast_json_root(doc)));
    }
    if (astrid_json_get(text, ASTRID_STR("k"), &value) && valid) {
        AST_ASSERT(ast_json_member(ast_json_root(doc), "k"));
        AST_ASSERT(astrid_json_valid(value));
        if (astrid_json_text(value, &unescaped))
            AST_ASSERT(ast_json_type(ast_json_member(ast_json_root(doc), "k")) == AST_JSON_STRING);
    }
    ast_arena_done(&memory);
    memory = (struct ast_arena)AST_ARENA_INIT(1u << 26);
    return 0;
}
