/* toml++ behind one C function. No exception leaves this file and no C++ type enters another. */
#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
/* Bounds the parser's recursion; the dotted keys, which it does not count, are bounded by toml.c. */
#define TOML_MAX_NESTED_VALUES 128
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string_view>
#include <vector>

#include "base/toml_priv.h"

namespace {

struct writer {
    void *out;
    bool is_bad = false; /* met a value that JSON cannot hold; `where` says its place */
    toml::source_position where = {};

    void text(std::string_view s)
    {
        toml_put_text(out, s.data(), s.size());
    }

    void string(std::string_view s)
    {
        toml_put_string(out, s.data(), s.size());
    }

    void put(const toml::node &node);
    void put_table(const toml::table &table);
    void put_array(const toml::array &array);
};

struct member {
    toml::source_position place;
    std::string_view key;
    const toml::node *node;
};

/* toml++ keeps members sorted by name; readers of our documents expect the order of the file. */
void writer::put_table(const toml::table &table)
{
    std::vector<member> members;
    members.reserve(table.size());
    for (auto &&[key, node] : table)
        members.push_back({ key.source().begin, key.str(), &node });
    std::stable_sort(members.begin(), members.end(), [](const member &a, const member &b) {
        return a.place.line != b.place.line ? a.place.line < b.place.line
                                            : a.place.column < b.place.column;
    });
    text("{");
    bool is_first = true;
    for (const member &m : members) {
        if (!is_first)
            text(",");
        is_first = false;
        string(m.key);
        text(":");
        put(*m.node);
    }
    text("}");
}

void writer::put_array(const toml::array &array)
{
    text("[");
    for (size_t i = 0; i < array.size(); i++) {
        if (i)
            text(",");
        put(array[i]);
    }
    text("]");
}

/* The forms of RFC 3339; the fraction without trailing zeros. */
size_t format_date(const toml::date &d, char *out, size_t size)
{
    return static_cast<size_t>(std::snprintf(out, size, "%04u-%02u-%02u", unsigned(d.year),
                                             unsigned(d.month), unsigned(d.day)));
}

size_t format_time(const toml::time &t, char *out, size_t size)
{
    size_t n = static_cast<size_t>(std::snprintf(out, size, "%02u:%02u:%02u", unsigned(t.hour),
                                                 unsigned(t.minute), unsigned(t.second)));
    if (!t.nanosecond)
        return n;
    n += static_cast<size_t>(std::snprintf(out + n, size - n, ".%09u", unsigned(t.nanosecond)));
    while (out[n - 1] == '0')
        n--;
    return n;
}

size_t format_date_time(const toml::date_time &dt, char *out, size_t size)
{
    size_t n = format_date(dt.date, out, size);
    out[n++] = 'T';
    n += format_time(dt.time, out + n, size - n);
    if (!dt.offset)
        return n;
    int minutes = dt.offset->minutes;
    if (minutes == 0) {
        out[n++] = 'Z';
        return n;
    }
    unsigned absolute = unsigned(minutes < 0 ? -minutes : minutes);
    return n + static_cast<size_t>(std::snprintf(out + n, size - n, "%c%02u:%02u",
                                                 minutes < 0 ? '-' : '+', absolute / 60,
                                                 absolute % 60));
}

void writer::put(const toml::node &node)
{
    char time[64];
    switch (node.type()) {
    case toml::node_type::table: put_table(*node.as_table()); break;
    case toml::node_type::array: put_array(*node.as_array()); break;
    case toml::node_type::string: string(node.as_string()->get()); break;
    case toml::node_type::integer: toml_put_integer(out, node.as_integer()->get()); break;
    case toml::node_type::boolean: text(node.as_boolean()->get() ? "true" : "false"); break;
    case toml::node_type::floating_point: {
        double v = node.as_floating_point()->get();
        if (!std::isfinite(v) && !is_bad) {
            is_bad = true;
            where = node.source().begin;
        }
        toml_put_real(out, v);
        break;
    }
    case toml::node_type::date:
        string({ time, format_date(node.as_date()->get(), time, sizeof time) });
        break;
    case toml::node_type::time:
        string({ time, format_time(node.as_time()->get(), time, sizeof time) });
        break;
    case toml::node_type::date_time:
        string({ time, format_date_time(node.as_date_time()->get(), time, sizeof time) });
        break;
    default: text("null"); break;
    }
}

void explain(const toml::source_position &at, std::string_view what, char *why, size_t why_bytes)
{
    std::snprintf(why, why_bytes, "line %u, column %u: %.*s", unsigned(at.line), unsigned(at.column),
                  int(what.size()), what.data());
}

enum toml_outcome parse(std::string_view text, void *out, char *why, size_t why_bytes)
{
    toml::parse_result result = toml::parse(text);
    if (!result) {
        explain(result.error().source().begin, result.error().description(), why, why_bytes);
        return TOML_OUTCOME_INVALID;
    }
    writer w{ out };
    w.put_table(result.table());
    if (w.is_bad) {
        explain(w.where, "infinite and undefined numbers are not supported", why, why_bytes);
        return TOML_OUTCOME_INVALID;
    }
    return TOML_OUTCOME_OK;
}

} // namespace

enum toml_outcome toml_bridge_parse(const char *text, size_t n, void *out, char *why,
                                    size_t why_bytes)
{
    try {
        return parse({ text, n }, out, why, why_bytes);
    } catch (...) {
        /* Only the allocator of the standard library throws here. */
        return TOML_OUTCOME_NO_MEMORY;
    }
}
