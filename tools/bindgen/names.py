"""C names for WIT names, and which version of a package answers for which.

`ast_` + package + `_` + name in snake case. A later version of a package gets a suffix (`http11`)
only for what really differs; what is the same to the last field is one C type or one function.
Resources count as the same in all versions, since they are opaque objects to the generated code:
their handles stay apart by type id.
"""

import re

from .abi import cases, fields, has_resource
from .wit import (Borrow, ListOf, OptionOf, Own, Prim, ResultOf, TupleOf, TypeDef, WitError,
                  children)

# C words, and names that some C library defines as macros.
RESERVED = set("""auto break case char const continue default do double else enum extern float for
    goto if inline int long register restrict return short signed sizeof static struct switch
    typedef union unsigned void volatile while asm typeof bool true false errno
    stdin stdout stderr unix linux""".split())


def snake(name):
    return name.replace("-", "_").lower()


def ident(name, taken=()):
    """A WIT name as a C variable or member."""
    out = snake(name)
    return out + "_" if out in RESERVED or out in taken else out


def same_type(a, b):
    """Whether two types of two versions are the same for a C caller."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (Own, Borrow)):
        return same_type(a.res, b.res)
    if not isinstance(a, TypeDef):
        mine, theirs = children(a), children(b)
        if isinstance(a, Prim):
            return a == b
        if isinstance(a, ResultOf) and (a.ok is None) != (b.ok is None):
            return False
        return len(mine) == len(theirs) and all(same_type(x, y) for x, y in zip(mine, theirs))
    if (a.kind, a.name, a.iface.package.name, a.iface.name) != \
            (b.kind, b.name, b.iface.package.name, b.iface.name):
        return False
    return [n for n, _ in a.fields] == [n for n, _ in b.fields] and \
        all(same_type(x, y) for (_, x), (_, y) in zip(a.fields, b.fields))


def same_func(a, b):
    if a.core_name != b.core_name or [n for n, _ in a.params] != [n for n, _ in b.params]:
        return False
    if (a.result is None) != (b.result is None):
        return False
    return all(same_type(x, y) for (_, x), (_, y) in zip(a.params, b.params)) and \
        (a.result is None or same_type(a.result, b.result))


class Names:
    """root is `ast_` for the host and `astrid_` for guests."""

    def __init__(self, packages, root):
        self.packages = packages
        self.root = root
        self.versions = {}
        for p in packages:
            self.versions.setdefault(p.name, []).append(p)

    def tag(self, iface):
        """The package part of a name, with its version where there is an older one."""
        package = iface.package
        short = snake(package.short)
        if package is self.versions[package.name][0]:
            return short
        major, minor, patch = package.version_key()
        return "%s%d%d%s" % (short, major, minor, patch or "")

    def older(self, iface):
        """The same interface in the versions before, oldest first."""
        out = []
        for package in self.versions[iface.package.name]:
            if package is iface.package:
                break
            if iface.name in package.interfaces:
                out.append(package.interfaces[iface.name])
        return out

    def leaf(self, item):
        if item.name != "error-code":
            return snake(item.name)
        return "error" if item.iface.name == "host" else snake(item.iface.name) + "_error"

    def versioned(self, item):
        """A name that is never shared between versions."""
        return "%s_%s" % (self.tag(item.iface), self.leaf(item))

    def original(self, item):
        """The oldest type that is the same as this one."""
        for iface in self.older(item.iface):
            other = iface.types.get(item.name)
            if other and same_type(item, other):
                return other
        return item

    def type(self, item):
        """Without the root: `ipc_error`."""
        return self.versioned(self.original(item))

    def original_func(self, iface, func):
        for other in self.older(iface):
            for candidate in other.funcs:
                if same_func(func, candidate):
                    return other, candidate
        return iface, func

    def versioned_func(self, iface, func):
        parts = [self.tag(iface)]
        if func.resource:
            parts.append(snake(func.resource.name))
        return "_".join(parts + [snake(func.name)])

    def func(self, iface, func):
        return self.versioned_func(*self.original_func(iface, func))

    def mangle(self, t, versioned=False):
        """A type as a part of a C name.

        With versioned it names an encoding: handles of two versions differ, text and bytes too.
        """
        go = lambda inner: self.mangle(inner, versioned)
        if isinstance(t, Prim):
            return "str" if t.name == "string" else t.name
        if t == ListOf(Prim("u8")):
            return "bytes" if versioned else "str"
        if isinstance(t, ListOf):
            return "list_" + go(t.elem)
        if isinstance(t, OptionOf):
            return "opt_" + go(t.some)
        if isinstance(t, TupleOf):
            return "tuple_" + "_".join(go(i) for i in t.items)
        if isinstance(t, ResultOf):
            return "result_%s_%s" % (go(t.ok) if t.ok is not None else "unit",
                                     go(t.err) if t.err is not None else "unit")
        if isinstance(t, (Own, Borrow)):
            if not versioned:
                return self.type(t.res)
            return ("own_" if isinstance(t, Own) else "borrow_") + self.versioned(t.res)
        return self.versioned(t) if versioned and has_resource(t) else self.type(t)

    def check_unique(self, pairs, what):
        """Two things with one C name would be a silent mix-up."""
        seen = {}
        for name, loc in pairs:
            if name in seen:
                raise WitError(loc, "%s '%s' collides with the one of %s:%d"
                               % ((what, name) + seen[name]))
            seen[name] = loc


WIDTH = 100


def wrap(line):
    """Breaks a long line as clang-format does: at commas, aligned behind the parenthesis."""
    if len(line) <= WIDTH:
        return [line]
    assign = re.match(r"( *)([^(]* =) (.*)$", line)
    if assign:
        return [assign.group(1) + assign.group(2),
                *wrap(assign.group(1) + "    " + assign.group(3))]
    row = re.match(r" *\{ ", line)
    opening = row or re.search(r"\b(?!if\b|for\b|sizeof\b)\w+\(", line)
    if not opening:
        return [line]
    pieces, depth, start = [], 0, opening.end()
    for i in range(start, len(line)):
        depth += (line[i] in "({") - (line[i] in ")}")
        if depth == 0 and line[i] == ",":
            pieces.append(line[start:i + 1])
            start = i + 2
    pieces.append(line[start:])
    pad = " " * opening.end()
    out, current = [], line[:opening.end()] + pieces[0]
    for piece in pieces[1:]:
        if len(current) + 1 + len(piece) <= WIDTH:
            current += " " + piece
        else:
            out.append(current)
            current = pad + piece
    out.append(current)
    indent = re.match(r" *", line).group()
    if max(map(len, out)) > WIDTH and not row:
        # Too wide behind the parenthesis: an ordinary indent instead.
        out = [line[:opening.end()]]
        for piece in pieces:
            glue = "" if out[-1].endswith("(") else " "
            if len(out) > 1 and len(out[-1]) + len(glue) + len(piece) <= WIDTH:
                out[-1] += glue + piece
            else:
                out.append(indent + "    " + piece)
    return out


def call(head, args, tail):
    return ["%s(%s)%s" % (head, ", ".join(args), tail)]


def comment(doc, indent=""):
    """A doc comment as C comment lines."""
    if not doc:
        return []
    text = [line.replace("*/", "* /") for line in doc]
    if len(text) == 1 and len(indent + text[0]) <= 94:
        return ["%s/* %s */" % (indent, text[0])]
    return ["%s/* %s" % (indent, text[0])] + ["%s * %s" % (indent, l) for l in text[1:-1]] + \
        ["%s * %s */" % (indent, text[-1])] if len(text) > 1 else \
        ["%s/* %s" % (indent, text[0]), "%s */" % indent]


def defined_types(packages):
    return [t for p in packages for i in p.interfaces.values() for t in i.types.values()
            if t.kind != "alias"]


__all__ = ["Names", "call", "cases", "comment", "defined_types", "fields", "ident", "same_func",
           "same_type", "snake", "wrap"]
