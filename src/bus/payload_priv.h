/* How payload variants are described: shapes as data, walked by one engine.
 *
 * Everything here is static and immutable. The tables are in payload_table.c, the engine in payload.c.
 */
#pragma once

#include "bus/payload.h"

struct bus_shape;

enum bus_presence {
    BUS_REQUIRED,
    BUS_OMITTED, /* optional, null counts as unset; left out when unset */
    BUS_NULLED,  /* optional, null counts as unset; written as null when unset */
    BUS_DEFAULT, /* the fallback text when absent; null does not fit */
};

struct bus_field {
    struct ast_str name;
    struct ast_str key; /* the name as it is written: quotes and colon */
    const struct bus_shape *shape;
    enum bus_presence presence;
    struct ast_str fallback; /* JSON text, BUS_DEFAULT only */
};

struct bus_fields {
    const struct bus_field *v;
    size_t n;
};

struct bus_variant {
    struct ast_str tag;
    const struct bus_shape *shape; /* external tags: of the value, NULL for a bare tag */
    struct bus_fields fields;      /* internal tags: members beside `type` */
};

enum bus_shape_type {
    BUS_SHAPE_STRING,
    BUS_SHAPE_BOOL,
    BUS_SHAPE_COUNT, /* unsigned 64-bit integer */
    BUS_SHAPE_UUID,
    BUS_SHAPE_ANY,      /* free-form: written canonically */
    BUS_SHAPE_RECORD,   /* fields */
    BUS_SHAPE_LIST,     /* element */
    BUS_SHAPE_EXTERNAL, /* variants: "Tag" or {"Tag":value} */
    BUS_SHAPE_INTERNAL, /* variants: {"type":"tag",members} */
    BUS_SHAPE_UNTAGGED, /* options, the first that fits */
};

struct bus_shape {
    enum bus_shape_type type;
    size_t count; /* of variants or options */
    union {
        struct bus_fields fields;
        const struct bus_shape *element;
        const struct bus_variant *variants;
        const struct bus_shape *const *options;
    };
};

/* The members of each kind beside `type`; RAW_JSON has none, its members are free. */
const struct bus_fields *bus_payload_fields(enum ast_payload_kind kind);

/* As ast_payload_normalise(); *ret_session is the string member session_id of the guest bytes,
 * unescaped, borrowed from `value` or static; empty when there is none. */
enum ast_rc bus_payload_normalise(const struct ast_json *value, enum ast_payload_kind *ret_kind,
                                  struct ast_buf *out, struct ast_str *ret_session);
