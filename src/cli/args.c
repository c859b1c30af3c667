/* Parsing and help, both from the same tables. */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#include "base/banned.h"

const char *cli_value(const struct cli *cli, const char *name)
{
    const struct cli_option *o = cli->command ? cli->command->options : NULL;
    for (unsigned i = 0; o && o[i].name; i++)
        if (strcmp(o[i].name, name) == 0)
            return cli->values[i];
    return NULL;
}

const char *cli_next_value(const struct cli *cli, const char *name, unsigned *at)
{
    while (*at < cli->repeat_count) {
        unsigned i = (*at)++;
        if (strcmp(cli->command->options[cli->repeats[i].row].name, name) == 0)
            return cli->repeats[i].value;
    }
    return NULL;
}

bool cli_next_piece(const struct cli *cli, const char *name, struct cli_pieces *it,
                    struct ast_str *ret)
{
    struct ast_str piece;

    for (;;) {
        while (it->more && ast_str_split(&it->rest, &it->more, ',', &piece)) {
            *ret = ast_str_trim(piece);
            if (ret->n)
                return true;
        }
        const char *next = cli_next_value(cli, name, &it->at);
        if (!next)
            return false;
        it->rest = ast_str_c(next);
        it->more = true;
    }
}

enum cli_format cli_format(const struct cli *cli)
{
    static const struct {
        const char *name;
        enum cli_format format;
    } formats[] = {
        { "json", CLI_JSON }, { "yaml", CLI_YAML }, { "yml", CLI_YAML }, { "toml", CLI_TOML }
    };
    const char *own = cli_value(cli, "format");
    const char *text = own ? own : cli->format_text;

    if (cli_value(cli, "json"))
        return CLI_JSON;
    for (size_t i = 0; text && i < AST_ARRAY_LEN(formats); i++)
        if (ast_str_eq_nocase(ast_str_c(text), ast_str_c(formats[i].name)))
            return formats[i].format;
    return CLI_PRETTY;
}

/* ---- help ---- */

static void print_options(const struct cli_option *o)
{
    for (; o && o->name; o++) {
        char left[64];
        if (o->flags & CLI_LATER)
            continue;
        snprintf(left, sizeof left, "%c%c%s --%s%s%s%s", o->letter ? '-' : ' ',
                 o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name,
                 o->argument ? " <" : "", o->argument ? o->argument : "", o->argument ? ">" : "");
        printf("  %-26s %s\n", left, o->help);
    }
}

static void print_command(const struct cli_command *c)
{
    char left[64];
    snprintf(left, sizeof left, "%s%s%s", c->name, c->words[0] ? " " : "", c->words);
    printf("  %-26s %s\n", left, c->summary);
}

/* "agent create" is below "agent". */
static bool is_below(const struct cli_command *c, const char *word)
{
    struct ast_str name = ast_str_c(c->name), w = ast_str_c(word);
    return name.n > w.n && ast_str_starts(name, w) && name.p[w.n] == ' ';
}

bool cli_print_group_help(const char *word)
{
    bool any = false;

    for (const struct cli_command *c = cli_commands; c->name; c++) {
        if (!c->summary || !is_below(c, word))
            continue;
        if (!any)
            printf("Usage: astrid %s <COMMAND>\n\nCommands:\n", word);
        any = true;
        print_command(c);
    }
    if (any)
        puts("\n`astrid help <COMMAND>` tells more about one of them.");
    return any;
}

static void print_command_help(const struct cli_command *c)
{
    bool has_options = false;

    for (const struct cli_option *o = c->options; o && o->name; o++)
        has_options |= !(o->flags & CLI_LATER);
    printf("%s\n\nUsage: astrid %s%s%s%s\n",
           c->summary ? c->summary : "Not available in this release", c->name,
           has_options ? " [OPTIONS]" : "", c->words[0] ? " " : "", c->words);
    if (has_options) {
        puts("\nOptions:");
        print_options(c->options);
    }
    if (c->details)
        printf("\n%s\n", c->details);
}

void cli_print_help(const struct cli_command *command)
{
    if (command) {
        print_command_help(command);
        return;
    }
    puts("Astrid: an operating system for AI agents\n\n"
         "Usage: astrid [OPTIONS] [COMMAND]\n\n"
         "Without a command: chat on a terminal, or send standard input as one prompt.");
    for (const struct cli_command *c = cli_commands; c->name; c++) {
        if (!c->summary)
            continue;
        if (c->heading)
            printf("\n%s:\n", c->heading);
        print_command(c);
    }
    puts("\nOptions:");
    print_options(cli_globals);
    puts("\n`astrid help <COMMAND>` tells more about one of them.");
}

/* ---- parsing ---- */

int cli_usage(const struct cli *cli, const char *fmt, ...)
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
    for (const struct cli_command *c = cli_commands; c->name; c++) {
        struct ast_str rest = ast_str_c(c->name), piece;
        bool more = true, match = true;
        unsigned n = 0;
        while (match && ast_str_split(&rest, &more, ' ', &piece)) {
            match = n < count && ast_str_eq(ast_str_c(words[n]), piece);
            n++;
        }
        if (match && n > *ret_used) {
            best = c;
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
static int take_option(struct cli *cli, int argc, char **argv, int *at)
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
        /* Another name of --agent, unless the command has an option of that name. */
        if (ast_str_is(name, "principal") && cli->command &&
            option_row(cli->command->options, 0, name) < 0)
            name = AST_STR("agent");
    } else if (word[2]) {
        inline_value = word + 2;
    }
    const struct cli_option *table = cli->command ? cli->command->options : NULL;
    int row = table ? option_row(table, letter, name) : -1;
    bool own = row >= 0;
    if (!own) {
        table = cli_globals;
        row = option_row(table, letter, name);
    }
    if (row < 0)
        return cli_usage(cli, "unexpected argument '%s' found", word);
    AST_ASSERT(!own || row < CLI_MAX_OPTIONS);
    const struct cli_option *o = &table[row];
    const char *value = "";
    if (o->flags & CLI_LATER) {
        fprintf(stderr, "astrid: %s --%s is not available in this release.\n", cli->command->name,
                o->name);
        return CLI_USAGE;
    }
    if (o->argument) {
        value = inline_value ? inline_value : *at + 1 < argc ? argv[++*at] : NULL;
        if (!value)
            return cli_usage(cli, "a value is required for '--%s <%s>' but none was supplied",
                             o->name, o->argument);
    } else if (inline_value) {
        return cli_usage(cli, "unexpected value for '--%s'; it takes none", o->name);
    }
    if (own && (o->flags & CLI_REPEATS)) {
        if (cli->repeat_count == CLI_MAX_REPEATS)
            return cli_usage(cli, "'--%s' is given too often", o->name);
        cli->repeats[cli->repeat_count].row = (unsigned)row;
        cli->repeats[cli->repeat_count++].value = value;
    } else if (own && o->argument && cli->values[row]) {
        return cli_usage(cli, "the argument '--%s <%s>' cannot be used multiple times", o->name,
                         o->argument);
    }
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
    for (const struct cli_command *c = cli_commands; c->name; c++)
        if (is_below(c, word))
            return true;
    return false;
}

static int needs_subcommand(struct cli *cli)
{
    const char *known = cli->words[0];

    if (cli->word_count > 1)
        fprintf(stderr, "error: 'astrid %s' has no subcommand '%s'; there is", known,
                cli->words[1]);
    else
        fprintf(stderr, "error: 'astrid %s' needs a subcommand:", known);
    bool first = true;
    for (const struct cli_command *c = cli_commands; c->name; c++)
        if (c->summary && is_below(c, known)) {
            fprintf(stderr, "%s %s", first ? "" : ",", c->name + strlen(known) + 1);
            first = false;
        }
    fprintf(stderr, "\n\nFor more information, try 'astrid help %s'.\n", known);
    return CLI_USAGE;
}

static int check_words(struct cli *cli)
{
    const struct cli_command *c = cli->command;

    if (!c && cli->word_count && is_prefix_word(cli->words[0]))
        return cli->wants_help ? CLI_OK : needs_subcommand(cli);
    if (!c && cli->word_count)
        return cli_usage(cli, "unrecognized command '%s'", cli->words[0]);
    if (!c || cli->wants_help)
        return CLI_OK;
    if (cli->word_count < c->min_words)
        return cli_usage(cli, "the following required argument was not provided: %s", c->words);
    if (cli->word_count > c->max_words)
        return cli_usage(cli, "unexpected argument '%s' found", cli->words[c->max_words]);
    return CLI_OK;
}

/* A token may begin with a dash and is no option then. */
static bool is_token(const struct cli *cli, const char *word)
{
    size_t n = strlen(word);

    if (!cli->command || strcmp(cli->command->words, "<TOKEN>") != 0 || n != CLI_TOKEN_BYTES)
        return false;
    return strspn(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == n;
}

int cli_parse(struct cli *cli, int argc, char **argv)
{
    bool only_words = false;

    for (int i = 1; i < argc; i++) {
        if (!only_words && strcmp(argv[i], "--") == 0) {
            only_words = true;
        } else if (!only_words && argv[i][0] == '-' && argv[i][1] && !is_token(cli, argv[i])) {
            int e = take_option(cli, argc, argv, &i);
            if (e)
                return e;
        } else {
            if (cli->word_count == CLI_MAX_WORDS)
                return cli_usage(cli, "too many arguments");
            cli->words[cli->word_count++] = argv[i];
            find_command(cli);
            if (cli->command && cli->command->max_words == CLI_ANY_WORDS)
                return CLI_OK;
        }
    }
    return check_words(cli);
}
