/* Open questions of capsules: who may answer which over HTTP (spec 03 §22.4).
 *
 * Questions pass by on the bus; what is remembered of one is its id, whom it was asked for and until when. An answer, from
 * whatever door, takes it out. Threads: any.
 */
#pragma once

#include "base/uuid.h"
#include "bus/bus.h"

struct gw_questions;

/* `life_ns`: how long a question can be answered. */
AST_MUST_CHECK
enum ast_rc gw_questions_open(struct ast_bus *bus, int64_t life_ns, struct gw_questions **ret,
                              struct ast_err *err);
void gw_questions_close(struct gw_questions *q); /* NULL is fine */

enum gw_question_state {
    GW_QUESTION_NONE,    /* no such question is open */
    GW_QUESTION_OWN,     /* asked for this principal */
    GW_QUESTION_NOBODYS, /* asked for nobody in particular */
    GW_QUESTION_OTHERS,
};
enum gw_question_state gw_questions_look(struct gw_questions *q, const struct ast_uuid *id,
                                         struct ast_str principal);
/* Exactly one caller gets true for a question. */
bool gw_questions_take(struct gw_questions *q, const struct ast_uuid *id);
