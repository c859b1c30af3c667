/* An agent that misbehaves on request, to prove that nobody else notices. */
#include "astrid.h"

static volatile uint32_t sink;

__attribute__((noinline)) static uint32_t dig(uint32_t depth)
{
    volatile uint32_t frame[64];

    frame[depth % 64] = depth;
    return depth == UINT32_MAX
               ? 0
               : dig(depth + 1) + frame[depth % 64]; /* the stack ends long before */
}

static struct astrid_result answer(struct astrid_str payload)
{
    struct astrid_str text, raw, session = ASTRID_STR("\"default\"");
    struct astrid_buf b = { 0 };

    if (!astrid_json_get(payload, ASTRID_STR("text"), &raw) || !astrid_json_text(raw, &text))
        return astrid_deny(ASTRID_STR("a prompt needs a text"));
    (void)astrid_json_get(payload, ASTRID_STR("session_id"), &session);
    if (astrid_str_eq(text, ASTRID_STR("loop")))
        for (;;)
            sink++;
    if (astrid_str_eq(text, ASTRID_STR("trap")))
        __builtin_trap();
    if (astrid_str_eq(text, ASTRID_STR("overflow")))
        sink = dig(0);
    if (astrid_str_eq(text, ASTRID_STR("bomb"))) {
        while (__builtin_wasm_memory_grow(0, 16) != (uintptr_t)-1)
            sink++;
        /* The arena cannot grow any more: answer from what is left on the stack. */
        static const char head[] =
            "{\"type\":\"agent_response\",\"is_final\":true,\"session_id\":\"default\",\"text\":\"the ceiling held\"}";
        astrid_publish(ASTRID_STR("agent.v1.response"),
                       (struct astrid_str){ head, sizeof head - 1 });
        return astrid_continue();
    }
    astrid_buf_lit(&b, "{\"type\":\"agent_response\",\"is_final\":true,\"session_id\":");
    astrid_buf_add(&b, session);
    astrid_buf_lit(&b, ",\"text\":");
    astrid_buf_add(&b, raw);
    astrid_buf_lit(&b, "}");
    if (!astrid_publish(ASTRID_STR("agent.v1.response"), astrid_buf_view(&b)))
        return astrid_deny(ASTRID_STR("not published"));
    return astrid_continue();
}

ASTRID_HANDLERS({ "answer", answer });
ASTRID_NO_TOOLS;
