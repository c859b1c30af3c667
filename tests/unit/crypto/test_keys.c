#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/fs.h"
#include "crypto/keys.h"

#include "base/banned.h"

static char home[] = "/tmp/ast-keys-XXXXXX";
static char path[128];

static int make_home(void **state)
{
    (void)state;
    memcpy(home + sizeof home - 7, "XXXXXX", 6);
    if (!mkdtemp(home))
        return -1;
    return snprintf(path, sizeof path, "%s/keys/runtime.key", home) > 0 ? 0 : -1;
}

static int drop_home(void **state)
{
    (void)state;
    return ast_fs_remove_tree(home, NULL) ? -1 : 0;
}

static void write_key(const char *bytes, size_t n, mode_t mode)
{
    char dir[128];
    snprintf(dir, sizeof dir, "%s/keys", home);
    assert_int_equal(ast_fs_mkdirs(dir, 0700, NULL), AST_OK);
    assert_int_equal(ast_fs_write_atomic(path, ast_str_n(bytes, n), mode, 0, NULL), AST_OK);
}

static mode_t mode_of(const char *p)
{
    struct stat st;
    assert_int_equal(stat(p, &st), 0);
    return st.st_mode & 07777;
}

static void rfc_8032_vectors(void **state)
{
    (void)state;
    static const struct {
        const char *seed, *public_key, *message, *signature;
    } cases[] = {
        { "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
          "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
          "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
          "d25bf5f0595bbe24655141438e7a100b" },
        { "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
          "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "r",
          "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
          "387b2eaeb4302aeeb00d291612bb0c00" },
        /* spec 09 §28 */
        { "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
          "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8", NULL, NULL },
    };
    for (size_t i = 0; i < AST_ARRAY_LEN(cases); i++) {
        uint8_t seed[32], expected[32], signature[64], got[64];
        AST_AUTO(ast_key_done) struct ast_key k = { 0 };
        assert_true(ast_hex_decode(ast_str_c(cases[i].seed), seed, 32));
        assert_true(ast_hex_decode(ast_str_c(cases[i].public_key), expected, 32));
        assert_int_equal(ast_key_from_seed(&k, seed, NULL), AST_OK);
        assert_memory_equal(k.public_key, expected, 32);
        if (!cases[i].message)
            continue;
        struct ast_str message = ast_str_c(cases[i].message);
        assert_true(ast_hex_decode(ast_str_c(cases[i].signature), signature, 64));
        ast_key_sign(&k, message, got);
        assert_memory_equal(got, signature, 64);
        assert_true(ast_key_verify(expected, message, signature));
        for (size_t bit = 0; bit < 512; bit += 37) {
            got[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_false(ast_key_verify(expected, message, got));
            got[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        assert_false(ast_key_verify(expected, AST_STR("another text"), signature));
    }
}

static void c09_34_a_created_key_is_private_and_loads_again(void **state)
{
    (void)state;
    AST_AUTO(ast_key_done) struct ast_key first = { 0 }, second = { 0 };
    assert_int_equal(ast_key_load_or_create(path, "runtime key", &first, NULL), AST_OK);
    assert_int_equal(mode_of(path), 0600);
    char dir[128];
    snprintf(dir, sizeof dir, "%s/keys", home);
    assert_int_equal(mode_of(dir), 0700);
    AST_AUTO(ast_buf_done) struct ast_buf bytes = AST_BUF_INIT(100);
    assert_int_equal(ast_fs_read(path, 100, &bytes, NULL), AST_OK);
    assert_int_equal(bytes.n, 32);
    assert_memory_equal(bytes.p, first.secret.p, 32);

    assert_int_equal(ast_key_load_or_create(path, "runtime key", &second, NULL), AST_OK);
    assert_memory_equal(first.public_key, second.public_key, 32);
    assert_false(first.was_exposed || second.was_exposed);
}

static void c03_07_a_file_of_another_length_is_refused_and_kept(void **state)
{
    (void)state;
    static const size_t lengths[] = { 0, 31, 33, 64, 5000 };
    static char bytes[5000];
    for (size_t i = 0; i < AST_ARRAY_LEN(lengths); i++) {
        struct ast_err err = AST_ERR_INIT;
        struct ast_key k = { 0 };
        char expected[256];
        write_key(bytes, lengths[i], 0600);
        assert_int_equal(ast_key_load_or_create(path, "runtime key", &k, &err), AST_E_CORRUPT);
        snprintf(expected, sizeof expected,
                 "invalid runtime key at %s: invalid key length: expected 32, got %zu (remove",
                 path, lengths[i]);
        assert_true(ast_str_starts(ast_str_c(err.msg), ast_str_c(expected)));
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, lengths[i]);
        assert_null(k.secret.p);
    }
}

static void an_exposed_file_is_tightened_and_reported(void **state)
{
    (void)state;
    char seed[32] = "0123456789abcdef0123456789abcde";
    write_key(seed, sizeof seed, 0644);
    AST_AUTO(ast_key_done) struct ast_key k = { 0 };
    assert_int_equal(ast_key_load_or_create(path, "runtime key", &k, NULL), AST_OK);
    assert_true(k.was_exposed);
    assert_int_equal(mode_of(path), 0600);
}

static void what_is_no_file_is_refused(void **state)
{
    (void)state;
    struct ast_err err = AST_ERR_INIT;
    struct ast_key k = { 0 };
    assert_int_equal(ast_fs_mkdirs(path, 0700, NULL), AST_OK);
    assert_int_equal(ast_key_load_or_create(path, "runtime key", &k, &err), AST_E_CORRUPT);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(ast_key_load_or_create(path, "runtime key", &k, &err), AST_E_CORRUPT);
}

static pthread_barrier_t together;

static void *create_one(void *arg)
{
    struct ast_key *k = arg;
    pthread_barrier_wait(&together);
    return ast_key_load_or_create(path, "runtime key", k, NULL) ? arg : NULL;
}

static void concurrent_creators_get_the_same_key(void **state)
{
    (void)state;
    enum { N = 8 };
    pthread_t threads[N];
    struct ast_key keys[N] = { 0 };
    pthread_barrier_init(&together, NULL, N);
    for (int i = 0; i < N; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, create_one, &keys[i]), 0);
    for (int i = 0; i < N; i++) {
        void *failed;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    for (int i = 0; i < N; i++) {
        assert_memory_equal(keys[i].public_key, keys[0].public_key, 32);
        if (i)
            ast_key_done(&keys[i]);
    }
    ast_key_done(&keys[0]);
    pthread_barrier_destroy(&together);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_home, drop_home)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rfc_8032_vectors),
        TEST(c09_34_a_created_key_is_private_and_loads_again),
        TEST(c03_07_a_file_of_another_length_is_refused_and_kept),
        TEST(an_exposed_file_is_tightened_and_reported),
        TEST(what_is_no_file_is_refused),
        TEST(concurrent_creators_get_the_same_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
