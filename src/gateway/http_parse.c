/* The bytes of a request: where its head ends, what it says, where its body ends.
 *
 * Invariant: whatever two readers could understand differently (two lengths, a folded line, a bare line feed)
 * is refused.
 */
#include "gateway/http_parse_priv.h"

#include "base/codec.h"

#include "base/banned.h"

static const char *const method_names[] = {
#define X(name) #name,
    GW_METHOD_MAP(X)
#undef X
        "OTHER",
};

const char *gw_method_name(enum gw_method m)
{
    return method_names[m];
}

static enum gw_method method_of(struct ast_str s)
{
    for (unsigned m = 0; m < GW_METHOD_OTHER; m++)
        if (ast_str_eq(s, ast_str_c(method_names[m])))
            return (enum gw_method)m;
    return GW_METHOD_OTHER;
}

/* RFC 9110 §5.6.2. */
static bool is_token_char(unsigned char c)
{
    static const char extra[] = "!#$%&'*+-.^_`|~";
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c != 0 && strchr(extra, c) != NULL);
}

static bool is_token(struct ast_str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!is_token_char((unsigned char)s.p[i]))
            return false;
    return s.n > 0;
}

static struct ast_str trim_blanks(struct ast_str s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
        s = ast_str_from(s, 1);
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

bool gw_request_field(const struct gw_request *r, struct ast_str name, struct ast_str *ret_value)
{
    for (size_t i = 0; i < r->field_count; i++) {
        if (ast_str_eq_nocase(r->fields[i].name, name)) {
            *ret_value = r->fields[i].value;
            return true;
        }
    }
    return false;
}

/* --- The request line ---------------------------------------------------------------------- */

/* "http://host/path" means "/path": clients talk to proxies that way. */
static struct ast_str strip_authority(struct ast_str target)
{
    size_t scheme = ast_str_find(target, AST_STR("://"));
    if (scheme == AST_STR_NPOS || target.p[0] == '/')
        return target;
    struct ast_str rest = ast_str_from(target, scheme + 3);
    size_t end = 0;
    while (end < rest.n && rest.p[end] != '/' && rest.p[end] != '?')
        end++;
    return ast_str_from(rest, end);
}

static unsigned read_request_line(struct ast_str line, struct gw_request *r)
{
    size_t first = ast_str_find_byte(line, ' ');
    if (first == AST_STR_NPOS)
        return 400;
    struct ast_str method = ast_str_first(line, first);
    struct ast_str rest = ast_str_from(line, first + 1);
    size_t second = ast_str_find_byte(rest, ' ');
    if (second == AST_STR_NPOS || second == 0 || !is_token(method))
        return 400;
    struct ast_str target = ast_str_first(rest, second);
    struct ast_str version = ast_str_from(rest, second + 1);
    if (!ast_str_starts(version, AST_STR("HTTP/")))
        return 400;
    if (!ast_str_is(version, "HTTP/1.1") && !ast_str_is(version, "HTTP/1.0"))
        return 505;
    for (size_t i = 0; i < target.n; i++)
        if ((unsigned char)target.p[i] <= 0x20 || (unsigned char)target.p[i] == 0x7f)
            return 400;

    r->method = method_of(method);
    r->is_http10 = version.p[version.n - 1] == '0';
    target = strip_authority(target);
    size_t mark = ast_str_find_byte(target, '?');
    r->path = ast_str_first(target, mark);
    r->query = mark == AST_STR_NPOS ? AST_STR_NONE : ast_str_from(target, mark + 1);
    if (!r->path.n)
        r->path = AST_STR("/");
    return 0;
}

/* --- Fields -------------------------------------------------------------------------------- */

static unsigned read_field(struct ast_str line, struct gw_request *r)
{
    size_t colon = ast_str_find_byte(line, ':');
    if (colon == AST_STR_NPOS)
        return 400;
    struct ast_str name = ast_str_first(line, colon);
    struct ast_str value = trim_blanks(ast_str_from(line, colon + 1));
    if (!is_token(name)) /* also refuses a folded line, which starts with a blank */
        return 400;
    for (size_t i = 0; i < value.n; i++) {
        unsigned char c = (unsigned char)value.p[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return 400;
    }
    if (r->field_count == AST_GATEWAY_HEAD_FIELDS)
        return 431;
    r->fields[r->field_count++] = (struct gw_field){ name, value };
    return 0;
}

static bool next_list_item(struct ast_str *rest, struct ast_str *ret)
{
    if (!rest->p)
        return false;
    size_t comma = ast_str_find_byte(*rest, ',');
    *ret = trim_blanks(ast_str_first(*rest, comma));
    *rest = comma == AST_STR_NPOS ? AST_STR_NONE : ast_str_from(*rest, comma + 1);
    return true;
}

struct framing {
    bool has_length, has_coding, wants_close, wants_keep;
    unsigned hosts;
};

static unsigned read_length(struct ast_str value, struct framing *f, struct gw_request *r)
{
    uint64_t n = 0;
    if (!value.n)
        return 400;
    for (size_t i = 0; i < value.n; i++) {
        if (value.p[i] < '0' || value.p[i] > '9' || __builtin_mul_overflow(n, 10u, &n) ||
            __builtin_add_overflow(n, (uint64_t)(value.p[i] - '0'), &n))
            return 400;
    }
    if (f->has_length && n != r->content_length)
        return 400;
    f->has_length = true;
    r->content_length = n;
    return 0;
}

static unsigned read_framing_field(const struct gw_field *field, struct framing *f,
                                   struct gw_request *r)
{
    if (ast_str_eq_nocase(field->name, AST_STR("content-length")))
        return read_length(field->value, f, r);
    if (ast_str_eq_nocase(field->name, AST_STR("transfer-encoding"))) {
        if (f->has_coding)
            return 400;
        f->has_coding = true;
        r->is_chunked = ast_str_eq_nocase(field->value, AST_STR("chunked"));
        return r->is_chunked ? 0 : 501;
    }
    if (ast_str_eq_nocase(field->name, AST_STR("host"))) {
        f->hosts++;
    } else if (ast_str_eq_nocase(field->name, AST_STR("expect"))) {
        r->expects_continue = ast_str_eq_nocase(field->value, AST_STR("100-continue"));
    } else if (ast_str_eq_nocase(field->name, AST_STR("connection"))) {
        struct ast_str rest = field->value, item;
        while (next_list_item(&rest, &item)) {
            f->wants_close |= ast_str_eq_nocase(item, AST_STR("close"));
            f->wants_keep |= ast_str_eq_nocase(item, AST_STR("keep-alive"));
        }
    }
    return 0;
}

static unsigned read_framing(struct gw_request *r)
{
    struct framing f = { 0 };
    for (size_t i = 0; i < r->field_count; i++) {
        unsigned status = read_framing_field(&r->fields[i], &f, r);
        if (status)
            return status;
    }
    /* RFC 9112 §6.1, §3.2: both framings at once, or no single host, is how requests are smuggled. */
    if (f.has_coding && (f.has_length || r->is_http10))
        return 400;
    if (f.hosts > 1 || (f.hosts == 0 && !r->is_http10))
        return 400;
    r->keep_alive = !f.wants_close && (!r->is_http10 || f.wants_keep);
    return 0;
}

/* --- The head ------------------------------------------------------------------------------ */

/* Finds the empty line. Each line must end in CR LF. */
static enum gw_parse find_end(struct ast_str in, size_t start, size_t *scanned, size_t *ret_end)
{
    size_t at = AST_MAX(*scanned, start);
    for (;;) {
        const char *lf = at < in.n ? memchr(in.p + at, '\n', in.n - at) : NULL;
        if (!lf) {
            *scanned = at; /* the line under way is looked at again: it is the only one */
            return GW_PARSE_MORE;
        }
        size_t end = (size_t)(lf - in.p);
        if (end == at || in.p[end - 1] != '\r')
            return GW_PARSE_BAD;
        if (end - 1 == at) {
            *ret_end = end + 1;
            return GW_PARSE_DONE;
        }
        at = end + 1;
    }
}

enum gw_parse gw_parse_head(struct ast_str in, size_t *scanned, struct gw_request *ret,
                            unsigned *ret_status)
{
    size_t start = 0, end = 0;
    while (start + 1 < in.n && start < 8 && in.p[start] == '\r' && in.p[start + 1] == '\n')
        start += 2; /* RFC 9112 §2.2: old clients send an empty line after a body */
    if (in.n - start < 2 && start < 8) /* maybe half of an empty line */
        return GW_PARSE_MORE;
    enum gw_parse found = find_end(in, start, scanned, &end);
    *ret_status = 400;
    if (found == GW_PARSE_BAD)
        return GW_PARSE_BAD;
    if (found == GW_PARSE_MORE ? in.n >= AST_GATEWAY_HEAD_BYTES : end > AST_GATEWAY_HEAD_BYTES) {
        *ret_status = 431;
        return GW_PARSE_BAD;
    }
    if (found == GW_PARSE_MORE)
        return GW_PARSE_MORE;

    ret->field_count = 0;
    ret->content_length = 0;
    ret->is_chunked = ret->expects_continue = ret->body_too_large = false;
    ret->body = AST_STR_NONE;
    ret->head_bytes = end;
    unsigned status = 0;
    for (size_t at = start; at < end - 2 && !status;) {
        const char *lf = memchr(in.p + at, '\n', end - at);
        struct ast_str line = ast_str_n(in.p + at, (size_t)(lf - in.p) - at - 1);
        status = at == start ? read_request_line(line, ret) : read_field(line, ret);
        at = (size_t)(lf - in.p) + 1;
    }
    if (!status && end - 2 == start)
        status = 400;
    if (!status)
        status = read_framing(ret);
    *ret_status = status;
    return status ? GW_PARSE_BAD : GW_PARSE_DONE;
}

/* --- Chunked bodies ------------------------------------------------------------------------ */

static void line_done(struct gw_chunks *c)
{
    c->line_bytes = 0;
    c->saw_cr = false;
}

static bool eat_size(struct gw_chunks *c, char ch)
{
    if (++c->line_bytes > AST_GATEWAY_CHUNK_LINE_BYTES)
        return false;
    if (c->saw_cr) {
        if (ch != '\n' || !c->digits)
            return false;
        c->state = c->left ? GW_CHUNK_DATA : GW_CHUNK_TRAILER;
        c->digits = 0;
        c->in_extension = false;
        line_done(c);
        return true;
    }
    int digit = ast_hex_value(ch);
    if (ch == '\r') {
        c->saw_cr = true;
    } else if (c->in_extension) {
        return (unsigned char)ch >= 0x20 || ch == '\t';
    } else if (digit >= 0 && c->digits < 16) {
        c->left = c->left << 4 | (unsigned)digit;
        c->digits++;
    } else if (c->digits && (ch == ';' || ch == ' ' || ch == '\t')) {
        c->in_extension = true;
    } else {
        return false;
    }
    return true;
}

static bool eat_data_end(struct gw_chunks *c, char ch)
{
    if (!c->saw_cr)
        return c->saw_cr = ch == '\r';
    line_done(c);
    c->state = GW_CHUNK_SIZE;
    return ch == '\n';
}

/* Trailer fields are read past: nothing here means anything to a handler. */
static bool eat_trailer(struct gw_chunks *c, char ch)
{
    if (++c->trailer_bytes > AST_GATEWAY_TRAILER_BYTES)
        return false;
    if (c->saw_cr) {
        if (ch != '\n')
            return false;
        if (!c->line_bytes)
            c->state = GW_CHUNK_DONE;
        line_done(c);
    } else if (ch == '\r') {
        c->saw_cr = true;
    } else {
        c->line_bytes++;
        return ch != '\n';
    }
    return true;
}

enum gw_parse gw_parse_chunks(struct gw_chunks *c, struct ast_str in, size_t *ret_used,
                              struct ast_buf *out, bool *ret_too_large)
{
    size_t at = 0;
    bool fits = true;
    while (fits && at < in.n && c->state != GW_CHUNK_DONE) {
        if (c->state == GW_CHUNK_DATA) {
            size_t n = c->left < in.n - at ? (size_t)c->left : in.n - at;
            if (!*ret_too_large &&
                (out->max - out->n < n || ast_buf_add(out, ast_str_n(in.p + at, n))))
                *ret_too_large = true;
            at += n;
            c->left -= n;
            if (!c->left)
                c->state = GW_CHUNK_DATA_END;
            continue;
        }
        char ch = in.p[at++];
        fits = c->state == GW_CHUNK_SIZE       ? eat_size(c, ch)
               : c->state == GW_CHUNK_DATA_END ? eat_data_end(c, ch)
                                               : eat_trailer(c, ch);
    }
    *ret_used = at;
    return !fits ? GW_PARSE_BAD : c->state == GW_CHUNK_DONE ? GW_PARSE_DONE : GW_PARSE_MORE;
}
