/* The command line: one table of commands, one of options, and what every command needs.
 *
 * Results go to stdout, everything else to stderr. A command returns its exit status (spec 08 §5.24): 0 success, 1 run-time
 * error, 2 usage error, 53 no answer in time. One thread.
 */
#pragma once

#include <stdio.h>

#include "base/home.h"
#include "base/json.h"

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_TIMED_OUT = 53 };

enum cli_format { CLI_PRETTY, CLI_JSON };

#define CLI_MAX_OPTIONS 16
#define CLI_MAX_WORDS   16

/* One option of a command. Columns: short name (0: none), long name, argument name (NULL: a flag), help. */
struct cli_option {
    char letter;
    const char *name, *argument, *help;
};

struct cli;

struct cli_command {
    const char *name;  /* "capsule install" */
    const char *words; /* positional arguments for the usage line: "<SOURCE>", "[NAME]", "" */
    unsigned min_words, max_words;
    const char *summary;
    const char *details;              /* more lines for --help; NULL: none */
    const struct cli_option *options; /* ends with a row without name; NULL: none */
    int (*run)(struct cli *cli);
};

struct cli {
    /* Global options (spec 08 §2.1). */
    bool verbose, yes, print_session, emit_path, wants_help, wants_version;
    const char *format_text, *prompt, *session;
    /* The command and its arguments. */
    const struct cli_command *command;
    const char
        *values[CLI_MAX_OPTIONS]; /* by row of command->options; a flag holds "" when given */
    const char *words[CLI_MAX_WORDS];
    unsigned word_count;
    /* Filled on demand. */
    struct ast_home home;
    bool has_home;
};

/* The value of the command's option with that long name; NULL when not given (a flag gives ""). */
const char *cli_value(const struct cli *cli, const char *name);
enum cli_format cli_format(const struct cli *cli); /* json; any other value is pretty */

/* Resolves the home once. */
enum ast_rc cli_home(struct cli *cli, struct ast_err *err);
/* The active agent of run/cli-context.toml, `default` when there is none. */
enum ast_rc cli_principal(struct cli *cli, struct ast_principal *ret, struct ast_err *err);
/* Absolute path of a companion program: beside this executable, else in PATH; free() it. */
enum ast_rc cli_companion(const char *name, char **ret, struct ast_err *err);

/* args.c */
enum cli_exit cli_parse(struct cli *cli, int argc, char **argv); /* CLI_OK: go on */
void cli_print_help(const struct cli_command *command);          /* NULL: the whole program */
const struct cli_command *cli_commands(size_t *ret_n);
const struct cli_command *cli_find(const char *const *words, unsigned count, unsigned *ret_used);

/* output.c: lines for people, with the decorations of spec 08 §1.1. */
void cli_success(const char *fmt, ...) AST_PRINTF(1, 2); /* stdout */
void cli_info(const char *fmt, ...) AST_PRINTF(1, 2);    /* stdout */
void cli_warning(const char *fmt, ...) AST_PRINTF(1, 2); /* stderr */
void cli_note(const char *fmt, ...) AST_PRINTF(1, 2);    /* stderr: progress */
int cli_error(const struct ast_err *err);    /* stderr, "✗ error: ..."; returns CLI_FAILED */
void cli_print_json(struct ast_str compact); /* stdout, indented by two */
/* Foreign text on a terminal: control characters other than newline and tab are shown escaped. */
void cli_print_text(FILE *to, struct ast_str text);

/* commands/ */
int cmd_chat(struct cli *cli);
int cmd_run(struct cli *cli);
int cmd_start(struct cli *cli);
int cmd_stop(struct cli *cli);
int cmd_restart(struct cli *cli);
int cmd_status(struct cli *cli);
int cmd_who(struct cli *cli);
int cmd_ps(struct cli *cli);
int cmd_top(struct cli *cli);
int cmd_logs(struct cli *cli);
int cmd_audit_tail(struct cli *cli);
int cmd_audit_query(struct cli *cli);
int cmd_audit_export(struct cli *cli);
int cmd_audit_verify(struct cli *cli);
int cmd_version(struct cli *cli);
int cmd_help(struct cli *cli);
int cmd_build(struct cli *cli);
int cmd_capsule_install(struct cli *cli);
int cmd_capsule_list(struct cli *cli);
int cmd_capsule_show(struct cli *cli);
int cmd_capsule_remove(struct cli *cli);
int cmd_agent_create(struct cli *cli);
int cmd_agent_list(struct cli *cli);
int cmd_agent_delete(struct cli *cli);
int cmd_agent_enable(struct cli *cli);
int cmd_agent_disable(struct cli *cli);
int cmd_agent_modify(struct cli *cli);
int cmd_caps_grant(struct cli *cli);
int cmd_caps_revoke(struct cli *cli);
int cmd_group_create(struct cli *cli);
int cmd_group_delete(struct cli *cli);
int cmd_group_list(struct cli *cli);
int cmd_gateway_token(struct cli *cli);

/* headless.c: one prompt, one answer (spec 08 §5.2). `prompt` may be empty when stdin is piped. */
int cli_headless(struct cli *cli, const char *prompt, const char *session, bool yes,
                 bool print_session, enum cli_format format);
