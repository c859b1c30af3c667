/* The agent a newcomer meets before any model is configured. It has no model behind it and says so; it understands a handful of
 * requests, and what it does for them is real: tools of other capsules are called through the bus, and the reply is streamed.
 * Every prompt gets exactly one final answer, whatever happens. */
#include "astrid.h"

#define TOOL_TIMEOUT_MS  5000u
#define DESCRIBE_WAIT_MS 300u

/* One prompt being answered. */
struct turn {
    struct astrid_str text, session; /* session: JSON string literal with quotes */
    /* what the deltas have told so far; the final answer repeats it whole */
    struct astrid_buf said;
};

static void publish_part(const struct turn *t, struct astrid_str topic, struct astrid_str text,
                         bool is_final)
{
    struct astrid_buf b = { 0 };

    astrid_buf_lit(&b, "{\"type\":\"agent_response\",\"text\":");
    astrid_buf_json(&b, text);
    astrid_buf_add(&b, is_final ? ASTRID_STR(",\"is_final\":true,\"session_id\":")
                                : ASTRID_STR(",\"is_final\":false,\"session_id\":"));
    astrid_buf_add(&b, t->session);
    astrid_buf_lit(&b, "}");
    if (b.failed || !astrid_publish(topic, astrid_buf_view(&b)))
        astrid_log(ASTRID_LOG_ERROR, ASTRID_STR("a part of the answer could not be published"));
}

/* Says one piece: streamed now, kept for the final answer. */
static void say(struct turn *t, struct astrid_str text)
{
    astrid_buf_add(&t->said, text);
    publish_part(t, ASTRID_STR("agent.v1.stream.delta"), text, false);
}

#define say_lit(t, lit) say((t), ASTRID_STR(lit))

static void finish(struct turn *t)
{
    if (t->said.failed)
        publish_part(t, ASTRID_STR("agent.v1.response"),
                     ASTRID_STR("I ran out of memory while answering."), true);
    else
        publish_part(t, ASTRID_STR("agent.v1.response"), astrid_buf_view(&t->said), true);
}

/* ---- calling tools ---- */

static struct astrid_str call_id(void)
{
    struct astrid_buf b = { 0 };

    astrid_buf_lit(&b, "rehearsal-");
    astrid_buf_u64(&b, astrid_clock_monotonic_ns());
    return astrid_buf_view(&b);
}

/* The result of our own call among the messages; false when it is not there. */
static bool find_result(const struct astrid_message *m, uint32_t n, struct astrid_str id,
                        struct astrid_str *ret_content, bool *ret_is_error)
{
    for (uint32_t i = 0; i < n; i++) {
        struct astrid_str got, result, flag;
        if (!astrid_json_member_text(m[i].payload, ASTRID_STR("call_id"), &got) ||
            !astrid_str_eq(got, id) ||
            !astrid_json_get(m[i].payload, ASTRID_STR("result"), &result) ||
            !astrid_json_member_text(result, ASTRID_STR("content"), ret_content))
            continue;
        *ret_is_error = astrid_json_get(result, ASTRID_STR("is_error"), &flag) &&
                        astrid_str_eq(flag, ASTRID_STR("true"));
        return true;
    }
    return false;
}

static bool await_result(astrid_subscription s, struct astrid_str id,
                         struct astrid_str *ret_content, bool *ret_is_error)
{
    uint64_t deadline = astrid_clock_monotonic_ns() + (uint64_t)TOOL_TIMEOUT_MS * 1000000;

    for (;;) {
        uint64_t now = astrid_clock_monotonic_ns();
        const struct astrid_message *m;
        uint32_t n;
        if (now >= deadline || !astrid_receive(s, (deadline - now) / 1000000 + 1, &m, &n))
            return false;
        if (find_result(m, n, id, ret_content, ret_is_error))
            return true;
    }
}

/* Calls a tool of another capsule. True with its content (JSON text), else false with a sentence about what went wrong. */
static bool call_tool(struct astrid_str tool, struct astrid_str arguments,
                      struct astrid_str *ret_content)
{
    struct astrid_buf topic = { 0 }, result_topic = { 0 }, request = { 0 };
    struct astrid_str id = call_id();
    bool is_error = true;

    astrid_buf_lit(&topic, "tool.v1.execute.");
    astrid_buf_add(&topic, tool);
    astrid_buf_add(&result_topic, astrid_buf_view(&topic));
    astrid_buf_lit(&result_topic, ".result");
    astrid_buf_lit(&request, "{\"type\":\"tool_execute_request\",\"call_id\":");
    astrid_buf_json(&request, id);
    astrid_buf_lit(&request, ",\"tool_name\":");
    astrid_buf_json(&request, tool);
    astrid_buf_lit(&request, ",\"arguments\":");
    astrid_buf_add(&request, arguments);
    astrid_buf_lit(&request, "}");

    /* Subscribed before asking: a quick answer is not missed. */
    astrid_subscription s = astrid_subscribe(astrid_buf_view(&result_topic));
    if (!s || topic.failed || request.failed ||
        !astrid_publish(astrid_buf_view(&topic), astrid_buf_view(&request))) {
        astrid_unsubscribe(s);
        *ret_content = ASTRID_STR("I may not call that tool.");
        return false;
    }
    bool answered = await_result(s, id, ret_content, &is_error);
    astrid_unsubscribe(s);
    if (!answered)
        *ret_content = ASTRID_STR(
            "No capsule answered within 5 seconds. Is the capsule with that tool installed? `astrid capsule list` tells.");
    return answered && !is_error;
}

/* ---- understanding ---- */

/* Cuts the first word off *rest. */
static struct astrid_str take_word(struct astrid_str *rest)
{
    struct astrid_str s = astrid_str_trim(*rest);
    uint32_t n = 0;

    while (n < s.n && s.p[n] != ' ' && s.p[n] != '\t' && s.p[n] != '\n')
        n++;
    *rest = astrid_str_trim(astrid_str_from(s, n));
    return (struct astrid_str){ s.p, n };
}

static bool contains(struct astrid_str text, struct astrid_str word)
{
    for (uint32_t i = 0; i + word.n <= text.n; i++)
        if (astrid_str_starts(astrid_str_from(text, i), word))
            return true;
    return false;
}

static void say_failure(struct turn *t, struct astrid_str why)
{
    say_lit(t, "That did not work: ");
    say(t, why);
}

static void answer_time(struct turn *t, struct astrid_str rest)
{
    struct astrid_str content, utc, weekday;

    (void)rest;
    say_lit(t, "Let me ask the time capsule. ");
    if (!call_tool(ASTRID_STR("current_time"), ASTRID_STR("{}"), &content)) {
        say_failure(t, content);
        return;
    }
    if (!astrid_json_member_text(content, ASTRID_STR("utc"), &utc) ||
        !astrid_json_member_text(content, ASTRID_STR("weekday"), &weekday)) {
        say_failure(t, ASTRID_STR("the time tool answered in a form I do not know."));
        return;
    }
    say_lit(t, "It is ");
    say(t, weekday);
    say_lit(t, ", ");
    say(t, utc);
    say_lit(t, ".");
}

static struct astrid_str named(struct astrid_str name, struct astrid_str text, bool has_text)
{
    struct astrid_buf b = { 0 };

    astrid_buf_lit(&b, "{\"name\":");
    astrid_buf_json(&b, name);
    if (has_text) {
        astrid_buf_lit(&b, ",\"text\":");
        astrid_buf_json(&b, text);
    }
    astrid_buf_lit(&b, "}");
    return astrid_buf_view(&b);
}

static void answer_note(struct turn *t, struct astrid_str rest)
{
    struct astrid_str name = take_word(&rest), content;

    if (name.n == 0 || rest.n == 0) {
        say_lit(t, "Tell me what to write down: `note <name> <text>`.");
        return;
    }
    if (!call_tool(ASTRID_STR("note_set"), named(name, rest, true), &content)) {
        say_failure(t, content);
        return;
    }
    say_lit(t, "Noted. Ask for it with `recall ");
    say(t, name);
    say_lit(t, "`; it is kept for you alone, also over restarts.");
}

static void answer_recall(struct turn *t, struct astrid_str rest)
{
    struct astrid_str name = take_word(&rest), content, text;

    if (name.n == 0) {
        say_lit(t, "Which one? `recall <name>`; `notes` lists them.");
        return;
    }
    if (!call_tool(ASTRID_STR("note_get"), named(name, rest, false), &content)) {
        say_failure(t, content);
        return;
    }
    if (!astrid_json_text(content, &text)) {
        say_failure(t, ASTRID_STR("the note tool answered in a form I do not know."));
        return;
    }
    say(t, name);
    say_lit(t, ": ");
    say(t, text);
}

static void answer_notes(struct turn *t, struct astrid_str rest)
{
    struct astrid_str content, list, element, text;
    uint32_t at = 0, n = 0;

    (void)rest;
    if (!call_tool(ASTRID_STR("note_list"), ASTRID_STR("{}"), &content) ||
        !astrid_json_get(content, ASTRID_STR("notes"), &list)) {
        say_failure(t, content);
        return;
    }
    while (astrid_json_element(list, &at, &element)) {
        if (!astrid_json_text(element, &text))
            continue;
        if (n++ == 0)
            say_lit(t, "Your notes: ");
        else
            say_lit(t, ", ");
        say(t, text);
    }
    if (n == 0)
        say_lit(t, "You have no notes yet. `note <name> <text>` writes one.");
}

static void answer_forget(struct turn *t, struct astrid_str rest)
{
    struct astrid_str name = take_word(&rest), content;

    if (name.n == 0) {
        say_lit(t, "Which one? `forget <name>`.");
        return;
    }
    if (!call_tool(ASTRID_STR("note_delete"), named(name, rest, false), &content)) {
        say_failure(t, content);
        return;
    }
    say_lit(t, "Forgotten: ");
    say(t, name);
}

static void say_tools_of(struct turn *t, struct astrid_str describe, uint32_t *count)
{
    struct astrid_str tools, tool, name, about;
    uint32_t at = 0;

    if (!astrid_json_get(describe, ASTRID_STR("tools"), &tools))
        return;
    while (astrid_json_element(tools, &at, &tool)) {
        if (!astrid_json_member_text(tool, ASTRID_STR("name"), &name) ||
            !astrid_json_member_text(tool, ASTRID_STR("description"), &about))
            continue;
        say_lit(t, "\n- ");
        say(t, name);
        say_lit(t, ": ");
        say(t, about);
        ++*count;
    }
}

static void answer_tools(struct turn *t, struct astrid_str rest)
{
    uint64_t deadline;
    uint32_t count = 0;

    (void)rest;
    say_lit(t, "I ask all capsules which tools they have.");
    astrid_subscription s = astrid_subscribe(ASTRID_STR("tool.v1.response.describe.*"));
    if (!s || !astrid_publish(ASTRID_STR("tool.v1.request.describe"), ASTRID_STR("{}"))) {
        astrid_unsubscribe(s);
        say_failure(t, ASTRID_STR("I may not ask."));
        return;
    }
    deadline = astrid_clock_monotonic_ns() + (uint64_t)DESCRIBE_WAIT_MS * 1000000;
    for (uint64_t now; (now = astrid_clock_monotonic_ns()) < deadline;) {
        const struct astrid_message *m;
        uint32_t n;
        if (!astrid_receive(s, (deadline - now) / 1000000 + 1, &m, &n))
            break;
        for (uint32_t i = 0; i < n; i++)
            say_tools_of(t, m[i].payload, &count);
    }
    astrid_unsubscribe(s);
    if (count == 0)
        say_lit(t, " None answered: no capsule with tools is installed.");
}

static void answer_who(struct turn *t, struct astrid_str rest)
{
    struct astrid_str who = astrid_caller();

    (void)rest;
    if (who.n == 0) {
        say_lit(t, "This request carries no principal.");
        return;
    }
    say_lit(t, "You act as the principal `");
    say(t, who);
    say_lit(t, "`. Notes and settings are kept under that name.");
}

static void answer_echo(struct turn *t, struct astrid_str rest)
{
    if (rest.n)
        say(t, rest);
    else
        say_lit(t, "(nothing)");
}

static void answer_help(struct turn *t, struct astrid_str rest)
{
    (void)rest;
    say_lit(t, "I am the rehearsal agent: no model is behind me, I only know a few phrases. ");
    say_lit(
        t,
        "What I do for them is real, though: other capsules' tools are called through the bus.\n");
    say_lit(t, "- time: what time it is\n"
               "- note <name> <text>: write something down\n"
               "- recall <name>, notes, forget <name>\n"
               "- tools: which tools the installed capsules offer\n"
               "- whoami: which principal you act as\n"
               "- echo <text>\n");
    say_lit(
        t,
        "To talk to a real model, install an agent capsule in my place: `astrid capsule remove astrid-rehearsal`, then "
        "`astrid capsule install <path>`.");
}

static const struct {
    const char *word;
    void (*answer)(struct turn *t, struct astrid_str rest);
} requests[] = {
    { "help", answer_help },     { "time", answer_time },   { "note", answer_note },
    { "recall", answer_recall }, { "notes", answer_notes }, { "forget", answer_forget },
    { "tools", answer_tools },   { "whoami", answer_who },  { "echo", answer_echo },
};

/* Phrases people use instead of the words above; tried in order, after the first word was not known. */
static const struct {
    const char *phrase;
    void (*answer)(struct turn *t, struct astrid_str rest);
} phrases[] = {
    { "time is it", answer_time }, { "what time", answer_time },    { "what day", answer_time },
    { "date", answer_time },       { "who am i", answer_who },      { "tools", answer_tools },
    { "notes", answer_notes },     { "what can you", answer_help }, { "help", answer_help },
};

static void answer_unknown(struct turn *t)
{
    say_lit(
        t,
        "I am the rehearsal agent and have no model behind me, so I cannot really answer that. ");
    say_lit(t, "You said: \"");
    say(t, (struct astrid_str){ t->text.p, t->text.n < 200 ? t->text.n : 200 });
    say_lit(t, "\". Try `help`, `time` or `tools`.");
}

static void answer(struct turn *t)
{
    struct astrid_str rest = t->text, lower = astrid_str_lower(t->text);
    struct astrid_str word = astrid_str_lower(take_word(&rest));

    for (uint32_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        if (astrid_str_eq(word, astrid_str_c(requests[i].word))) {
            requests[i].answer(t, rest);
            return;
        }
    }
    for (uint32_t i = 0; i < sizeof phrases / sizeof phrases[0]; i++) {
        if (contains(lower, astrid_str_c(phrases[i].phrase))) {
            phrases[i].answer(t, rest);
            return;
        }
    }
    answer_unknown(t);
}

/* A cancel has an empty text and a context (spec 10 §28); there is nothing to cancel once we answer. */
static bool is_cancel(struct astrid_str payload)
{
    struct astrid_str context, action;
    return astrid_json_get(payload, ASTRID_STR("context"), &context) &&
           astrid_json_member_text(context, ASTRID_STR("action"), &action) &&
           astrid_str_eq(action, ASTRID_STR("cancel_turn"));
}

static struct astrid_result handle_prompt(struct astrid_str payload)
{
    struct turn t = { .session = ASTRID_STR("\"default\"") };

    (void)astrid_json_get(payload, ASTRID_STR("session_id"), &t.session); /* absent: "default" */
    if (is_cancel(payload))
        say_lit(&t, "(cancelled)");
    else if (!astrid_json_member_text(payload, ASTRID_STR("text"), &t.text))
        say_lit(&t, "I could not read that prompt: it has no text.");
    else
        answer(&t);
    finish(&t);
    return astrid_continue();
}

ASTRID_HANDLERS({ "handle_prompt", handle_prompt });
ASTRID_NO_TOOLS;
