/* What the tests of this room share: cmocka, views, messages of a wanted size. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "bus/bus.h"
#include "bus/message.h"
#include "bus/route.h"

#define assert_view(view, text) assert_view_((view), (text), __FILE__, __LINE__)
__attribute__((noinline, unused)) static void assert_view_(struct ast_str view, const char *text,
                                                           const char *file, int line)
{
    if (ast_str_eq(view, ast_str_c(text)))
        return;
    print_error("got  <" AST_STR_FMT ">\nwant <%s>\n", AST_STR_ARG(view), text);
    _fail(file, line);
}

/* A message whose queue cost (body and topic) is exactly `cost`. */
__attribute__((unused)) static struct ast_msg *msg_of_cost(const char *topic, const char *principal,
                                                           size_t cost)
{
    struct ast_msg_spec spec = { .topic = ast_str_c(topic), .principal = ast_str_c(principal) };
    assert_true(cost >= spec.topic.n + 2);
    size_t n = cost - spec.topic.n;
    char *body = malloc(n);
    assert_non_null(body);
    memset(body, 'x', n);
    body[0] = body[n - 1] = '"';
    struct ast_msg *m = NULL;
    assert_int_equal(ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, ast_str_n(body, n), &m, NULL),
                     AST_OK);
    free(body);
    assert_int_equal(ast_msg_cost(m), cost);
    return m;
}

__attribute__((unused)) static struct ast_msg *msg_with(const char *topic, const char *principal,
                                                        const char *body)
{
    struct ast_msg_spec spec = { .topic = ast_str_c(topic), .principal = ast_str_c(principal) };
    struct ast_msg *m = NULL;
    assert_int_equal(ast_msg_trusted(&spec, AST_PAYLOAD_CUSTOM, ast_str_c(body), &m, NULL), AST_OK);
    return m;
}

__attribute__((unused)) static uint64_t publish(struct ast_bus *bus, const char *topic,
                                                const char *principal, const char *body)
{
    return ast_bus_publish(bus, msg_with(topic, principal, body));
}

__attribute__((unused)) static struct ast_bus *bus_new(void)
{
    struct ast_bus *bus = NULL;
    assert_int_equal(ast_bus_new(&bus, NULL), AST_OK);
    return bus;
}

/* Repeatable random numbers. */
__attribute__((unused)) static uint32_t random_next(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*seed >> 33);
}
