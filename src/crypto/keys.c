/* Ed25519 keys and the files they live in.
 *
 * Invariant: a key file is complete or absent, readable by its owner only, and never replaced by us: a
 * damaged one is an error for a person to look at, since a fresh key would orphan all that it signed.
 */
#include "crypto/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/fs.h"
#include "crypto/sodium_priv.h"

#include "base/banned.h"

_Static_assert(AST_KEY_SEED_BYTES == crypto_sign_SEEDBYTES, "seed size");
_Static_assert(AST_KEY_PUBLIC_BYTES == crypto_sign_PUBLICKEYBYTES, "public key size");
_Static_assert(AST_KEY_SIGNATURE_BYTES == crypto_sign_BYTES, "signature size");

void ast_key_done(struct ast_key *k)
{
    ast_secret_done(&k->secret);
    *k = (struct ast_key){ 0 };
}

enum ast_rc ast_key_from_seed(struct ast_key *ret, const uint8_t seed[static AST_KEY_SEED_BYTES],
                              struct ast_err *err)
{
    struct ast_key k = { 0 };
    enum ast_rc rc = ast_secret_init(&k.secret, crypto_sign_SECRETKEYBYTES, err);
    if (rc)
        return rc;
    (void)crypto_sign_seed_keypair(k.public_key, k.secret.p, seed); /* always 0 */
    *ret = k;
    return AST_OK;
}

void ast_key_sign(const struct ast_key *k, struct ast_str data,
                  uint8_t ret_signature[static AST_KEY_SIGNATURE_BYTES])
{
    AST_ASSERT(k->secret.n == crypto_sign_SECRETKEYBYTES);
    (void)crypto_sign_detached(ret_signature, NULL, (const unsigned char *)data.p, data.n,
                               k->secret.p); /* always 0 */
}

bool ast_key_verify(const uint8_t public_key[static AST_KEY_PUBLIC_BYTES], struct ast_str data,
                    const uint8_t signature[static AST_KEY_SIGNATURE_BYTES])
{
    crypto_sodium_init();
    return crypto_sign_verify_detached(signature, (const unsigned char *)data.p, data.n,
                                       public_key) == 0;
}

/* --- Files --------------------------------------------------------------------------------- */

static enum ast_rc check_file(int fd, const char *path, const char *what, bool *ret_exposed,
                              struct ast_err *err)
{
    struct stat st;
    if (fstat(fd, &st))
        return ast_fail_errno(err, AST_E_IO, errno, "stat %s at %s", what, path);
    if (!S_ISREG(st.st_mode))
        return ast_fail(err, AST_E_CORRUPT, "invalid %s at %s: not a regular file", what, path);
    if (st.st_size != AST_KEY_SEED_BYTES)
        return ast_fail(
            err, AST_E_CORRUPT,
            "invalid %s at %s: invalid key length: expected %d, got %jd (remove the file to "
            "regenerate it)",
            what, path, AST_KEY_SEED_BYTES, (intmax_t)st.st_size);
    /* differs: the original leaves the mode of an existing file alone (spec 09 §17) */
    bool exposed = (st.st_mode & 077) != 0;
    if (exposed && fchmod(fd, 0600))
        return ast_fail_errno(err, AST_E_DENIED, errno,
                              "%s at %s is readable by others and could not be tightened", what,
                              path);
    *ret_exposed = exposed;
    return AST_OK;
}

/* NOT_FOUND when there is no such file. */
static enum ast_rc load(const char *path, const char *what, struct ast_key *ret,
                        struct ast_err *err)
{
    /* Non-blocking: a FIFO in its place is refused, not waited for. */
    AST_AUTO(ast_fs_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return ast_fail_errno(err, ast_rc_from_errno(errno), errno, "open %s at %s", what, path);
    bool exposed = false;
    enum ast_rc rc = check_file(fd, path, what, &exposed, err);
    if (rc)
        return rc;

    AST_AUTO(ast_secret_done) struct ast_secret seed = { 0 };
    rc = ast_secret_init(&seed, AST_KEY_SEED_BYTES, err);
    if (rc)
        return rc;
    ssize_t got = TEMP_FAILURE_RETRY(read(fd, seed.p, seed.n));
    if (got < 0)
        return ast_fail_errno(err, AST_E_IO, errno, "read %s at %s", what, path);
    if ((size_t)got != seed.n)
        return ast_fail(err, AST_E_CORRUPT, "invalid %s at %s: cut short while reading", what,
                        path);
    rc = ast_key_from_seed(ret, seed.p, err);
    if (!rc)
        ret->was_exposed = exposed;
    return rc;
}

/* The directory part of `path`, owned; NULL when out of memory. */
static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return ast_str_dup(AST_STR("."));
    return ast_str_dup(slash == path ? AST_STR("/") : ast_str_n(path, (size_t)(slash - path)));
}

static enum ast_rc sync_dir(const char *dir, struct ast_err *err)
{
    AST_AUTO(ast_fs_close) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        return ast_fail_errno(err, AST_E_IO, errno, "sync directory '%s'", dir);
    return AST_OK;
}

/* Gives the complete file `temp` its name. EXISTS when somebody else was first. */
static enum ast_rc publish(const char *temp, const char *path, struct ast_err *err)
{
    if (renameat2(AT_FDCWD, temp, AT_FDCWD, path, RENAME_NOREPLACE) == 0)
        return AST_OK;
    if (errno == EINVAL || errno == ENOSYS) { /* a file system without that flag */
        if (link(temp, path) == 0) {
            (void)unlink(temp); /* a left-over name of a 0600 file in a 0700 directory */
            return AST_OK;
        }
    }
    int failed = errno;
    (void)unlink(temp);
    if (failed == EEXIST)
        return AST_E_EXISTS;
    return ast_fail_errno(err, ast_rc_from_errno(failed), failed, "rename to '%s'", path);
}

static enum ast_rc create(const char *path, const char *what, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *dir = parent_of(path);
    if (!dir)
        return ast_fail(err, AST_E_NO_MEMORY, "path");
    enum ast_rc rc = ast_fs_mkdirs(dir, 0700, err);
    if (rc)
        return ast_wrap(err, rc, "%s", what);

    uint8_t unique[8];
    char hex[2 * sizeof unique + 1];
    ast_random(unique, sizeof unique);
    ast_hex_encode(unique, sizeof unique, hex);
    AST_AUTO(ast_cfree) char *temp = NULL;
    /* ast_fs_sweep() knows these names. */
    if (!(temp = ast_fs_joinf(dir, ".tmp-%s", hex)))
        return ast_fail(err, AST_E_NO_MEMORY, "path");

    AST_AUTO(ast_secret_done) struct ast_secret seed = { 0 };
    rc = ast_secret_init(&seed, AST_KEY_SEED_BYTES, err);
    if (rc)
        return rc;
    ast_random(seed.p, seed.n);
    rc = ast_fs_write_atomic(temp, ast_str_n(seed.p, seed.n), 0600, AST_FS_SYNC, err);
    if (!rc)
        rc = publish(temp, path, err);
    if (rc == AST_E_EXISTS)
        return AST_OK; /* theirs will be loaded */
    if (!rc)
        rc = sync_dir(dir, err);
    return rc ? ast_wrap(err, rc, "create %s", what) : AST_OK;
}

enum ast_rc ast_key_load_or_create(const char *path, const char *what, struct ast_key *ret,
                                   struct ast_err *err)
{
    enum ast_rc rc = load(path, what, ret, err);
    if (rc != AST_E_NOT_FOUND)
        return rc;
    rc = create(path, what, err);
    if (rc)
        return rc;
    /* Loading what was written: the key in memory is the one on disk, whoever wrote it. */
    return load(path, what, ret, err);
}
