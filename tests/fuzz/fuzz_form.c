/* Query strings from anywhere: what was understood, written with every byte escaped, is understood the same way. */
#include "gateway/form_priv.h"

#include "base/banned.h"

#define COUNT 3u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum ast_rc parse(struct ast_str query, struct gw_param p[static COUNT],
                         struct ast_buf *memory)
{
    static const struct ast_str names[COUNT] = { { "a", 1 }, { "limit", 5 }, { "cursor", 6 } };
    for (size_t i = 0; i < COUNT; i++)
        p[i] = (struct gw_param){ .name = names[i] };
    return gw_form_parse(query, p, COUNT, memory, /* err= */ NULL);
}

static void escape(struct ast_str s, struct ast_buf *out)
{
    for (size_t i = 0; i < s.n; i++)
        (void)ast_buf_addf(out, "%%%02x", (unsigned)(unsigned char)s.p[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AST_AUTO(ast_buf_done)
    struct ast_buf memory = AST_BUF_INIT(1u << 20), again = AST_BUF_INIT(1u << 20),
                   text = AST_BUF_INIT(1u << 22);
    struct gw_param p[COUNT], q[COUNT];

    if (size > 65536 || parse(ast_str_n(data, size), p, &memory))
        return 0;
    for (size_t i = 0; i < COUNT; i++) {
        if (!p[i].value.p)
            continue;
        AST_ASSERT(p[i].value.n <= size && ast_str_is_utf8(p[i].value));
        (void)ast_buf_add_byte(&text, '&');
        escape(p[i].name, &text);
        (void)ast_buf_add_byte(&text, '=');
        escape(p[i].value, &text);
    }
    AST_ASSERT(!text.fail && !parse(ast_buf_view(&text), q, &again));
    for (size_t i = 0; i < COUNT; i++)
        AST_ASSERT(!p[i].value.p == !q[i].value.p && ast_str_eq(p[i].value, q[i].value));
    return 0;
}
