/* The smallest agent: it answers every prompt with the prompt's own text. Used to try a set-up and to measure the way of a
 * message through the system. */
#include "astrid.h"

static struct astrid_result answer(struct astrid_str payload)
{
    struct astrid_str text, session = ASTRID_STR("\"default\"");
    struct astrid_buf b = { 0 };

    if (!astrid_json_get(payload, ASTRID_STR("text"), &text))
        return astrid_deny(ASTRID_STR("failed to parse arguments: a prompt needs a text"));
    (void)astrid_json_get(payload, ASTRID_STR("session_id"), &session); /* absent: "default" */
    astrid_buf_lit(&b, "{\"type\":\"agent_response\",\"text\":");
    astrid_buf_add(&b, text); /* raw JSON text: already quoted and escaped */
    astrid_buf_lit(&b, ",\"is_final\":true,\"session_id\":");
    astrid_buf_add(&b, session);
    astrid_buf_lit(&b, "}");
    if (b.failed || !astrid_publish(ASTRID_STR("agent.v1.response"), astrid_buf_view(&b)))
        return astrid_deny(ASTRID_STR("the answer could not be published"));
    return astrid_continue();
}

ASTRID_HANDLERS({ "answer", answer });
ASTRID_NO_TOOLS;
