"""The canonical ABI in numbers: flattening, sizes, alignments and offsets."""

from .wit import (Borrow, Func, ListOf, OptionOf, Own, Prim, ResultOf, TupleOf, TypeDef,
                  WitError, children)

MAX_FLAT_PARAMS = 16
MAX_FLAT_RESULTS = 1

PRIM_SIZE = {"bool": 1, "u8": 1, "s8": 1, "u16": 2, "s16": 2, "u32": 4, "s32": 4, "f32": 4,
             "char": 4, "u64": 8, "s64": 8, "f64": 8}
PRIM_FLAT = {"u64": "I", "s64": "I", "f32": "f", "f64": "F"}


def align_up(n, align):
    return (n + align - 1) // align * align


def cases(t):
    """Names and payloads of anything that is a choice, else None."""
    if isinstance(t, OptionOf):
        return [("none", None), ("some", t.some)]
    if isinstance(t, ResultOf):
        return [("ok", t.ok), ("err", t.err)]
    if isinstance(t, TypeDef) and t.kind in ("variant", "enum"):
        return t.fields
    return None


def fields(t):
    """Names and types of anything that is a product, else None."""
    if isinstance(t, TupleOf):
        return [("f%d" % i, item) for i, item in enumerate(t.items)]
    if isinstance(t, TypeDef) and t.kind == "record":
        return t.fields
    return None


def disc_size(count):
    return 1 if count <= 256 else 2 if count <= 65536 else 4


def layout(t):
    """(size, alignment) in guest memory."""
    if isinstance(t, Prim):
        return (8, 4) if t.name == "string" else (PRIM_SIZE[t.name],) * 2
    if isinstance(t, ListOf):
        return (8, 4)
    if isinstance(t, (Own, Borrow)):
        return (4, 4)
    if isinstance(t, TypeDef) and t.kind == "flags":
        if len(t.fields) > 32:
            raise WitError(t.loc, "flags '%s': more than 32 are not supported" % t.name)
        size = 1 if len(t.fields) <= 8 else 2 if len(t.fields) <= 16 else 4
        return (size, size)
    if fields(t) is not None:
        at, align = 0, 1
        for _, inner in fields(t):
            size, inner_align = layout(inner)
            at = align_up(at, inner_align) + size
            align = max(align, inner_align)
        return (align_up(at, align), align)
    disc, payload = disc_size(len(cases(t))), payload_offset(t)
    inner = [layout(p) for _, p in cases(t) if p is not None]
    align = max([disc] + [a for _, a in inner])
    return (align_up(payload + max([0] + [s for s, _ in inner]), align), align)


def payload_offset(t):
    disc = disc_size(len(cases(t)))
    return align_up(disc, max([1] + [layout(p)[1] for _, p in cases(t) if p is not None]))


def offsets(t):
    """(name, type, offset) of each field of a product."""
    out, at = [], 0
    for name, inner in fields(t):
        size, align = layout(inner)
        at = align_up(at, align)
        out.append((name, inner, at))
        at += size
    return out


def join(a, b):
    if a == b:
        return a
    return "i" if {a, b} == {"i", "f"} else "I"


def flatten(t):
    """The core values of a type, one letter each: i32 i, i64 I, f32 f, f64 F."""
    if isinstance(t, Prim):
        return "ii" if t.name == "string" else PRIM_FLAT.get(t.name, "i")
    if isinstance(t, ListOf):
        return "ii"
    if isinstance(t, (Own, Borrow)) or (isinstance(t, TypeDef) and t.kind == "flags"):
        return "i"
    if fields(t) is not None:
        return "".join(flatten(inner) for _, inner in fields(t))
    flat = []
    for _, payload in cases(t):
        for i, letter in enumerate(flatten(payload) if payload is not None else ""):
            if i < len(flat):
                flat[i] = join(flat[i], letter)
            else:
                flat.append(letter)
    return "i" + "".join(flat)


def any_inside(t, test):
    """Whether a type or something inside it passes a test; goes through named types."""
    if t is None:
        return False
    if test(t):
        return True
    inner = [p for _, p in t.fields] if isinstance(t, TypeDef) else children(t)
    return any(any_inside(i, test) for i in inner)


def needs_realloc(t):
    return any_inside(t, lambda x: isinstance(x, ListOf) or x == Prim("string"))


def has_resource(t):
    return any_inside(t, lambda x: isinstance(x, (Own, Borrow)))


class Signature:
    """The core shape of one import.

    params, result   letters; a result area adds the trailing pointer to params
    indirect         None, or the tuple type that the first parameter points to
    area             None, or the type of the result that is stored in guest memory
    """

    def __init__(self, func: Func):
        self.flat = [flatten(t) for _, t in func.params]
        self.indirect = None
        self.params = "".join(self.flat)
        if len(self.params) > MAX_FLAT_PARAMS:
            self.indirect = TupleOf(tuple(t for _, t in func.params))
            self.params = "i"
        self.result, self.area = "", None
        if func.result is not None:
            flat = flatten(func.result)
            if len(flat) > MAX_FLAT_RESULTS:
                self.area = func.result
                self.params += "i"
            else:
                self.result = flat


def facts(packages):
    """All numbers of all interfaces, for the tests that compare them with a table."""
    functions, types = [], []
    for package in packages:
        for iface in package.interfaces.values():
            for func in iface.funcs:
                sig = Signature(func)
                row = {"module": iface.module, "name": func.core_name, "params": sig.params,
                       "result": sig.result, "area": None, "payload": None, "indirect": None,
                       "realloc": func.result is not None and needs_realloc(func.result)}
                if sig.area is not None:
                    row["area"] = list(layout(sig.area))
                    if isinstance(sig.area, ResultOf):
                        row["payload"] = payload_offset(sig.area)
                if sig.indirect is not None:
                    row["indirect"] = list(layout(sig.indirect))
                functions.append(row)
            for res in iface.resources():
                functions.append({"module": iface.module, "name": "[resource-drop]" + res.name,
                                  "params": "i", "result": "", "area": None, "payload": None,
                                  "indirect": None, "realloc": False})
            types += [type_facts(iface, t) for t in iface.types.values()
                      if t.kind not in ("resource", "alias")]
    functions.sort(key=lambda f: (f["module"], f["name"]))
    return {"functions": functions, "types": types}


def spell(t):
    """A type as WIT text, as far as case payloads need it."""
    if isinstance(t, Prim):
        return t.name
    if isinstance(t, ListOf):
        return "list<%s>" % spell(t.elem)
    if isinstance(t, OptionOf):
        return "option<%s>" % spell(t.some)
    if isinstance(t, Own):
        return "own<%s>" % t.res.name
    if isinstance(t, Borrow):
        return "borrow<%s>" % t.res.name
    return t.name


def type_facts(iface, t):
    size, align = layout(t)
    row = {"interface": iface.module, "name": t.name, "kind": t.kind, "size": size, "align": align}
    if t.kind == "record":
        row["fields"] = [[name, at] for name, _, at in offsets(t)]
    else:
        row["cases"] = [n if p is None else "%s(%s)" % (n, spell(p)) for n, p in t.fields]
        if t.kind == "variant":
            row["payload"] = payload_offset(t)
    return row
