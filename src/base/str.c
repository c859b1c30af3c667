/* Views of bytes: comparison, search, numbers, UTF-8, table hashes.
 *
 * Everything that looks at foreign text starts here, so nothing reads past `n` and nothing assumes
 * a terminating NUL.
 */
#include "base/str.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "base/error.h"
#include "base/random_priv.h"

#include "base/banned.h"

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

int ast_str_cmp(struct ast_str a, struct ast_str b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int order = n ? memcmp(a.p, b.p, n) : 0;
    if (order)
        return order;
    return a.n < b.n ? -1 : a.n > b.n;
}

bool ast_str_eq_nocase(struct ast_str a, struct ast_str b)
{
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++) {
        if (lower(a.p[i]) != lower(b.p[i]))
            return false;
    }
    return true;
}

struct ast_str ast_str_trim(struct ast_str s)
{
    while (s.n && is_space(s.p[0])) {
        s.p++;
        s.n--;
    }
    while (s.n && is_space(s.p[s.n - 1]))
        s.n--;
    return s;
}

size_t ast_str_find_byte(struct ast_str s, char c)
{
    const char *at = s.n ? memchr(s.p, c, s.n) : NULL;
    return at ? (size_t)(at - s.p) : AST_STR_NPOS;
}

size_t ast_str_find(struct ast_str s, struct ast_str needle)
{
    if (needle.n == 0)
        return 0;
    const char *at = s.n ? memmem(s.p, s.n, needle.p, needle.n) : NULL;
    return at ? (size_t)(at - s.p) : AST_STR_NPOS;
}

bool ast_str_split(struct ast_str *rest, bool *more, char sep, struct ast_str *ret_piece)
{
    if (!*more)
        return false;
    size_t at = ast_str_find_byte(*rest, sep);
    if (at == AST_STR_NPOS) {
        *ret_piece = *rest;
        *rest = ast_str_from(*rest, rest->n);
        *more = false;
        return true;
    }
    *ret_piece = ast_str_first(*rest, at);
    *rest = ast_str_from(*rest, at + 1);
    return true;
}

bool ast_str_to_c(struct ast_str s, char *to, size_t size)
{
    if (s.n >= size || ast_str_find_byte(s, '\0') != AST_STR_NPOS)
        return false;
    if (s.n)
        memcpy(to, s.p, s.n);
    to[s.n] = 0;
    return true;
}

bool ast_str_to_u64(struct ast_str s, uint64_t *ret)
{
    if (s.n == 0 || s.n > 20 || (s.n > 1 && s.p[0] == '0'))
        return false;
    uint64_t v = 0;
    for (size_t i = 0; i < s.n; i++) {
        unsigned digit = (unsigned)(unsigned char)s.p[i] - '0';
        if (digit > 9 || __builtin_mul_overflow(v, UINT64_C(10), &v) ||
            __builtin_add_overflow(v, (uint64_t)digit, &v))
            return false;
    }
    *ret = v;
    return true;
}

char *ast_str_dup(struct ast_str s)
{
    if (s.n == SIZE_MAX)
        return NULL;
    char *copy = malloc(s.n + 1);
    if (!copy)
        return NULL;
    if (s.n)
        memcpy(copy, s.p, s.n);
    copy[s.n] = 0;
    return copy;
}

/* --- UTF-8 ---------------------------------------------------------------------------------
 *
 * A state machine whose whole transition row for one input byte sits in one 64-bit word: the state
 * is a bit offset into the row, so a step is one table load and one shift, without a branch.
 *
 *   BAD   dead                       E0, ED   after that byte: second byte is restricted
 *   OK    between characters         F0, F4   likewise
 *   T1-3  that many trailing bytes are missing
 */
enum utf8_state {
    U_BAD = 0,
    U_OK = 6,
    U_T1 = 12,
    U_T2 = 18,
    U_T3 = 24,
    U_E0 = 30,
    U_ED = 36,
    U_F0 = 42,
    U_F4 = 48,
};

#define GO(from, to) ((uint64_t)(to) << (from))
#define TRAIL        (GO(U_T1, U_OK) | GO(U_T2, U_T1) | GO(U_T3, U_T2))

static const uint64_t utf8_rows[256] = {
    [0x00 ... 0x7f] = GO(U_OK, U_OK),
    [0x80 ... 0x8f] = TRAIL | GO(U_ED, U_T1) | GO(U_F4, U_T2),
    [0x90 ... 0x9f] = TRAIL | GO(U_ED, U_T1) | GO(U_F0, U_T2),
    [0xa0 ... 0xbf] = TRAIL | GO(U_E0, U_T1) | GO(U_F0, U_T2),
    [0xc2 ... 0xdf] = GO(U_OK, U_T1),
    [0xe0] = GO(U_OK, U_E0),
    [0xe1 ... 0xec] = GO(U_OK, U_T2),
    [0xed] = GO(U_OK, U_ED), /* surrogates would follow with a0..bf */
    [0xee ... 0xef] = GO(U_OK, U_T2),
    [0xf0] = GO(U_OK, U_F0),
    [0xf1 ... 0xf3] = GO(U_OK, U_T3),
    [0xf4] = GO(U_OK, U_F4),
};

#undef GO
#undef TRAIL

static inline uint64_t utf8_step(uint64_t state, unsigned char c)
{
    return utf8_rows[c] >> (state & 63);
}

#define BLOCK 32

static inline bool block_is_ascii(const unsigned char *p)
{
#ifdef __SSE2__
    __m128i a = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(p + 16));
    return _mm_movemask_epi8(_mm_or_si128(a, b)) == 0;
#else
    uint64_t w[4];
    memcpy(w, p, sizeof w);
    return ((w[0] | w[1] | w[2] | w[3]) & UINT64_C(0x8080808080808080)) == 0;
#endif
}

/* Fewer than BLOCK bytes, by overlapping loads: short strings are what host calls check. */
static inline bool tail_is_ascii(const unsigned char *p, size_t n)
{
    uint64_t w[4] = { 0 };
    if (n >= 16) {
        memcpy(w, p, 16);
        memcpy(w + 2, p + n - 16, 16);
    } else if (n >= 8) {
        memcpy(w, p, 8);
        memcpy(w + 1, p + n - 8, 8);
    } else if (n >= 4) {
        memcpy(w, p, 4);
        memcpy(w + 1, p + n - 4, 4);
    } else if (n > 0) {
        w[0] = (uint64_t)(p[0] | p[n / 2] | p[n - 1]);
    }
    return ((w[0] | w[1] | w[2] | w[3]) & UINT64_C(0x8080808080808080)) == 0;
}

bool ast_str_is_utf8(struct ast_str s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    const unsigned char *end = p + s.n;
    uint64_t state = U_OK;

    while ((size_t)(end - p) >= BLOCK) {
        if ((state & 63) == U_OK && block_is_ascii(p)) {
            p += BLOCK;
            continue;
        }
        for (size_t i = 0; i < BLOCK; i++)
            state = utf8_step(state, p[i]);
        if ((state & 63) == U_BAD)
            return false;
        p += BLOCK;
    }
    if ((state & 63) == U_OK && tail_is_ascii(p, (size_t)(end - p)))
        return true;
    while (p < end)
        state = utf8_step(state, *p++);
    return (state & 63) == U_OK;
}

/* --- Hash ----------------------------------------------------------------------------------
 *
 * Folds 16 bytes per round through one 64x64 -> 128 bit multiplication. The seed is drawn once per
 * process, so nobody outside can prepare keys that collide.
 */
__extension__ typedef unsigned __int128 u128;

static uint64_t seed[3];
static atomic_bool has_seed;

static void seed_draw(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    AST_ASSERT(pthread_mutex_lock(&lock) == 0);
    if (!atomic_load_explicit(&has_seed, memory_order_relaxed)) {
        base_random(seed, sizeof seed);
        atomic_store_explicit(&has_seed, true, memory_order_release);
    }
    AST_ASSERT(pthread_mutex_unlock(&lock) == 0);
}

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    u128 r = (u128)a * b;
    return (uint64_t)r ^ (uint64_t)(r >> 64);
}

static inline uint64_t load64(const char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t load32(const char *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

uint64_t ast_str_hash(struct ast_str s)
{
    /* Acquire: pairs with the release in seed_draw(). */
    if (__builtin_expect(!atomic_load_explicit(&has_seed, memory_order_acquire), 0))
        seed_draw();
    const char *p = s.p;
    size_t n = s.n;
    uint64_t h = seed[0] ^ (uint64_t)n;

    while (n > 16) {
        h = fold(load64(p) ^ seed[1] ^ h, load64(p + 8) ^ seed[2]);
        p += 16;
        n -= 16;
    }
    /* The last 1..16 bytes as two words that may overlap. */
    uint64_t a = 0, b = 0;
    if (n >= 8) {
        a = load64(p);
        b = load64(p + n - 8);
    } else if (n >= 4) {
        a = load32(p);
        b = load32(p + n - 4);
    } else if (n) {
        a = (uint64_t)(unsigned char)p[0] << 16 | (uint64_t)(unsigned char)p[n / 2] << 8 |
            (unsigned char)p[n - 1];
    }
    h = fold(a ^ seed[1] ^ h, b ^ seed[2]);
    return fold(h ^ seed[0], UINT64_C(0x9e3779b97f4a7c15));
}
