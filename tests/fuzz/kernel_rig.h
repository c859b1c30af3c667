/* A whole kernel for fuzz targets: booted once in a home of its own, with its loop on a thread and quiet logs. Memory is its
 * disk where there is such a place, since every change waits for an fsync. */
#pragma once

#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "kernel/kernel.h"
#include "uplink/server.h"

static struct {
    char dir[64];
    struct ast_home home;
    struct ast_loop *loop;
    struct ast_kernel *k;
    struct ast_uplink_server *uplink; /* NULL unless asked for */
    pthread_t thread;
} rig;

static inline void rig_must(enum ast_rc rc, const char *what, const struct ast_err *err)
{
    if (rc) {
        fprintf(stderr, "%s: %s\n", what, err->msg);
        abort();
    }
}

static inline void *rig_loop(void *arg)
{
    (void)arg;
    ast_loop_run(rig.loop);
    return NULL;
}

static inline void rig_stop(void)
{
    ast_loop_stop(rig.loop);
    pthread_join(rig.thread, NULL);
    ast_kernel_shutdown(rig.k, "the fuzzer ends");
    if (rig.uplink)
        ast_uplink_close(rig.uplink);
    ast_kernel_free(rig.k);
    ast_uplink_free(rig.uplink);
    ast_loop_free(rig.loop);
    ast_home_done(&rig.home);
    (void)ast_fs_remove_tree(rig.dir, NULL); /* at exit there is nobody to tell */
}

/* Once; later calls do nothing. */
static inline void rig_start(bool with_socket)
{
    struct ast_err err = AST_ERR_INIT;
    struct ast_log_config quiet = { .level = AST_LOG_OFF };
    if (rig.k)
        return;
    snprintf(rig.dir, sizeof rig.dir, "%s/ast-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    AST_ASSERT(mkdtemp(rig.dir));
    rig_must(ast_log_open(&quiet, &err), "log", &err);
    rig_must(ast_home_at(rig.dir, &rig.home, &err), "home", &err);
    rig_must(ast_home_ensure(&rig.home, &err), "home", &err);
    rig_must(ast_loop_new(&rig.loop, &err), "loop", &err);
    struct ast_kernel_config cfg = {
        .home = &rig.home, .loop = rig.loop, .workspace = rig.dir, .workers = 1, .version = "0.8.0"
    };
    rig_must(ast_kernel_boot(&cfg, &rig.k, &err), "boot", &err);
    if (with_socket)
        rig_must(ast_uplink_listen(rig.k, rig.loop, false, &rig.uplink, &err), "listen", &err);
    AST_ASSERT(!pthread_create(&rig.thread, NULL, rig_loop, NULL));
    atexit(rig_stop);
}

/* ---- asking ---- */

typedef void rig_request_fn(struct ast_kernel *k, struct ast_str caller,
                            const struct ast_json *request,
                            void (*done)(void *arg, struct ast_str response_json), void *arg);

struct rig_answer {
    sem_t come;
    unsigned count;
    struct ast_json_doc *doc; /* owned by the asker */
};

static inline void rig_on_answer(void *arg, struct ast_str json)
{
    struct rig_answer *a = arg;
    AST_ASSERT(a->count++ == 0); /* once */
    AST_ASSERT(!ast_json_parse(json, &a->doc, NULL));
    sem_post(&a->come);
}

/* Asks and waits. Whatever was asked: one answer, an object with data and status, a text that says what is wrong. The status
 * is borrowed from *ret_doc, which the caller frees. */
static inline struct ast_str rig_ask(rig_request_fn *fn, const char *caller,
                                     const struct ast_json *request, struct ast_json_doc **ret_doc)
{
    struct rig_answer a = { .count = 0 };
    struct ast_str status, text;
    sem_init(&a.come, 0, 0);
    fn(rig.k, ast_str_c(caller), request, rig_on_answer, &a);
    while (sem_wait(&a.come)) {
    }
    sem_destroy(&a.come);
    const struct ast_json *root = ast_json_root(a.doc);
    AST_ASSERT(ast_json_type(root) == AST_JSON_OBJECT && ast_json_member(root, "data"));
    AST_ASSERT(ast_json_string(ast_json_member(root, "status"), &status));
    if (ast_str_is(status, "Error"))
        AST_ASSERT(ast_json_string(ast_json_member(root, "data"), &text) && text.n > 0);
    *ret_doc = a.doc;
    return status;
}

/* ---- the input as a request ---- */

static inline void rig_trim(struct ast_str *s)
{
    while (s->n && (s->p[0] == ' ' || s->p[0] == '\n'))
        *s = ast_str_from(*s, 1);
}

/* `{"method":<method>,"params":<text>}`; NULL when the text is no JSON. An empty text leaves the parameters away. */
static inline struct ast_json_doc *rig_request(struct ast_str method, struct ast_str params)
{
    AST_AUTO(ast_buf_done) struct ast_buf text = AST_BUF_INIT(4u * 1024 * 1024);
    struct ast_json_doc *doc = NULL;
    ast_buf_add_lit(&text, "{\"method\":");
    ast_json_quote(method, &text);
    rig_trim(&params);
    if (params.n) {
        ast_buf_add_lit(&text, ",\"params\":");
        ast_buf_add(&text, params);
    }
    ast_buf_add_lit(&text, "}");
    if (ast_buf_check(&text, "request", NULL) || ast_json_parse(ast_buf_view(&text), &doc, NULL))
        return NULL;
    return doc;
}
