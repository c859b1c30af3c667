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

enum cli_format { CLI_PRETTY, CLI_JSON, CLI_YAML, CLI_TOML };

#define CLI_MAX_OPTIONS 24
#define CLI_MAX_WORDS   16
#define CLI_MAX_REPEATS 64
#define CLI_TOKEN_BYTES 32u     /* invite and pair tokens (spec 02 §18.1) */
#define CLI_ANY_WORDS   0xffffu /* max_words: the rest of the line, whatever it is */

enum cli_option_flags {
    CLI_REPEATS = 1u << 0, /* may be given several times: cli_next_value() */
    CLI_LATER = 1u << 1,   /* known, hidden, not available in this release: exit status 2 */
};

/* One option of a command. Columns: short name (0: none), long name, argument name (NULL: a flag), help, flags. */
struct cli_option {
    char letter;
    const char *name, *argument, *help;
    unsigned flags;
};

struct cli;

struct cli_command {
    const char *name;  /* "capsule install" */
    const char *words; /* positional arguments for the usage line: "<SOURCE>", "[NAME]", "" */
    unsigned min_words, max_words;
    const char *summary;              /* NULL: hidden from the help page */
    const char *details;              /* more lines for --help; NULL: none */
    const struct cli_option *options; /* ends with a row without name; NULL: none */
    int (*run)(struct cli *cli);
    const char *heading; /* first of a section of the help page; NULL: not */
};

struct cli {
    /* Global options (spec 08 §2.1). */
    bool verbose, yes, print_session, emit_path, wants_help, wants_version;
    const char *format_text, *prompt, *session;
    /* The command and its arguments. */
    const struct cli_command *command;
    const char
        *values[CLI_MAX_OPTIONS]; /* by row of command->options; a flag holds "" when given */
    struct {
        unsigned row;
        const char *value;
    } repeats[CLI_MAX_REPEATS]; /* every value of options that repeat, in order */
    unsigned repeat_count;
    const char *words[CLI_MAX_WORDS];
    unsigned word_count;
    /* Filled on demand. */
    struct ast_home home;
    bool has_home;
};

/* The value of the command's option with that long name; NULL when not given (a flag gives ""). */
const char *cli_value(const struct cli *cli, const char *name);
/* The next value of an option that repeats, *at from 0; NULL at the end. */
const char *cli_next_value(const struct cli *cli, const char *name, unsigned *at);
/* The next element of an option that repeats and takes comma-separated lists; blanks are cut off, empty
 * elements left out. Zeroed at first; false at the end. */
struct cli_pieces {
    unsigned at;
    bool more;
    struct ast_str rest;
};
bool cli_next_piece(const struct cli *cli, const char *name, struct cli_pieces *it,
                    struct ast_str *ret);
/* --format or --json; any value but json, yaml, yml and toml is pretty. */
enum cli_format cli_format(const struct cli *cli);

/* Resolves the home once. */
enum ast_rc cli_home(struct cli *cli, struct ast_err *err);

/* context.c: who acts (spec 08 §3). */
/* The active agent of run/cli-context.toml, `default` when there is none. */
enum ast_rc cli_principal(struct cli *cli, struct ast_principal *ret, struct ast_err *err);
/* --agent, else the active agent. */
enum ast_rc cli_agent(struct cli *cli, struct ast_principal *ret, struct ast_err *err);
enum ast_rc cli_context_write(struct cli *cli, const struct ast_principal *active,
                              struct ast_err *err);
/* Absolute path of a companion program: beside this executable, else in PATH; free() it. */
enum ast_rc cli_companion(const char *name, char **ret, struct ast_err *err);

/* args.c */
int cli_parse(struct cli *cli, int argc, char **argv); /* CLI_OK: go on; else the exit status */
/* "error: ..." on stderr, with where to read on; returns CLI_USAGE. */
int cli_usage(const struct cli *cli, const char *fmt, ...) AST_PRINTF(2, 3);
void cli_print_help(const struct cli_command *command); /* NULL: the whole program */
bool cli_print_group_help(const char *word);            /* "agent"; false: nothing is below it */
/* command_table.c, in the order of the help page; a row without a name ends each. */
extern const struct cli_command cli_commands[];
extern const struct cli_option cli_globals[];
const struct cli_command *cli_find(const char *const *words, unsigned count, unsigned *ret_used);

/* output.c: lines for people, with the decorations of spec 08 §1.1. */
void cli_success(const char *fmt, ...) AST_PRINTF(1, 2); /* stdout */
void cli_info(const char *fmt, ...) AST_PRINTF(1, 2);    /* stdout */
void cli_warning(const char *fmt, ...) AST_PRINTF(1, 2); /* stderr */
void cli_note(const char *fmt, ...) AST_PRINTF(1, 2);    /* stderr: progress */
void cli_failure(const char *fmt, ...) AST_PRINTF(1, 2); /* stderr: "✗ ..." */
int cli_error(const struct ast_err *err); /* stderr, "✗ error: ..."; returns CLI_FAILED */
bool cli_has_colour(FILE *to);
void cli_print_json(struct ast_str compact); /* stdout, indented by two */
#define CLI_OUTPUT_MAX (32u * 1024 * 1024)
/* One value in the format that was asked for; compact JSON text, or a parsed value. Not for CLI_PRETTY. */
void cli_print(const struct cli *cli, struct ast_str compact);
void cli_print_value(const struct cli *cli, const struct ast_json *v);
/* Foreign text on a terminal: control characters other than newline and tab are shown escaped. */
void cli_print_text(FILE *to, struct ast_str text);

/* One line of standard input without its end; a terminal asks for `what` and does not show it. Wipe `out` after use. */
enum ast_rc cli_read_hidden(const char *what, struct ast_buf *out, struct ast_err *err);

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
int cmd_agent_current(struct cli *cli);
int cmd_agent_switch(struct cli *cli);
int cmd_agent_show(struct cli *cli);
int cmd_agent_delete(struct cli *cli);
int cmd_agent_enable(struct cli *cli);
int cmd_agent_disable(struct cli *cli);
int cmd_agent_modify(struct cli *cli);
int cmd_caps_show(struct cli *cli);
int cmd_caps_grant(struct cli *cli);
int cmd_caps_revoke(struct cli *cli);
int cmd_caps_check(struct cli *cli);
int cmd_group_create(struct cli *cli);
int cmd_group_list(struct cli *cli);
int cmd_group_show(struct cli *cli);
int cmd_group_delete(struct cli *cli);
int cmd_group_modify(struct cli *cli);
int cmd_quota_show(struct cli *cli);
int cmd_quota_set(struct cli *cli);
int cmd_quota_usage(struct cli *cli);
int cmd_invite_issue(struct cli *cli);
int cmd_invite_redeem(struct cli *cli);
int cmd_invite_list(struct cli *cli);
int cmd_invite_revoke(struct cli *cli);
int cmd_pair_issue(struct cli *cli);
int cmd_pair_redeem(struct cli *cli);
int cmd_keypair_generate(struct cli *cli);
int cmd_keypair_list(struct cli *cli);
int cmd_keypair_show(struct cli *cli);
int cmd_keypair_pubkey(struct cli *cli);
int cmd_keypair_delete(struct cli *cli);
int cmd_secret_set(struct cli *cli);
int cmd_secret_list(struct cli *cli);
int cmd_secret_delete(struct cli *cli);
int cmd_doctor(struct cli *cli);
int cmd_completions(struct cli *cli);
int cmd_deferred(struct cli *cli);
int cmd_gateway_token(struct cli *cli);

/* headless.c: one prompt, one answer (spec 08 §5.2). `prompt` may be empty when stdin is piped. */
int cli_headless(struct cli *cli, const char *prompt, const char *session, bool yes,
                 bool print_session, enum cli_format format);
