/* Classifies and normalises payloads (spec 04 §4, spec 01 §7).
 *
 * One engine decodes a value against its description and writes it again in the same walk. A value
 * that turns out not to fit is cut off the output at the mark where it began, so nothing half-written
 * is ever seen.
 */
#include "bus/payload_priv.h"

#include <stdlib.h>

#include "base/json.h"
#include "base/uuid.h"
#include "base/vec.h"

#include "base/banned.h"

static const struct ast_str tags[AST_PAYLOAD_KIND_COUNT] = {
#define X(name, tag) [AST_PAYLOAD_##name] = AST_STR(tag),
    AST_PAYLOAD_MAP(X)
#undef X
};

/* `{"type":"<tag>"` of each kind, ready to be written. */
static const struct ast_str openings[AST_PAYLOAD_KIND_COUNT] = {
#define X(name, tag) [AST_PAYLOAD_##name] = AST_STR("{\"type\":\"" tag "\""),
    AST_PAYLOAD_MAP(X)
#undef X
};

const char *ast_payload_tag(enum ast_payload_kind kind)
{
    AST_ASSERT(kind < AST_PAYLOAD_KIND_COUNT);
    return tags[kind].p;
}

static void cut_back(struct ast_buf *out, size_t mark)
{
    if (out->n == mark)
        return;
    out->n = mark;
    out->p[mark] = '\0';
}

static bool write_shape(const struct bus_shape *shape, const struct ast_json *v,
                        struct ast_buf *out);

static bool write_string(const struct ast_json *v, struct ast_buf *out)
{
    struct ast_str s;
    if (!ast_json_string(v, &s))
        return false;
    ast_json_quote(s, out);
    return true;
}

static bool write_uuid(const struct ast_json *v, struct ast_buf *out)
{
    struct ast_str s;
    struct ast_uuid id;
    if (!ast_json_string(v, &s) || !ast_uuid_parse(s, &id))
        return false;
    char text[AST_UUID_TEXT];
    ast_json_quote(ast_uuid_format(&id, text), out);
    return true;
}

static bool write_bool(const struct ast_json *v, struct ast_buf *out)
{
    bool b;
    if (!ast_json_bool(v, &b))
        return false;
    ast_buf_add(out, b ? AST_STR("true") : AST_STR("false"));
    return true;
}

static bool write_count(const struct ast_json *v, struct ast_buf *out)
{
    uint64_t n;
    if (!ast_json_u64(v, &n))
        return false;
    ast_buf_addf(out, "%llu", (unsigned long long)n);
    return true;
}

/* Writes one member, or what stands for an unset one. */
static bool write_field(const struct bus_field *f, const struct ast_json *object, bool *first,
                        struct ast_buf *out)
{
    const struct ast_json *v = ast_json_get(object, f->name);
    bool optional = f->presence == BUS_OMITTED || f->presence == BUS_NULLED;
    bool unset = !v || (optional && ast_json_type(v) == AST_JSON_NULL);
    if (unset && f->presence == BUS_REQUIRED)
        return false;
    if (unset && f->presence == BUS_OMITTED)
        return true;

    if (!*first)
        ast_buf_add_byte(out, ',');
    *first = false;
    ast_buf_add(out, f->key);
    if (!unset)
        return write_shape(f->shape, v, out);
    ast_buf_add(out, f->presence == BUS_DEFAULT ? f->fallback : AST_STR("null"));
    return true;
}

static bool write_fields(const struct bus_fields *fields, const struct ast_json *object, bool first,
                         struct ast_buf *out)
{
    for (size_t i = 0; i < fields->n; i++)
        if (!write_field(&fields->v[i], object, &first, out))
            return false;
    ast_buf_add_byte(out, '}');
    return true;
}

static bool write_record(const struct bus_fields *fields, const struct ast_json *v,
                         struct ast_buf *out)
{
    if (ast_json_type(v) != AST_JSON_OBJECT)
        return false;
    ast_buf_add_byte(out, '{');
    return write_fields(fields, v, /* first= */ true, out);
}

static bool write_list(const struct bus_shape *element, const struct ast_json *v,
                       struct ast_buf *out)
{
    if (ast_json_type(v) != AST_JSON_ARRAY)
        return false;
    ast_buf_add_byte(out, '[');
    struct ast_json_iter it = AST_JSON_ITER(v);
    struct ast_str key;
    const struct ast_json *item;
    for (bool first = true; ast_json_next(&it, &key, &item); first = false) {
        if (!first)
            ast_buf_add_byte(out, ',');
        if (!write_shape(element, item, out))
            return false;
    }
    ast_buf_add_byte(out, ']');
    return true;
}

static const struct bus_variant *variant_by_tag(const struct bus_shape *shape, struct ast_str tag)
{
    for (size_t i = 0; i < shape->count; i++)
        if (ast_str_eq(shape->variants[i].tag, tag))
            return &shape->variants[i];
    return NULL;
}

/* The only member of an object, the last of its spellings when it is repeated; NULL: not exactly one. */
static const struct ast_json *only_member(const struct ast_json *object, struct ast_str *ret_key)
{
    if (ast_json_type(object) != AST_JSON_OBJECT)
        return NULL;
    struct ast_json_iter it = AST_JSON_ITER(object);
    struct ast_str key;
    const struct ast_json *v, *only = NULL;
    while (ast_json_next(&it, &key, &v)) {
        if (only && !ast_str_eq(key, *ret_key))
            return NULL;
        *ret_key = key;
        only = v;
    }
    return only;
}

/* "Tag", or {"Tag":value}; a bare tag also as {"Tag":null}. */
static bool write_external(const struct bus_shape *shape, const struct ast_json *v,
                           struct ast_buf *out)
{
    struct ast_str tag;
    const struct ast_json *inner = NULL;
    if (!ast_json_string(v, &tag) && !(inner = only_member(v, &tag)))
        return false;
    const struct bus_variant *variant = variant_by_tag(shape, tag);
    if (!variant || (variant->shape && !inner))
        return false;
    if (!variant->shape) {
        ast_json_quote(tag, out);
        return !inner || ast_json_type(inner) == AST_JSON_NULL;
    }
    ast_buf_add_byte(out, '{');
    ast_json_quote(tag, out);
    ast_buf_add_byte(out, ':');
    if (!write_shape(variant->shape, inner, out))
        return false;
    ast_buf_add_byte(out, '}');
    return true;
}

static bool write_internal(const struct bus_shape *shape, const struct ast_json *v,
                           struct ast_buf *out)
{
    struct ast_str tag;
    if (!ast_json_string(ast_json_member(v, "type"), &tag))
        return false;
    const struct bus_variant *variant = variant_by_tag(shape, tag);
    if (!variant)
        return false;
    ast_buf_add_lit(out, "{\"type\":");
    ast_json_quote(tag, out);
    return write_fields(&variant->fields, v, /* first= */ false, out);
}

static bool write_untagged(const struct bus_shape *shape, const struct ast_json *v,
                           struct ast_buf *out)
{
    size_t mark = out->n;
    for (size_t i = 0; i < shape->count; i++) {
        if (write_shape(shape->options[i], v, out))
            return true;
        cut_back(out, mark);
    }
    return false;
}

/* False when `v` does not fit; `out` then holds a part of it. Buffer errors are sticky in `out`.
 * Recursion follows the tables, which are finite; only free-form values nest by foreign will. */
static bool write_shape(const struct bus_shape *shape, const struct ast_json *v,
                        struct ast_buf *out)
{
    switch (shape->type) {
    case BUS_SHAPE_STRING: return write_string(v, out);
    case BUS_SHAPE_BOOL: return write_bool(v, out);
    case BUS_SHAPE_COUNT: return write_count(v, out);
    case BUS_SHAPE_UUID: return write_uuid(v, out);
    case BUS_SHAPE_ANY: ast_json_canonical(v, out); return true;
    case BUS_SHAPE_RECORD: return write_record(&shape->fields, v, out);
    case BUS_SHAPE_LIST: return write_list(shape->element, v, out);
    case BUS_SHAPE_EXTERNAL: return write_external(shape, v, out);
    case BUS_SHAPE_INTERNAL: return write_internal(shape, v, out);
    case BUS_SHAPE_UNTAGGED: return write_untagged(shape, v, out);
    }
    return false;
}

struct member {
    struct ast_str key;
    const struct ast_json *value;
    size_t at; /* place in the text, so that the last of equal keys is known after sorting */
};

static int member_cmp(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    int order = ast_str_cmp(x->key, y->key);
    return order ? order : (x->at > y->at) - (x->at < y->at);
}

/* The inner value of a raw_json payload: every member but `type`, canonical. */
static void write_raw_members(const struct ast_json *object, struct ast_buf *out)
{
    AST_VEC(struct member) members = { 0 };
    struct ast_json_iter it = AST_JSON_ITER(object);
    struct member m = { .at = 0 };
    for (; ast_json_next(&it, &m.key, &m.value); m.at++) {
        if (ast_str_is(m.key, "type"))
            continue;
        if (!ast_vec_push(&members, m)) {
            out->fail = AST_E_NO_MEMORY;
            break;
        }
    }
    if (members.n > 1)
        qsort(members.v, members.n, sizeof *members.v, member_cmp);

    ast_buf_add_byte(out, '{');
    bool first = true;
    for (size_t i = 0; i < members.n; i++) {
        if (i + 1 < members.n && ast_str_eq(members.v[i].key, members.v[i + 1].key))
            continue; /* a later spelling of the same member replaces it */
        if (!first)
            ast_buf_add_byte(out, ',');
        first = false;
        ast_json_quote(members.v[i].key, out);
        ast_buf_add_byte(out, ':');
        ast_json_canonical(members.v[i].value, out);
    }
    ast_buf_add_byte(out, '}');
    ast_vec_done(&members);
}

/* The known tag of a value; false: free-form. */
static bool classify(const struct ast_json *value, enum ast_payload_kind *ret_kind)
{
    struct ast_str tag;
    if (ast_json_type(value) != AST_JSON_OBJECT ||
        !ast_json_string(ast_json_member(value, "type"), &tag))
        return false;
    for (unsigned kind = 0; kind < AST_PAYLOAD_KIND_COUNT; kind++)
        if (ast_str_eq(tag, tags[kind])) {
            *ret_kind = (enum ast_payload_kind)kind;
            return true;
        }
    return false;
}

/* Guest bytes of a value decoded as `kind`; false: its members do not fit. */
static bool write_variant(enum ast_payload_kind kind, const struct ast_json *value,
                          struct ast_buf *out)
{
    if (kind == AST_PAYLOAD_RAW_JSON) {
        write_raw_members(value, out);
        return true;
    }
    if (kind == AST_PAYLOAD_CUSTOM) {
        const struct ast_json *data = ast_json_member(value, "data");
        if (!data)
            return false;
        ast_json_canonical(data, out);
        return true;
    }
    ast_buf_add(out, openings[kind]);
    return write_fields(bus_payload_fields(kind), value, /* first= */ false, out);
}

/* The session_id of what was written: the default counts for the variants that have one. */
static struct ast_str session_of(enum ast_payload_kind kind, const struct ast_json *value)
{
    const struct bus_fields *fields = bus_payload_fields(kind);
    for (size_t i = 0; i < fields->n; i++)
        if (ast_str_is(fields->v[i].name, "session_id"))
            return ast_json_str_or(value, AST_STR("session_id"), AST_STR("default"));
    if (kind == AST_PAYLOAD_RAW_JSON)
        return ast_json_str_or(value, AST_STR("session_id"), AST_STR_NONE);
    if (kind == AST_PAYLOAD_CUSTOM)
        return ast_json_str_or(ast_json_member(value, "data"), AST_STR("session_id"), AST_STR_NONE);
    return AST_STR_NONE;
}

enum ast_rc bus_payload_normalise(const struct ast_json *value, enum ast_payload_kind *ret_kind,
                                  struct ast_buf *out, struct ast_str *ret_session)
{
    size_t mark = out->n;
    enum ast_payload_kind kind;
    if (classify(value, &kind)) {
        if (write_variant(kind, value, out)) {
            if (out->fail)
                return out->fail;
            *ret_kind = kind;
            *ret_session = session_of(kind, value);
            return AST_OK;
        }
        cut_back(out, mark);
    }
    ast_json_canonical(value, out);
    if (out->fail)
        return out->fail;
    *ret_kind = AST_PAYLOAD_CUSTOM;
    *ret_session = ast_json_str_or(value, AST_STR("session_id"), AST_STR_NONE);
    return AST_OK;
}

enum ast_rc ast_payload_normalise(const struct ast_json *value, enum ast_payload_kind *ret_kind,
                                  struct ast_buf *out)
{
    struct ast_str session;
    return bus_payload_normalise(value, ret_kind, out, &session);
}

enum ast_rc ast_payload_tagged(enum ast_payload_kind kind, struct ast_str guest_bytes,
                               struct ast_buf *out)
{
    if (kind != AST_PAYLOAD_CUSTOM)
        return ast_buf_add(out, guest_bytes);
    ast_buf_add(out, openings[kind]);
    ast_buf_add_lit(out, ",\"data\":");
    ast_buf_add(out, guest_bytes);
    return ast_buf_add_byte(out, '}');
}
