/* Key files of this machine: their bytes, their modes, and those that somebody else wrote. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/fs.h"
#include "cli/keyring.h"
#include "crypto/keys.h"
#include "crypto/public_key.h"

#include "base/banned.h"

static struct ast_home home;
static char root[] = "/tmp/ast-keyring-XXXXXX";

static int make_home(void **state)
{
    memcpy(root + sizeof root - 7, "XXXXXX", 6);
    return mkdtemp(root) && ast_home_at(root, &home, NULL) == AST_OK ? 0 : -1;
}

static int drop_home(void **state)
{
    ast_home_done(&home);
    return ast_fs_remove_tree(root, NULL) ? -1 : 0;
}

static mode_t mode_of(const char *name)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(&home, "keys/local%s", name);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void put(const char *name, const void *bytes, size_t n)
{
    AST_AUTO(ast_cfree) char *dir = ast_home_path(&home, "keys/local");
    AST_AUTO(ast_cfree) char *path = ast_home_path(&home, "keys/local/%s", name);
    assert_int_equal(ast_fs_mkdirs(dir, 0700, NULL), AST_OK);
    assert_int_equal(ast_fs_write_atomic(path, ast_str_n(bytes, n), 0600, 0, NULL), AST_OK);
}

static void c08_18_three_files_with_their_modes(void **state)
{
    AST_AUTO(cli_key_done) struct cli_key k = { 0 };
    AST_AUTO(cli_key_done) struct cli_key loaded = { 0 };
    AST_AUTO(ast_cfree) char *path = cli_key_path(&home, "laptop", CLI_KEY_SEED);
    AST_AUTO(ast_key_done) struct ast_key key = { 0 };
    struct ast_public_key public_key;
    char hex[CLI_KEY_HEX];

    mode_t old = umask(0);
    assert_int_equal(cli_key_generate(&home, "laptop", "my \"best\" one", false, &k, NULL), AST_OK);
    umask(old);
    assert_int_equal(mode_of(""), 0700);
    assert_int_equal(mode_of("/laptop.ed25519"), 0600);
    assert_int_equal(mode_of("/laptop.pub.hex"), 0644);
    assert_int_equal(mode_of("/laptop.meta.toml"), 0600);
    assert_int_equal(ast_key_load_or_create(path, "key", &key, NULL), AST_OK);
    ast_hex_encode(key.public_key, sizeof key.public_key, hex);
    assert_string_equal(hex, k.public_key);
    assert_int_equal(ast_public_key_parse(ast_str_c(hex), &public_key, NULL), AST_OK);
    assert_string_equal(k.fingerprint, public_key.fingerprint);
    assert_int_equal(cli_key_load(&home, "laptop", &loaded, NULL), AST_OK);
    assert_string_equal(loaded.note, "my \"best\" one");
    assert_string_equal(loaded.backend, "file");
    assert_null(loaded.bound_principal);
}

/* The first test vector of RFC 8032, in the files of the original. */
static void c08_18_the_originals_files_sign_identically(void **state)
{
    static const char meta[] =
        "schema_version = 1\n"
        "fingerprint = \"2a39c1961d5e12f45017c83f009b9d30f3697ef5ad61e1040e4f1645f8d24c25\"\n"
        "created_at_epoch = 1780000000\nbackend = \"file\"\nbound_principal = \"alice\"\n";
    static const char public_hex[] =
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\n";
    static const char signature[] =
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b";
    AST_AUTO(cli_key_done) struct cli_key k = { 0 };
    AST_AUTO(ast_key_done) struct ast_key key = { 0 };
    AST_AUTO(ast_cfree) char *path = cli_key_path(&home, "old", CLI_KEY_SEED);
    uint8_t seed[32], signed_bytes[64];
    char hex[129];

    assert_true(ast_hex_decode(
        AST_STR("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"), seed, 32));
    put("old.ed25519", seed, sizeof seed);
    put("old.pub.hex", public_hex, sizeof public_hex - 1);
    put("old.meta.toml", meta, sizeof meta - 1);
    assert_int_equal(cli_key_load(&home, "old", &k, NULL), AST_OK);
    assert_memory_equal(k.public_key, public_hex, 64);
    assert_string_equal(k.bound_principal, "alice");
    assert_true(k.created_at_epoch == 1780000000);
    assert_int_equal(ast_key_load_or_create(path, "key", &key, NULL), AST_OK);
    ast_hex_encode(key.public_key, sizeof key.public_key, hex);
    assert_memory_equal(hex, public_hex, 64);
    ast_key_sign(&key, AST_STR(""), signed_bytes);
    ast_hex_encode(signed_bytes, sizeof signed_bytes, hex);
    assert_string_equal(hex, signature);
}

static void a_name_that_is_taken_is_refused(void **state)
{
    static const char *const left[] = { "x.ed25519", "y.pub.hex", "z.meta.toml" };
    struct cli_key k = { 0 };
    struct ast_err err = AST_ERR_INIT;

    for (size_t i = 0; i < AST_ARRAY_LEN(left); i++) {
        char name[2] = { left[i][0], 0 };
        put(left[i], "?", 1);
        assert_int_equal(cli_key_generate(&home, name, NULL, false, &k, &err), AST_E_EXISTS);
        assert_non_null(strstr(err.msg, "already exists at "));
        assert_non_null(strstr(err.msg, " \xe2\x80\x94 pass --force to overwrite"));
    }
    assert_int_equal(cli_key_generate(&home, "x", NULL, true, &k, &err), AST_OK);
    cli_key_done(&k);
}

static void bad_names_never_reach_the_disk(void **state)
{
    static const char *const names[] = { "", "A", "a_b", "../x", "a/b", "a.b", "\xc3\xa4" };
    struct cli_key k = { 0 };
    char long_name[CLI_KEY_NAME_MAX + 2];

    for (size_t i = 0; i < AST_ARRAY_LEN(names); i++) {
        assert_int_equal(cli_key_generate(&home, names[i], NULL, true, &k, NULL), AST_E_INVALID);
        assert_int_equal(cli_key_load(&home, names[i], &k, NULL), AST_E_INVALID);
        assert_int_equal(cli_key_delete(&home, names[i], NULL), AST_E_INVALID);
    }
    memset(long_name, 'a', sizeof long_name);
    long_name[CLI_KEY_NAME_MAX + 1] = 0;
    assert_int_equal(cli_key_check_name(ast_str_c(long_name), NULL), AST_E_INVALID);
    long_name[CLI_KEY_NAME_MAX] = 0;
    assert_int_equal(cli_key_check_name(ast_str_c(long_name), NULL), AST_OK);
}

static unsigned bad_count;

static void count_bad(const struct ast_err *why)
{
    bad_count++;
}

static void metadata_of_a_newer_program_or_broken_is_left_out_of_the_list(void **state)
{
    AST_AUTO(cli_key_done) struct cli_key k = { 0 };
    AST_AUTO(cli_keys_done) struct cli_keys all = { 0 };
    struct ast_err err = AST_ERR_INIT;
    static const char newer[] = "schema_version = 2\n";

    assert_int_equal(cli_key_generate(&home, "b", NULL, false, &k, NULL), AST_OK);
    cli_key_done(&k);
    assert_int_equal(cli_key_generate(&home, "a", NULL, false, &k, NULL), AST_OK);
    put("new.meta.toml", newer, sizeof newer - 1);
    put("bad.meta.toml", "= =", 3);
    put("UPPER.meta.toml", "x", 1); /* no name of ours */
    put("notes.txt", "x", 1);
    struct cli_key other = { 0 };
    assert_int_equal(cli_key_load(&home, "new", &other, &err), AST_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "new.meta.toml was written by a newer astrid (schema 2 > 1)"));
    bad_count = 0;
    assert_int_equal(cli_key_list(&home, count_bad, &all, NULL), AST_OK);
    assert_int_equal(bad_count, 2);
    assert_int_equal(all.keys.n, 2);
    assert_string_equal(all.keys.v[0].name, "a");
    assert_string_equal(all.keys.v[1].name, "b");
}

static void binding_keeps_the_rest(void **state)
{
    AST_AUTO(cli_key_done) struct cli_key k = { 0 };
    AST_AUTO(cli_key_done) struct cli_key after = { 0 };

    assert_int_equal(cli_key_generate(&home, "k", "note \x7f", false, &k, NULL), AST_OK);
    assert_int_equal(cli_key_bind(&home, "k", AST_STR("alice"), NULL), AST_OK);
    assert_int_equal(cli_key_load(&home, "k", &after, NULL), AST_OK);
    assert_string_equal(after.bound_principal, "alice");
    assert_string_equal(after.note, k.note);
    assert_string_equal(after.fingerprint, k.fingerprint);
    assert_true(after.created_at_epoch == k.created_at_epoch);
}

static void deleting_takes_what_there_is(void **state)
{
    AST_AUTO(cli_keys_done) struct cli_keys all = { 0 };

    put("half.pub.hex", "x", 1);
    assert_int_equal(cli_key_delete(&home, "half", NULL), AST_OK);
    assert_int_equal(cli_key_delete(&home, "half", NULL), AST_E_NOT_FOUND);
    assert_int_equal(cli_key_list(&home, count_bad, &all, NULL), AST_OK);
    assert_int_equal(all.keys.n, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_home, drop_home)
    const struct CMUnitTest tests[] = {
        TEST(c08_18_three_files_with_their_modes),
        TEST(c08_18_the_originals_files_sign_identically),
        TEST(a_name_that_is_taken_is_refused),
        TEST(bad_names_never_reach_the_disk),
        TEST(metadata_of_a_newer_program_or_broken_is_left_out_of_the_list),
        TEST(binding_keeps_the_rest),
        TEST(deleting_takes_what_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
