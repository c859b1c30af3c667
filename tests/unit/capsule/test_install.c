/* Archives, installs and discovery, on real files. */
#include "capsule_test.h"

#include <fcntl.h>
#include <sys/wait.h>

#include "capsule/discover.h"
#include "capsule/install.h"
#include "capsule/meta.h"
#include "crypto/hash.h"

#include "base/banned.h"

#define MANIFEST(name, version)                                                                    \
    "[package]\nname = \"" name "\"\nversion = \"" version "\"\n[[component]]\nfile = \"x.wasm\"\n"

static enum ast_rc install(const char *source, struct ast_install_result *r, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(&test_home, "%s", source);
    struct ast_install_options opt = { 0 };
    return ast_install(&test_home, path, &opt, r, err);
}

static void must_install(const char *source, struct ast_install_result *r)
{
    struct ast_err err = AST_ERR_INIT;
    if (install(source, r, &err))
        fail_msg("%s", err.msg);
}

static bool exists(const char *name)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(&test_home, "%s", name);
    return ast_fs_exists(path);
}

static void source_with(const char *manifest)
{
    put_text("src/Capsule.toml", manifest);
    put("src/x.wasm", tiny_wasm, sizeof tiny_wasm);
}

static void c07_15_install_fills_the_content_store(void **state)
{
    AST_AUTO(ast_install_result_done) struct ast_install_result r = { 0 };
    char hash[AST_BLAKE3_HEX], blob[128];
    struct stat st;
    (void)state;
    source_with(MANIFEST("demo", "1.0.0"));
    put_text("src/wit/a.wit", "package a:b;");
    put_text("src/wit/deps/b.wit", "package c:d;");
    put_text("src/README", "read me");
    put_text("src/.env.json", "{}");
    must_install("src", &r);
    ast_blake3_hex(ast_str_n(tiny_wasm, sizeof tiny_wasm), hash);
    snprintf(blob, sizeof blob, "bin/%s.wasm", hash);
    assert_true(exists(blob));
    assert_string_equal(r.wasm_hash, hash);
    assert_true(exists("home/default/.local/capsules/demo/README"));
    assert_false(exists("home/default/.local/capsules/demo/x.wasm"));
    assert_false(exists("home/default/.local/capsules/demo/wit"));
    assert_false(exists("home/default/.local/capsules/demo/.env.json"));
    AST_AUTO(ast_meta_free) struct ast_meta *meta = NULL;
    assert_int_equal(ast_meta_load(r.target_dir, &meta, NULL), AST_OK);
    assert_int_equal(meta->wit_file_count, 2);
    AST_AUTO(ast_cfree) char *path = ast_fs_join(r.target_dir, "meta.json");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void c07_16_installing_twice_leaves_one_blob(void **state)
{
    (void)state;
    source_with(MANIFEST("demo", "1.0.0"));
    for (unsigned i = 0; i < 2; i++) {
        AST_AUTO(ast_install_result_done) struct ast_install_result r = { 0 };
        must_install("src", &r);
        assert_int_equal(r.upgrade, i == 1);
    }
    AST_AUTO(ast_cfree) char *bin = ast_home_path(&test_home, "bin");
    AST_AUTO(ast_cfree) char *command = NULL;
    assert_true(
        asprintf(
            &command,
            "test $(ls %s | wc -l) = 1 && test -z \"$(ls -A %s/../home/default/.local/capsules | grep -v "
            "-e '^demo$' -e '^.lock$')\"",
            bin, bin) > 0);
    assert_int_equal(system(command), 0);
}

static void c07_17_meta_keeps_the_first_date(void **state)
{
    AST_AUTO(ast_meta_free) struct ast_meta *first = NULL, *second = NULL;
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(65536);
    (void)state;
    source_with(MANIFEST("demo", "1.0.0") "[imports]\n\"a:b\" = \"1.0\"\n");
    AST_AUTO(ast_install_result_done) struct ast_install_result a = { 0 }, b = { 0 };
    must_install("src", &a);
    assert_int_equal(a.missing_import_count, 1);
    assert_int_equal(ast_meta_load(a.target_dir, &first, NULL), AST_OK);
    source_with(MANIFEST("demo", "1.1.0"));
    must_install("src", &b);
    assert_string_equal(b.previous_version, "1.0.0");
    assert_int_equal(ast_meta_load(b.target_dir, &second, NULL), AST_OK);
    assert_string_equal(first->installed_at.p, second->installed_at.p);
    assert_string_not_equal(first->updated_at.p, second->updated_at.p);
    AST_AUTO(ast_cfree) char *path = ast_fs_join(b.target_dir, "meta.json");
    assert_int_equal(ast_fs_read(path, 65536, &text, NULL), AST_OK);
    assert_true(ast_str_starts(ast_buf_view(&text),
                               AST_STR("{\n  \"version\": \"1.1.0\",\n  \"installed_at\": \"")));
    assert_null(strstr(text.p, "imports"));
    assert_non_null(strstr(text.p, "+00:00\""));
    assert_int_equal(text.p[text.n - 1], '}');
}

static void c07_13_a_bad_id_never_installs(void **state)
{
    struct ast_install_result r;
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    source_with(MANIFEST("Bad Name!", "1.0.0"));
    assert_int_not_equal(install("src", &r, &err), AST_OK);
    assert_holds(
        err.msg,
        "Unsupported entry point: capsule id must contain only lowercase alphanumeric characters and hyphens, got: Bad Name!");
    assert_false(exists("home/default/.local/capsules"));
}

static void c07_14_dot_dot_writes_nothing_outside(void **state)
{
    struct ast_install_result r;
    (void)state;
    source_with(MANIFEST("../escaped", "1.0.0"));
    assert_int_not_equal(install("src", &r, NULL), AST_OK);
    assert_false(exists("home/default/.local/escaped"));
}

static void c07_21_links_stay_inside_the_source(void **state)
{
    struct ast_install_result r = { 0 };
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_cfree) char *link = ast_home_path(&test_home, "src/link");
    (void)state;
    source_with(MANIFEST("demo", "1.0.0"));
    put_text("src/real", "inside");
    assert_int_equal(symlink("real", link), 0);
    must_install("src", &r);
    struct stat st;
    AST_AUTO(ast_cfree) char *copied = ast_fs_join(r.target_dir, "link");
    assert_int_equal(lstat(copied, &st), 0);
    assert_true(S_ISREG(st.st_mode));
    ast_install_result_done(&r);
    unlink(link);
    assert_int_equal(symlink("/etc/passwd", link), 0);
    assert_int_not_equal(install("src", &r, &err), AST_OK);
    assert_holds(
        err.msg,
        "resolves outside the capsule source root (/etc/passwd); refusing to copy (sandbox-escape vector)");
    assert_true(exists("home/default/.local/capsules/demo/real")); /* the old install stays */
    unlink(link);
    assert_int_equal(symlink("nowhere", link), 0);
    assert_int_not_equal(install("src", &r, &err), AST_OK);
    assert_holds(err.msg, "could not be canonicalized (dangling or denied)");
    unlink(link);
    put_text("src/dir/f", "x");
    assert_int_equal(symlink("dir", link), 0);
    assert_int_not_equal(install("src", &r, &err), AST_OK);
    assert_holds(err.msg, "directory symlink");
}

static void c07_22_what_is_skipped(void **state)
{
    AST_AUTO(ast_install_result_done) struct ast_install_result r = { 0 };
    (void)state;
    source_with(MANIFEST("demo", "1.0.0"));
    put_text("src/node_modules/a/dist/f", "keep");
    put_text("src/dist/f", "skip");
    put_text("src/sub/target/f", "skip");
    put_text("src/.git/f", "skip");
    put_text("src/sub/y.wasm", "skip");
    must_install("src", &r);
    assert_true(exists("home/default/.local/capsules/demo/node_modules/a/dist/f"));
    assert_false(exists("home/default/.local/capsules/demo/dist"));
    assert_false(exists("home/default/.local/capsules/demo/sub/target"));
    assert_false(exists("home/default/.local/capsules/demo/.git"));
    assert_false(exists("home/default/.local/capsules/demo/sub/y.wasm"));
}

static void c07_23_a_large_wit_file_aborts_first(void **state)
{
    struct ast_install_result r;
    struct ast_err err = AST_ERR_INIT;
    char *big = calloc(1, AST_WIT_MAX_BYTES + 1);
    (void)state;
    source_with(MANIFEST("demo", "1.0.0"));
    put("src/wit/big.wit", big, AST_WIT_MAX_BYTES + 1);
    free(big);
    assert_int_not_equal(install("src", &r, &err), AST_OK);
    assert_holds(err.msg, "exceeds 1MB size limit (1048577)");
    assert_false(exists("home/default/.local/capsules/demo"));
}

static void bad_components_are_refused(void **state)
{
    static const struct {
        const char *manifest, *error;
    } rows[] = {
        { "[package]\nname = \"a\"\nversion = \"1.0.0\"\n[[component]]\nfile = \"gone.wasm\"\n",
          "is missing from" },
        { "[package]\nname = \"a\"\nversion = \"1.0.0\"\n[[component]]\nfile = \"/etc/hosts\"\n",
          "lies outside" },
        { "[package]\nname = \"a\"\nversion = \"1.0.0\"\n[[component]]\nfile = \"Capsule.toml\"\n",
          "is not a .wasm file" },
        { "[package]\nname = \"a\"\nversion = \"1.0.0\"\n[[component]]\nfile = \"x.wasm\"\nhash = \"00\"\n",
          "component hash mismatch" },
        { "[package]\nname = \"a\"\nversion = \"1.0.0\"\n[[component]]\nfile = \"junk.wasm\"\n",
          "failed to content-address WASM binary" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_install_result r;
        struct ast_err err = AST_ERR_INIT;
        source_with(rows[i].manifest);
        put_text("src/junk.wasm", "junk");
        if (install("src", &r, &err) == AST_OK)
            fail_msg("installed: %s", rows[i].manifest);
        assert_holds(err.msg, rows[i].error);
    }
}

static void a_leftover_backup_is_put_back(void **state)
{
    AST_AUTO(ast_install_result_done) struct ast_install_result r = { 0 }, again = { 0 };
    (void)state;
    source_with(MANIFEST("demo", "1.0.0"));
    must_install("src", &r);
    AST_AUTO(ast_cfree)
    char *backup = ast_home_path(&test_home, "home/default/.local/capsules/demo.bak");
    assert_int_equal(rename(r.target_dir, backup),
                     0); /* as a crash between the two renames leaves it */
    must_install("src", &again);
    assert_true(again.upgrade);
    assert_false(ast_fs_exists(backup));
}

/* ---- archives ---- */

static void shell(const char *fmt, ...) AST_PRINTF(1, 2);
static void shell(const char *fmt, ...)
{
    char command[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    if (system(command))
        fail_msg("%s", command);
}

static enum ast_rc unpack(const char *archive, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(&test_home, "%s", archive);
    AST_AUTO(ast_cfree) char *dir = ast_home_path(&test_home, "out");
    assert_int_equal(ast_fs_remove_tree(dir, NULL), AST_OK);
    assert_int_equal(ast_fs_mkdirs(dir, 0700, NULL), AST_OK);
    return ast_archive_unpack(path, dir, err);
}

static void an_archive_installs_like_a_folder(void **state)
{
    AST_AUTO(ast_install_result_done) struct ast_install_result r = { 0 };
    AST_AUTO(ast_cfree) char *src = ast_home_path(&test_home, "src");
    AST_AUTO(ast_cfree) char *packed = ast_home_path(&test_home, "demo.capsule");
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    source_with(MANIFEST("demo", "1.0.0"));
    put_text("src/wit/a.wit", "package a:b;");
    put_text("src/extra/file", "x");
    if (ast_archive_pack(src, packed, &err))
        fail_msg("%s", err.msg);
    shell(
        "cd %s && test \"$(tar tzf demo.capsule | tr '\\n' ' ')\" = 'Capsule.toml x.wasm extra/ extra/file wit/ wit/a.wit '",
        test_home.root);
    must_install("demo.capsule", &r);
    assert_true(exists("home/default/.local/capsules/demo/extra/file"));
    shell("cd %s && cp demo.capsule again.capsule", test_home.root);
    AST_AUTO(ast_cfree) char *second = ast_home_path(&test_home, "second.capsule");
    assert_int_equal(ast_archive_pack(src, second, NULL), AST_OK);
    shell("cmp %s %s", packed, second); /* the same tree gives the same bytes */
}

static void archives_with_dots_in_front_are_read(void **state)
{
    (void)state;
    source_with(MANIFEST("demo", "1.0.0"));
    shell("cd %s/src && tar czf ../a.capsule ./x.wasm ./Capsule.toml", test_home.root);
    assert_int_equal(unpack("a.capsule", NULL), AST_OK);
    assert_true(exists("out/Capsule.toml"));
}

static void c07_19_malicious_archives_abort(void **state)
{
    static const struct {
        const char *make, *error;
    } rows[] = {
        { "tar czPf ../m.capsule /etc/hostname",
          "Malicious archive detected: invalid path '/etc/hostname'" },
        { "tar czPf ../m.capsule ../src/a", "Malicious archive detected: invalid path '../src/a'" },
        { "ln -sf a l && tar czf ../m.capsule l",
          "Malicious archive detected: symlinks are not allowed ('l')" },
        { "ln -f a h && tar czf ../m.capsule a h",
          "Malicious archive detected: symlinks are not allowed ('h')" },
        { "mkfifo f && tar czf ../m.capsule f",
          "Malicious archive detected: only files and directories are allowed ('f')" },
        { "echo junk > ../m.capsule", "Failed to read archive entry" },
        { "tar cf ../m.capsule a", "Failed to read archive entry" },
        { "head -c 100 /dev/zero | gzip > ../m.capsule", "" },
    };
    (void)state;
    put_text("src/a", "a");
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_err err = AST_ERR_INIT;
        shell("cd %s/src && rm -f ../m.capsule && (%s) 2>/dev/null", test_home.root, rows[i].make);
        bool is_plain_tar = strncmp(rows[i].make, "tar cf", 6) == 0;
        enum ast_rc rc = unpack("m.capsule", &err);
        if (is_plain_tar && rc == AST_OK)
            continue; /* an uncompressed tar is read as well: nothing dangerous in that */
        if (rc == AST_OK)
            fail_msg("unpacked: %s", rows[i].make);
        assert_holds(err.msg, rows[i].error);
    }
}

static void c07_20_setuid_bits_are_not_kept(void **state)
{
    struct stat st;
    AST_AUTO(ast_cfree) char *path = ast_home_path(&test_home, "out/s");
    (void)state;
    put_text("src/s", "#!/bin/sh\n");
    shell("cd %s/src && chmod 4755 s && tar czf ../s.capsule s", test_home.root);
    assert_int_equal(unpack("s.capsule", NULL), AST_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
}

static void truncated_archives_are_errors(void **state)
{
    (void)state;
    put_text("src/a", "a file with some content that does not compress to nothing 1234567890");
    shell("cd %s/src && tar czf ../t.capsule a", test_home.root);
    AST_AUTO(ast_cfree) char *path = ast_home_path(&test_home, "t.capsule");
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    for (off_t n = st.st_size - 1; n >= 0; n -= 7) {
        assert_int_equal(truncate(path, n), 0);
        struct ast_err err = AST_ERR_INIT;
        enum ast_rc rc = unpack("t.capsule", &err);
        if (rc == AST_OK && n < st.st_size - 40)
            fail_msg("%lld of %lld bytes were taken", (long long)n, (long long)st.st_size);
    }
}

static void a_bomb_stops_at_the_limit(void **state)
{
    struct ast_err err = AST_ERR_INIT;
    (void)state;
    shell("cd %s && truncate -s 600M zeros && tar czf b.capsule zeros && rm zeros", test_home.root);
    assert_int_equal(unpack("b.capsule", &err), AST_E_TOO_LARGE);
    assert_holds(err.msg, "archive unpacks to more than 536870912 bytes");
}

/* ---- discovery ---- */

static size_t place(const struct ast_discovery *d, const char *name)
{
    for (size_t i = 0; i < d->n; i++)
        if (ast_str_eq(d->v[i].manifest->name, ast_str_c(name)))
            return i;
    fail_msg("%s was not found", name);
    return 0;
}

static void installed(const char *name, const char *more)
{
    char path[128], text[1024];
    snprintf(path, sizeof path, "home/default/.local/capsules/%s/Capsule.toml", name);
    snprintf(text, sizeof text, "[package]\nname = \"%s\"\nversion = \"1.0.0\"\n%s", name, more);
    put_text(path, text);
}

static void c07_26_uplinks_first_and_providers_before_importers(void **state)
{
    AST_AUTO(ast_discovery_done) struct ast_discovery d = { 0 };
    (void)state;
    installed("a-user", "[imports]\n\"x:one\" = \"^1\"\n");
    installed(
        "b-middle",
        "[imports]\n\"x:two\" = { version = \"^1\", optional = true }\n[exports]\n\"x:one\" = \"1.0.0\"\n");
    installed("c-base", "[exports]\n\"x:two\" = \"1.5.0\"\n");
    installed("z-uplink", "[capabilities]\nuplink = true\n");
    installed("broken", "[imports]\n\":\" = 5\n");
    put_text("home/default/.local/capsules/a-user.bak/Capsule.toml",
             "[package]\nname = \"a-user\"\nversion = \"0.1.0\"\n");
    assert_int_equal(ast_discover(&test_home, NULL, &d, NULL), AST_OK);
    assert_int_equal(d.n, 4);
    ast_discovery_sort(&d);
    ast_discovery_validate(&d);
    assert_int_equal(place(&d, "z-uplink"), 0);
    assert_true(place(&d, "c-base") < place(&d, "b-middle"));
    assert_true(place(&d, "b-middle") < place(&d, "a-user"));
    assert_string_equal(d.v[place(&d, "a-user")].manifest->version.p, "1.0.0");
}

static void c07_27_a_cycle_keeps_discovery_order(void **state)
{
    AST_AUTO(ast_discovery_done) struct ast_discovery d = { 0 };
    (void)state;
    installed("a", "[imports]\n\"x:b\" = \"^1\"\n[exports]\n\"x:a\" = \"1.0.0\"\n");
    installed("b", "[imports]\n\"x:a\" = \"^1\"\n[exports]\n\"x:b\" = \"1.0.0\"\n");
    installed("c", "");
    assert_int_equal(ast_discover(&test_home, NULL, &d, NULL), AST_OK);
    ast_discovery_sort(&d);
    assert_int_equal(place(&d, "a"), 0);
    assert_int_equal(place(&d, "b"), 1);
    assert_int_equal(place(&d, "c"), 2);
}

#define T(name) cmocka_unit_test_setup_teardown(name, home_setup, home_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(c07_15_install_fills_the_content_store),
        T(c07_16_installing_twice_leaves_one_blob),
        T(c07_17_meta_keeps_the_first_date),
        T(c07_13_a_bad_id_never_installs),
        T(c07_14_dot_dot_writes_nothing_outside),
        T(c07_21_links_stay_inside_the_source),
        T(c07_22_what_is_skipped),
        T(c07_23_a_large_wit_file_aborts_first),
        T(bad_components_are_refused),
        T(a_leftover_backup_is_put_back),
        T(an_archive_installs_like_a_folder),
        T(archives_with_dots_in_front_are_read),
        T(c07_19_malicious_archives_abort),
        T(c07_20_setuid_bits_are_not_kept),
        T(truncated_archives_are_errors),
        T(a_bomb_stops_at_the_limit),
        T(c07_26_uplinks_first_and_providers_before_importers),
        T(c07_27_a_cycle_keeps_discovery_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
