/* A capsule that asks: the operator while it is installed, and for approval of whatever a prompt names.
 *
 * Prompt "settings": what the install hook was told. Prompt "<action>|<resource>": the decision's name. */
#include "astrid.h"

static struct astrid_str say_elicit(enum astrid_elicit why)
{
    static const char *const words[] = { "ok",        "not-in-hook", "no-answer",
                                         "cancelled", "invalid",     "failed" };
    return astrid_str_c(words[why]);
}

static void line(struct astrid_buf *b, const char *name, enum astrid_elicit why,
                 struct astrid_str value)
{
    astrid_buf_add(b, astrid_str_c(name));
    astrid_buf_lit(b, "=");
    astrid_buf_add(b, why == ASTRID_ELICIT_OK ? value : say_elicit(why));
    astrid_buf_lit(b, ";");
}

ASTRID_ON_INSTALL
{
    const struct astrid_str regions[] = { ASTRID_STR("eu"), ASTRID_STR("us") };
    struct astrid_str standard = ASTRID_STR("https://example.com"), value = { 0 };
    const struct astrid_str *tags = NULL;
    uint32_t n = 0;
    struct astrid_buf b = { 0 }, list = { 0 };

    enum astrid_elicit why =
        astrid_elicit_text(ASTRID_STR("url"), ASTRID_STR("Which server?"), &standard, &value);
    line(&b, "url", why, value);
    why = astrid_elicit_choice(ASTRID_STR("region"), ASTRID_STR("Which region?"), regions, 2,
                               /* standard= */ NULL, &value);
    line(&b, "region", why, value);
    why = astrid_elicit_list(ASTRID_STR("tags"), ASTRID_STR("Tags"), &tags, &n);
    for (uint32_t i = 0; why == ASTRID_ELICIT_OK && i < n; i++) {
        astrid_buf_lit(&list, "<");
        astrid_buf_add(&list, tags[i]);
        astrid_buf_lit(&list, ">");
    }
    line(&b, "tags", why, astrid_buf_view(&list));
    why = astrid_elicit_secret(ASTRID_STR("API_KEY"), ASTRID_STR("Your key"));
    line(&b, "key", why, ASTRID_STR("stored"));
    (void)astrid_kv_set(ASTRID_STR("settings"), astrid_buf_view(&b));
}

static void settings(struct astrid_buf *b)
{
    struct astrid_str stored, key = { 0 };
    struct astrid_str unused;

    if (astrid_kv_get(ASTRID_STR("settings"), &stored) == ASTRID_KV_OK)
        astrid_buf_add(b, stored);
    astrid_buf_lit(b, "has=");
    astrid_buf_add(b,
                   astrid_has_secret(ASTRID_STR("API_KEY")) ? ASTRID_STR("yes") : ASTRID_STR("no"));
    astrid_buf_lit(b, ";config=");
    if (astrid_config(ASTRID_STR("API_KEY"), &key))
        astrid_buf_add(b, key);
    line(b, ";now", astrid_elicit_text(ASTRID_STR("x"), ASTRID_STR("x"), NULL, &unused),
         ASTRID_STR("asked"));
}

static void approval(struct astrid_str text, struct astrid_buf *b)
{
    static const char *const words[] = { "denied",    "once",      "session", "always",
                                         "allowance", "no-answer", "failed" };
    struct astrid_str action = { text.p, 0 };

    while (action.n < text.n && text.p[action.n] != '|')
        action.n++;
    if (action.n == text.n) {
        astrid_buf_lit(b, "no bar");
        return;
    }
    struct astrid_str resource = { text.p + action.n + 1, text.n - action.n - 1 };
    enum astrid_approval got = astrid_approve(action, resource);
    astrid_buf_add(b, astrid_str_c(words[got]));
    astrid_buf_add(b, astrid_is_approved(got) ? ASTRID_STR(" go") : ASTRID_STR(" stop"));
}

static struct astrid_result answer(struct astrid_str payload)
{
    struct astrid_str text, raw, session = ASTRID_STR("\"default\"");
    struct astrid_buf said = { 0 }, b = { 0 };

    if (!astrid_json_get(payload, ASTRID_STR("text"), &raw) || !astrid_json_text(raw, &text))
        return astrid_deny(ASTRID_STR("a prompt needs a text"));
    (void)astrid_json_get(payload, ASTRID_STR("session_id"), &session);
    if (astrid_str_eq(text, ASTRID_STR("settings")))
        settings(&said);
    else
        approval(text, &said);
    astrid_buf_lit(&b, "{\"type\":\"agent_response\",\"is_final\":true,\"session_id\":");
    astrid_buf_add(&b, session);
    astrid_buf_lit(&b, ",\"text\":");
    astrid_buf_json(&b, astrid_buf_view(&said));
    astrid_buf_lit(&b, "}");
    (void)astrid_publish(ASTRID_STR("agent.v1.response"), astrid_buf_view(&b));
    return astrid_continue();
}

ASTRID_HANDLERS({ "answer", answer });
ASTRID_NO_TOOLS;
