/* Collects cells, then prints them aligned. What is on a terminal is escaped: cells may hold foreign text. */
#include "cli/grid.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"

#include "base/banned.h"

#define CELL_MAX (64u * 1024)

void cli_grid_cell(struct cli_grid *g, struct ast_str text)
{
    AST_AUTO(ast_buf_done) struct ast_buf cell = AST_BUF_INIT(CELL_MAX);

    if (!text.n)
        text = AST_STR("-");
    for (size_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        if (c < 0x20 || c == 0x7f)
            ast_buf_addf(&cell, "\\x%02x", c); /* a line end would break the table */
        else
            ast_buf_add_byte(&cell, (char)c);
    }
    char *owned = cell.fail ? NULL : ast_buf_steal(&cell);
    if (!owned || !ast_vec_push(&g->cells, owned)) {
        free(owned);
        g->failed = true;
    }
}

void cli_grid_cellf(struct cli_grid *g, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cli_grid_cell(g, ast_str_c(text));
}

/* In characters, not bytes. */
static unsigned width_of(const char *text)
{
    unsigned n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

/* The last column is not padded: no blanks at the end of a line. */
static void print_cell(const char *text, unsigned width, bool is_last)
{
    fputs(text, stdout);
    if (is_last)
        putchar('\n');
    else
        printf("%*s", (int)(width - width_of(text) + 1), "");
}

void cli_grid_print(const struct cli_grid *g)
{
    unsigned widths[CLI_GRID_COLUMNS], count = 0;

    if (g->failed) {
        cli_warning("no table: out of memory");
        return;
    }
    for (; count < CLI_GRID_COLUMNS && g->columns[count].head; count++)
        widths[count] = AST_MAX(g->columns[count].width, width_of(g->columns[count].head));
    AST_ASSERT(count > 0); /* a grid without columns is nobody's */
    for (size_t i = 0; i < g->cells.n; i++)
        widths[i % count] = AST_MAX(widths[i % count], width_of(g->cells.v[i]));
    bool bold = cli_has_colour(stdout);
    fputs(bold ? "\033[1m" : "", stdout);
    for (unsigned i = 0; i < count; i++)
        print_cell(g->columns[i].head, widths[i], i + 1 == count);
    fputs(bold ? "\033[0m" : "", stdout);
    for (size_t i = 0; i < g->cells.n; i++)
        print_cell(g->cells.v[i], widths[i % count], i % count + 1 == count);
}

void cli_grid_done(struct cli_grid *g)
{
    ast_vec_each (&g->cells, cell)
        free(*cell);
    ast_vec_done(&g->cells);
}
