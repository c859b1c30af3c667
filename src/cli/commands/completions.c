/* completions: what a shell may offer behind `astrid`, from the command table (spec 08 §5.9).
 *
 * Each script does the same: the words so far that are no options choose a line, the line is offered.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#include "base/banned.h"

/* ---- the lines ---- */

static struct ast_str first_word(const char *name)
{
    struct ast_str s = ast_str_c(name);
    size_t blank = ast_str_find_byte(s, ' ');
    return blank == AST_STR_NPOS ? s : ast_str_first(s, blank);
}

/* The first command of its first word: "agent create", not "agent list". */
static bool opens_group(const struct cli_command *c)
{
    for (const struct cli_command *d = cli_commands; d != c; d++)
        if (d->summary && ast_str_eq(first_word(d->name), first_word(c->name)))
            return false;
    return true;
}

static void print_options(const struct cli_option *o, const char *quote, const char *between)
{
    for (; o && o->name; o++)
        if (!(o->flags & CLI_LATER))
            printf("%s%s--%s%s", between, quote, o->name, quote);
}

/* What may follow nothing: the first words and the global options. */
static void print_top(const char *quote, const char *between)
{
    const char *gap = "";

    for (const struct cli_command *c = cli_commands; c->name; c++)
        if (c->summary && opens_group(c)) {
            printf("%s%s" AST_STR_FMT "%s", gap, quote, AST_STR_ARG(first_word(c->name)), quote);
            gap = between;
        }
    print_options(cli_globals, quote, between);
}

/* What may follow the first word of a group. */
static void print_group(struct ast_str group, const char *quote, const char *between)
{
    const char *gap = "";

    for (const struct cli_command *c = cli_commands; c->name; c++)
        if (c->summary && ast_str_eq(first_word(c->name), group)) {
            printf("%s%s%s%s", gap, quote, c->name + group.n + 1, quote);
            gap = between;
        }
}

static bool is_group(const struct cli_command *c)
{
    return strchr(c->name, ' ') != NULL;
}

/* How a script says "after these words, that": open, words, middle, offers, end. */
struct style {
    const char *shell, *before, *open, *middle, *quote, *between, *end, *after;
};

static void print_line(const struct style *s, const char *words)
{
    printf("%s%s%s", s->open, words, s->middle);
}

static void print_script(const struct style *s)
{
    fputs(s->before, stdout);
    print_line(s, "");
    print_top(s->quote, s->between);
    fputs(s->end, stdout);
    for (const struct cli_command *c = cli_commands; c->name; c++) {
        char group[64];
        if (!c->summary)
            continue;
        if (is_group(c) && opens_group(c) &&
            ast_str_to_c(first_word(c->name), group, sizeof group)) {
            print_line(s, group);
            print_group(first_word(c->name), s->quote, s->between);
            fputs(s->end, stdout);
        }
        print_line(s, c->name);
        printf("%s--help%s", s->quote, s->quote);
        print_options(c->options, s->quote, s->between);
        fputs(s->end, stdout);
    }
    fputs(s->after, stdout);
}

/* ---- the shells ---- */

/* Words behind a command that is known are its arguments: cut until something matches. */
#define POSIX_CASE "    while :; do\n        case \"$path\" in\n"
#define POSIX_AFTER                                                                                \
    "            *\" \"*) path=\"${path% *}\"; continue ;;\n"                                      \
    "        esac\n"                                                                               \
    "        break\n"                                                                              \
    "    done\n"
#define POSIX_WORD                                                                                 \
    "        case \"$word\" in\n"                                                                  \
    "            -*) ;;\n"                                                                         \
    "            *) path=\"${path:+$path }$word\" ;;\n"                                            \
    "        esac\n"                                                                               \
    "    done\n"

static const struct style styles[] = {
    { "bash",
      "_astrid() {\n"
      "    local cur=\"${COMP_WORDS[COMP_CWORD]}\" path=\"\" offer=\"\" word\n"
      "    for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n" POSIX_WORD POSIX_CASE,
      "            \"", "\") offer=\"", "", " ", "\" ;;\n",
      POSIX_AFTER "    COMPREPLY=($(compgen -W \"$offer\" -- \"$cur\"))\n"
                  "}\n"
                  "complete -o default -F _astrid astrid\n" },
    { "zsh",
      "#compdef astrid\n"
      "_astrid() {\n"
      "    local path=\"\" offer=\"\" word\n"
      "    for word in \"${(@)words[2,CURRENT-1]}\"; do\n" POSIX_WORD POSIX_CASE,
      "            \"", "\") offer=\"", "", " ", "\" ;;\n",
      POSIX_AFTER "    compadd -- ${=offer}\n"
                  "}\n"
                  "if [ \"$funcstack[1]\" = \"_astrid\" ]; then\n"
                  "    _astrid \"$@\"\n"
                  "else\n"
                  "    compdef _astrid astrid\n"
                  "fi\n" },
    { "fish",
      "function __astrid_offer\n"
      "    set -l words\n"
      "    for word in (commandline -opc)[2..-1]\n"
      "        string match -q -- '-*' $word; or set -a words $word\n"
      "    end\n"
      "    while true\n"
      "        switch \"$words\"\n",
      "            case '", "'\n                printf '%s\\n' ", "'", " ",
      "\n                return\n",
      "        end\n"
      "        set -e words[-1]\n"
      "    end\n"
      "end\n"
      "complete -c astrid -f -a '(__astrid_offer)'\n" },
    { "elvish",
      "use str\n"
      "set edit:completion:arg-completer[astrid] = {|@words|\n"
      "    var path = []\n"
      "    for word $words[1..-1] {\n"
      "        if (not (str:has-prefix $word '-')) { set path = [$@path $word] }\n"
      "    }\n"
      "    var offers = [\n",
      "        &'", "'= [", "'", " ", "]\n",
      "    ]\n"
      "    while (not (has-key $offers (str:join ' ' $path))) {\n"
      "        set path = $path[..-1]\n"
      "    }\n"
      "    all $offers[(str:join ' ' $path)]\n"
      "}\n" },
    { "powershell",
      "Register-ArgumentCompleter -Native -CommandName 'astrid' -ScriptBlock {\n"
      "    param($wordToComplete, $commandAst, $cursorPosition)\n"
      "    $offers = @{\n",
      "        '", "' = @(", "'", ", ", ")\n",
      "    }\n"
      "    $path = @($commandAst.CommandElements | Select-Object -Skip 1 |\n"
      "        Where-Object { $_.Extent.EndOffset -lt $cursorPosition } |\n"
      "        ForEach-Object { $_.ToString() } | Where-Object { -not $_.StartsWith('-') })\n"
      "    while (-not $offers.ContainsKey($path -join ' ')) {\n"
      "        $path = @($path | Select-Object -SkipLast 1)\n"
      "    }\n"
      "    $offers[$path -join ' '] | Where-Object { $_ -like \"$wordToComplete*\" } |\n"
      "        ForEach-Object {\n"
      "            [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)\n"
      "        }\n"
      "}\n" },
};

int cmd_completions(struct cli *cli)
{
    for (size_t i = 0; i < AST_ARRAY_LEN(styles); i++)
        if (strcmp(styles[i].shell, cli->words[0]) == 0) {
            print_script(&styles[i]);
            return CLI_OK;
        }
    return cli_usage(cli, "invalid value '%s' for '<SHELL>': bash, zsh, fish, elvish or powershell",
                     cli->words[0]);
}
