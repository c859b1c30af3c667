/* What people see. Colours only on a terminal, and never against the wish of NO_COLOR and its relatives. */
#include <stdlib.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/render.h"

#include "base/banned.h"

bool cli_has_colour(FILE *to)
{
    const char *force = getenv("CLICOLOR_FORCE"), *plain = getenv("CLICOLOR");
    const char *never = getenv("NO_COLOR");

    if (never && *never)
        return false;
    if (force && *force && *force != '0')
        return true;
    if (plain && *plain == '0')
        return false;
    return isatty(fileno(to));
}

static void line(FILE *to, const char *colour, const char *mark, const char *fmt, va_list ap)
    AST_PRINTF(4, 0);
static void line(FILE *to, const char *colour, const char *mark, const char *fmt, va_list ap)
{
    bool colours = cli_has_colour(to);

    fprintf(to, "%s%s%s ", colours ? colour : "", mark, colours ? "\033[0m" : "");
    vfprintf(to, fmt, ap);
    fputc('\n', to);
}

#define DEFINE_LINE(name, to, colour, mark)                                                        \
    void name(const char *fmt, ...)                                                                \
    {                                                                                              \
        va_list ap;                                                                                \
        va_start(ap, fmt);                                                                         \
        line(to, colour, mark, fmt, ap);                                                           \
        va_end(ap);                                                                                \
    }

DEFINE_LINE(cli_success, stdout, "\033[32m", "\xe2\x9c\x93")
DEFINE_LINE(cli_info, stdout, "\033[34m", "i")
DEFINE_LINE(cli_warning, stderr, "\033[33m", "!")
DEFINE_LINE(cli_note, stderr, "\033[34m", "i")

DEFINE_LINE(cli_failure, stderr, "\033[31m", "\xe2\x9c\x97")

int cli_error(const struct ast_err *err)
{
    cli_failure("error: %s", err->msg);
    return CLI_FAILED;
}

void cli_print_text(FILE *to, struct ast_str text)
{
    for (size_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            fprintf(to, "\\x%02x", c); /* an answer must not drive the terminal */
        else
            fputc(c, to);
    }
}

/* Re-indents by hand: the document is ours and well-formed. */
void cli_print_json(struct ast_str compact)
{
    unsigned depth = 0;
    bool in_string = false;

    for (size_t i = 0; i < compact.n; i++) {
        char c = compact.p[i];
        if (in_string) {
            putchar(c);
            if (c == '\\' && i + 1 < compact.n)
                putchar(compact.p[++i]);
            else if (c == '"')
                in_string = false;
            continue;
        }
        bool opens = c == '{' || c == '[', closes = c == '}' || c == ']';
        bool empty =
            opens && i + 1 < compact.n && (compact.p[i + 1] == '}' || compact.p[i + 1] == ']');
        if (closes && (i == 0 || (compact.p[i - 1] != '{' && compact.p[i - 1] != '['))) {
            depth--;
            printf("\n%*s", (int)(2 * depth), "");
        }
        putchar(c);
        in_string = c == '"';
        if (c == ':')
            putchar(' ');
        if (opens && !empty)
            depth++;
        if ((opens && !empty) || c == ',')
            printf("\n%*s", (int)(2 * depth), "");
    }
    putchar('\n');
}

void cli_print_value(const struct cli *cli, const struct ast_json *v)
{
    AST_AUTO(ast_buf_done) struct ast_buf out = AST_BUF_INIT(CLI_OUTPUT_MAX);
    struct ast_err err = AST_ERR_INIT;

    switch (cli_format(cli)) {
    case CLI_YAML: (void)cli_render_yaml(v, &out); break; /* sticky in `out` */
    case CLI_TOML: (void)cli_render_toml(v, &out); break;
    default: (void)ast_json_compact(v, &out); break;
    }
    if (ast_buf_check(&out, "output", &err))
        (void)cli_error(&err);
    else if (cli_format(cli) == CLI_YAML || cli_format(cli) == CLI_TOML)
        (void)fwrite(out.p, 1, out.n, stdout); /* a failed write shows at exit */
    else
        cli_print_json(ast_buf_view(&out));
}

void cli_print(const struct cli *cli, struct ast_str compact)
{
    AST_AUTO(ast_json_free) struct ast_json_doc *doc = NULL;
    struct ast_err err = AST_ERR_INIT;

    if (ast_json_parse(compact, &doc, &err))
        (void)cli_error(&err);
    else
        cli_print_value(cli, ast_json_root(doc));
}
