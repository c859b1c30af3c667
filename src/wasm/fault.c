/* Turns what the library reports into one code and one line.
 *
 * Invariant: our own faults (ABI, deadline, cancel) are set before the library sees an error, so that its
 * texts, which carry backtraces, are never parsed to find out what happened.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "wasm/wasm_priv.h"

#include "base/banned.h"

/* Trap codes in the library's numbering; the rest is "trap <n>". */
static const char *const trap_texts[] = {
    [WASMTIME_TRAP_CODE_STACK_OVERFLOW] = "call stack exhausted",
    [WASMTIME_TRAP_CODE_MEMORY_OUT_OF_BOUNDS] = "out of bounds memory access",
    [WASMTIME_TRAP_CODE_HEAP_MISALIGNED] = "misaligned memory access",
    [WASMTIME_TRAP_CODE_TABLE_OUT_OF_BOUNDS] = "out of bounds table access",
    [WASMTIME_TRAP_CODE_INDIRECT_CALL_TO_NULL] = "indirect call to null",
    [WASMTIME_TRAP_CODE_BAD_SIGNATURE] = "indirect call type mismatch",
    [WASMTIME_TRAP_CODE_INTEGER_OVERFLOW] = "integer overflow",
    [WASMTIME_TRAP_CODE_INTEGER_DIVISION_BY_ZERO] = "integer divide by zero",
    [WASMTIME_TRAP_CODE_BAD_CONVERSION_TO_INTEGER] = "invalid conversion to integer",
    [WASMTIME_TRAP_CODE_UNREACHABLE_CODE_REACHED] = "unreachable instruction executed",
    [WASMTIME_TRAP_CODE_INTERRUPT] = "interrupted",
    [WASMTIME_TRAP_CODE_OUT_OF_FUEL] = "all fuel consumed",
    [WASMTIME_TRAP_CODE_NULL_REFERENCE] = "null reference",
    [WASMTIME_TRAP_CODE_ALLOCATION_TOO_LARGE] = "allocation too large",
};

void wasm_fault_set(struct wasm_fault *f, enum ast_rc rc, const char *fmt, ...)
{
    if (f->rc)
        return;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(f->text, sizeof f->text, fmt, args); /* cutting it is the point */
    va_end(args);
    f->rc = rc;
}

static void trap_code_fault(struct wasm_fault *f, wasmtime_trap_code_t code)
{
    enum ast_rc rc = code == WASMTIME_TRAP_CODE_OUT_OF_FUEL ? AST_E_OUT_OF_FUEL
                     : code == WASMTIME_TRAP_CODE_INTERRUPT ? AST_E_TIMEOUT
                                                            : AST_E_TRAP;
    if (code < AST_ARRAY_LEN(trap_texts) && trap_texts[code])
        wasm_fault_set(f, rc, "wasm trap: %s", trap_texts[code]);
    else
        wasm_fault_set(f, rc, "wasm trap: code %u", code);
}

/* Errors read "<context>\n\nCaused by:\n    <cause>"; with a backtrace the context is only its headline. */
static struct ast_str interesting_line(struct ast_str text)
{
    static const char traced[] = "error while executing at wasm backtrace";
    if (ast_str_starts(text, ast_str_c(traced))) {
        size_t at = ast_str_find(text, AST_STR("Caused by:\n"));
        if (at != AST_STR_NPOS)
            text = ast_str_trim(ast_str_from(text, at + strlen("Caused by:\n")));
    }
    return ast_str_first(text, AST_MIN(ast_str_find_byte(text, '\n'), (size_t)300));
}

bool wasm_fault_take(struct wasm_fault *f, wasmtime_error_t *error, wasm_trap_t *trap,
                     enum ast_rc otherwise)
{
    if (!error && !trap)
        return false;
    wasmtime_trap_code_t code;
    if (!f->rc && trap && wasmtime_trap_code(trap, &code))
        trap_code_fault(f, code);
    if (!f->rc) {
        wasm_byte_vec_t message = { 0 };
        if (error)
            wasmtime_error_message(error, &message);
        else
            wasm_trap_message(trap, &message);
        struct ast_str line = interesting_line(ast_str_n(message.data, message.size));
        wasm_fault_set(f, otherwise, AST_STR_FMT, AST_STR_ARG(line));
        wasm_byte_vec_delete(&message);
    }
    if (error)
        wasmtime_error_delete(error);
    if (trap)
        wasm_trap_delete(trap);
    return true;
}

enum ast_rc wasm_fail_error(struct ast_err *err, enum ast_rc rc, const char *what,
                            wasmtime_error_t *error)
{
    struct wasm_fault f = { 0 };
    (void)wasm_fault_take(&f, error, NULL, rc); /* there is one */
    return ast_fail(err, rc, "%s: %s", what, f.text);
}
