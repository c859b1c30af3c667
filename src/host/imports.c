/* What the engine room links into capsules: the generated import table and how each resource dies. */
#include <pthread.h>

#include "host/stream_priv.h"

#include "base/banned.h"

/* Types that nothing makes yet: their handles cannot exist. */
static void drop_never(void *obj)
{
    (void)AST_NEVER(obj != NULL);
}

/* type id, name, destructor, may the guest not drop it now */
static const struct ast_abi_resource resources[] = {
    { AST_ABI_TYPE_FS_FILE_HANDLE, "file-handle", drop_never, NULL },
    { AST_ABI_TYPE_HTTP_HTTP_STREAM, "http-stream", drop_never, NULL },
    { AST_ABI_TYPE_HTTP11_HTTP_STREAM, "http-stream", drop_never, NULL },
    { AST_ABI_TYPE_HTTP11_HTTP_UPLOAD, "http-upload", drop_never, NULL },
    { AST_ABI_TYPE_IO_ERROR, "error", host_io_error_drop, NULL },
    { AST_ABI_TYPE_IO_POLLABLE, "pollable", host_pollable_drop, NULL },
    { AST_ABI_TYPE_IO_INPUT_STREAM, "input-stream", host_input_stream_drop, host_stream_is_held },
    { AST_ABI_TYPE_IO_OUTPUT_STREAM, "output-stream", host_output_stream_drop,
      host_stream_is_held },
    { AST_ABI_TYPE_IPC_SUBSCRIPTION, "subscription", host_subscription_drop, NULL },
    { AST_ABI_TYPE_NET_UNIX_LISTENER, "unix-listener", drop_never, NULL },
    { AST_ABI_TYPE_NET_TCP_LISTENER, "tcp-listener", drop_never, NULL },
    { AST_ABI_TYPE_NET_TCP_STREAM, "tcp-stream", drop_never, NULL },
    { AST_ABI_TYPE_NET_UDP_SOCKET, "udp-socket", drop_never, NULL },
    { AST_ABI_TYPE_PROCESS_PROCESS_HANDLE, "process-handle", drop_never, NULL },
    { AST_ABI_TYPE_PROCESS11_PROCESS_HANDLE, "process-handle", drop_never, NULL },
};
_Static_assert(AST_ARRAY_LEN(resources) == AST_ABI_TYPE_COUNT - 1, "one row per resource type");

static struct ast_wasm_host table; /* immutable once made */

static void make_table(void)
{
    table = (struct ast_wasm_host){
        .imports = ast_abi_imports,
        .import_count = ast_abi_imports_count,
        .resources = resources,
        .resource_count = AST_ARRAY_LEN(resources),
    };
}

const struct ast_wasm_host *ast_host_imports(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, make_table); /* cannot fail with a valid control */
    return &table;
}
