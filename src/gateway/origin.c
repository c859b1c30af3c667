/* Browser origins: is a text exactly what a browser would send in its Origin field?
 *
 * Parses as much of an absolute URL as the rules need and builds the canonical ASCII form: scheme and host in lower
 * case, a foreign host in Punycode (RFC 3492), no default port. Letters beyond ASCII are encoded as written, not
 * case-folded: such an origin is refused in any case, the text in the message is only a proposal.
 */
#include "gateway/config_priv.h"

#include <arpa/inet.h>

#include "base/banned.h"

#define ORIGIN_MAX_BYTES 1024u
#define LABEL_MAX_CHARS  63u

struct origin {
    struct ast_str scheme, userinfo, host, port, path;
    bool has_authority, has_userinfo, has_port, has_query, has_fragment;
};

static bool is_alpha(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const char *split_url(struct ast_str raw, struct origin *o)
{
    size_t colon = ast_str_find_byte(raw, ':');
    if (colon == AST_STR_NPOS || colon == 0)
        return "relative URL without a base";
    o->scheme = ast_str_first(raw, colon);
    for (size_t i = 0; i < colon; i++) {
        char c = raw.p[i];
        if (!is_alpha(c) && (i == 0 || (!is_digit(c) && c != '+' && c != '-' && c != '.')))
            return "relative URL without a base";
    }
    struct ast_str rest = ast_str_from(raw, colon + 1);
    size_t hash = ast_str_find_byte(rest, '#');
    o->has_fragment = hash != AST_STR_NPOS;
    rest = ast_str_first(rest, hash);
    size_t mark = ast_str_find_byte(rest, '?');
    o->has_query = mark != AST_STR_NPOS;
    rest = ast_str_first(rest, mark);
    o->has_authority = ast_str_starts(rest, AST_STR("//"));
    if (!o->has_authority) {
        o->path = rest;
        return NULL;
    }
    rest = ast_str_from(rest, 2);
    size_t slash = ast_str_find_byte(rest, '/');
    struct ast_str authority = ast_str_first(rest, slash);
    o->path = slash == AST_STR_NPOS ? AST_STR_NONE : ast_str_from(rest, slash);
    for (size_t at = authority.n; at-- > 0;) {
        if (authority.p[at] != '@')
            continue;
        o->userinfo = ast_str_first(authority, at);
        o->has_userinfo = at > 0;
        authority = ast_str_from(authority, at + 1);
        break;
    }
    size_t end_of_host = 0;
    if (authority.n && authority.p[0] == '[') {
        end_of_host = ast_str_find_byte(authority, ']');
        if (end_of_host == AST_STR_NPOS)
            return "invalid IPv6 address";
        end_of_host++;
    } else {
        end_of_host = AST_MIN(ast_str_find_byte(authority, ':'), authority.n);
    }
    o->host = ast_str_first(authority, end_of_host);
    struct ast_str port = ast_str_from(authority, end_of_host);
    if (!port.n)
        return NULL;
    if (port.p[0] != ':')
        return "invalid IPv6 address";
    o->port = ast_str_from(port, 1);
    o->has_port = o->port.n > 0;
    return NULL;
}

/* --- Hosts --------------------------------------------------------------------------------- */

static bool next_code_point(struct ast_str *s, uint32_t *ret)
{
    unsigned char c = (unsigned char)s->p[0];
    size_t more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    if (s->n <= more)
        return false;
    uint32_t v = more == 0 ? c : c & (0x3fu >> more);
    for (size_t i = 1; i <= more; i++)
        v = v << 6 | ((unsigned char)s->p[i] & 0x3fu);
    *s = ast_str_from(*s, more + 1);
    *ret = v;
    return true;
}

static uint32_t adapt(uint32_t delta, uint32_t points, bool is_first)
{
    delta = is_first ? delta / 700 : delta / 2;
    delta += delta / points;
    uint32_t k = 0;
    for (; delta > 455; k += 36)
        delta /= 35;
    return k + 36 * delta / (delta + 38);
}

/* RFC 3492 §6.3. At most LABEL_MAX_CHARS code points, so nothing overflows 32 bits. */
static void punycode(const uint32_t *cp, size_t n, struct ast_buf *out)
{
    uint32_t code = 128, delta = 0, bias = 72, basic = 0;
    for (size_t i = 0; i < n; i++) {
        if (cp[i] >= 128)
            continue;
        (void)ast_buf_add_byte(out, (char)cp[i]);
        basic++;
    }
    uint32_t handled = basic;
    if (basic)
        (void)ast_buf_add_byte(out, '-');
    while (handled < n) {
        uint32_t least = UINT32_MAX;
        for (size_t i = 0; i < n; i++)
            if (cp[i] >= code && cp[i] < least)
                least = cp[i];
        delta += (least - code) * (handled + 1);
        code = least;
        for (size_t i = 0; i < n; i++) {
            if (cp[i] < code)
                delta++;
            if (cp[i] != code)
                continue;
            uint32_t q = delta;
            for (uint32_t k = 36;; k += 36) {
                uint32_t t = k <= bias ? 1 : k >= bias + 26 ? 26 : k - bias;
                if (q < t)
                    break;
                uint32_t digit = t + (q - t) % (36 - t);
                (void)ast_buf_add_byte(out, (char)(digit < 26 ? 'a' + digit : '0' + digit - 26));
                q = (q - t) / (36 - t);
            }
            (void)ast_buf_add_byte(out, (char)(q < 26 ? 'a' + q : '0' + q - 26));
            bias = adapt(delta, handled + 1, handled == basic);
            delta = 0;
            handled++;
        }
        delta++;
        code++;
    }
}

static const char *add_label(struct ast_str label, struct ast_buf *out)
{
    uint32_t cp[LABEL_MAX_CHARS];
    size_t n = 0;
    bool is_ascii = true;
    while (label.n) {
        if (n == LABEL_MAX_CHARS || !next_code_point(&label, &cp[n]))
            return "invalid international domain name";
        if (cp[n] >= 'A' && cp[n] <= 'Z')
            cp[n] += 'a' - 'A';
        is_ascii &= cp[n] < 128;
        n++;
    }
    if (!is_ascii) {
        (void)ast_buf_add_lit(out, "xn--");
        punycode(cp, n, out);
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        (void)ast_buf_add_byte(out, (char)cp[i]);
    return NULL;
}

static const char *add_ipv6(struct ast_str host, struct ast_buf *out)
{
    char text[INET6_ADDRSTRLEN + 1];
    struct in6_addr addr;
    if (host.n < 3 || host.n - 2 >= sizeof text)
        return "invalid IPv6 address";
    memcpy(text, host.p + 1, host.n - 2);
    text[host.n - 2] = 0;
    if (inet_pton(AF_INET6, text, &addr) != 1 || !inet_ntop(AF_INET6, &addr, text, sizeof text))
        return "invalid IPv6 address";
    (void)ast_buf_addf(out, "[%s]", text);
    return NULL;
}

static const char *add_host(struct ast_str host, struct ast_buf *out)
{
    if (host.p[0] == '[')
        return add_ipv6(host, out);
    for (size_t i = 0; i < host.n; i++)
        if ((unsigned char)host.p[i] <= 0x20 || strchr("\"#%/:<>?@[\\]^`{|}\x7f", host.p[i]))
            return "invalid domain character";
    bool more = true;
    struct ast_str rest = host, label, last = AST_STR_NONE;
    for (bool is_first = true; ast_str_split(&rest, &more, '.', &label); is_first = false) {
        if (!is_first)
            (void)ast_buf_add_byte(out, '.');
        const char *why = add_label(label, out);
        if (why)
            return why;
        last = label.n ? label : last;
    }
    /* A host that ends in a number is an IPv4 address, or nothing. */
    bool is_number = last.n > 0;
    for (size_t i = 0; i < last.n; i++)
        is_number &= is_digit(last.p[i]);
    struct in_addr addr;
    if (is_number && (host.n >= INET_ADDRSTRLEN ||
                      inet_pton(AF_INET, ast_buf_view(out).p + out->n - host.n, &addr) != 1))
        return "invalid IPv4 address";
    return NULL;
}

/* --- The rules ----------------------------------------------------------------------------- */

static const char *canonical(const struct origin *o, struct ast_buf *out)
{
    for (size_t i = 0; i < o->scheme.n; i++) {
        char c = o->scheme.p[i];
        (void)ast_buf_add_byte(out, (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c));
    }
    bool is_https = ast_str_is(ast_buf_view(out), "https");
    (void)ast_buf_add_lit(out, "://");
    const char *why = o->host.n ? add_host(o->host, out) : NULL;
    if (why || !o->has_port)
        return why;
    uint64_t port = 0;
    for (size_t i = 0; i < o->port.n; i++) {
        if (!is_digit(o->port.p[i]) || (port = port * 10 + (uint64_t)(o->port.p[i] - '0')) > 65535)
            return "invalid port number";
    }
    if (port != (is_https ? 443 : 80))
        (void)ast_buf_addf(out, ":%u", (unsigned)port);
    return NULL;
}

#define ORIGIN "CORS origin \"" AST_STR_FMT "\" "

enum ast_rc gw_origin_check(struct ast_str raw, struct ast_err *err)
{
    struct origin o = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(4 * ORIGIN_MAX_BYTES);
    const char *why = raw.n > ORIGIN_MAX_BYTES ? "too long"
                      : !ast_str_is_utf8(raw)  ? "not UTF-8"
                                               : split_url(raw, &o);
    bool is_web = !why && (ast_str_eq_nocase(o.scheme, AST_STR("http")) ||
                           ast_str_eq_nocase(o.scheme, AST_STR("https")));
    if (is_web)
        why = canonical(&o, &out);
    if (why)
        return ast_fail(err, AST_E_INVALID, ORIGIN "doesn't parse as a URL: %s", AST_STR_ARG(raw),
                        why);
    if (!is_web)
        return ast_fail(err, AST_E_INVALID,
                        ORIGIN "uses scheme \"" AST_STR_FMT
                               "\"; only http/https are valid for browser origins",
                        AST_STR_ARG(raw), AST_STR_ARG(o.scheme));
    if (!o.host.n)
        return ast_fail(err, AST_E_INVALID, ORIGIN "has no host component", AST_STR_ARG(raw));
    if (o.has_userinfo)
        return ast_fail(err, AST_E_INVALID, ORIGIN "carries userinfo (user:password)",
                        AST_STR_ARG(raw));
    if (o.path.n && !ast_str_is(o.path, "/"))
        return ast_fail(err, AST_E_INVALID, ORIGIN "carries a path (\"" AST_STR_FMT "\")",
                        AST_STR_ARG(raw), AST_STR_ARG(o.path));
    if (o.has_query || o.has_fragment)
        return ast_fail(err, AST_E_INVALID, ORIGIN "carries a query/fragment", AST_STR_ARG(raw));
    if (ast_str_ends(raw, AST_STR("/")))
        return ast_fail(err, AST_E_INVALID, ORIGIN "has a trailing slash; remove it",
                        AST_STR_ARG(raw));
    if (ast_buf_check(&out, "origin", err))
        return out.fail;
    if (!ast_str_eq(raw, ast_buf_view(&out)))
        return ast_fail(
            err, AST_E_INVALID,
            ORIGIN
            "must be ASCII-only (Punycode) and spelled as browsers send it. Use \"" AST_STR_FMT
            "\" instead.",
            AST_STR_ARG(raw), AST_STR_ARG(ast_buf_view(&out)));
    return AST_OK;
}
