/* Shared by tickets.c and tickets_import.c. */
#pragma once

#include "kernel/tickets.h"

/* Appends a row at the end of the order. A hash that is there already is an error: CONFLICT. */
enum ast_rc tickets_put_new(struct ast_store_txn *t, enum kernel_ticket_kind kind,
                            const struct kernel_ticket *ticket, struct ast_err *err);
bool tickets_has(struct ast_store_txn *t, enum kernel_ticket_kind kind, struct ast_str hash);
