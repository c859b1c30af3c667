/* What capsules ask while a command waits for something else: may I do this (approval), and what an install needs
 * to know (elicit). Each question gets an answer at once, so that no capsule waits for nobody (spec 08 §5.2, §7.5,
 * 07 §13.2). One thread.
 */
#pragma once

#include "cli/cli.h"
#include "uplink/client.h"

enum cli_ask_approvals {
    CLI_ASK_PERSON, /* on the terminal; without one: denied */
    CLI_ASK_APPROVE,
    CLI_ASK_DENY,
};

struct cli_ask {
    struct ast_uplink_client *client; /* borrowed */
    struct ast_uuid source;
    struct ast_principal who; /* for whom the answers are given */
    enum cli_ask_approvals approvals;
    bool reads_answers;  /* elicitations are read from standard input; else cancelled */
    const char *mode;    /* "headless": "[headless] ..." on stderr; NULL: none */
    const char *because; /* reason member of answers that nobody typed; NULL: none */
};

/* Answers `payload` when it is a question; *ret_taken says whether it was. Errors: those of sending. */
AST_MUST_CHECK
enum ast_rc cli_ask_answer(struct cli_ask *ask, const struct ast_json *payload, bool *ret_taken,
                           struct ast_err *err);
