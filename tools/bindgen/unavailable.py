"""Bodies for the functions of packages that a build does not offer.

Each links and says so: it answers with its package's own error, never with success. A function
that cannot fail gives zero; one that would have to make an object traps. Methods are here for the
linker only: nobody can hold a handle of a resource that is never made.
"""

from .host import FIRST_LINE, Host, text
from .names import call
from .wit import Own, Prim, ResultOf, WitError

OUTPUTS = ["unavailable.c"]

TOP = r"""
/* Functions of the packages that this build does not offer, each with its own typed error. */
#include "host/unavailable_priv.h"
"""


def label(iface, func):
    """`net.tcp-stream.read`: the package, the resource if any, the function."""
    parts = [iface.package.short]
    if func.resource:
        parts.append(func.resource.name)
    return ".".join(parts + [func.name])


def error_lines(host, func, note):
    """The case that says most: a text, else `closed`, else the first one without a payload."""
    variant = func.result.err
    cases = dict(variant.fields)
    if cases.get("unknown") == Prim("string"):
        return ["    reterr->tag = %s;" % host.constant(variant, "unknown"),
                "    reterr->u.unknown = %s;" % note, "    return AST_ABI_ERR;"]
    plain = [case for case, payload in variant.fields if payload is None]
    if not plain:
        raise WitError(func.loc, "no error case can say that the function is not available")
    case = "closed" if "closed" in plain else plain[0]
    return ["    (void)%s;" % note, "    reterr->tag = %s;" % host.constant(variant, case),
            "    return AST_ABI_ERR;"]


def body(host, iface, func, index):
    ret, args = host.prototype(func)
    name = "ast_" + host.names.func(iface, func)
    note = 'host_unavailable(a, %d, AST_STR("%s is not available in this build"))' \
        % (index, label(iface, func))
    lines = call("%s%s%s" % (ret, "" if ret.endswith("*") else " ", name), args, "") + ["{"]
    if isinstance(func.result, ResultOf) and func.result.err is not None:
        return lines + error_lines(host, func, note) + ["}", ""]
    lines += ["    (void)%s;" % note]
    if isinstance(func.result, Own):
        lines += ['    ast_abi_trap(a, "not available in this build");', "    return NULL;"]
    elif ret != "void":
        lines += ["    return 0;"]
    return lines + ["}", ""]


def wanted(iface, chosen):
    short = iface.package.short
    return short in chosen or "%s/%s" % (short, iface.name) in chosen


def generate(packages, chosen):
    host = Host(packages)
    known = {p.short for p in packages} | \
        {"%s/%s" % (i.package.short, i.name) for i in host.interfaces}
    for name in chosen:
        if name not in known:
            raise WitError(("--unavailable", 0), "no package or interface '%s'" % name)
    out, index = [FIRST_LINE, *TOP.strip("\n").split("\n"), ""], 0
    for iface in host.interfaces:
        if not wanted(iface, chosen):
            continue
        for func in iface.funcs:
            if host.names.original_func(iface, func)[1] is func:
                out += body(host, iface, func, index)
                index += 1
    out += ["_Static_assert(%d <= HOST_UNAVAILABLE_MAX, \"one bit each\");" % index]
    return {"unavailable.c": text(out)}
