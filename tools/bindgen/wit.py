"""A small WIT reader: files to resolved interfaces and worlds.

It knows the part of the language that our packages use, and it refuses the rest with
`file:line: message` instead of guessing, because a wrong guess would be a wrong memory layout.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Tuple

PRIMITIVES = ("bool", "u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64",
              "f32", "f64", "char", "string")
# Words that cannot be a bare name; `%word` may.
KEYWORDS = set(PRIMITIVES) | {
    "use", "type", "resource", "func", "record", "enum", "flags", "variant", "static", "interface",
    "world", "import", "export", "package", "include", "list", "option", "result", "tuple", "own",
    "borrow", "constructor", "future", "stream", "as", "from", "async", "with", "map"}

TOKEN = re.compile(r"""
    (?P<space>[ \t\r]+)
  | (?P<line>\n)
  | (?P<doc>///[^\n]*)
  | (?P<comment>//[^\n]*)
  | (?P<block>/\*.*?\*/)
  | (?P<arrow>->)
  | (?P<semver>\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?)
  | (?P<id>%?[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*)
  | (?P<punct>[{}()<>:;,./=@*_])
""", re.X | re.S)
WORD = re.compile(r"([a-z][a-z0-9]*|[A-Z][A-Z0-9]*)$")


class WitError(Exception):
    """Anything wrong with the input; says where."""

    def __init__(self, loc, message):
        super().__init__("%s:%d: %s" % (loc[0], loc[1], message))


@dataclass(frozen=True)
class Prim:
    name: str


@dataclass(frozen=True)
class ListOf:
    elem: object


@dataclass(frozen=True)
class OptionOf:
    some: object


@dataclass(frozen=True)
class ResultOf:
    ok: object  # None when there is no payload
    err: object


@dataclass(frozen=True)
class TupleOf:
    items: tuple


@dataclass(frozen=True)
class Own:
    res: object


@dataclass(frozen=True)
class Borrow:
    res: object


@dataclass(frozen=True)
class Name:
    """A type name that is not resolved yet."""
    name: str
    loc: Tuple[str, int]


@dataclass(eq=False)
class TypeDef:
    """kind: record, variant, enum, flags, resource or alias. Compared by identity."""
    kind: str
    name: str
    loc: Tuple[str, int]
    doc: List[str]
    iface: object = None
    fields: list = field(default_factory=list)  # record: (name, type); else: (name, type or None)
    field_docs: list = field(default_factory=list)
    target: object = None                       # alias only


@dataclass(eq=False)
class Func:
    name: str
    kind: str  # func, method, static, constructor
    params: list
    result: object
    loc: Tuple[str, int]
    doc: List[str]
    resource: Optional[TypeDef] = None

    @property
    def core_name(self):
        """The import name as the component tools spell it."""
        if self.kind == "func":
            return self.name
        if self.kind == "constructor":
            return "[constructor]" + self.resource.name
        return "[%s]%s.%s" % (self.kind, self.resource.name, self.name)


@dataclass(eq=False)
class Interface:
    package: object
    name: str
    loc: Tuple[str, int]
    doc: List[str]
    uses: list = field(default_factory=list)   # (interface path, [(name, alias, loc)])
    types: Dict[str, TypeDef] = field(default_factory=dict)
    funcs: List[Func] = field(default_factory=list)
    scope: Dict[str, TypeDef] = field(default_factory=dict)  # own and used types

    @property
    def module(self):
        return "%s/%s@%s" % (self.package.name, self.name, self.package.version)

    def resources(self):
        return [t for t in self.types.values() if t.kind == "resource"]


@dataclass(eq=False)
class World(Interface):
    """Its own functions are its exports; interface imports and includes are kept as paths."""
    imports: list = field(default_factory=list)
    includes: list = field(default_factory=list)


@dataclass(eq=False)
class Package:
    namespace: str
    short: str
    version: str
    loc: Tuple[str, int]
    interfaces: Dict[str, Interface] = field(default_factory=dict)
    worlds: Dict[str, World] = field(default_factory=dict)

    @property
    def name(self):
        return "%s:%s" % (self.namespace, self.short)

    def version_key(self):
        return tuple(int(n) for n in re.split(r"[-+]", self.version)[0].split("."))


@dataclass
class Token:
    kind: str
    text: str
    line: int


def lex(path, text):
    tokens, line, at = [], 1, 0
    while at < len(text):
        m = TOKEN.match(text, at)
        if not m:
            raise WitError((path, line), "unexpected character %r" % text[at])
        kind, value = m.lastgroup, m.group()
        if kind not in ("space", "line", "comment", "block"):
            tokens.append(Token(kind, value, line))
        line += value.count("\n")
        at = m.end()
    tokens.append(Token("end", "end of file", line))
    return tokens


class Parser:
    def __init__(self, path, text):
        self.path = path
        self.tokens = lex(path, text)
        self.at = 0
        self.doc = []

    # Tokens. Doc comments are gathered on the way and taken by the next item.

    def peek(self):
        while self.tokens[self.at].kind == "doc":
            self.doc.append(self.tokens[self.at].text[3:].strip())
            self.at += 1
        return self.tokens[self.at]

    def next(self):
        tok = self.peek()
        if tok.kind != "end":
            self.at += 1
        return tok

    def take_doc(self):
        self.peek()
        doc, self.doc = self.doc, []
        return doc

    def loc(self, tok=None):
        return (self.path, (tok or self.peek()).line)

    def fail(self, message, tok=None):
        raise WitError(self.loc(tok), message)

    def accept(self, text):
        if self.peek().text == text and self.peek().kind != "end":
            self.next()
            return True
        return False

    def expect(self, text):
        tok = self.next()
        if tok.text != text:
            self.fail("expected '%s', found '%s'" % (text, tok.text), tok)
        return tok

    def ident(self, what):
        tok = self.next()
        if tok.kind != "id":
            self.fail("expected %s, found '%s'" % (what, tok.text), tok)
        if tok.text in KEYWORDS:
            self.fail("'%s' is a keyword; write '%%%s'" % (tok.text, tok.text), tok)
        name = tok.text.lstrip("%")
        for word in name.split("-"):
            if not WORD.match(word) and not re.match(r"[0-9]", word):
                self.fail("'%s' is not in kebab-case" % name, tok)
        return name

    def version(self):
        tok = self.next()
        if tok.kind != "semver":
            self.fail("expected a version such as 1.0.0, found '%s'" % tok.text, tok)
        return tok.text

    # Items.

    def file(self):
        self.gates()
        loc = self.loc()
        self.expect("package")
        self.take_doc()
        namespace = self.ident("a namespace")
        self.expect(":")
        short = self.ident("a package name")
        self.expect("@")
        package = Package(namespace, short, self.version(), loc)
        self.expect(";")
        while self.peek().kind != "end":
            self.gates()
            doc, tok = self.take_doc(), self.next()
            if tok.text == "interface":
                item = self.interface(package, doc)
                self.add(package.interfaces, item, tok)
            elif tok.text == "world":
                item = self.world(package, doc)
                self.add(package.worlds, item, tok)
            else:
                self.fail("expected 'interface' or 'world', found '%s'" % tok.text, tok)
        return package

    def add(self, table, item, tok=None):
        if item.name in table:
            self.fail("'%s' is defined twice" % item.name, tok)
        table[item.name] = item

    def gates(self):
        """Feature gates say when something appeared; that changes no layout."""
        while self.accept("@"):
            self.ident("a gate")
            if self.accept("("):
                while not self.accept(")"):
                    if self.next().kind == "end":
                        self.fail("unclosed '('")

    def path_to_interface(self):
        """`iface` or `ns:pkg/iface@version`, as (package name or None, version, interface)."""
        first = self.ident("an interface")
        if not self.accept(":"):
            return (None, None, first)
        pkg = "%s:%s" % (first, self.ident("a package name"))
        self.expect("/")
        name = self.ident("an interface")
        self.expect("@")
        return (pkg, self.version(), name)

    def use(self, iface):
        loc = self.loc()
        path = self.path_to_interface()
        self.expect(".")
        self.expect("{")
        names = []
        while not self.accept("}"):
            here = self.loc()
            name = self.ident("a type name")
            alias = self.ident("a type name") if self.accept("as") else name
            names.append((name, alias, here))
            if not self.accept(","):
                self.expect("}")
                break
        self.expect(";")
        iface.uses.append((path, names, loc))

    def interface(self, package, doc):
        loc = self.loc()
        iface = Interface(package, self.ident("an interface name"), loc, doc)
        self.expect("{")
        while not self.accept("}"):
            self.gates()
            item_doc = self.take_doc()
            if not self.type_item(iface, item_doc):
                self.function(iface, item_doc)
        return iface

    def world(self, package, doc):
        loc = self.loc()
        world = World(package, self.ident("a world name"), loc, doc)
        self.expect("{")
        while not self.accept("}"):
            self.gates()
            item_doc = self.take_doc()
            here = self.loc()
            if self.accept("import"):
                world.imports.append((self.path_to_interface(), here))
                self.expect(";")
            elif self.accept("include"):
                world.includes.append((self.path_to_interface(), here))
                self.expect(";")
            elif self.accept("export"):
                self.function(world, item_doc)
            elif not self.type_item(world, item_doc):
                self.fail("expected an import, export, include or type, found '%s'"
                          % self.peek().text)
        return world

    def type_item(self, iface, doc):
        tok = self.peek()
        if tok.text == "use":
            self.next()
            self.use(iface)
            return True
        if tok.text not in ("record", "variant", "enum", "flags", "resource", "type"):
            return False
        self.next()
        loc = self.loc()
        kind = "alias" if tok.text == "type" else tok.text
        item = TypeDef(kind, self.ident("a type name"), loc, doc, iface)
        self.add(iface.types, item, tok)
        getattr(self, "body_" + kind)(iface, item)
        return True

    def body_alias(self, _, item):
        self.expect("=")
        item.target = self.type()
        self.expect(";")

    def members(self, item, payload):
        """`{ a, b, }`: payload reads what follows each name."""
        self.expect("{")
        seen = set()
        while not self.accept("}"):
            self.gates()
            doc, tok = self.take_doc(), self.peek()
            name = self.ident("a name")
            if name in seen:
                self.fail("'%s' occurs twice in '%s'" % (name, item.name), tok)
            seen.add(name)
            item.fields.append((name, payload()))
            item.field_docs.append(doc)
            if not self.accept(","):
                self.expect("}")
                break
        if not item.fields:
            raise WitError(item.loc, "'%s' is empty" % item.name)

    def body_record(self, _, item):
        def payload():
            self.expect(":")
            return self.type()
        self.members(item, payload)

    def body_variant(self, _, item):
        def payload():
            if not self.accept("("):
                return None
            inner = self.type()
            self.expect(")")
            return inner
        self.members(item, payload)

    def body_enum(self, _, item):
        self.members(item, lambda: None)

    body_flags = body_enum

    def body_resource(self, iface, item):
        if self.accept(";"):
            return
        self.expect("{")
        while not self.accept("}"):
            self.gates()
            doc = self.take_doc()
            loc = self.loc()
            if self.accept("constructor"):
                params = self.params()
                self.expect(";")
                iface.funcs.append(Func("constructor", "constructor", params, Own(item), loc, doc,
                                        item))
                continue
            func = self.function(iface, doc, item)
            if func.kind == "method":
                func.params.insert(0, ("self", Borrow(item)))

    def function(self, iface, doc, resource=None):
        loc = self.loc()
        name = self.ident("a function or type name")
        self.expect(":")
        kind = "method" if resource else "func"
        if resource and self.accept("static"):
            kind = "static"
        self.expect("func")
        params = self.params()
        result = self.type() if self.accept("->") else None
        self.expect(";")
        func = Func(name, kind, params, result, loc, doc, resource)
        if any(f.core_name == func.core_name for f in iface.funcs):
            raise WitError(loc, "'%s' is defined twice" % name)
        if kind == "func" and name in iface.types:
            raise WitError(loc, "'%s' is already a type" % name)
        iface.funcs.append(func)
        return func

    def params(self):
        self.expect("(")
        params = []
        while not self.accept(")"):
            tok = self.peek()
            name = self.ident("a parameter name")
            if name in [n for n, _ in params]:
                self.fail("parameter '%s' occurs twice" % name, tok)
            self.expect(":")
            params.append((name, self.type()))
            if not self.accept(","):
                self.expect(")")
                break
        return params

    def type(self):
        tok = self.next()
        text = tok.text
        if text in PRIMITIVES:
            return Prim(text)
        if text in ("list", "option"):
            return (ListOf if text == "list" else OptionOf)(self.angle())
        if text in ("own", "borrow"):
            return (Own if text == "own" else Borrow)(self.resource_name())
        if text == "tuple":
            self.expect("<")
            items = [self.type()]
            while self.accept(","):
                items.append(self.type())
            self.expect(">")
            return TupleOf(tuple(items))
        if text == "result":
            return self.result_type()
        if tok.kind == "id" and text not in KEYWORDS:
            return Name(text.lstrip("%"), self.loc(tok))
        return self.fail("expected a type, found '%s'" % text, tok)

    def angle(self):
        self.expect("<")
        inner = self.type()
        self.expect(">")
        return inner

    def resource_name(self):
        self.expect("<")
        loc = self.loc()
        name = self.ident("a resource")
        self.expect(">")
        return Name(name, loc)

    def result_type(self):
        if not self.accept("<"):
            return ResultOf(None, None)
        ok = None if self.accept("_") else self.type()
        err = self.type() if self.accept(",") else None
        self.expect(">")
        return ResultOf(ok, err)


class Resolver:
    """Replaces each Name by what it means. Aliases disappear: they change no layout."""

    def __init__(self, packages):
        self.packages = {(p.name, p.version): p for p in packages}

    def run(self):
        every = [i for p in self.packages.values()
                 for i in list(p.interfaces.values()) + list(p.worlds.values())]
        for iface in every:
            self.scope(iface, [])
        for iface in every:
            for item in iface.types.values():
                self.typedef(item)
            for func in iface.funcs:
                self.function(func)
        for iface in every:
            for item in iface.types.values():
                self.check_finite(item, [])
        for package in self.packages.values():
            for world in package.worlds.values():
                for path, loc in world.imports:
                    self.interface(path, world, loc)
                for path, loc in world.includes:
                    self.interface(path, world, loc, "worlds")

    def interface(self, path, user, loc, table="interfaces"):
        pkg, version, name = path
        package = user.package
        if pkg is not None:
            package = self.packages.get((pkg, version))
            if not package:
                raise WitError(loc, "unknown package '%s@%s'" % (pkg, version))
        if name not in getattr(package, table):
            raise WitError(loc, "no %s '%s' in '%s@%s'"
                           % (table[:-1], name, package.name, package.version))
        return getattr(package, table)[name]

    def scope(self, iface, trail):
        """The names that are visible in an interface; used ones are looked up in their own."""
        if iface in trail:
            raise WitError(iface.loc, "'%s' uses itself in a circle" % iface.name)
        if iface.scope:
            return iface.scope
        names = dict(iface.types)
        for path, items, loc in iface.uses:
            source = self.interface(path, iface, loc)
            theirs = self.scope(source, trail + [iface])
            for name, alias, here in items:
                if name not in theirs:
                    raise WitError(here, "no type '%s' in '%s'" % (name, source.module))
                if alias in names:
                    raise WitError(here, "'%s' is defined twice" % alias)
                names[alias] = theirs[name]
        iface.scope = names
        return names

    def typedef(self, item):
        if item.kind == "alias":
            item.target = self.resolve(item.target, item.iface, [item])
        item.fields = [(n, t if t is None else self.resolve(t, item.iface, []))
                       for n, t in item.fields]

    def function(self, func):
        # A function's scope is its interface's; the resolver is called per interface.
        iface = self.owner[func]
        func.params = [(n, self.resolve(t, iface, [])) for n, t in func.params]
        if func.result is not None:
            func.result = self.resolve(func.result, iface, [])
            if contains_borrow(func.result):
                raise WitError(func.loc, "'%s' returns a borrow" % func.name)

    @property
    def owner(self):
        if not hasattr(self, "_owner"):
            self._owner = {f: i for p in self.packages.values()
                           for i in list(p.interfaces.values()) + list(p.worlds.values())
                           for f in i.funcs}
        return self._owner

    def resolve(self, t, iface, trail):
        go = lambda inner: None if inner is None else self.resolve(inner, iface, trail)
        if isinstance(t, Name):
            item = iface.scope.get(t.name)
            if item is None:
                raise WitError(t.loc, "unknown type '%s'" % t.name)
            if item.kind == "alias":
                if item in trail:
                    raise WitError(t.loc, "'%s' is defined by itself" % t.name)
                return self.resolve(item.target, item.iface, trail + [item])
            return Own(item) if item.kind == "resource" else item
        if isinstance(t, (Own, Borrow)):
            res = t.res
            if isinstance(res, Name):
                inner = self.resolve(res, iface, trail)
                if not isinstance(inner, Own):
                    raise WitError(res.loc, "'%s' is not a resource" % res.name)
                res = inner.res
            return type(t)(res)
        if isinstance(t, ListOf):
            return ListOf(go(t.elem))
        if isinstance(t, OptionOf):
            return OptionOf(go(t.some))
        if isinstance(t, ResultOf):
            return ResultOf(go(t.ok), go(t.err))
        if isinstance(t, TupleOf):
            return TupleOf(tuple(go(i) for i in t.items))
        return t

    def check_finite(self, item, trail):
        if item in trail:
            raise WitError(item.loc, "'%s' contains itself" % item.name)
        for _, t in item.fields:
            for inner in children(t, deep=True):
                if isinstance(inner, TypeDef):
                    self.check_finite(inner, trail + [item])


def children(t, deep=False):
    """The types directly inside a type expression; with deep, the expression's own tree."""
    if isinstance(t, ListOf):
        inner = [t.elem]
    elif isinstance(t, OptionOf):
        inner = [t.some]
    elif isinstance(t, ResultOf):
        inner = [i for i in (t.ok, t.err) if i is not None]
    elif isinstance(t, TupleOf):
        inner = list(t.items)
    else:
        return [t] if deep and t is not None else []
    if not deep:
        return inner
    return [t] + [leaf for i in inner for leaf in children(i, deep=True)]


def contains_borrow(t):
    if isinstance(t, Borrow):
        return True
    inner = [f for _, f in t.fields if f is not None] if isinstance(t, TypeDef) else children(t)
    return any(contains_borrow(i) for i in inner)


def load(directory):
    """Reads each .wit file below a directory; gives the packages in name and version order."""
    root = Path(directory)
    packages = []
    for path in sorted(root.rglob("*.wit")):
        package = Parser(str(path), path.read_text(encoding="utf-8")).file()
        if any((p.name, p.version) == (package.name, package.version) for p in packages):
            raise WitError(package.loc, "package '%s@%s' is defined twice"
                           % (package.name, package.version))
        packages.append(package)
    if not packages:
        raise WitError((str(root), 0), "no .wit file here")
    Resolver(packages).run()
    return sorted(packages, key=lambda p: (p.name, p.version_key()))
