/* Tools that keep short notes, per principal, in the key-value store. */
#include "astrid.h"

#define PREFIX     "note/"
#define MAX_NAME   128u
#define MAX_TEXT   65536u
#define PAGE       256u
#define MAX_LISTED 1024u

/* The store key of a note's name; false with a message when the name will not do. */
static bool note_key(struct astrid_str arguments, struct astrid_str *ret_name,
                     struct astrid_str *ret_key, struct astrid_buf *out)
{
    struct astrid_buf key = { 0 };

    if (!astrid_json_member_text(arguments, ASTRID_STR("name"), ret_name)) {
        astrid_buf_lit(out, "failed to parse tool arguments: name must be a string");
        return false;
    }
    if (ret_name->n == 0 || ret_name->n > MAX_NAME) {
        astrid_buf_lit(out, "a note's name has 1 to 128 bytes");
        return false;
    }
    for (uint32_t i = 0; i < ret_name->n; i++) {
        if ((unsigned char)ret_name->p[i] < 0x20 || ret_name->p[i] == 0x7f) {
            astrid_buf_lit(out, "a note's name holds no control characters");
            return false;
        }
    }
    astrid_buf_lit(&key, PREFIX);
    astrid_buf_add(&key, *ret_name);
    *ret_key = astrid_buf_view(&key);
    return !key.failed;
}

static bool note_set(struct astrid_str arguments, struct astrid_buf *out)
{
    struct astrid_str name, key, text;

    if (!note_key(arguments, &name, &key, out))
        return false;
    if (!astrid_json_member_text(arguments, ASTRID_STR("text"), &text)) {
        astrid_buf_lit(out, "failed to parse tool arguments: text must be a string");
        return false;
    }
    if (text.n > MAX_TEXT) {
        astrid_buf_lit(out, "a note holds at most 65536 bytes");
        return false;
    }
    if (!astrid_kv_set(key, text)) {
        astrid_buf_lit(out, "the note could not be stored");
        return false;
    }
    astrid_buf_lit(out, "{\"stored\":");
    astrid_buf_json(out, name);
    astrid_buf_lit(out, "}");
    return true;
}

static bool note_get(struct astrid_str arguments, struct astrid_buf *out)
{
    struct astrid_str name, key, text;

    if (!note_key(arguments, &name, &key, out))
        return false;
    switch (astrid_kv_get(key, &text)) {
    case ASTRID_KV_OK: astrid_buf_json(out, text); return true;
    case ASTRID_KV_ABSENT:
        astrid_buf_lit(out, "there is no note named ");
        astrid_buf_json(out, name);
        return false;
    case ASTRID_KV_FAILED: break;
    }
    astrid_buf_lit(out, "the note could not be read");
    return false;
}

static bool note_delete(struct astrid_str arguments, struct astrid_buf *out)
{
    struct astrid_str name, key;

    if (!note_key(arguments, &name, &key, out))
        return false;
    if (!astrid_kv_delete(key)) {
        astrid_buf_lit(out, "the note could not be deleted");
        return false;
    }
    astrid_buf_lit(out, "{\"deleted\":");
    astrid_buf_json(out, name);
    astrid_buf_lit(out, "}");
    return true;
}

static bool note_list(struct astrid_str arguments, struct astrid_buf *out)
{
    struct astrid_str prefix = ASTRID_STR(PREFIX), cursor = { 0 };
    uint32_t listed = 0;
    bool more = true;

    (void)arguments; /* takes none */
    astrid_buf_lit(out, "{\"notes\":[");
    while (more && listed < MAX_LISTED) {
        const struct astrid_str *keys;
        uint32_t n;
        if (!astrid_kv_list(prefix, cursor, PAGE, &keys, &n, &more)) {
            *out = (struct astrid_buf){ 0 };
            astrid_buf_lit(out, "the notes could not be listed");
            return false;
        }
        for (uint32_t i = 0; i < n; i++, listed++) {
            if (listed)
                astrid_buf_lit(out, ",");
            astrid_buf_json(out, astrid_str_from(keys[i], prefix.n));
        }
        if (n == 0)
            break;
        cursor = keys[n - 1];
    }
    astrid_buf_add(out, more && listed >= MAX_LISTED ? ASTRID_STR("],\"truncated\":true}")
                                                     : ASTRID_STR("]}"));
    return true;
}

#define SCHEMA(required, properties, mutable)                                                      \
    "{\"$schema\":\"http://json-schema.org/draft-07/schema#\",\"type\":\"object\"" required        \
    ",\"properties\":{" properties "},\"mutable\":" mutable "}"
#define NAME "\"name\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":128}"

ASTRID_NO_HANDLERS;
ASTRID_TOOLS(
    "Keeps short notes, separately for each principal.",
    { "note_set",
      "Stores a note under a name, replacing an older one. The name has 1 to 128 bytes, the text at most 65536.",
      SCHEMA(",\"required\":[\"name\",\"text\"]", NAME ",\"text\":{\"type\":\"string\"}", "true"),
      note_set },
    { "note_get", "Reads the note of that name. An unknown name is an error.",
      SCHEMA(",\"required\":[\"name\"]", NAME, "false"), note_get },
    { "note_list", "The names of all notes, in ascending order. Takes no arguments.",
      SCHEMA("", "", "false"), note_list },
    { "note_delete", "Deletes the note of that name; an unknown name is fine.",
      SCHEMA(",\"required\":[\"name\"]", NAME, "true"), note_delete });
