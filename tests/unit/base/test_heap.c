#include "base_test.h"

#include "base/heap.h"
#include "base/list.h"

#include "base/banned.h"

static void nodes_come_out_by_deadline(void **state)
{
    (void)state;
    struct ast_heap h = { 0 };
    struct ast_heap_node nodes[1000] = { 0 };
    uint32_t seed = 7;
    for (size_t i = 0; i < 1000; i++) {
        seed = seed * 1664525 + 1013904223;
        nodes[i].key = (int64_t)(seed >> 8 & 0x1ff) - 100; /* many equal ones, some negative */
        assert_true(ast_heap_push(&h, &nodes[i]));
    }
    int64_t last = INT64_MIN;
    for (size_t i = 0; i < 1000; i++) {
        struct ast_heap_node *first = ast_heap_peek(&h), *n = ast_heap_pop(&h);
        assert_ptr_equal(first, n);
        assert_true(n->key >= last);
        assert_int_equal(n->index, 0);
        last = n->key;
    }
    assert_null(ast_heap_peek(&h));
    assert_null(ast_heap_pop(&h));
    ast_heap_done(&h);
}

static void any_node_can_leave_early(void **state)
{
    (void)state;
    struct ast_heap h = { 0 };
    struct ast_heap_node nodes[300] = { 0 };
    uint32_t seed = 99;
    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < 300; i++) {
            seed = seed * 1664525 + 1013904223;
            nodes[i].key = seed >> 4 & 0xfff;
            assert_true(ast_heap_push(&h, &nodes[i]));
        }
        for (size_t i = 0; i < 300; i++) {
            seed = seed * 1664525 + 1013904223;
            if (seed & 0x100)
                ast_heap_remove(&h, &nodes[(seed >> 12) % 300]); /* repeats are no-ops */
        }
        int64_t last = INT64_MIN;
        size_t queued = 0;
        for (size_t i = 0; i < 300; i++)
            queued += nodes[i].index != 0;
        assert_int_equal(queued, h.n);
        for (struct ast_heap_node *n; (n = ast_heap_pop(&h));) {
            assert_true(n->key >= last);
            last = n->key;
            queued--;
        }
        assert_int_equal(queued, 0);
    }
    ast_heap_done(&h);
}

static void done_lets_go_of_the_nodes(void **state)
{
    (void)state;
    struct ast_heap h = { 0 };
    struct ast_heap_node n = { .key = 1 };
    assert_true(ast_heap_push(&h, &n));
    ast_heap_done(&h);
    assert_int_equal(n.index, 0);
    assert_true(ast_heap_push(&h, &n));
    assert_ptr_equal(ast_heap_pop(&h), &n);
    ast_heap_done(&h);
}

struct item {
    int v;
    struct ast_list link;
};

static void a_list_keeps_order_and_lets_go_in_the_middle(void **state)
{
    (void)state;
    struct ast_list head;
    struct item items[5];
    ast_list_init(&head);
    assert_true(ast_list_empty(&head));
    assert_null(ast_list_pop_front(&head));
    for (int i = 0; i < 5; i++) {
        items[i].v = i;
        if (i == 4)
            ast_list_push_front(&head, &items[i].link);
        else
            ast_list_push_back(&head, &items[i].link);
    }
    int seen[5], n = 0;
    ast_list_each (&head, it) {
        struct item *item = AST_CONTAINER_OF(it, struct item, link);
        seen[n++] = item->v;
        if (item->v == 1) {
            ast_list_remove(&item->link);
            ast_list_remove(&item->link); /* harmless to repeat */
        }
    }
    static const int want[] = { 4, 0, 1, 2, 3 };
    assert_int_equal(n, 5);
    assert_memory_equal(seen, want, sizeof want);
    assert_ptr_equal(ast_list_pop_front(&head), &items[4].link);
    assert_ptr_equal(ast_list_pop_front(&head), &items[0].link);
    assert_ptr_equal(ast_list_pop_front(&head), &items[2].link);
    assert_ptr_equal(ast_list_pop_front(&head), &items[3].link);
    assert_true(ast_list_empty(&head));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_come_out_by_deadline),
        cmocka_unit_test(any_node_can_leave_early),
        cmocka_unit_test(done_lets_go_of_the_nodes),
        cmocka_unit_test(a_list_keeps_order_and_lets_go_in_the_middle),
    };
    return cmocka_run_group_tests_name("heap", tests, NULL, NULL);
}
