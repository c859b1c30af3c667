/* The table of open questions: a ring of the last ones, filled and emptied by two taps. */
#include "gateway/elicit_priv.h"

#include <stdlib.h>

#include "base/id.h"
#include "base/json.h"
#include "base/thread.h"
#include "base/time.h"

#include "base/banned.h"

/* Install hooks ask one question at a time and one hook runs at a time: far more than can be open. */
#define QUESTIONS 256u

struct question {
    struct ast_uuid id;
    struct ast_principal principal; /* n == 0: nobody in particular */
    int64_t until_ns;               /* 0: free */
};

/* Owner: any thread, under `lock`. */
struct gw_questions {
    struct ast_lock lock;
    struct question open[QUESTIONS] AST_GUARDED_BY(lock);
    size_t next AST_GUARDED_BY(lock);
    int64_t life_ns;
    struct ast_tap *asked, *answered;
};

static bool id_of(const struct ast_msg *msg, struct ast_uuid *ret)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    return msg->is_ipc && !ast_json_parse(msg->body, &doc, NULL) &&
           ast_uuid_parse(ast_json_str_or(ast_json_root(doc), AST_STR("request_id"), AST_STR_NONE),
                          ret);
}

static struct question *find(struct gw_questions *q, const struct ast_uuid *id)
    AST_REQUIRES(q->lock)
{
    int64_t now = ast_mono_ns();
    for (size_t i = 0; i < QUESTIONS; i++)
        if (q->open[i].until_ns > now && ast_uuid_eq(&q->open[i].id, id))
            return &q->open[i];
    return NULL;
}

static void on_asked(void *arg, struct ast_msg *msg)
{
    struct gw_questions *q = arg;
    struct question fresh = { .until_ns = ast_mono_ns() + q->life_ns };
    if (msg->kind != AST_PAYLOAD_ELICIT_REQUEST || !id_of(msg, &fresh.id))
        return;
    if (msg->principal.n && ast_principal_parse(msg->principal, &fresh.principal, NULL))
        return;
    AST_WITH_LOCK(&q->lock);
    q->open[q->next++ % QUESTIONS] = fresh;
}

static void on_answered(void *arg, struct ast_msg *msg)
{
    struct ast_uuid id;
    if (id_of(msg, &id))
        (void)gw_questions_take(arg, &id);
}

enum ast_rc gw_questions_open(struct ast_bus *bus, int64_t life_ns, struct gw_questions **ret,
                              struct ast_err *err)
{
    struct gw_questions *q = calloc(1, sizeof *q);
    if (!q)
        return ast_fail(err, AST_E_NO_MEMORY, "questions");
    ast_lock_init(&q->lock, AST_LOCK_cache);
    q->life_ns = life_ns;
    enum ast_rc rc = ast_tap_open(bus, "gateway_questions", AST_STR("astrid.v1.elicit"), on_asked,
                                  q, &q->asked, err);
    if (!rc)
        rc = ast_tap_open(bus, "gateway_questions", AST_STR("astrid.v1.elicit.response.*"),
                          on_answered, q, &q->answered, err);
    if (rc) {
        gw_questions_close(q);
        return rc;
    }
    *ret = q;
    return AST_OK;
}

void gw_questions_close(struct gw_questions *q)
{
    if (!q)
        return;
    ast_tap_close(q->asked);
    ast_tap_close(q->answered);
    ast_lock_done(&q->lock);
    free(q);
}

enum gw_question_state gw_questions_look(struct gw_questions *q, const struct ast_uuid *id,
                                         struct ast_str principal)
{
    AST_WITH_LOCK(&q->lock);
    const struct question *one = find(q, id);
    if (!one)
        return GW_QUESTION_NONE;
    if (!one->principal.n)
        return GW_QUESTION_NOBODYS;
    return ast_str_eq(ast_principal_str(&one->principal), principal) ? GW_QUESTION_OWN
                                                                     : GW_QUESTION_OTHERS;
}

bool gw_questions_take(struct gw_questions *q, const struct ast_uuid *id)
{
    AST_WITH_LOCK(&q->lock);
    struct question *one = find(q, id);
    if (one)
        one->until_ns = 0;
    return one != NULL;
}
