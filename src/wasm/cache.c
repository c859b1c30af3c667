/* Compiled code on disk.
 *
 * An entry is native code, so it is loaded only with a valid MAC: key of the installation, over the entry's
 * name (content, library version and configuration) and the digest of the code. The MAC stands behind the
 * code in the same file; the library ignores what follows its own format. Entries are written beside and
 * renamed, never changed in place: loaded code stays mapped from the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/codec.h"
#include "base/fs.h"
#include "base/log.h"
#include "crypto/hash.h"
#include "wasm/wasm_priv.h"

#include "base/banned.h"

#define MAC_BYTES 32u
#define MAX_ENTRY ((size_t)512 * 1024 * 1024)
#define CHUNK     ((size_t)64 * 1024)

void wasm_cache_name(struct ast_str wasm, char out[static WASM_CACHE_NAME])
{
    struct ast_blake3_state s;
    uint8_t digest[AST_BLAKE3_BYTES];
    ast_blake3_begin(&s);
    ast_blake3_feed(&s, ast_str_c(ast_engine_version()));
    ast_blake3_feed(&s, AST_STR("\0" WASM_CONFIG_ID "\0"));
    ast_blake3_feed(&s, wasm);
    ast_blake3_end(&s, digest);
    ast_hex_encode(digest, sizeof digest, out);
}

static void entry_mac(const struct ast_engine *e, const char *name,
                      const uint8_t digest[static AST_BLAKE3_BYTES], uint8_t out[static MAC_BYTES])
{
    uint8_t text[WASM_CACHE_NAME + AST_BLAKE3_BYTES];
    memcpy(text, name, WASM_CACHE_NAME);
    memcpy(text + WASM_CACHE_NAME, digest, AST_BLAKE3_BYTES);
    ast_blake3_mac(e->cache_key, ast_str_n(text, sizeof text), out);
}

static bool read_full(int fd, void *to, size_t n)
{
    for (char *p = to; n;) {
        ssize_t got = read(fd, p, n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        p += got;
        n -= (size_t)got;
    }
    return true;
}

/* Reads in pieces: mapping megabytes only to hash them would count as our memory. */
static bool digest_file(int fd, size_t n, uint8_t out[static AST_BLAKE3_BYTES])
{
    AST_AUTO(ast_cfree) char *piece = malloc(CHUNK);
    if (!piece)
        return false;
    struct ast_blake3_state s;
    ast_blake3_begin(&s);
    while (n) {
        size_t step = AST_MIN(n, CHUNK);
        if (!read_full(fd, piece, step))
            return false;
        ast_blake3_feed(&s, ast_str_n(piece, step));
        n -= step;
    }
    ast_blake3_end(&s, out);
    return true;
}

static bool macs_equal(const uint8_t a[static MAC_BYTES], const uint8_t b[static MAC_BYTES])
{
    uint8_t diff = 0;
    for (unsigned i = 0; i < MAC_BYTES; i++)
        diff |= (uint8_t)(a[i] ^ b[i]);
    return diff == 0;
}

/* NULL with *ret_why when the entry cannot be trusted or does not fit this library. */
static wasmtime_module_t *load_open_file(struct ast_engine *e, const char *name, int fd,
                                         const char **ret_why)
{
    struct stat st;
    *ret_why = "not a regular file of plausible size";
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size <= (off_t)MAC_BYTES ||
        st.st_size > (off_t)MAX_ENTRY)
        return NULL;
    uint8_t digest[AST_BLAKE3_BYTES], want[MAC_BYTES], have[MAC_BYTES];
    *ret_why = "unreadable";
    if (!digest_file(fd, (size_t)st.st_size - MAC_BYTES, digest) ||
        !read_full(fd, have, sizeof have))
        return NULL;
    entry_mac(e, name, digest, want);
    *ret_why = "bad MAC";
    if (!macs_equal(want, have))
        return NULL;

    /* The file just verified, whatever the name points to by now. */
    char path[40];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    wasmtime_module_t *m = NULL;
    wasmtime_error_t *error = wasmtime_module_deserialize_file(e->wasm, path, &m);
    if (error) {
        wasmtime_error_delete(error);
        *ret_why = "made for another machine or configuration";
        return NULL;
    }
    return m;
}

wasmtime_module_t *wasm_cache_load(struct ast_engine *e, const char *name)
{
    if (!e->cache_dir)
        return NULL;
    AST_AUTO(ast_cfree) char *path = ast_fs_joinf(e->cache_dir, "%s.cwasm", name);
    if (!path)
        return NULL;
    AST_AUTO(ast_fs_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return NULL;
    const char *why;
    wasmtime_module_t *m = load_open_file(e, name, fd, &why);
    if (!m) {
        ast_log_debug("wasm", "delete cache entry %s: %s", name, why);
        (void)unlink(path); /* if it stays, the next store replaces it */
    }
    return m;
}

enum ast_rc wasm_cache_store(struct ast_engine *e, const char *name, const wasmtime_module_t *m,
                             struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_fs_joinf(e->cache_dir, "%s.cwasm", name);
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "cache entry");
    wasm_byte_vec_t code;
    wasmtime_error_t *error = wasmtime_module_serialize(m, &code);
    if (error)
        return wasm_fail_error(err, AST_E_INTERNAL, "serialize", error);

    uint8_t digest[AST_BLAKE3_BYTES], mac[MAC_BYTES];
    ast_blake3(ast_str_n(code.data, code.size), digest);
    entry_mac(e, name, digest, mac);
    AST_AUTO(ast_buf_done) struct ast_buf entry = AST_BUF_INIT(MAX_ENTRY);
    (void)ast_buf_reserve(&entry, code.size + MAC_BYTES); /* sticky: checked below */
    (void)ast_buf_add(&entry, ast_str_n(code.data, code.size));
    (void)ast_buf_add(&entry, ast_str_n(mac, sizeof mac));
    wasm_byte_vec_delete(&code);
    enum ast_rc rc = ast_buf_check(&entry, "cache entry", err);
    if (rc)
        return rc;
    /* Not synced: a torn entry fails its MAC and is compiled again. */
    return ast_fs_write_atomic(path, ast_buf_view(&entry), 0600, /* flags= */ 0, err);
}
