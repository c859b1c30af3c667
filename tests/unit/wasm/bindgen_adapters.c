/* Runs generated adapters against a small memory of its own: what they lift, what they lower, and
 * that a trap half way leaves the result area as it was. Built by test_bindgen.py with the output
 * of the generator; host functions that no case calls stay undefined.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "host/abi_names.h"
#include "host/bindings.h"

#define AREA 1024u /* where cases put the result */
#define HEAP 4096u

struct ast_abi {
    const char *trap;
    uint32_t heap;
    int allocs_left; /* -1: as many as asked for */
    bool arena_full;
    void *objects[8];
    uint32_t object_types[8];
    uint32_t dropped_type;
};

static uint8_t memory[16384];
static struct ast_abi abi;
static int failures, host_calls;

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

/* ---- the runtime that the adapters stand on ---- */

struct ast_arena *ast_abi_arena(struct ast_abi *a)
{
    (void)a;
    return NULL;
}

void *ast_arena_alloc(struct ast_arena *arena, size_t size)
{
    static char pool[8192];
    static size_t used;
    (void)arena;
    if (abi.arena_full)
        return NULL;
    void *p = pool + used;
    used += (size + 15) & ~(size_t)15;
    CHECK(used <= sizeof pool);
    memset(p, 0, size);
    return p;
}

void ast_abi_trap(struct ast_abi *a, const char *why)
{
    if (!a->trap)
        a->trap = why;
}

bool ast_abi_trapped(const struct ast_abi *a)
{
    return a->trap != NULL;
}

bool ast_abi_read(struct ast_abi *a, uint32_t ptr, uint32_t len, uint32_t align,
                  const uint8_t **ret)
{
    if (ptr % align || (uint64_t)ptr + len > sizeof memory) {
        ast_abi_trap(a, "bad pointer");
        return false;
    }
    *ret = memory + ptr;
    return true;
}

bool ast_abi_bytes(struct ast_abi *a, uint32_t ptr, uint32_t len, struct ast_str *ret)
{
    const uint8_t *p = NULL;
    if (!ast_abi_read(a, ptr, len, 1, &p))
        return false;
    *ret = ast_str_n(p, len);
    return true;
}

bool ast_abi_string(struct ast_abi *a, uint32_t ptr, uint32_t len, struct ast_str *ret)
{
    return ast_abi_bytes(a, ptr, len, ret);
}

bool ast_abi_alloc(struct ast_abi *a, uint32_t align, uint32_t size, uint32_t *ret_ptr)
{
    if (a->allocs_left == 0) {
        ast_abi_trap(a, "guest out of memory");
        return false;
    }
    if (a->allocs_left > 0)
        a->allocs_left--;
    a->heap = (a->heap + align - 1) / align * align;
    *ret_ptr = a->heap;
    a->heap += size;
    return true;
}

uint8_t *ast_abi_at(struct ast_abi *a, uint32_t ptr, uint32_t size, uint32_t align)
{
    const uint8_t *p = NULL;
    return ast_abi_read(a, ptr, size, align, &p) ? memory + ptr : NULL;
}

bool ast_abi_handle_borrow(struct ast_abi *a, uint32_t handle, uint32_t type_id, void **ret_obj)
{
    if (handle == 0 || handle >= 8 || a->object_types[handle] != type_id) {
        ast_abi_trap(a, "bad handle");
        return false;
    }
    *ret_obj = a->objects[handle];
    return true;
}

bool ast_abi_handle_add(struct ast_abi *a, uint32_t type_id, void *obj, uint32_t *ret_handle)
{
    a->objects[7] = obj;
    a->object_types[7] = type_id;
    *ret_handle = 7;
    return true;
}

bool ast_abi_handle_drop(struct ast_abi *a, uint32_t handle, uint32_t type_id)
{
    (void)handle;
    a->dropped_type = type_id;
    return true;
}

/* ---- helpers of the cases ---- */

static uint32_t u32_at(uint32_t ptr)
{
    uint32_t x;
    memcpy(&x, memory + ptr, sizeof x);
    return x;
}

static uint64_t u64_at(uint32_t ptr)
{
    uint64_t x;
    memcpy(&x, memory + ptr, sizeof x);
    return x;
}

static void put_u32(uint32_t ptr, uint32_t x)
{
    memcpy(memory + ptr, &x, sizeof x);
}

static void put_u64(uint32_t ptr, uint64_t x)
{
    memcpy(memory + ptr, &x, sizeof x);
}

static bool text_at(uint32_t ptr, const char *want)
{
    return u32_at(ptr + 4) == strlen(want) && !memcmp(memory + u32_at(ptr), want, strlen(want));
}

static bool area_untouched(void)
{
    for (uint32_t i = AREA; i < AREA + 200; i++)
        if (memory[i] != 0xaa)
            return false;
    return true;
}

static void reset(void)
{
    memset(&abi, 0, sizeof abi);
    abi.heap = HEAP;
    abi.allocs_left = -1;
    host_calls = 0;
    memset(memory, 0xaa, sizeof memory);
    memcpy(memory + 16, "topicpayload", 12);
}

static void call(const char *module, const char *name, union ast_abi_slot *v)
{
    for (size_t i = 0; i < ast_abi_imports_count; i++) {
        const struct ast_abi_import *row = &ast_abi_imports[i];
        if (!strcmp(row->module, module) && !strcmp(row->name, name)) {
            CHECK(row->index == i);
            row->adapter(&abi, v);
            return;
        }
    }
    CHECK(!"no such import");
}

#define I(x)                                                                                       \
    {                                                                                              \
        .i32 = (int32_t)(x)                                                                        \
    }
#define L(x)                                                                                       \
    {                                                                                              \
        .i64 = (int64_t)(x)                                                                        \
    }
#define CALL(module, name, ...) call(module, name, (union ast_abi_slot[16]){ __VA_ARGS__ })

/* ---- host functions ---- */

static struct ast_ipc_error ipc_error;
static int rc;
static const char *trap_in_host;
static int subscription_object, pollable_object;

int ast_ipc_publish(struct ast_abi *a, struct ast_str topic, struct ast_str payload,
                    struct ast_ipc_error *reterr)
{
    host_calls++;
    CHECK(ast_str_is(topic, "topic"));
    CHECK(ast_str_is(payload, "payload"));
    if (trap_in_host)
        ast_abi_trap(a, trap_in_host);
    *reterr = ipc_error;
    return rc;
}

int ast_ipc_subscribe(struct ast_abi *a, struct ast_str pattern, struct ast_ipc_subscription **ret,
                      struct ast_ipc_error *reterr)
{
    (void)a, (void)pattern, (void)reterr;
    *ret = (struct ast_ipc_subscription *)&subscription_object;
    return AST_ABI_OK;
}

int ast_ipc_subscription_recv(struct ast_abi *a, struct ast_ipc_subscription *self,
                              uint64_t timeout_ms, struct ast_ipc_ipc_envelope *ret,
                              struct ast_ipc_error *reterr)
{
    static struct ast_ipc_ipc_message messages[2];
    (void)a, (void)reterr;
    host_calls++;
    CHECK((void *)self == &subscription_object);
    CHECK(timeout_ms == 1ull << 40);
    messages[0] = (struct ast_ipc_ipc_message){
        .topic = AST_STR("a.b"),
        .payload = AST_STR("{}"),
        .source_id = AST_STR(""),
        .principal = { .tag = AST_IPC_PRINCIPAL_ATTRIBUTION_SYSTEM },
    };
    messages[1] = (struct ast_ipc_ipc_message){
        .topic = AST_STR("c"),
        .payload = AST_STR("[1]"),
        .source_id = AST_STR("id"),
        .principal = { .tag = AST_IPC_PRINCIPAL_ATTRIBUTION_CLAIMED, .u.claimed = AST_STR("p") },
    };
    *ret = (struct ast_ipc_ipc_envelope){ { messages, 2 }, 3, 4 };
    return AST_ABI_OK;
}

struct ast_io_pollable *ast_ipc_subscription_subscribe_readiness(struct ast_abi *a,
                                                                 struct ast_ipc_subscription *self)
{
    (void)a, (void)self;
    return (struct ast_io_pollable *)&pollable_object;
}

int ast_io_poll(struct ast_abi *a, struct ast_list_io_pollable pollables, struct ast_list_u32 *ret,
                struct ast_io_poll_error *reterr)
{
    static uint32_t ready[] = { 0, 2 };
    (void)a, (void)reterr;
    host_calls++;
    CHECK(pollables.n == 3 && (void *)pollables.v[0] == &pollable_object &&
          pollables.v[2] == pollables.v[0]);
    *ret = (struct ast_list_u32){ ready, 2 };
    return AST_ABI_OK;
}

int ast_kv_kv_list_keys_page(struct ast_abi *a, struct ast_str prefix, struct ast_opt_str cursor,
                             uint32_t limit, struct ast_kv_key_page *ret,
                             struct ast_kv_error *reterr)
{
    static struct ast_str keys[] = { AST_STR("k1"), AST_STR("k22") };
    (void)a, (void)reterr;
    host_calls++;
    CHECK(ast_str_is(prefix, "topic") && cursor.has && ast_str_is(cursor.v, "pay") && limit == 9);
    *ret = (struct ast_kv_key_page){ { keys, 2 }, { true, AST_STR("k22") } };
    return AST_ABI_OK;
}

int ast_net_bind_tcp(struct ast_abi *a, struct ast_str host, uint16_t port,
                     struct ast_net_tcp_listener **ret, struct ast_net_error *reterr)
{
    (void)a, (void)host, (void)ret;
    host_calls++;
    CHECK(port == 0xfffe);
    reterr->tag = AST_NET_ERROR_CAPABILITY_DENIED;
    return AST_ABI_ERR;
}

int ast_net_tcp_stream_read_timeout(struct ast_abi *a, struct ast_net_tcp_stream *self,
                                    struct ast_opt_u64 *ret, struct ast_net_error *reterr)
{
    (void)a, (void)self, (void)reterr;
    *ret = (struct ast_opt_u64){ true, 1ull << 33 };
    return AST_ABI_OK;
}

void ast_sys_log(struct ast_abi *a, enum ast_sys_log_level level, struct ast_str message)
{
    (void)a;
    host_calls++;
    CHECK(level == AST_SYS_LOG_LEVEL_WARN && ast_str_is(message, "topic"));
}

uint64_t ast_sys_clock_ms(struct ast_abi *a)
{
    (void)a;
    return 1ull << 50;
}

uint16_t ast_http_http_stream_status(struct ast_abi *a, struct ast_http_http_stream *self)
{
    (void)a;
    CHECK((void *)self == &subscription_object);
    return 404;
}

int ast_http11_http_request_opts(struct ast_abi *a,
                                 const struct ast_http_http_request_data *request,
                                 const struct ast_http11_request_options *options,
                                 struct ast_http11_http_response_data *ret,
                                 struct ast_http11_error *reterr)
{
    (void)a, (void)reterr;
    host_calls++;
    CHECK(ast_str_is(request->url, "topic"));
    CHECK(request->method.tag == AST_HTTP_HTTP_METHOD_OTHER);
    CHECK(ast_str_is(request->method.u.other, "payload"));
    CHECK(request->headers.n == 2 && ast_str_is(request->headers.v[0].value, "load"));
    CHECK(ast_str_is(request->headers.v[1].key, "to"));
    CHECK(request->body.has && ast_str_is(request->body.v, "top"));
    CHECK(options->timeouts.has && !options->timeouts.v.connect_ms.has);
    CHECK(options->timeouts.v.total_ms.has && options->timeouts.v.total_ms.v == 77);
    CHECK(options->redirect.has && options->redirect.v == AST_HTTP11_REDIRECT_POLICY_MANUAL);
    CHECK(!options->max_redirects.has && options->https_only.has && options->https_only.v);
    CHECK(!options->integrity.has);
    ret->status = 200;
    ret->body = AST_STR("hello");
    ret->meta = (struct ast_http11_response_meta){ AST_STR("u"), 1, 2, 3 };
    return AST_ABI_OK;
}

/* ---- cases ---- */

#define IPC       "astrid:ipc/host@1.0.0"
#define PUBLISH() CALL(IPC, "publish", I(16), I(5), I(21), I(7), I(AREA))

static void test_ok_without_payload(void)
{
    reset();
    rc = AST_ABI_OK;
    PUBLISH();
    CHECK(!abi.trap && host_calls == 1 && memory[AREA] == 0 && memory[AREA + 16] == 0xaa);
}

static void test_error_with_text(void)
{
    reset();
    rc = AST_ABI_ERR;
    ipc_error = (struct ast_ipc_error){ AST_IPC_ERROR_UNKNOWN, .u.unknown = AST_STR("boom") };
    PUBLISH();
    CHECK(!abi.trap && memory[AREA] == 1 && memory[AREA + 4] == 7 && text_at(AREA + 8, "boom"));
    CHECK(!strcmp(ast_ipc_error_name(ipc_error.tag), "unknown"));
}

static void test_traps_leave_the_area(void)
{
    reset();
    abi.allocs_left = 0;
    PUBLISH();
    CHECK(abi.trap && area_untouched());
    reset();
    trap_in_host = "host says so";
    PUBLISH();
    CHECK(abi.trap == trap_in_host && area_untouched());
    trap_in_host = NULL;
    reset();
    CALL(IPC, "publish", I(16), I(5), I(sizeof memory), I(7), I(AREA));
    CHECK(abi.trap && host_calls == 0 && area_untouched());
    reset();
    CALL(IPC, "publish", I(16), I(5), I(21), I(7), I(AREA + 2)); /* misaligned area */
    CHECK(abi.trap && area_untouched());
}

static void test_nested_lists(void)
{
    for (int allocs = -1; allocs < 9; allocs++) {
        reset();
        abi.objects[3] = &subscription_object;
        abi.object_types[3] = AST_ABI_TYPE_IPC_SUBSCRIPTION;
        abi.allocs_left = allocs;
        CALL(IPC, "[method]subscription.recv", I(3), L(1ull << 40), I(AREA));
        CHECK(host_calls == 1);
        if (allocs >= 0 && allocs < 8) { /* seven texts and one list */
            CHECK(abi.trap && area_untouched());
            continue;
        }
        CHECK(!abi.trap && memory[AREA] == 0 && u32_at(AREA + 12) == 2);
        CHECK(u64_at(AREA + 16) == 3 && u64_at(AREA + 24) == 4);
        const uint32_t list = u32_at(AREA + 8);
        CHECK(text_at(list, "a.b") && text_at(list + 8, "{}") && text_at(list + 16, ""));
        CHECK(memory[list + 24] == 2);
        CHECK(text_at(list + 36, "c") && text_at(list + 44, "[1]") && text_at(list + 52, "id"));
        CHECK(memory[list + 60] == 1 && text_at(list + 64, "p"));
    }
    reset();
    abi.objects[3] = &subscription_object;
    abi.object_types[3] = AST_ABI_TYPE_IPC_SUBSCRIPTION;
    abi.arena_full = true;
    CALL(IPC, "[method]subscription.recv", I(3), L(1ull << 40), I(AREA));
    CHECK(abi.trap && !strcmp(abi.trap, "out of arena") && area_untouched());
}

static void test_handles(void)
{
    reset();
    CALL(IPC, "subscribe", I(16), I(5), I(AREA));
    CHECK(!abi.trap && memory[AREA] == 0 && u32_at(AREA + 4) == 7);
    CHECK(abi.objects[7] == &subscription_object);

    union ast_abi_slot v[2] = { I(7), I(0) };
    call(IPC, "[method]subscription.subscribe-readiness", v);
    CHECK(!abi.trap && v[0].i32 == 7 && abi.object_types[7] == AST_ABI_TYPE_IO_POLLABLE);

    put_u32(64, 7), put_u32(68, 7), put_u32(72, 7);
    CALL("astrid:io/poll@1.0.0", "poll", I(64), I(3), I(AREA));
    CHECK(!abi.trap && memory[AREA] == 0 && u32_at(AREA + 8) == 2);
    CHECK(u32_at(u32_at(AREA + 4)) == 0 && u32_at(u32_at(AREA + 4) + 4) == 2);

    host_calls = 0;
    put_u32(72, 6);
    CALL("astrid:io/poll@1.0.0", "poll", I(64), I(3), I(AREA));
    CHECK(abi.trap && host_calls == 0);

    reset();
    CALL("astrid:io/poll@1.0.0", "poll", I(64), I(0x40000000), I(AREA)); /* 4 GiB of handles */
    CHECK(abi.trap && host_calls == 0);
}

static void test_versions_share_a_function_but_not_handles(void)
{
    reset();
    abi.objects[2] = &subscription_object;
    abi.object_types[2] = AST_ABI_TYPE_HTTP11_HTTP_STREAM;
    union ast_abi_slot v[1] = { I(2) };
    call("astrid:http/host@1.1.0", "[method]http-stream.status", v);
    CHECK(!abi.trap && v[0].i32 == 404);
    v[0].i32 = 2;
    call("astrid:http/host@1.0.0", "[method]http-stream.status", v);
    CHECK(abi.trap);
    call("astrid:http/host@1.1.0", "[resource-drop]http-upload", v);
    CHECK(abi.dropped_type == AST_ABI_TYPE_HTTP11_HTTP_UPLOAD);
    CHECK(!strcmp(ast_abi_type_names[AST_ABI_TYPE_HTTP11_HTTP_UPLOAD],
                  "astrid:http/host@1.1.0 http-upload"));
}

static void test_scalars(void)
{
    reset();
    CALL("astrid:sys/host@1.0.0", "log", I(3), I(16), I(5));
    CHECK(!abi.trap && host_calls == 1);
    CALL("astrid:sys/host@1.0.0", "log", I(5), I(16), I(5));
    CHECK(abi.trap && host_calls == 1);

    reset();
    union ast_abi_slot v[1] = { I(0) };
    call("astrid:sys/host@1.0.0", "clock-ms", v);
    CHECK(v[0].i64 == 1ll << 50);

    /* Narrow integers are cut, not refused. */
    CALL("astrid:net/host@1.0.0", "bind-tcp", I(16), I(5), I(0x5fffe), I(AREA));
    CHECK(!abi.trap && host_calls == 1 && memory[AREA] == 1 && memory[AREA + 4] == 2);

    abi.object_types[1] = AST_ABI_TYPE_NET_TCP_STREAM;
    abi.objects[1] = &subscription_object;
    CALL("astrid:net/host@1.0.0", "[method]tcp-stream.read-timeout", I(1), I(AREA));
    CHECK(!abi.trap && memory[AREA] == 0 && memory[AREA + 8] == 1 &&
          u64_at(AREA + 16) == 1ull << 33);
}

static void test_options(void)
{
    static const char kv[] = "astrid:kv/host@1.0.0";
    reset();
    CALL(kv, "kv-list-keys-page", I(16), I(5), I(1), I(21), I(3), I(9), I(AREA));
    CHECK(!abi.trap && memory[AREA] == 0 && u32_at(AREA + 8) == 2);
    CHECK(text_at(u32_at(AREA + 4), "k1") && text_at(u32_at(AREA + 4) + 8, "k22"));
    CHECK(memory[AREA + 12] == 1 && text_at(AREA + 16, "k22"));
    reset();
    CALL(kv, "kv-list-keys-page", I(16), I(5), I(2), I(21), I(3), I(9), I(AREA));
    CHECK(abi.trap && host_calls == 0);
}

static void test_indirect_parameters(void)
{
    const uint32_t p = 256;
    reset();
    memset(memory + p, 0, 176);
    put_u32(p, 16), put_u32(p + 4, 5);                          /* url */
    memory[p + 8] = 9, put_u32(p + 12, 21), put_u32(p + 16, 7); /* method other */
    put_u32(p + 20, 512), put_u32(p + 24, 2);                   /* headers */
    put_u32(512, 16), put_u32(516, 1), put_u32(520, 24), put_u32(524, 4);
    put_u32(528, 16), put_u32(532, 2), put_u32(536, 16), put_u32(540, 0);
    memory[p + 28] = 1, put_u32(p + 32, 16), put_u32(p + 36, 3); /* body */
    memory[p + 40] = 1;                                          /* timeouts */
    memory[p + 40 + 8 + 48] = 1, put_u64(p + 40 + 8 + 56, 77);
    memory[p + 40 + 72] = 1, memory[p + 40 + 73] = 2;      /* redirect */
    memory[p + 40 + 122] = 1, memory[p + 40 + 123] = 0xff; /* https-only: any non-zero is true */
    CALL("astrid:http/host@1.1.0", "http-request-opts", I(p), I(AREA));
    CHECK(!abi.trap && host_calls == 1 && memory[AREA] == 0);
    CHECK(memory[AREA + 8] == 200 && text_at(AREA + 8 + 12, "hello"));
    CHECK(text_at(AREA + 8 + 24, "u") && u32_at(AREA + 40) == 1 && u64_at(AREA + 56) == 3);
    CALL("astrid:http/host@1.1.0", "http-request-opts", I(p + 4), I(AREA)); /* misaligned */
    CHECK(abi.trap && host_calls == 1);
}

static void test_lift_of_a_guest_result(void)
{
    struct ast_guest_capsule_result result = { 0 };
    reset();
    put_u32(64, 16), put_u32(68, 5);
    memory[72] = 1, put_u32(76, 21), put_u32(80, 7);
    CHECK(ast_guest_capsule_result_lift(&abi, 64, &result));
    CHECK(ast_str_is(result.action, "topic") && result.data.has &&
          ast_str_is(result.data.v, "payload"));
    memory[72] = 3;
    CHECK(!ast_guest_capsule_result_lift(&abi, 64, &result) && abi.trap);
}

int main(void)
{
    test_ok_without_payload();
    test_error_with_text();
    test_traps_leave_the_area();
    test_nested_lists();
    test_handles();
    test_versions_share_a_function_but_not_handles();
    test_scalars();
    test_options();
    test_indirect_parameters();
    test_lift_of_a_guest_result();
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
