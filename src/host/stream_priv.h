/* Byte pipes, and the streams that a guest holds on their ends (spec 05 §15.3).
 *
 * Whoever has bytes for a guest (a file, a socket, a process) makes a pipe, hands its reading end to the guest with
 * host_input_stream_new() and puts bytes in as they come; for bytes from a guest it is the other way round. A pipe
 * is bounded: what does not fit is not taken, and `changed` tells when there is room again.
 *
 *     host side                    pipe                     guest side
 *     host_pipe_put   --->  [ bytes, at most capacity ] ---> input-stream
 *     host_pipe_take  <---  [ bytes, at most capacity ] <--- output-stream
 *
 * Ends. The writer says host_pipe_end(): the reader gets what is queued, then the end. The reader says
 * host_pipe_close(): the queue is dropped, the writer gets `closed`. Either says host_pipe_fail(): the reader gets
 * what is queued, then the failure; the writer gets the failure at once. A guest's stream ends or closes its side when
 * its handle goes, also when its call is cancelled or traps. Unload wakes waiting calls as everywhere.
 *
 * Threads: any for everything about pipes; streams belong to the fiber of their instance.
 */
#pragma once

#include "host/host_priv.h"

#define HOST_PIPE_MAX_BYTES     1048576u
#define HOST_PIPE_DEFAULT_BYTES 65536u
#define HOST_PIPE_WHY_MAX       256u /* a failure's text; cut there */

struct host_pipe; /* shared, counted */

/* The host's end. Both may be NULL: a pipe nobody on the host watches. */
struct host_pipe_peer {
    /* The guest took bytes, put bytes, wants them out, or left. On a worker, under no lock: be quick, post. */
    void (*changed)(void *arg);
    void (*release)(void *arg); /* with the last reference: no `changed` comes after it */
    void *arg;
};

/* capacity: 1 to HOST_PIPE_MAX_BYTES. On failure `release` has not run. */
AST_MUST_CHECK
enum ast_rc host_pipe_new(size_t capacity, const struct host_pipe_peer *peer,
                          struct host_pipe **ret, struct ast_err *err);
struct host_pipe *host_pipe_ref(struct host_pipe *p);
void host_pipe_unref(struct host_pipe *p); /* NULL is fine */
AST_DEFINE_AUTO(struct host_pipe, host_pipe_unref)

struct host_pipe_state {
    size_t bytes, room;
    bool is_ended, is_closed, is_failed;
};
void host_pipe_look(struct host_pipe *p, struct host_pipe_state *ret);

/* How many bytes went in: 0 when it is full, ended, closed or failed. */
size_t host_pipe_put(struct host_pipe *p, const void *bytes, size_t n);
/* How many came out. to NULL: they are dropped. */
size_t host_pipe_take(struct host_pipe *p, void *to, size_t n);
void host_pipe_end(struct host_pipe *p);
void host_pipe_close(struct host_pipe *p);
/* The first failure counts. */
void host_pipe_fail(struct host_pipe *p, struct ast_str why);

/* --- For the streams ----------------------------------------------------------------------------- */

/* Fired when the reader, the writer has something to look at. One guest call waits on each at most. */
struct host_wait *host_pipe_reader_wait(struct host_pipe *p);
struct host_wait *host_pipe_writer_wait(struct host_pipe *p);
void host_pipe_notify(struct host_pipe *p); /* calls the peer's `changed` */
/* The failure's text; empty when it has not failed. */
struct ast_str host_pipe_why(struct host_pipe *p, char out[static HOST_PIPE_WHY_MAX]);

/* --- Streams (io_streams.c) ---------------------------------------------------------------------- */

/* The guest's end of a pipe, to be given out as a handle: a host function returns it, its adapter adds it to the
 * handle table. Takes the reference, on failure too; NULL (call trapped) when out of memory. One stream of a kind per
 * pipe. */
struct ast_io_input_stream *host_input_stream_new(struct ast_abi *a, struct host_pipe *pipe);
struct ast_io_output_stream *host_output_stream_new(struct ast_abi *a, struct host_pipe *pipe);

/* Resource destructors and what they ask first (struct ast_abi_resource). */
void host_input_stream_drop(void *obj);
void host_output_stream_drop(void *obj);
bool host_stream_is_held(const void *obj); /* of either kind: a pollable of it lives */
