/* The ceilings of the gateway. Each is a promise to the machine: what one client can make us hold. */
#pragma once

#define AST_GATEWAY_HEAD_BYTES                                                                     \
    16384u /* request line and fields: room for a hostile bearer, not for a flood */
#define AST_GATEWAY_HEAD_FIELDS 100u   /* fields of one request */
#define AST_GATEWAY_BODY_BYTES  65536u /* spec 03 §5.5 */
#define AST_GATEWAY_AHEAD_BYTES                                                                    \
    16384u /* bytes a client may send ahead while its request is being answered */
#define AST_GATEWAY_CHUNK_LINE_BYTES 256u /* a chunk's size line with its extensions */
#define AST_GATEWAY_TRAILER_BYTES    8192u
#define AST_GATEWAY_OUT_BYTES        4194304u /* what may wait to be written to one client */
#define AST_GATEWAY_FILL_BYTES       32768u   /* a stream is asked for more only below this */

#define AST_GATEWAY_CONNECTIONS 4096u /* open connections, all loops together (spec 03 §4 GAP) */
#define AST_GATEWAY_HEAD_SECS   30u   /* first byte to last header byte */
#define AST_GATEWAY_BODY_SECS   30u   /* last header byte to last body byte */
#define AST_GATEWAY_IDLE_SECS   75u   /* between two requests */
#define AST_GATEWAY_WRITE_SECS  60u   /* a client that takes nothing for that long is gone */
#define AST_GATEWAY_TLS_SECS    10u   /* handshake, spec 03 §4 */
#define AST_GATEWAY_LINGER_SECS                                                                    \
    2u /* reading on after the last answer, so that it is not reset away */
#define AST_GATEWAY_DRAIN_SECS 5u /* requests in flight at stop */

#define AST_GATEWAY_KERNEL_SECS        15u /* spec 03 §9: a kernel that never answers */
#define AST_GATEWAY_KERNEL_WINDOW_SECS 60u /* a rate-limited request may come again, spec 03 §9.2 */
#define AST_GATEWAY_KEEPALIVE_SECS     15u  /* spec 03 §21.1 */
#define AST_GATEWAY_STREAM_SECS        300u /* spec 03 §22.4 */

#define AST_GATEWAY_BEARERS          4096u     /* verified bearers remembered */
#define AST_GATEWAY_REVOCATION_BYTES 10485760u /* spec 03 §8.1 */
#define AST_GATEWAY_CONFIG_BYTES     1048576u
#define AST_GATEWAY_EVENTS_BEHIND                                                                  \
    65536u /* rows a client of /api/events may be late before it loses some */
#define AST_GATEWAY_ELICIT_SECS 120u /* spec 05 §11 */
