/* A guest that does what it is told: its payload is a script, one host call a line, and its answer holds one
 * line for each. `run` takes the script from get-config("script"); the hook "result" gives what it answered.
 *
 * Words are separated by one space; the last argument of a command takes the rest of the line. Handles are
 * named by small numbers in order of creation.
 */
#include "astrid_host.h"

#define EXPORT(name) __attribute__((export_name(name)))
#define OUT_MAX      (4u << 20)
#define SLOTS        300

/* --- Memory: a bump allocator that starts again with each hook ----------------------------------- */

extern uint8_t __heap_base;
static uint8_t *bump;

static void *grab(uint32_t size, uint32_t align)
{
    if (!bump)
        bump = &__heap_base;
    uint32_t at = ((uint32_t)bump + align - 1) & ~(align - 1);
    uint32_t end = at + size, have = (uint32_t)__builtin_wasm_memory_size(0) << 16;
    if (end < at)
        __builtin_trap();
    if (end > have &&
        __builtin_wasm_memory_grow(0, (end - have + 0xffff) >> 16) == (unsigned long)-1)
        __builtin_trap();
    bump = (uint8_t *)end;
    return (void *)at;
}

EXPORT("cabi_realloc")
void *cabi_realloc(void *old, uint32_t old_size, uint32_t align, uint32_t size)
{
    uint8_t *to = grab(size, align);
    for (uint32_t i = 0; i < old_size && i < size; i++)
        to[i] = ((const uint8_t *)old)[i];
    return to;
}

/* --- Output -------------------------------------------------------------------------------------- */

static char out[OUT_MAX];
static uint32_t out_n;

static void put(const char *p, uint32_t n)
{
    for (uint32_t i = 0; i < n && out_n < OUT_MAX; i++)
        out[out_n++] = p[i];
}

static uint32_t length(const char *s)
{
    uint32_t n = 0;
    while (s[n])
        n++;
    return n;
}

static void puts_(const char *s)
{
    put(s, length(s));
}

static void put_str(struct astrid_str s)
{
    put(s.p, s.n);
}

static void put_u64(uint64_t v)
{
    char text[20];
    uint32_t n = 0;
    do
        text[n++] = (char)('0' + v % 10);
    while (v /= 10);
    while (n)
        put(&text[--n], 1);
}

/* "err:<name>", with ":<text>" for the last case. */
static void put_err(const char *const *names, uint32_t count, uint8_t tag, struct astrid_str text)
{
    puts_("err:");
    puts_(tag < count ? names[tag] : "?");
    if (tag + 1u == count) {
        puts_(":");
        put_str(text);
    }
}

static const char *const sys_errors[] = { "capability-denied", "config-key-reserved",
                                          "too-large",         "registry-unavailable",
                                          "cancelled",         "unknown" };
static const char *const ipc_errors[] = { "capability-denied", "invalid-input", "closed",
                                          "rate-limited",      "backpressure",  "quota",
                                          "timeout",           "unknown" };
static const char *const kv_errors[] = { "invalid-key", "too-large", "quota", "cas-mismatch",
                                         "unknown" };
static const char *const poll_errors[] = { "invalid-input", "closed", "too-large", "cancelled",
                                           "unknown" };

#define PUT_ERR(names, e) put_err(names, sizeof names / sizeof names[0], (e).tag, (e).u.unknown)
#define UNIT(names, r)                                                                             \
    do {                                                                                           \
        if ((r).is_err)                                                                            \
            PUT_ERR(names, (r).u.err);                                                             \
        else                                                                                       \
            puts_("ok");                                                                           \
    } while (0)

/* --- Words --------------------------------------------------------------------------------------- */

static struct astrid_str rest;

static struct astrid_str word(void)
{
    struct astrid_str w = { rest.p, 0 };
    while (w.n < rest.n && rest.p[w.n] != ' ')
        w.n++;
    uint32_t skip = w.n < rest.n ? w.n + 1 : w.n;
    rest.p += skip;
    rest.n -= skip;
    return w;
}

static bool is(struct astrid_str s, const char *text)
{
    if (s.n != length(text))
        return false;
    for (uint32_t i = 0; i < s.n; i++)
        if (s.p[i] != text[i])
            return false;
    return true;
}

static uint64_t number(void)
{
    struct astrid_str w = word();
    uint64_t v = 0;
    for (uint32_t i = 0; i < w.n; i++)
        v = v * 10 + (uint64_t)(w.p[i] - '0');
    return v;
}

/* --- Handles ------------------------------------------------------------------------------------- */

static int32_t subs[SLOTS], polls[SLOTS];
static uint32_t sub_n, poll_n;

/* --- sys ----------------------------------------------------------------------------------------- */

static void do_config(void)
{
    struct astrid_result_opt_str_sys_error r;
    astrid_sys_get_config(rest.p, rest.n, &r);
    if (r.is_err)
        PUT_ERR(sys_errors, r.u.err);
    else if (!r.u.ok.has)
        puts_("none");
    else {
        puts_("some:");
        put_str(r.u.ok.v);
    }
}

static void do_caller(void)
{
    struct astrid_result_sys_caller_context_sys_error r;
    astrid_sys_get_caller(&r);
    if (r.u.ok.principal.has)
        put_str(r.u.ok.principal.v);
    else
        puts_("none");
    puts_("|");
    put_str(r.u.ok.source_id);
    puts_("|");
    put_str(r.u.ok.timestamp);
}

static void do_log(void)
{
    uint32_t level = (uint32_t)number();
    astrid_sys_log(level, rest.p, rest.n);
    puts_("ok");
}

static void do_logfill(void)
{
    uint32_t level = (uint32_t)number(), n = (uint32_t)number();
    char *text = grab(n + 1, 1);
    for (uint32_t i = 0; i < n; i++)
        text[i] = 'x';
    astrid_sys_log(level, text, n);
    puts_("ok");
}

static void do_ready(void)
{
    astrid_sys_signal_ready();
    puts_("ok");
}

static void do_clock(void)
{
    uint64_t a = astrid_sys_clock_monotonic_ns(), b = astrid_sys_clock_monotonic_ns();
    puts_(a <= b && astrid_sys_clock_ms() > 1600000000000u ? "ok" : "backwards");
}

static void do_sleep(void)
{
    struct astrid_result_unit_sys_error r;
    astrid_sys_sleep_ns(number(), &r);
    UNIT(sys_errors, r);
}

static void do_random(void)
{
    struct astrid_result_bytes_sys_error r;
    astrid_sys_random_bytes(number(), &r);
    if (r.is_err)
        PUT_ERR(sys_errors, r.u.err);
    else
        put_u64(r.u.ok.n);
}

static void do_check(void)
{
    struct astrid_result_sys_capability_check_response_sys_error r;
    struct astrid_str uuid = word();
    astrid_sys_check_capsule_capability(uuid.p, uuid.n, rest.p, rest.n, &r);
    if (r.is_err)
        PUT_ERR(sys_errors, r.u.err);
    else
        puts_(r.u.ok.allowed ? "true" : "false");
}

static void do_caps(void)
{
    struct astrid_list_str r;
    astrid_sys_enumerate_capabilities(&r);
    for (uint32_t i = 0; i < r.n; i++) {
        puts_(i ? "," : "");
        put_str(r.v[i]);
    }
}

/* --- ipc ----------------------------------------------------------------------------------------- */

static void do_pub(void)
{
    struct astrid_result_unit_ipc_error r;
    struct astrid_str topic = word();
    astrid_ipc_publish(topic.p, topic.n, rest.p, rest.n, &r);
    UNIT(ipc_errors, r);
}

/* A JSON string of n bytes, quotes included. */
static void do_pubn(void)
{
    struct astrid_result_unit_ipc_error r;
    struct astrid_str topic = word();
    uint32_t n = (uint32_t)number();
    char *text = grab(n, 1);
    for (uint32_t i = 0; i < n; i++)
        text[i] = i == 0 || i == n - 1 ? '"' : 'x';
    astrid_ipc_publish(topic.p, topic.n, text, n, &r);
    UNIT(ipc_errors, r);
}

static void do_pubas(void)
{
    struct astrid_result_unit_ipc_error r;
    struct astrid_str principal = word(), topic = word();
    astrid_ipc_publish_as(topic.p, topic.n, rest.p, rest.n, principal.p, principal.n, &r);
    UNIT(ipc_errors, r);
}

static void do_sub(void)
{
    struct astrid_result_ipc_subscription_ipc_error r;
    astrid_ipc_subscribe(rest.p, rest.n, &r);
    if (r.is_err) {
        PUT_ERR(ipc_errors, r.u.err);
        return;
    }
    put_u64(sub_n);
    subs[sub_n++] = r.u.ok;
}

/* Subscribes n times to one pattern; gives the number that worked. */
static void do_subn(void)
{
    uint64_t n = number(), done = 0;
    for (uint64_t i = 0; i < n; i++) {
        struct astrid_result_ipc_subscription_ipc_error r;
        astrid_ipc_subscribe(rest.p, rest.n, &r);
        if (r.is_err) {
            put_u64(done);
            puts_(" ");
            PUT_ERR(ipc_errors, r.u.err);
            return;
        }
        subs[sub_n++] = r.u.ok;
        done++;
    }
    put_u64(done);
}

static const char *const attributions[] = { "verified", "claimed", "system" };

static void put_envelope(const struct astrid_result_ipc_ipc_envelope_ipc_error *r)
{
    if (r->is_err) {
        PUT_ERR(ipc_errors, r->u.err);
        return;
    }
    const struct astrid_ipc_ipc_envelope *e = &r->u.ok;
    puts_("n=");
    put_u64(e->messages.n);
    puts_(" dropped=");
    put_u64(e->dropped);
    puts_(" lagged=");
    put_u64(e->lagged);
    for (uint32_t i = 0; i < e->messages.n; i++) {
        const struct astrid_ipc_ipc_message *m = &e->messages.v[i];
        puts_(";");
        put_str(m->topic);
        puts_("|");
        put_str(m->payload);
        puts_("|");
        puts_(attributions[m->principal.tag]);
        if (m->principal.tag < 2) {
            puts_(":");
            put_str(m->principal.u.verified);
        }
        puts_("|");
        put_str(m->source_id);
    }
}

static void do_poll(void)
{
    struct astrid_result_ipc_ipc_envelope_ipc_error r;
    astrid_ipc_subscription_poll(subs[number()], &r);
    put_envelope(&r);
}

static void do_recv(void)
{
    struct astrid_result_ipc_ipc_envelope_ipc_error r;
    int32_t sub = subs[number()];
    astrid_ipc_subscription_recv(sub, number(), &r);
    put_envelope(&r);
}

static void do_drop(void)
{
    astrid_ipc_subscription_drop(subs[number()]);
    puts_("ok");
}

static void do_bindings(void)
{
    struct astrid_result_list_ipc_interceptor_binding_ipc_error r;
    astrid_ipc_get_interceptor_bindings(&r);
    put_u64(r.u.ok.n);
    for (uint32_t i = 0; i < r.u.ok.n; i++) {
        puts_(";");
        put_u64(r.u.ok.v[i].handle_id);
        puts_("|");
        put_str(r.u.ok.v[i].action);
        puts_("|");
        put_str(r.u.ok.v[i].topic);
    }
}

/* --- poll ---------------------------------------------------------------------------------------- */

static void do_pollable(void)
{
    polls[poll_n] = astrid_ipc_subscription_subscribe_readiness(subs[number()]);
    put_u64(poll_n++);
}

static void do_is_ready(void)
{
    puts_(astrid_io_pollable_ready(polls[number()]) ? "true" : "false");
}

static void do_block(void)
{
    struct astrid_result_unit_io_poll_error r;
    astrid_io_pollable_block(polls[number()], &r);
    UNIT(poll_errors, r);
}

static void do_wait(void)
{
    struct astrid_result_list_u32_io_poll_error r;
    int32_t list[SLOTS];
    uint32_t n = 0;
    while (rest.n)
        list[n++] = polls[number()];
    astrid_io_poll(list, n, &r);
    if (r.is_err) {
        PUT_ERR(poll_errors, r.u.err);
        return;
    }
    for (uint32_t i = 0; i < r.u.ok.n; i++) {
        puts_(i ? "," : "");
        put_u64(r.u.ok.v[i]);
    }
}

/* The same pollable n times. */
static void do_waitn(void)
{
    struct astrid_result_list_u32_io_poll_error r;
    int32_t list[SLOTS];
    int32_t p = polls[number()];
    uint32_t n = (uint32_t)number();
    for (uint32_t i = 0; i < n; i++)
        list[i] = p;
    astrid_io_poll(list, n, &r);
    if (r.is_err)
        PUT_ERR(poll_errors, r.u.err);
    else
        put_u64(r.u.ok.n);
}

static void do_pdrop(void)
{
    astrid_io_pollable_drop(polls[number()]);
    puts_("ok");
}

/* --- kv ------------------------------------------------------------------------------------------ */

static void do_get(void)
{
    struct astrid_result_opt_bytes_kv_error r;
    astrid_kv_kv_get(rest.p, rest.n, &r);
    if (r.is_err)
        PUT_ERR(kv_errors, r.u.err);
    else if (!r.u.ok.has)
        puts_("none");
    else {
        puts_("some:");
        if (r.u.ok.v.n > 4096)
            put_u64(r.u.ok.v.n);
        else
            put((const char *)r.u.ok.v.p, r.u.ok.v.n);
    }
}

static void do_set(void)
{
    struct astrid_result_unit_kv_error r;
    struct astrid_str key = word();
    astrid_kv_kv_set(key.p, key.n, (const uint8_t *)rest.p, rest.n, &r);
    UNIT(kv_errors, r);
}

/* A value of n bytes. */
static void do_setn(void)
{
    struct astrid_result_unit_kv_error r;
    struct astrid_str key = word();
    uint32_t n = (uint32_t)number();
    uint8_t *value = grab(n, 1);
    for (uint32_t i = 0; i < n; i++)
        value[i] = 'v';
    astrid_kv_kv_set(key.p, key.n, value, n, &r);
    UNIT(kv_errors, r);
}

/* A key of n bytes. */
static void do_setkey(void)
{
    struct astrid_result_unit_kv_error r;
    uint32_t n = (uint32_t)number();
    char *key = grab(n, 1);
    for (uint32_t i = 0; i < n; i++)
        key[i] = 'k';
    astrid_kv_kv_set(key, n, (const uint8_t *)"v", 1, &r);
    UNIT(kv_errors, r);
}

/* A key with a NUL inside, for every function that takes one. */
static void do_nulkey(void)
{
    static const char key[] = { 'a', 0, 'b' };
    struct astrid_result_opt_bytes_kv_error g;
    struct astrid_result_unit_kv_error u;
    struct astrid_result_list_str_kv_error l;
    struct astrid_result_u64_kv_error c;
    astrid_kv_kv_get(key, 3, &g);
    UNIT(kv_errors, g);
    puts_(",");
    astrid_kv_kv_set(key, 3, (const uint8_t *)"v", 1, &u);
    UNIT(kv_errors, u);
    puts_(",");
    astrid_kv_kv_delete(key, 3, &u);
    UNIT(kv_errors, u);
    puts_(",");
    astrid_kv_kv_cas(key, 3, 0, NULL, 0, (const uint8_t *)"v", 1, &u);
    UNIT(kv_errors, u);
    puts_(",");
    astrid_kv_kv_list_keys(key, 3, &l);
    UNIT(kv_errors, l);
    puts_(",");
    astrid_kv_kv_clear_prefix(key, 3, &c);
    UNIT(kv_errors, c);
}

static void do_del(void)
{
    struct astrid_result_unit_kv_error r;
    astrid_kv_kv_delete(rest.p, rest.n, &r);
    UNIT(kv_errors, r);
}

static void put_keys(struct astrid_list_str keys)
{
    put_u64(keys.n);
    for (uint32_t i = 0; i < keys.n; i++) {
        puts_(i ? "," : ":");
        put_str(keys.v[i]);
    }
}

static void do_list(void)
{
    struct astrid_result_list_str_kv_error r;
    astrid_kv_kv_list_keys(rest.p, rest.n, &r);
    if (r.is_err)
        PUT_ERR(kv_errors, r.u.err);
    else
        put_keys(r.u.ok);
}

/* limit, cursor ("-": none), prefix */
static void do_page(void)
{
    struct astrid_result_kv_key_page_kv_error r;
    uint32_t limit = (uint32_t)number();
    struct astrid_str cursor = word();
    bool has = !is(cursor, "-");
    astrid_kv_kv_list_keys_page(rest.p, rest.n, has, cursor.p, has ? cursor.n : 0, limit, &r);
    if (r.is_err) {
        PUT_ERR(kv_errors, r.u.err);
        return;
    }
    put_keys(r.u.ok.keys);
    puts_(" next=");
    if (r.u.ok.next_cursor.has)
        put_str(r.u.ok.next_cursor.v);
    else
        puts_("none");
}

static void do_clear(void)
{
    struct astrid_result_u64_kv_error r;
    astrid_kv_kv_clear_prefix(rest.p, rest.n, &r);
    if (r.is_err)
        PUT_ERR(kv_errors, r.u.err);
    else
        put_u64(r.u.ok);
}

/* key, expected ("-": none), new */
static void do_cas(void)
{
    struct astrid_result_unit_kv_error r;
    struct astrid_str key = word(), expected = word();
    bool has = !is(expected, "-");
    astrid_kv_kv_cas(key.p, key.n, has, (const uint8_t *)expected.p, has ? expected.n : 0,
                     (const uint8_t *)rest.p, rest.n, &r);
    UNIT(kv_errors, r);
}

/* Sets <prefix>0000 to <prefix>n-1, four digits. */
static void do_fill(void)
{
    struct astrid_str prefix = word();
    uint32_t n = (uint32_t)number();
    char *key = grab(prefix.n + 4, 1);
    for (uint32_t i = 0; i < n; i++) {
        struct astrid_result_unit_kv_error r;
        for (uint32_t k = 0; k < prefix.n; k++)
            key[k] = prefix.p[k];
        for (uint32_t k = 0, v = i; k < 4; k++, v /= 10)
            key[prefix.n + 3 - k] = (char)('0' + v % 10);
        astrid_kv_kv_set(key, prefix.n + 4, (const uint8_t *)"v", 1, &r);
        if (r.is_err) {
            PUT_ERR(kv_errors, r.u.err);
            return;
        }
    }
    puts_("ok");
}

/* --- approval and elicit ------------------------------------------------------------------------- */

static const char *const approval_errors[] = { "invalid-input", "timeout", "store-unavailable",
                                               "unknown" };
static const char *const elicit_errors[] = { "not-in-lifecycle", "timeout",           "cancelled",
                                             "invalid-input",    "store-unavailable", "unknown" };

static void ask_approval(struct astrid_str action, struct astrid_str resource)
{
    static const char *const decisions[] = { "denied", "approved", "approved-session",
                                             "approved-always", "allowance" };
    struct astrid_result_approval_approval_response_approval_error r;
    astrid_approval_request_approval(action.p, action.n, resource.p, resource.n, &r);
    if (r.is_err)
        PUT_ERR(approval_errors, r.u.err);
    else
        puts_(r.u.ok.decision < 5 ? decisions[r.u.ok.decision] : "?");
}

/* "\\n", "\\r" and "\\t" become the characters. */
static struct astrid_str unescape(struct astrid_str s)
{
    char *to = grab(s.n, 1);
    uint32_t n = 0;
    for (uint32_t i = 0; i < s.n; i++) {
        char c = s.p[i], next = i + 1 < s.n ? s.p[i + 1] : 0;
        if (c == '\\' && (next == 'n' || next == 'r' || next == 't')) {
            c = next == 'n' ? '\n' : next == 'r' ? '\r' : '\t';
            i++;
        }
        to[n++] = c;
    }
    return (struct astrid_str){ to, n };
}

/* <action>|<resource> */
static void do_approve(void)
{
    struct astrid_str action = { rest.p, 0 };
    while (action.n < rest.n && rest.p[action.n] != '|')
        action.n++;
    struct astrid_str resource = { rest.p + action.n, rest.n - action.n };
    if (resource.n) {
        resource.p++;
        resource.n--;
    }
    ask_approval(unescape(action), unescape(resource));
}

/* Lengths of action and resource, of the letter "a" and of two-byte characters. */
static void do_approve_long(void)
{
    uint32_t n = (uint32_t)number(), m = (uint32_t)number();
    char *action = grab(n, 1), *resource = grab(2 * m, 1);
    for (uint32_t i = 0; i < n; i++)
        action[i] = 'a';
    for (uint32_t i = 0; i < m; i++) {
        resource[2 * i] = (char)0xc3;
        resource[2 * i + 1] = (char)0xa9;
    }
    ask_approval((struct astrid_str){ action, n }, (struct astrid_str){ resource, 2 * m });
}

/* <kind> <key> <default or -> <options, comma separated, or -> <description> */
static void do_elicit(void)
{
    static const char *const kinds[] = { "text", "secret", "select", "array" };
    struct astrid_result_elicit_elicit_response_elicit_error r;
    struct astrid_str kind = word(), key = word(), standard = word(), list = word();
    struct astrid_str options[16];
    uint32_t k = 0, n = 0;
    bool has_default = !is(standard, "-"), has_options = !is(list, "-");
    while (k < 4 && !is(kind, kinds[k]))
        k++;
    for (uint32_t from = 0, i = 0; has_options && i <= list.n && n < 16; i++)
        if (i == list.n || list.p[i] == ',') {
            options[n++] = (struct astrid_str){ list.p + from, i - from };
            from = i + 1;
        }
    if (is(list, "none"))
        n = 0;
    astrid_elicit_elicit(k, key.p, key.n, rest.p, rest.n, has_options, options, n, has_default,
                         standard.p, has_default ? standard.n : 0, &r);
    if (r.is_err) {
        PUT_ERR(elicit_errors, r.u.err);
    } else if (r.u.ok.tag == ASTRID_ELICIT_ELICIT_RESPONSE_SECRET_STORED) {
        puts_("secret-stored");
    } else if (r.u.ok.tag == ASTRID_ELICIT_ELICIT_RESPONSE_VALUE) {
        puts_("value:");
        put_str(r.u.ok.u.value);
    } else {
        puts_("values:");
        for (uint32_t i = 0; i < r.u.ok.u.values.n; i++) {
            puts_("[");
            put_str(r.u.ok.u.values.v[i]);
            puts_("]");
        }
    }
}

static void do_has_secret(void)
{
    struct astrid_result_bool_elicit_error r;
    astrid_elicit_has_secret(rest.p, rest.n, &r);
    if (r.is_err)
        PUT_ERR(elicit_errors, r.u.err);
    else
        puts_(r.u.ok ? "yes" : "no");
}

/* --- Packages that may be missing ---------------------------------------------------------------- */

static void do_fs(void)
{
    struct astrid_result_fs_file_handle_fs_error r;
    astrid_fs_fs_open(rest.p, rest.n, 0, &r);
    if (!r.is_err)
        puts_("ok");
    else {
        put_u64(r.u.err.tag);
        puts_(":");
        put_str(r.u.err.u.unknown);
    }
}

/* --- identity ------------------------------------------------------------------------------------ */

static const char *const identity_errors[] = {
    "capability-denied", "invalid-input",     "user-not-found", "link-not-found",
    "already-linked",    "store-unavailable", "unknown"
};

/* platform, user */
static void do_resolve(void)
{
    struct astrid_result_identity_identity_resolve_response_identity_error r;
    struct astrid_str platform = word();
    astrid_identity_identity_resolve(platform.p, platform.n, rest.p, rest.n, &r);
    if (r.is_err) {
        PUT_ERR(identity_errors, r.u.err);
        return;
    }
    put_str(r.u.ok.user_id);
    puts_("|");
    if (r.u.ok.display_name.has)
        put_str(r.u.ok.display_name.v);
    else
        puts_("none");
}

/* platform, user, UUID, method */
static void do_link(void)
{
    struct astrid_result_unit_identity_error r;
    struct astrid_str platform = word(), user = word(), id = word();
    astrid_identity_identity_link(platform.p, platform.n, user.p, user.n, id.p, id.n, rest.p,
                                  rest.n, &r);
    UNIT(identity_errors, r);
}

static void do_unlink(void)
{
    struct astrid_result_unit_identity_error r;
    struct astrid_str platform = word();
    astrid_identity_identity_unlink(platform.p, platform.n, rest.p, rest.n, &r);
    UNIT(identity_errors, r);
}

/* display name; "-": none */
static void do_user(void)
{
    struct astrid_result_identity_identity_create_user_response_identity_error r;
    bool has = !is(rest, "-");
    astrid_identity_identity_create_user(has, has ? rest.p : NULL, has ? rest.n : 0, &r);
    if (r.is_err)
        PUT_ERR(identity_errors, r.u.err);
    else
        put_str(r.u.ok.user_id);
}

static void do_links(void)
{
    struct astrid_result_list_identity_platform_link_identity_error r;
    astrid_identity_identity_list_links(rest.p, rest.n, &r);
    if (r.is_err) {
        PUT_ERR(identity_errors, r.u.err);
        return;
    }
    put_u64(r.u.ok.n);
    for (uint32_t i = 0; i < r.u.ok.n; i++) {
        const struct astrid_identity_platform_link *l = &r.u.ok.v[i];
        puts_(";");
        put_str(l->platform);
        puts_("|");
        put_str(l->platform_user_id);
        puts_("|");
        put_str(l->linked_at);
        puts_("|");
        put_str(l->method);
    }
}

/* --- uplink -------------------------------------------------------------------------------------- */

static const char *const uplink_errors[] = {
    "capability-denied", "invalid-input", "invalid-profile", "unknown-uplink",
    "no-session",        "quota",         "unknown"
};

/* profile, platform, name */
static void do_register(void)
{
    struct astrid_result_str_uplink_error r;
    uint32_t profile = (uint32_t)number();
    struct astrid_str platform = word();
    astrid_uplink_uplink_register(rest.p, rest.n, platform.p, platform.n, profile, &r);
    if (r.is_err)
        PUT_ERR(uplink_errors, r.u.err);
    else
        put_str(r.u.ok);
}

/* Registers names 0 to n-1; gives the number that worked. */
static void do_registern(void)
{
    uint64_t n = number(), done = 0;
    for (; done < n; done++) {
        struct astrid_result_str_uplink_error r;
        char name[2] = { (char)('0' + done / 10), (char)('0' + done % 10) };
        astrid_uplink_uplink_register(name, 2, rest.p, rest.n, 0, &r);
        if (r.is_err) {
            put_u64(done);
            puts_(" ");
            PUT_ERR(uplink_errors, r.u.err);
            return;
        }
    }
    put_u64(done);
}

/* uplink, user, content */
static void do_send(void)
{
    struct astrid_result_bool_uplink_error r;
    struct astrid_str id = word(), user = word();
    astrid_uplink_uplink_send(id.p, id.n, user.p, user.n, rest.p, rest.n, &r);
    if (r.is_err)
        PUT_ERR(uplink_errors, r.u.err);
    else
        puts_(r.u.ok ? "true" : "false");
}

/* uplink, user, n bytes */
static void do_sendn(void)
{
    struct astrid_result_bool_uplink_error r;
    struct astrid_str id = word(), user = word();
    uint32_t n = (uint32_t)number();
    char *text = grab(n, 1);
    for (uint32_t i = 0; i < n; i++)
        text[i] = 'x';
    astrid_uplink_uplink_send(id.p, id.n, user.p, user.n, text, n, &r);
    if (r.is_err)
        PUT_ERR(uplink_errors, r.u.err);
    else
        puts_(r.u.ok ? "true" : "false");
}

/* --- streams: the test's own host functions give out both ends of its pipe ----------------------- */

#ifdef PROBE_STREAMS
ASTRID_IMPORT("test:streams/host", "input") int32_t test_input(void);
ASTRID_IMPORT("test:streams/host", "output") int32_t test_output(void);

static int32_t streams[SLOTS];
static uint32_t stream_n;

static void put_stream_err(struct astrid_io_stream_error e)
{
    if (e.tag == ASTRID_IO_STREAM_ERROR_CLOSED) {
        puts_("err:closed");
        return;
    }
    struct astrid_str text;
    puts_("err:failed:");
    astrid_io_error_to_debug_string(e.u.last_operation_failed, &text);
    put_str(text);
    astrid_io_error_drop(e.u.last_operation_failed);
}

static void do_input(void)
{
    streams[stream_n] = test_input();
    put_u64(stream_n++);
}

static void do_output(void)
{
    streams[stream_n] = test_output();
    put_u64(stream_n++);
}

static void put_read(const struct astrid_result_bytes_io_stream_error *r)
{
    if (r->is_err)
        put_stream_err(r->u.err);
    else if (r->u.ok.n > 256) {
        puts_("n=");
        put_u64(r->u.ok.n);
    } else {
        puts_("'");
        put((const char *)r->u.ok.p, r->u.ok.n);
        puts_("'");
    }
}

static void put_count(const struct astrid_result_u64_io_stream_error *r)
{
    if (r->is_err)
        put_stream_err(r->u.err);
    else
        put_u64(r->u.ok);
}

static void put_unit(const struct astrid_result_unit_io_stream_error *r)
{
    if (r->is_err)
        put_stream_err(r->u.err);
    else
        puts_("ok");
}

static void do_read(void)
{
    struct astrid_result_bytes_io_stream_error r;
    int32_t s = streams[number()];
    astrid_io_input_stream_read(s, number(), &r);
    put_read(&r);
}

static void do_bread(void)
{
    struct astrid_result_bytes_io_stream_error r;
    int32_t s = streams[number()];
    astrid_io_input_stream_blocking_read(s, number(), &r);
    put_read(&r);
}

static void do_skip(void)
{
    struct astrid_result_u64_io_stream_error r;
    int32_t s = streams[number()];
    astrid_io_input_stream_skip(s, number(), &r);
    put_count(&r);
}

static void do_bskip(void)
{
    struct astrid_result_u64_io_stream_error r;
    int32_t s = streams[number()];
    astrid_io_input_stream_blocking_skip(s, number(), &r);
    put_count(&r);
}

static void do_spoll(void)
{
    int32_t s = streams[number()];
    polls[poll_n] = is(rest, "out") ? astrid_io_output_stream_subscribe(s)
                                    : astrid_io_input_stream_subscribe(s);
    put_u64(poll_n++);
}

static void do_checkw(void)
{
    struct astrid_result_u64_io_stream_error r;
    astrid_io_output_stream_check_write(streams[number()], &r);
    put_count(&r);
}

static void do_write(void)
{
    struct astrid_result_unit_io_stream_error r;
    int32_t s = streams[number()];
    astrid_io_output_stream_write(s, (const uint8_t *)rest.p, rest.n, &r);
    put_unit(&r);
}

static void do_bwrite(void)
{
    struct astrid_result_unit_io_stream_error r;
    int32_t s = streams[number()];
    astrid_io_output_stream_blocking_write_and_flush(s, (const uint8_t *)rest.p, rest.n, &r);
    put_unit(&r);
}

/* n bytes: 'a' to 'z' over and over. */
static void do_bwriten(void)
{
    struct astrid_result_unit_io_stream_error r;
    int32_t s = streams[number()];
    uint32_t n = (uint32_t)number();
    uint8_t *bytes = grab(n, 1);
    for (uint32_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)('a' + i % 26);
    astrid_io_output_stream_blocking_write_and_flush(s, bytes, n, &r);
    put_unit(&r);
}

static void do_zeroes(void)
{
    struct astrid_result_unit_io_stream_error r;
    int32_t s = streams[number()];
    astrid_io_output_stream_write_zeroes(s, number(), &r);
    put_unit(&r);
}

static void do_bzeroes(void)
{
    struct astrid_result_unit_io_stream_error r;
    int32_t s = streams[number()];
    astrid_io_output_stream_blocking_write_zeroes_and_flush(s, number(), &r);
    put_unit(&r);
}

static void do_flush(void)
{
    struct astrid_result_unit_io_stream_error r;
    astrid_io_output_stream_flush(streams[number()], &r);
    put_unit(&r);
}

static void do_bflush(void)
{
    struct astrid_result_unit_io_stream_error r;
    astrid_io_output_stream_blocking_flush(streams[number()], &r);
    put_unit(&r);
}

/* to, from, n */
static void do_splice(void)
{
    struct astrid_result_u64_io_stream_error r;
    int32_t to = streams[number()], from = streams[number()];
    astrid_io_output_stream_splice(to, from, number(), &r);
    put_count(&r);
}

static void do_bsplice(void)
{
    struct astrid_result_u64_io_stream_error r;
    int32_t to = streams[number()], from = streams[number()];
    astrid_io_output_stream_blocking_splice(to, from, number(), &r);
    put_count(&r);
}

static void do_indrop(void)
{
    astrid_io_input_stream_drop(streams[number()]);
    puts_("ok");
}

static void do_outdrop(void)
{
    astrid_io_output_stream_drop(streams[number()]);
    puts_("ok");
}
#endif

/* --- Hostile: each of these ends in a trap ------------------------------------------------------- */

static void do_bad(void)
{
    struct astrid_result_unit_ipc_error r;
    struct astrid_result_list_u32_io_poll_error p;
    static int32_t two[2] __attribute__((aligned(4)));
    if (is(rest, "pointer"))
        astrid_ipc_publish((const char *)0xfffffff0u, 64, "1", 1, &r);
    else if (is(rest, "length"))
        astrid_ipc_publish("a.b", 0x7fffffffu, "1", 1, &r);
    else if (is(rest, "utf8"))
        astrid_ipc_publish("a.\xff", 3, "1", 1, &r);
    else if (is(rest, "area"))
        astrid_ipc_publish("a.b", 3, "1", 1, (void *)0xfffffff0u);
    else if (is(rest, "unaligned"))
        astrid_ipc_publish("a.b", 3, "1", 1, (void *)((uint8_t *)two + 1));
    else if (is(rest, "handle"))
        astrid_ipc_subscription_drop(77);
    else if (is(rest, "zero"))
        astrid_ipc_subscription_drop(0);
    else if (is(rest, "type"))
        (void)astrid_io_pollable_ready(subs[0]);
    else if (is(rest, "method"))
        astrid_io_error_drop(1);
    else if (is(rest, "twice")) {
        astrid_ipc_subscription_drop(subs[0]);
        astrid_ipc_subscription_drop(subs[0]);
    } else if (is(rest, "list"))
        astrid_io_poll(two, 0x40000001u, &p);
    else if (is(rest, "listend"))
        astrid_io_poll((const int32_t *)0xfffffffcu, 2, &p);
    else if (is(rest, "level"))
        astrid_sys_log(9, "x", 1);
    else if (is(rest, "stream")) {
        struct astrid_result_bytes_io_stream_error s;
        astrid_io_input_stream_read(1, 1, &s);
    }
    puts_("survived");
}

static void do_spin(void)
{
    for (volatile uint32_t i = 0;; i++)
        ;
}

/* One host call n times, for the clock outside. */
static void do_bench(void)
{
    struct astrid_str what = word();
    uint64_t n = number();
    uint8_t *mark = bump;
    for (uint64_t i = 0; i < n; i++) {
        if (is(what, "config")) {
            struct astrid_result_opt_str_sys_error r;
            astrid_sys_get_config("k1", 2, &r);
        } else if (is(what, "clock"))
            (void)astrid_sys_clock_monotonic_ns();
        else if (is(what, "publish")) {
            struct astrid_result_unit_ipc_error r;
            astrid_ipc_publish("bench.x", 7, "{\"a\":1}", 7, &r);
        } else {
            struct astrid_result_opt_bytes_kv_error r;
            astrid_kv_kv_get("bench", 5, &r);
        }
        if (i % 1024 == 0)
            bump = mark;
    }
    puts_("ok");
}

/* --- The script ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} commands[] = {
    { "config", do_config },
    { "caller", do_caller },
    { "log", do_log },
    { "logfill", do_logfill },
    { "ready", do_ready },
    { "clock", do_clock },
    { "sleep", do_sleep },
    { "random", do_random },
    { "check", do_check },
    { "caps", do_caps },
    { "pub", do_pub },
    { "pubn", do_pubn },
    { "pubas", do_pubas },
    { "sub", do_sub },
    { "subn", do_subn },
    { "poll", do_poll },
    { "recv", do_recv },
    { "drop", do_drop },
    { "bindings", do_bindings },
    { "pollable", do_pollable },
    { "is-ready", do_is_ready },
    { "block", do_block },
    { "wait", do_wait },
    { "waitn", do_waitn },
    { "pdrop", do_pdrop },
    { "get", do_get },
    { "set", do_set },
    { "setn", do_setn },
    { "setkey", do_setkey },
    { "nulkey", do_nulkey },
    { "del", do_del },
    { "list", do_list },
    { "page", do_page },
    { "clear", do_clear },
    { "cas", do_cas },
    { "fill", do_fill },
    { "approve", do_approve },
    { "approve-long", do_approve_long },
    { "elicit", do_elicit },
    { "has-secret", do_has_secret },
    { "fs", do_fs },
    { "resolve", do_resolve },
    { "link", do_link },
    { "unlink", do_unlink },
    { "user", do_user },
    { "links", do_links },
    { "register", do_register },
    { "registern", do_registern },
    { "send", do_send },
    { "sendn", do_sendn },
#ifdef PROBE_STREAMS
    { "input", do_input },
    { "output", do_output },
    { "read", do_read },
    { "bread", do_bread },
    { "skip", do_skip },
    { "bskip", do_bskip },
    { "spoll", do_spoll },
    { "checkw", do_checkw },
    { "write", do_write },
    { "bwrite", do_bwrite },
    { "bwriten", do_bwriten },
    { "zeroes", do_zeroes },
    { "bzeroes", do_bzeroes },
    { "flush", do_flush },
    { "bflush", do_bflush },
    { "splice", do_splice },
    { "bsplice", do_bsplice },
    { "indrop", do_indrop },
    { "outdrop", do_outdrop },
#endif
    { "bad", do_bad },
    { "spin", do_spin },
    { "bench", do_bench },
};

static void run_line(struct astrid_str line)
{
    rest = line;
    struct astrid_str name = word();
    for (uint32_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (is(name, commands[i].name)) {
            commands[i].run();
            return;
        }
    puts_("no such command");
}

static void run_script(struct astrid_str script)
{
    out_n = 0;
    for (uint32_t lines = 0; script.n; lines++) {
        struct astrid_str line = { script.p, 0 };
        while (line.n < script.n && script.p[line.n] != '\n')
            line.n++;
        uint32_t skip = line.n < script.n ? line.n + 1 : line.n;
        script.p += skip;
        script.n -= skip;
        if (lines)
            puts_("\n");
        run_line(line);
    }
}

EXPORT("astrid-hook-trigger")
struct astrid_guest_capsule_result *hook(const char *action, uint32_t action_n, const char *payload,
                                         uint32_t payload_n)
{
    static struct astrid_guest_capsule_result result;
    if (!is((struct astrid_str){ action, action_n }, "result"))
        run_script((struct astrid_str){ payload, payload_n });
    result = (struct astrid_guest_capsule_result){
        .action = { "final", 5 },
        .data = { .has = true, .v = { out, out_n } },
    };
    return &result;
}

EXPORT("cabi_post_astrid-hook-trigger") void hook_post(void *result)
{
    (void)result;
    bump = NULL;
}

EXPORT("run") void run(void)
{
    struct astrid_result_opt_str_sys_error r;
    astrid_sys_get_config("script", 6, &r);
    if (!r.is_err && r.u.ok.has)
        run_script(r.u.ok.v);
}
