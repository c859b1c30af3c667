/* Key files of this machine.
 *
 * Invariant: a seed is never written over while the folder's lock is with somebody else, and every file appears complete by
 * a rename. The metadata comes last: a name with metadata has a seed.
 */
#include "cli/keyring.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/fs.h"
#include "base/time.h"
#include "base/toml.h"
#include "crypto/keys.h"
#include "crypto/public_key.h"

#include "base/banned.h"

#define FOLDER         "keys/local"
#define SCHEMA_VERSION 1u

static const struct {
    const char *ending;
    mode_t mode;
} files[] = {
    [CLI_KEY_SEED] = { ".ed25519", 0600 },
    [CLI_KEY_PUBLIC] = { ".pub.hex", 0644 },
    [CLI_KEY_META] = { ".meta.toml", 0600 },
};

void cli_key_done(struct cli_key *k)
{
    free(k->note);
    free(k->bound_principal);
    *k = (struct cli_key){ 0 };
}

void cli_keys_done(struct cli_keys *k)
{
    ast_vec_each (&k->keys, key)
        cli_key_done(key);
    ast_vec_done(&k->keys);
}

char *cli_key_path(const struct ast_home *home, const char *name, enum cli_key_file file)
{
    return ast_home_path(home, FOLDER "/%s%s", name, files[file].ending);
}

enum ast_rc cli_key_check_name(struct ast_str name, struct ast_err *err)
{
    bool valid = name.n >= 1 && name.n <= CLI_KEY_NAME_MAX;

    for (size_t i = 0; valid && i < name.n; i++)
        valid = (name.p[i] >= 'a' && name.p[i] <= 'z') || (name.p[i] >= '0' && name.p[i] <= '9') ||
                name.p[i] == '-';
    return valid
               ? AST_OK
               : ast_fail(err, AST_E_INVALID,
                          "keypair name \"" AST_STR_FMT "\" is invalid: 1 to 64 of a-z, 0-9 and -",
                          AST_STR_ARG(ast_str_first(name, 200)));
}

/* ---- the folder ---- */

/* The locked folder, made when it is missing. */
static enum ast_rc lock_folder(const struct ast_home *home, int *ret_fd, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *dir = ast_home_path(home, FOLDER);
    AST_AUTO(ast_fs_close) int fd = -1;

    if (!dir)
        return ast_fail(err, AST_E_NO_MEMORY, "keypair folder");
    enum ast_rc rc = ast_fs_mkdirs(dir, 0700, err);
    if (rc)
        return rc;
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fchmod(fd, 0700))
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "open '%s'", dir);
    if (TEMP_FAILURE_RETRY(flock(fd, LOCK_EX)))
        return ast_fail_errno(err, AST_E_IO, errno, "lock '%s'", dir);
    *ret_fd = fd;
    fd = -1;
    return AST_OK;
}

static bool has_file(const struct ast_home *home, const char *name, enum cli_key_file file)
{
    AST_AUTO(ast_cfree) char *path = cli_key_path(home, name, file);
    return path && ast_fs_exists(path);
}

static bool has_any_file(const struct ast_home *home, const char *name)
{
    return has_file(home, name, CLI_KEY_SEED) || has_file(home, name, CLI_KEY_PUBLIC) ||
           has_file(home, name, CLI_KEY_META);
}

static enum ast_rc write_file(const struct ast_home *home, const char *name, enum cli_key_file file,
                              struct ast_str text, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = cli_key_path(home, name, file);
    return path ? ast_fs_write_atomic(path, text, files[file].mode, AST_FS_SYNC, err)
                : ast_fail(err, AST_E_NO_MEMORY, "keypair path");
}

/* ---- metadata ---- */

/* A TOML basic string: JSON's escapes are TOML's, but for DEL. */
static void add_string(struct ast_buf *out, const char *key, const char *value)
{
    AST_AUTO(ast_buf_done) struct ast_buf quoted = AST_BUF_INIT(CLI_KEY_META_MAX);

    if (!value)
        return;
    if (ast_json_quote(ast_str_c(value), &quoted))
        out->fail = quoted.fail;
    ast_buf_addf(out, "%s = ", key);
    for (size_t i = 0; i < quoted.n; i++)
        if (quoted.p[i] == 0x7f)
            ast_buf_add_lit(out, "\\u007f");
        else
            ast_buf_add_byte(out, quoted.p[i]);
    ast_buf_add_byte(out, '\n');
}

static enum ast_rc write_meta(const struct ast_home *home, const struct cli_key *k,
                              struct ast_err *err)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(CLI_KEY_META_MAX);

    ast_buf_addf(&out, "schema_version = %u\n", SCHEMA_VERSION);
    add_string(&out, "fingerprint", k->fingerprint);
    ast_buf_addf(&out, "created_at_epoch = %llu\n", (unsigned long long)k->created_at_epoch);
    add_string(&out, "backend", k->backend);
    add_string(&out, "note", k->note);
    add_string(&out, "bound_principal", k->bound_principal);
    enum ast_rc rc = ast_buf_check(&out, "keypair metadata", err);
    return rc ? rc : write_file(home, k->name, CLI_KEY_META, ast_buf_view(&out), err);
}

static enum ast_rc copy_text(const struct ast_json *meta, struct ast_str key, char *to, size_t size,
                             struct ast_err *err)
{
    struct ast_str s;

    if (ast_json_string(ast_json_get(meta, key), &s) && ast_str_to_c(s, to, size))
        return AST_OK;
    return ast_fail(err, AST_E_CORRUPT, AST_STR_FMT " is missing or no short text",
                    AST_STR_ARG(key));
}

static enum ast_rc copy_optional(const struct ast_json *meta, struct ast_str key, char **ret,
                                 struct ast_err *err)
{
    struct ast_str s;

    if (!ast_json_string(ast_json_get(meta, key), &s))
        return AST_OK;
    *ret = ast_str_dup(s);
    return *ret ? AST_OK : ast_fail(err, AST_E_NO_MEMORY, "keypair");
}

static enum ast_rc parse_meta(const char *path, struct ast_str text, struct cli_key *k,
                              struct ast_err *err)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    uint64_t schema = SCHEMA_VERSION;

    enum ast_rc rc = ast_toml_parse(text, &doc, err);
    if (rc)
        return ast_wrap(err, rc, "keypair %s", path);
    const struct ast_json *meta = ast_json_root(doc);
    (void)ast_json_u64(ast_json_member(meta, "schema_version"),
                       &schema); /* absent: the first one */
    if (schema > SCHEMA_VERSION)
        return ast_fail(err, AST_E_UNSUPPORTED,
                        "keypair %s was written by a newer astrid (schema %llu > %u)", path,
                        (unsigned long long)schema, SCHEMA_VERSION);
    if (!ast_json_u64(ast_json_member(meta, "created_at_epoch"), &k->created_at_epoch))
        rc = ast_fail(err, AST_E_CORRUPT, "created_at_epoch is missing or no number");
    if (!rc)
        rc = copy_text(meta, AST_STR("fingerprint"), k->fingerprint, sizeof k->fingerprint, err);
    if (!rc)
        rc = copy_text(meta, AST_STR("backend"), k->backend, sizeof k->backend, err);
    if (!rc)
        rc = copy_optional(meta, AST_STR("note"), &k->note, err);
    if (!rc)
        rc = copy_optional(meta, AST_STR("bound_principal"), &k->bound_principal, err);
    return rc ? ast_wrap(err, rc, "keypair %s", path) : AST_OK;
}

/* Left empty when there is none to read. */
static void read_public(const struct ast_home *home, const char *name, char ret[static CLI_KEY_HEX])
{
    AST_AUTO(ast_cfree) char *path = cli_key_path(home, name, CLI_KEY_PUBLIC);
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(1024);
    uint8_t bytes[AST_KEY_PUBLIC_BYTES];

    if (!path || ast_fs_read(path, text.max, &text, NULL) ||
        !ast_hex_decode(ast_str_trim(ast_buf_view(&text)), bytes, sizeof bytes))
        return;
    ast_hex_encode(bytes, sizeof bytes, ret);
}

enum ast_rc cli_key_load(const struct ast_home *home, const char *name, struct cli_key *ret,
                         struct ast_err *err)
{
    AST_AUTO(cli_key_done) struct cli_key k = { 0 };
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(CLI_KEY_META_MAX);
    enum ast_rc rc = cli_key_check_name(ast_str_c(name), err);
    AST_AUTO(ast_cfree) char *path = rc ? NULL : cli_key_path(home, name, CLI_KEY_META);

    if (!rc && !path)
        rc = ast_fail(err, AST_E_NO_MEMORY, "keypair");
    if (!rc)
        rc = ast_fs_read(path, text.max, &text, err);
    if (rc == AST_E_NOT_FOUND)
        return ast_fail(
            err, rc, "keypair \"%s\" not found. `astrid keypair list` shows what there is.", name);
    if (!rc)
        rc = parse_meta(path, ast_buf_view(&text), &k, err);
    if (rc)
        return rc;
    (void)snprintf(k.name, sizeof k.name, "%s", name);
    read_public(home, name, k.public_key);
    *ret = k;
    k = (struct cli_key){ 0 };
    return AST_OK;
}

/* ---- changes ---- */

static enum ast_rc write_key(const struct ast_home *home, struct cli_key *k, struct ast_err *err)
{
    AST_AUTO(ast_secret_done) struct ast_secret seed = { 0 };
    AST_AUTO(ast_key_done) struct ast_key key = { 0 };
    struct ast_public_key public_key;
    char line[CLI_KEY_HEX + 1];

    enum ast_rc rc = ast_secret_init(&seed, AST_KEY_SEED_BYTES, err);
    if (rc)
        return rc;
    ast_random(seed.p, seed.n);
    rc = ast_key_from_seed(&key, seed.p, err);
    if (rc)
        return rc;
    ast_hex_encode(key.public_key, sizeof key.public_key, k->public_key);
    rc = ast_public_key_parse(ast_str_c(k->public_key), &public_key, err);
    if (rc)
        return rc;
    memcpy(k->fingerprint, public_key.fingerprint, sizeof k->fingerprint);
    (void)snprintf(line, sizeof line, "%s\n", k->public_key);
    rc = write_file(home, k->name, CLI_KEY_SEED, ast_str_n(seed.p, seed.n), err);
    if (!rc)
        rc = write_file(home, k->name, CLI_KEY_PUBLIC, ast_str_c(line), err);
    return rc ? rc : write_meta(home, k, err);
}

enum ast_rc cli_key_generate(const struct ast_home *home, const char *name, const char *note,
                             bool force, struct cli_key *ret, struct ast_err *err)
{
    AST_AUTO(cli_key_done)
    struct cli_key k = { .backend = "file", .created_at_epoch = ast_wall_secs() };
    AST_AUTO(ast_fs_close) int lock = -1;

    enum ast_rc rc = cli_key_check_name(ast_str_c(name), err);
    if (!rc && note && strlen(note) > CLI_KEY_TEXT_MAX)
        rc = ast_fail(err, AST_E_TOO_LARGE, "a note has at most %u bytes", CLI_KEY_TEXT_MAX);
    if (!rc)
        rc = lock_folder(home, &lock, err);
    if (rc)
        return rc;
    if (!force && has_any_file(home, name)) {
        AST_AUTO(ast_cfree) char *path = cli_key_path(home, name, CLI_KEY_SEED);
        return ast_fail(
            err, AST_E_EXISTS,
            "keypair \"%s\" already exists at %s \xe2\x80\x94 pass --force to overwrite", name,
            path ? path : "?");
    }
    (void)snprintf(k.name, sizeof k.name, "%s", name);
    k.note = note ? ast_str_dup(ast_str_c(note)) : NULL;
    if (note && !k.note)
        return ast_fail(err, AST_E_NO_MEMORY, "keypair");
    rc = write_key(home, &k, err);
    if (rc)
        return rc;
    *ret = k;
    k = (struct cli_key){ 0 };
    return AST_OK;
}

enum ast_rc cli_key_bind(const struct ast_home *home, const char *name, struct ast_str principal,
                         struct ast_err *err)
{
    AST_AUTO(cli_key_done) struct cli_key k = { 0 };
    AST_AUTO(ast_fs_close) int lock = -1;

    enum ast_rc rc = lock_folder(home, &lock, err);
    if (!rc)
        rc = cli_key_load(home, name, &k, err);
    if (rc)
        return rc;
    free(k.bound_principal);
    k.bound_principal = ast_str_dup(principal);
    return k.bound_principal ? write_meta(home, &k, err)
                             : ast_fail(err, AST_E_NO_MEMORY, "keypair");
}

enum ast_rc cli_key_delete(const struct ast_home *home, const char *name, struct ast_err *err)
{
    AST_AUTO(ast_fs_close) int lock = -1;
    bool any = false;

    enum ast_rc rc = cli_key_check_name(ast_str_c(name), err);
    if (!rc)
        rc = lock_folder(home, &lock, err);
    for (int f = CLI_KEY_META; !rc && f >= CLI_KEY_SEED; f--) {
        AST_AUTO(ast_cfree) char *path = cli_key_path(home, name, (enum cli_key_file)f);
        if (!path)
            rc = ast_fail(err, AST_E_NO_MEMORY, "keypair");
        else if (unlink(path) == 0)
            any = true;
        else if (errno != ENOENT)
            rc = ast_fail_errno(err, ast_rc_from_errno(errno), errno, "delete '%s'", path);
    }
    if (rc || any)
        return rc;
    return ast_fail(err, AST_E_NOT_FOUND,
                    "keypair \"%s\" not found. `astrid keypair list` shows what there is.", name);
}

/* ---- list ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct cli_key *)a)->name, ((const struct cli_key *)b)->name);
}

/* The key of one directory entry; NOT_FOUND: it is no metadata. */
static enum ast_rc load_entry(const struct ast_home *home, const char *file, struct cli_key *ret,
                              struct ast_err *err)
{
    struct ast_str name = ast_str_c(file), ending = ast_str_c(files[CLI_KEY_META].ending);
    char text[CLI_KEY_NAME_MAX + 1];

    if (!ast_str_ends(name, ending) ||
        !ast_str_to_c(ast_str_first(name, name.n - ending.n), text, sizeof text) ||
        cli_key_check_name(ast_str_c(text), NULL))
        return AST_E_NOT_FOUND;
    return cli_key_load(home, text, ret, err);
}

enum ast_rc cli_key_list(const struct ast_home *home, void (*on_bad)(const struct ast_err *why),
                         struct cli_keys *ret, struct ast_err *err)
{
    AST_AUTO(cli_keys_done) struct cli_keys all = { 0 };
    AST_AUTO(ast_cfree) char *dir = ast_home_path(home, FOLDER);
    enum ast_rc rc = AST_OK;

    if (!dir)
        return ast_fail(err, AST_E_NO_MEMORY, "keypairs");
    DIR *d = opendir(dir);
    if (!d && errno != ENOENT)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "open '%s'", dir);
    for (struct dirent *e; !rc && d && (e = readdir(d));) {
        AST_AUTO(cli_key_done) struct cli_key k = { 0 };
        struct ast_err bad = AST_ERR_INIT;
        enum ast_rc loaded = load_entry(home, e->d_name, &k, &bad);
        if (loaded && loaded != AST_E_NOT_FOUND)
            on_bad(&bad);
        if (loaded)
            continue;
        if (!ast_vec_push(&all.keys, k))
            rc = ast_fail(err, AST_E_NO_MEMORY, "keypairs");
        else
            k = (struct cli_key){ 0 };
    }
    if (d)
        closedir(d);
    if (rc)
        return rc;
    if (all.keys.n)
        qsort(all.keys.v, all.keys.n, sizeof *all.keys.v, by_name);
    *ret = all;
    all = (struct cli_keys){ 0 };
    return AST_OK;
}
