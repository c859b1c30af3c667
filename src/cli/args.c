/* Parsing and help, both from the same tables. */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#include "base/banned.h"

#define OPTION_END                                                                                 \
    {                                                                                              \
        0, NULL, NULL, NULL                                                                        \
    }

static const struct cli_option format_options[] = {
    { 0, "format", "F", "pretty or json [default: pretty]" }, OPTION_END
};
static const struct cli_option top_options[] = {
    { 'n', "once", NULL, "print one table and exit" },
    { 0, "interval", "SECONDS", "time between two refreshes, 0.1 to 3600 [default: 1]" },
    { 0, "sort", "KEY", "cpu, calls, memory, queue or drops [default: cpu]" },
    { 0, "format", "F", "pretty or json [default: pretty]" },
    OPTION_END,
};
static const struct cli_option run_options[] = {
    { 'y', "yes", NULL, "approve what capsules ask for" },
    { 0, "session", "ID", "continue a session (a UUID or a name)" },
    { 0, "print-session", NULL, "print the session id on stderr" },
    { 0, "format", "F", "pretty or json [default: pretty]" },
    OPTION_END,
};
static const struct cli_option chat_options[] = { { 's', "session", "UUID", "continue a session" },
                                                  OPTION_END };
static const struct cli_option status_options[] = {
    { 0, "format", "F", "pretty or json [default: pretty]" },
    { 0, "exit-code", NULL, "exit 1 when no daemon answers" },
    OPTION_END,
};
static const struct cli_option logs_options[] = {
    { 'a', "agent", "NAME", "the principal whose capsule log to show [default: default]" },
    { 'f', "follow", NULL, "print new lines as they come" },
    { 'n', "lines", "N", "how many lines of the end to print [default: 100]" },
    OPTION_END,
};
static const struct cli_option audit_tail_options[] = {
    { 'f', "follow", NULL, "print new rows as they come" },
    { 'n', "lines", "N", "how many rows to print [default: 20]" },
    { 0, "principal", "NAME", "only rows of this acting principal" },
    { 0, "method", "NAME", "only this method, as in admin.agent.create" },
    { 0, "format", "F", "pretty or json [default: pretty]" },
    OPTION_END,
};
static const struct cli_option audit_query_options[] = {
    { 'n', "lines", "N", "how many rows to print [default: 100]" },
    { 0, "principal", "NAME", "only rows of this acting principal" },
    { 0, "method", "NAME", "only this method, as in admin.agent.create" },
    { 0, "since", "SECS", "from this second on (seconds since 1970)" },
    { 0, "until", "SECS", "up to this second" },
    { 0, "format", "F", "pretty or json [default: pretty]" },
    OPTION_END,
};
static const struct cli_option audit_export_options[] = {
    { 0, "principal", "NAME", "only rows of this acting principal" },
    { 0, "method", "NAME", "only this method, as in admin.agent.create" },
    { 0, "since", "SECS", "from this second on (seconds since 1970)" },
    { 0, "until", "SECS", "up to this second" },
    OPTION_END,
};
static const struct cli_option install_options[] = {
    { 0, "workspace", NULL, "install for this project only (./.astrid/capsules)" },
    OPTION_END,
};
static const struct cli_option remove_options[] = {
    { 0, "workspace", NULL, "remove from this project" },
    { 0, "force", NULL, "also when another capsule needs it" },
    { 0, "purge", NULL, "delete its settings too" },
    OPTION_END,
};
static const struct cli_option list_options[] = {
    { 0, "format", "F", "pretty or json [default: pretty]" },
    OPTION_END,
};
static const struct cli_option token_options[] = {
    { 0, "principal", "NAME", "whom the token speaks for [default: default]" },
    { 0, "seconds", "N", "how long it is valid [default: 28800]" },
    OPTION_END,
};
static const struct cli_option build_options[] = {
    { 'o', "output", "DIR", "where the archive goes" }, OPTION_END
};

static const struct cli_option agent_create_options[] = {
    { 0, "group", "G,..", "groups to join [default: agent]" }, OPTION_END
};
static const struct cli_option agent_modify_options[] = {
    { 0, "add-group", "G,..", "groups to join" },
    { 0, "remove-group", "G,..", "groups to leave" },
    OPTION_END,
};
static const struct cli_option grant_options[] = {
    { 0, "unsafe-admin", NULL, "confirm that everything is granted" }, OPTION_END
};
static const struct cli_option group_create_options[] = {
    { 0, "caps", "C,..", "what its members may do" },
    { 0, "description", "TEXT", "what it is for" },
    { 0, "unsafe-admin", NULL, "confirm that it holds everything" },
    OPTION_END,
};

/* Order of the help page. */
static const struct cli_command commands[] = {
    { "chat", "", 0, 0, "Talk to the agent, line by line", NULL, chat_options, cmd_chat },
    { "run", "<PROMPT>", 1, 1, "Send one prompt, print the answer, exit",
      "Exit status 53: no answer within 120 seconds. Text on standard input is put in front of the prompt.",
      run_options, cmd_run },
    { "start", "", 0, 0, "Start the daemon and leave it running", NULL, NULL, cmd_start },
    { "stop", "", 0, 0, "Stop the daemon", NULL, NULL, cmd_stop },
    { "restart", "", 0, 0, "Stop the daemon and start it again", NULL, NULL, cmd_restart },
    { "status", "", 0, 0, "Show whether the daemon runs, and what it runs", NULL, status_options,
      cmd_status },
    { "ps", "", 0, 0, "List the loaded capsules and what they and principals did", NULL,
      format_options, cmd_ps },
    { "top", "", 0, 0, "Watch what capsules and principals do",
      "Keys: c CPU, s calls, m memory, Q queue, d drops choose the order; q quits. Not on a terminal, or\n"
      "with --once, one table is printed. With --format json a line of JSON comes at every refresh.\n"
      "Exit status as of a signal when one ends it.",
      top_options, cmd_top },
    { "who", "", 0, 0, "List the connected clients", NULL, format_options, cmd_who },
    { "logs", "[CAPSULE]", 0, 1, "Print the daemon's log, or a capsule's", NULL, logs_options,
      cmd_logs },
    { "audit tail", "", 0, 0, "Print the newest rows of the audit log", NULL, audit_tail_options,
      cmd_audit_tail },
    { "audit query", "", 0, 0, "Print rows of the audit log, newest first", NULL,
      audit_query_options, cmd_audit_query },
    { "audit export", "", 0, 0, "Print signed audit entries as JSON lines, oldest first", NULL,
      audit_export_options, cmd_audit_export },
    { "audit verify", "", 0, 0, "Check every signature and link of the audit log",
      "Exit status 1 when something was tampered with.", format_options, cmd_audit_verify },
    { "capsule install", "<SOURCE>", 1, 1, "Install a capsule from a folder or a .capsule archive",
      "A running daemon loads it at once.", install_options, cmd_capsule_install },
    { "capsule list", "", 0, 0, "List the installed capsules", NULL, list_options,
      cmd_capsule_list },
    { "capsule show", "<NAME>", 1, 1, "Show one installed capsule", NULL, format_options,
      cmd_capsule_show },
    { "capsule remove", "<NAME>", 1, 1, "Remove an installed capsule", NULL, remove_options,
      cmd_capsule_remove },
    { "agent create", "<NAME>", 1, 1, "Create a principal", NULL, agent_create_options,
      cmd_agent_create },
    { "agent list", "", 0, 0, "List the principals you may see", NULL, format_options,
      cmd_agent_list },
    { "agent show", "<NAME>", 1, 1, "Show one principal", NULL, format_options, cmd_agent_list },
    { "agent delete", "<NAME>", 1, 1, "Delete a principal; its home stays", NULL, NULL,
      cmd_agent_delete },
    { "agent enable", "<NAME>", 1, 1, "Switch a principal on", NULL, NULL, cmd_agent_enable },
    { "agent disable", "<NAME>", 1, 1, "Switch a principal off", NULL, NULL, cmd_agent_disable },
    { "agent modify", "<NAME>", 1, 1, "Change the groups of a principal", NULL,
      agent_modify_options, cmd_agent_modify },
    { "caps grant", "<NAME> <CAP>", 2, 2, "Grant capabilities", NULL, grant_options,
      cmd_caps_grant },
    { "caps revoke", "<NAME> <CAP>", 2, 2, "Revoke capabilities; beats every grant", NULL, NULL,
      cmd_caps_revoke },
    { "group create", "<NAME>", 1, 1, "Create a group of capabilities", NULL, group_create_options,
      cmd_group_create },
    { "group list", "", 0, 0, "List the groups", NULL, format_options, cmd_group_list },
    { "group show", "<NAME>", 1, 1, "Show one group", NULL, format_options, cmd_group_list },
    { "group delete", "<NAME>", 1, 1, "Delete a group", NULL, NULL, cmd_group_delete },
    { "build", "[PATH]", 0, 1, "Build a capsule project into an archive", NULL, build_options,
      cmd_build },
    { "gateway token", "", 0, 0, "Print a bearer token for the HTTP gateway",
      "Signs with keys/gateway.ed25519 of this home: who can read that file can speak for anybody.",
      token_options, cmd_gateway_token },
    { "version", "", 0, 0, "Print version and build", NULL, format_options, cmd_version },
    { "help", "[COMMAND]...", 0, 2, "Print help for a command", NULL, NULL, cmd_help },
};

/* Known before and after the command's name. */
static const struct cli_option globals[] = {
    { 'p', "prompt", "TEXT", "send one prompt, print the answer, exit" },
    { 'y', "yes", NULL, "with -p: approve what capsules ask for" },
    { 0, "session", "ID", "with -p: continue a session (a UUID or a name)" },
    { 0, "print-session", NULL, "with -p: print the session id on stderr" },
    { 0, "format", "F", "pretty or json" },
    { 'v', "verbose", NULL, "say more" },
    { 0, "emit-path", NULL, "print the path of astrid-emit" },
    { 'h', "help", NULL, "print help" },
    { 'V', "version", NULL, "print the version" },
    OPTION_END,
};

const struct cli_command *cli_commands(size_t *ret_n)
{
    *ret_n = AST_ARRAY_LEN(commands);
    return commands;
}

const char *cli_value(const struct cli *cli, const char *name)
{
    const struct cli_option *o = cli->command ? cli->command->options : NULL;
    for (unsigned i = 0; o && o[i].name; i++)
        if (strcmp(o[i].name, name) == 0)
            return cli->values[i];
    return NULL;
}

enum cli_format cli_format(const struct cli *cli)
{
    const char *own = cli_value(cli, "format");
    const char *text = own ? own : cli->format_text;
    return text && ast_str_eq_nocase(ast_str_c(text), AST_STR("json")) ? CLI_JSON : CLI_PRETTY;
}

/* ---- help ---- */

static void print_options(const struct cli_option *o)
{
    for (; o && o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, "%c%c%s --%s%s%s%s", o->letter ? '-' : ' ',
                 o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name,
                 o->argument ? " <" : "", o->argument ? o->argument : "", o->argument ? ">" : "");
        printf("  %-26s %s\n", left, o->help);
    }
}

void cli_print_help(const struct cli_command *command)
{
    if (command) {
        printf("%s\n\nUsage: astrid %s%s%s%s\n", command->summary, command->name,
               command->options ? " [OPTIONS]" : "", command->words[0] ? " " : "", command->words);
        if (command->options) {
            puts("\nOptions:");
            print_options(command->options);
        }
        if (command->details)
            printf("\n%s\n", command->details);
        return;
    }
    puts("Astrid: an operating system for AI agents\n\n"
         "Usage: astrid [OPTIONS] [COMMAND]\n\n"
         "Without a command: chat on a terminal, or send standard input as one prompt.\n\n"
         "Commands:");
    for (size_t i = 0; i < AST_ARRAY_LEN(commands); i++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", commands[i].name, commands[i].words[0] ? " " : "",
                 commands[i].words);
        printf("  %-26s %s\n", left, commands[i].summary);
    }
    puts("\nOptions:");
    print_options(globals);
    puts("\n`astrid help <COMMAND>` tells more about one of them.");
}

/* ---- parsing ---- */

static enum cli_exit usage(const struct cli *cli, const char *fmt, ...) AST_PRINTF(2, 3);
static enum cli_exit usage(const struct cli *cli, const char *fmt, ...)
{
    va_list ap;

    fputs("error: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n\nFor more information, try 'astrid help%s%s'.\n", cli->command ? " " : "",
            cli->command ? cli->command->name : "");
    return CLI_USAGE;
}

const struct cli_command *cli_find(const char *const *words, unsigned count, unsigned *ret_used)
{
    const struct cli_command *best = NULL;

    *ret_used = 0;
    for (size_t i = 0; i < AST_ARRAY_LEN(commands); i++) {
        struct ast_str rest = ast_str_c(commands[i].name), piece;
        bool more = true, match = true;
        unsigned n = 0;
        while (match && ast_str_split(&rest, &more, ' ', &piece)) {
            match = n < count && ast_str_eq(ast_str_c(words[n]), piece);
            n++;
        }
        if (match && n > *ret_used) {
            best = &commands[i];
            *ret_used = n;
        }
    }
    return best;
}

static int option_row(const struct cli_option *o, char letter, struct ast_str name)
{
    for (int i = 0; o && o[i].name; i++)
        if (letter ? o[i].letter == letter : ast_str_eq(ast_str_c(o[i].name), name))
            return i;
    return -1;
}

static void set_global(struct cli *cli, const char *name, const char *value)
{
    if (strcmp(name, "prompt") == 0)
        cli->prompt = value;
    else if (strcmp(name, "session") == 0)
        cli->session = value;
    else if (strcmp(name, "format") == 0)
        cli->format_text = value;
    else if (strcmp(name, "yes") == 0)
        cli->yes = true;
    else if (strcmp(name, "print-session") == 0)
        cli->print_session = true;
    else if (strcmp(name, "verbose") == 0)
        cli->verbose = true;
    else if (strcmp(name, "emit-path") == 0)
        cli->emit_path = true;
    else if (strcmp(name, "help") == 0)
        cli->wants_help = true;
    else if (strcmp(name, "version") == 0)
        cli->wants_version = true;
}

/* One option word; *at moves over a separate value. The command's own options win over global ones. */
static enum cli_exit take_option(struct cli *cli, int argc, char **argv, int *at)
{
    const char *word = argv[*at];
    bool is_long = word[1] == '-';
    struct ast_str name = is_long ? ast_str_c(word + 2) : AST_STR_NONE;
    char letter = is_long ? 0 : word[1];
    const char *inline_value = NULL;

    if (is_long) {
        size_t eq = ast_str_find_byte(name, '=');
        if (eq != AST_STR_NPOS) {
            inline_value = word + 2 + eq + 1;
            name = ast_str_first(name, eq);
        }
        /* Spellings that scripts use for --yes (spec 08 §2.1). */
        if (ast_str_is(name, "yolo") || ast_str_is(name, "autonomous"))
            name = AST_STR("yes");
    } else if (word[2]) {
        inline_value = word + 2;
    }
    const struct cli_option *table = cli->command ? cli->command->options : NULL;
    int row = option_row(table, letter, name);
    bool own = row >= 0;
    if (!own) {
        table = globals;
        row = option_row(table, letter, name);
    }
    if (row < 0)
        return usage(cli, "unexpected argument '%s' found", word);
    const struct cli_option *o = &table[row];
    const char *value = "";
    if (o->argument) {
        value = inline_value ? inline_value : *at + 1 < argc ? argv[++*at] : NULL;
        if (!value)
            return usage(cli, "a value is required for '--%s <%s>' but none was supplied", o->name,
                         o->argument);
    } else if (inline_value) {
        return usage(cli, "unexpected value for '--%s'; it takes none", o->name);
    }
    if (own && o->argument && cli->values[row])
        return usage(cli, "the argument '--%s <%s>' cannot be used multiple times", o->name,
                     o->argument);
    if (own)
        cli->values[row] = value;
    else
        set_global(cli, o->name, value);
    return CLI_OK;
}

/* The command's words come first among the positional ones, so that its options are known when they come. */
static void find_command(struct cli *cli)
{
    unsigned used;

    if (cli->command)
        return;
    cli->command = cli_find(cli->words, cli->word_count, &used);
    if (!cli->command)
        return;
    memmove(cli->words, cli->words + used, (cli->word_count - used) * sizeof cli->words[0]);
    cli->word_count -= used;
}

/* Whether a longer command could still match: "capsule" waits for its second word. */
static bool is_prefix_word(const char *word)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(commands); i++) {
        struct ast_str name = ast_str_c(commands[i].name), w = ast_str_c(word);
        if (name.n > w.n && ast_str_starts(name, w) && name.p[w.n] == ' ')
            return true;
    }
    return false;
}

static enum cli_exit check_words(struct cli *cli)
{
    const struct cli_command *c = cli->command;

    if (!c && cli->word_count && is_prefix_word(cli->words[0]))
        return usage(cli, "'astrid %s' needs a subcommand%s%s", cli->words[0],
                     cli->word_count > 1 ? "; unknown: " : "",
                     cli->word_count > 1 ? cli->words[1] : "");
    if (!c && cli->word_count)
        return usage(cli, "unrecognized command '%s'", cli->words[0]);
    if (!c || cli->wants_help)
        return CLI_OK;
    if (cli->word_count < c->min_words)
        return usage(cli, "the following required argument was not provided: %s", c->words);
    if (cli->word_count > c->max_words)
        return usage(cli, "unexpected argument '%s' found", cli->words[c->max_words]);
    return CLI_OK;
}

enum cli_exit cli_parse(struct cli *cli, int argc, char **argv)
{
    bool only_words = false;

    for (int i = 1; i < argc; i++) {
        if (!only_words && strcmp(argv[i], "--") == 0) {
            only_words = true;
        } else if (!only_words && argv[i][0] == '-' && argv[i][1]) {
            enum cli_exit e = take_option(cli, argc, argv, &i);
            if (e)
                return e;
        } else {
            if (cli->word_count == CLI_MAX_WORDS)
                return usage(cli, "too many arguments");
            cli->words[cli->word_count++] = argv[i];
            find_command(cli);
        }
    }
    return check_words(cli);
}
