/* Tables for people: columns as wide as their widest cell. Owner: one thread. */
#pragma once

#include "base/buf.h"
#include "base/vec.h"

#define CLI_GRID_COLUMNS 8

struct cli_grid {
    struct cli_grid_column {
        const char *head;
        unsigned width;          /* at least so many characters */
    } columns[CLI_GRID_COLUMNS]; /* ends with one without a head */
    AST_VEC(char *) cells;       /* owned, row by row */
    bool failed;                 /* out of memory */
};

/* Adds the next cell; foreign text is escaped. An empty one shows as "-". */
void cli_grid_cell(struct cli_grid *g, struct ast_str text);
void cli_grid_cellf(struct cli_grid *g, const char *fmt, ...) AST_PRINTF(2, 3);
/* Heading and rows on standard output. */
void cli_grid_print(const struct cli_grid *g);
void cli_grid_done(struct cli_grid *g);
AST_DEFINE_AUTO_VALUE(struct cli_grid, cli_grid_done)
