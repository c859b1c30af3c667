/* Memory of messages that is made on one thread and given up on another. */
#include "bus_test.h"

#include "base/thread.h"
#include "bus/blocks_priv.h"

#include "base/banned.h"

#define IN_FLIGHT 5000
#define ROUNDS    40

/* Blocks on their way from the thread that makes them to the one that frees them. */
static struct {
    void *v[IN_FLIGHT];
    uint8_t size[IN_FLIGHT];
    size_t bytes[IN_FLIGHT];
} bundle;

static void block_check(size_t i)
{
    const unsigned char *p = bundle.v[i];
    for (size_t k = 0; k < bundle.bytes[i]; k++)
        assert_int_equal(p[k], (unsigned char)i);
}

static void *give_up(void *arg)
{
    for (size_t i = 0; i < IN_FLIGHT; i++) {
        block_check(i);
        bus_block_free(bundle.v[i], bundle.size[i]);
    }
    return arg;
}

/* Every block is ours alone from new to free, whatever sizes went round before. */
static void blocks_that_change_threads_never_overlap(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < IN_FLIGHT; i++) {
            bundle.bytes[i] = 1 + random_next(&seed) % 1000;
            bundle.v[i] = bus_block_new(bundle.bytes[i], &bundle.size[i]);
            assert_non_null(bundle.v[i]);
            memset(bundle.v[i], (int)(i & 0xff), bundle.bytes[i]);
        }
        pthread_t other;
        assert_int_equal(ast_thread_start(&other, "other", give_up, NULL, NULL), AST_OK);
        assert_int_equal(pthread_join(other, NULL), 0);
    }
}

/* A thread that ends leaves nothing behind; the leak checker of a sanitizer build looks too. */
static void *make_and_free(void *arg)
{
    for (size_t n = 1; n < 1000; n++) {
        uint8_t size;
        void *p = bus_block_new(n, &size);
        assert_non_null(p);
        memset(p, 0xa5, n);
        bus_block_free(p, size);
    }
    return arg;
}

static void many_threads_come_and_go(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        pthread_t t[4];
        for (size_t i = 0; i < AST_ARRAY_LEN(t); i++)
            assert_int_equal(ast_thread_start(&t[i], "short", make_and_free, NULL, NULL), AST_OK);
        for (size_t i = 0; i < AST_ARRAY_LEN(t); i++)
            assert_int_equal(pthread_join(t[i], NULL), 0);
    }
}

static void a_large_block_comes_straight_from_malloc(void **state)
{
    (void)state;
    uint8_t size = 0;
    void *p = bus_block_new(100000, &size);
    assert_non_null(p);
    assert_int_equal(size, BUS_BLOCK_PLAIN);
    bus_block_free(p, size);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_that_change_threads_never_overlap),
        cmocka_unit_test(many_threads_come_and_go),
        cmocka_unit_test(a_large_block_comes_straight_from_malloc),
    };
    return cmocka_run_group_tests_name("blocks", tests, NULL, NULL);
}
