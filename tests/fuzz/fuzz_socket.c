/* The socket of a whole kernel: a client that sends any bytes, before or after a good handshake, in pieces of any size.
 *
 * What comes back is whole frames of JSON objects. Who has not proved himself gets at most one, which refuses him; nothing of
 * his reaches the bus. An honest client is served as before.
 *
 * Input: a byte of mode (1: handshake first, 2: the rest is cut into frames, 4: slowly), then bytes; cut into frames: two
 * bytes of length, then so many.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "kernel_rig.h"
#include "uplink/frame.h"

#include "base/banned.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum mode { MODE_HANDSHAKE = 1, MODE_FRAMES = 2, MODE_SLOWLY = 4 };

static atomic_uint from_clients; /* messages that the bridge has let in */

static void on_message(void *arg, struct ast_msg *m)
{
    (void)arg;
    AST_ASSERT(m->principal.n && ast_principal_valid(m->principal));
    if (m->origin && strcmp(m->origin, "uplink") == 0)
        atomic_fetch_add(&from_clients, 1);
}

static const char *const patterns[] = { "user.v1.*", "astrid.v1.admin.*", "astrid.v1.request.*",
                                        "client.v1.*", "session.v1.*" };
static struct ast_tap *taps[AST_ARRAY_LEN(patterns)];

static void close_taps(void)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(patterns); i++)
        ast_tap_close(taps[i]);
}

static void setup(void)
{
    struct ast_err err = AST_ERR_INIT;
    rig_start(/* with_socket= */ true);
    for (size_t i = 0; i < AST_ARRAY_LEN(patterns); i++)
        rig_must(ast_tap_open(ast_kernel_host(rig.k)->bus, "fuzz", ast_str_c(patterns[i]),
                              on_message, NULL, &taps[i], &err),
                 "tap", &err);
    atexit(close_taps);
}

/* ---- a client ---- */

static int client_open(void)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    AST_ASSERT(fd >= 0);
    AST_ASSERT(snprintf(to.sun_path, sizeof to.sun_path, "%s/" AST_HOME_SOCKET, rig.dir) <
               (int)sizeof to.sun_path);
    AST_ASSERT(!connect(fd, (const struct sockaddr *)&to, sizeof to));
    return fd;
}

/* False: the daemon has hung up, which is its right. */
static bool client_send(int fd, struct ast_str bytes)
{
    while (bytes.n) {
        ssize_t n = send(fd, bytes.p, bytes.n, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        bytes = ast_str_from(bytes, (size_t)n);
    }
    return true;
}

static bool client_send_frame(int fd, struct ast_str body)
{
    const uint8_t header[AST_FRAME_HEADER] = { (uint8_t)(body.n >> 24), (uint8_t)(body.n >> 16),
                                               (uint8_t)(body.n >> 8), (uint8_t)body.n };
    return client_send(fd, ast_str_n(header, sizeof header)) && client_send(fd, body);
}

static void client_greet(int fd)
{
    AST_AUTO(ast_buf_done) struct ast_buf hello = AST_BUF_INIT(AST_HANDSHAKE_MAX);
    const struct ast_session_token *token = ast_kernel_token(rig.k);
    ast_buf_add_lit(&hello, "{\"token\":\"");
    for (size_t i = 0; i < sizeof token->b; i++)
        ast_buf_addf(&hello, "%02x", token->b[i]);
    ast_buf_add_lit(&hello, "\",\"protocol_version\":1,\"client_version\":\"fuzz\"}");
    AST_ASSERT(client_send_frame(fd, ast_buf_view(&hello)));
}

/* Everything until the daemon hangs up. */
static void client_read_all(int fd, struct ast_buf *out)
{
    char chunk[65536];
    ssize_t n;
    while ((n = recv(fd, chunk, sizeof chunk, 0)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0)
            ast_buf_add(out, ast_str_n(chunk, (size_t)n));
    AST_ASSERT(!out->fail);
}

/* The whole frames in what came; the last may be cut off by the hanging up. */
static unsigned check_frames(struct ast_str in, bool is_proved)
{
    unsigned count = 0;
    while (in.n >= AST_FRAME_HEADER) {
        AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
        size_t n = ast_frame_length((const uint8_t *)in.p);
        AST_ASSERT(n <= AST_FRAME_MAX_OUT);
        in = ast_str_from(in, AST_FRAME_HEADER);
        if (n > in.n)
            break;
        AST_ASSERT(!ast_json_parse(ast_str_first(in, n), &doc, NULL));
        const struct ast_json *root = ast_json_root(doc);
        AST_ASSERT(ast_json_type(root) == AST_JSON_OBJECT);
        if (!is_proved)
            AST_ASSERT(ast_str_is(ast_json_str_or(root, AST_STR("status"), AST_STR("?")), "error"));
        in = ast_str_from(in, n);
        count++;
    }
    return count;
}

static void send_input(int fd, struct ast_str in, unsigned mode)
{
    if (mode & MODE_FRAMES) {
        bool open = true;
        while (open && in.n >= 2) {
            size_t n = (size_t)(uint8_t)in.p[0] << 8 | (uint8_t)in.p[1];
            in = ast_str_from(in, 2);
            struct ast_str body = ast_str_first(in, n);
            open = client_send_frame(fd, body);
            in = ast_str_from(in, body.n);
        }
    } else if (mode & MODE_SLOWLY) {
        for (size_t i = 0; i < in.n && i < 64; i++)
            if (!client_send(fd, ast_str_n(in.p + i, 1)))
                return;
        if (in.n > 64)
            (void)client_send(fd, ast_str_from(in, 64)); /* hung up: as above */
    } else {
        (void)client_send(fd, in);
    }
}

static void check_honest(void)
{
    AST_AUTO(ast_buf_done) struct ast_buf got = AST_BUF_INIT(1u << 20);
    int fd = client_open();
    client_greet(fd);
    AST_ASSERT(!shutdown(fd, SHUT_WR));
    client_read_all(fd, &got);
    AST_ASSERT(check_frames(ast_buf_view(&got), /* is_proved= */ true) >= 1);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned inputs;
    AST_AUTO(ast_buf_done) struct ast_buf got = AST_BUF_INIT(64u << 20);
    if (!rig.k)
        setup();
    if (size < 1)
        return 0;
    unsigned mode = data[0], before = atomic_load(&from_clients);
    int fd = client_open();
    if (mode & MODE_HANDSHAKE)
        client_greet(fd);
    send_input(fd, ast_str_n(data + 1, size - 1), mode);
    (void)shutdown(fd, SHUT_WR); /* fails when the daemon has hung up already */
    client_read_all(fd, &got);
    close(fd);
    unsigned frames = check_frames(ast_buf_view(&got), mode & MODE_HANDSHAKE);
    if (!(mode & MODE_HANDSHAKE))
        AST_ASSERT(frames <= 1 && atomic_load(&from_clients) == before);
    if (inputs++ % 64 == 0)
        check_honest();
    return 0;
}
