/* Memory of messages that goes round between those who publish and those who take.
 *
 * malloc returns a block to the arena it came from, under that arena's lock: a publisher and its
 * consumer would meet there for every message. Here a thread keeps a chain of free blocks to itself
 * and hands a full one over; the lock of the store between them is taken once per BATCH messages.
 *
 *   publisher: chain ◄── batches in the store ◄── chain :consumer
 *
 * Bounds: a thread keeps at most BATCH blocks of each size, the store STORE_BYTES of each.
 */
#include "bus/blocks_priv.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/checked_priv.h"
#include "base/thread.h"

#include "base/banned.h"

#define BATCH       64u
#define STORE_BYTES 1048576u

/* Of whole messages: short control messages, agent traffic, small documents. */
static const size_t sizes[] = { 256, 384, 768 };
#define SIZES AST_ARRAY_LEN(sizes)
_Static_assert(SIZES < BUS_BLOCK_PLAIN, "the number of a size fits");

struct block {
    struct block *next;
    struct block *next_batch; /* of the first block of a batch in the store */
};

/* Free blocks of one size that belong to one thread, or to nobody when in the store. */
struct chain {
    struct block *first;
    unsigned n;
};

static struct {
    pthread_once_t once;
    pthread_key_t key; /* its destructor gives the chains of a thread back */
    bool has_key;
    struct ast_lock lock;
    struct block *batches[SIZES] AST_GUARDED_BY(lock); /* full ones, owned */
    size_t bytes[SIZES] AST_GUARDED_BY(lock);
} store = { .once = PTHREAD_ONCE_INIT };

static _Thread_local struct {
    struct chain chains[SIZES];
    bool is_known; /* to the key: the thread's end empties the chains */
} own;

static void chain_free(struct block *b)
{
    while (b) {
        struct block *next = b->next;
        free(b);
        b = next;
    }
}

/* Runs on the thread itself. A block freed later, by another destructor, makes it run once more. */
static void own_release(void *arg)
{
    (void)arg;
    for (size_t i = 0; i < SIZES; i++) {
        chain_free(own.chains[i].first);
        own.chains[i] = (struct chain){ 0 };
    }
    own.is_known = false;
}

static void store_init(void)
{
    ast_lock_init(&store.lock, AST_LOCK_blocks);
    store.has_key = pthread_key_create(&store.key, own_release) == 0;
}

static bool own_ready(void)
{
    if (own.is_known)
        return true;
    pthread_once(&store.once, store_init);
    own.is_known = store.has_key && pthread_setspecific(store.key, &own) == 0;
    return own.is_known;
}

static void refill(size_t size, struct chain *c)
{
    AST_WITH_LOCK(&store.lock);
    struct block *b = store.batches[size];
    if (!b)
        return;
    store.batches[size] = b->next_batch;
    store.bytes[size] -= BATCH * sizes[size];
    *c = (struct chain){ b, BATCH };
}

/* A full chain goes to the store, or back to malloc when that has enough. */
static void hand_over(size_t size, struct chain *c)
{
    struct block *b = c->first;
    *c = (struct chain){ 0 };
    ast_lock(&store.lock);
    bool fits = store.bytes[size] + BATCH * sizes[size] <= STORE_BYTES;
    if (fits) {
        b->next_batch = store.batches[size];
        store.batches[size] = b;
        store.bytes[size] += BATCH * sizes[size];
    }
    ast_unlock(&store.lock);
    if (!fits)
        chain_free(b);
}

void *bus_block_new(size_t n, uint8_t *ret_size)
{
    size_t size = 0;
    while (size < SIZES && sizes[size] < n)
        size++;
    /* In a checked build the sanitizer sees every message come and go. */
    if (AST_CHECKED_BUILD || size == SIZES || !own_ready()) {
        *ret_size = BUS_BLOCK_PLAIN;
        return malloc(n);
    }
    *ret_size = (uint8_t)size;
    struct chain *c = &own.chains[size];
    if (!c->n)
        refill(size, c);
    if (!c->n)
        return malloc(sizes[size]);
    struct block *b = c->first;
    c->first = b->next;
    c->n--;
    return b;
}

void bus_block_free(void *p, uint8_t size)
{
    if (size == BUS_BLOCK_PLAIN || !own_ready()) {
        free(p);
        return;
    }
    struct chain *c = &own.chains[size];
    struct block *b = p;
    b->next = c->first;
    c->first = b;
    if (++c->n == BATCH)
        hand_over(size, c);
}
