#!/usr/bin/env python3
"""Checks the WIT packages and the C generated from them.

wasm/abi_table.json holds the signatures and layouts as facts, written down apart from the
generator. The adapters run against a small memory in wasm/bindgen_adapters.c, and the guest header
is compiled for wasm32, so that two compilers that know nothing of the generator agree with it.

Environment: CC and GUEST_CC name the compilers (gcc and clang).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BINDGEN = ROOT / "tools" / "bindgen.py"
WIT = ROOT / "wit"
TABLE = json.loads((HERE / "wasm" / "abi_table.json").read_text(encoding="utf-8"))
WARN = ["-std=gnu17", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow",
        "-Wstrict-prototypes", "-Wmissing-prototypes", "-Wundef", "-Werror"]


def run(*args):
    return subprocess.run([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True)


def bindgen(*args):
    return run(sys.executable, BINDGEN, *args)


def compilers():
    found = [c for c in (os.environ.get("CC", "gcc"), "gcc", "clang") if shutil.which(c)]
    return sorted(set(found))


def guest_compiler():
    for name in (os.environ.get("GUEST_CC", "clang"), "clang-14"):
        if shutil.which(name):
            probe = run(name, "--target=wasm32", "-x", "c", "-fsyntax-only", os.devnull)
            if probe.returncode == 0:
                return name
    return None


class Generated(unittest.TestCase):
    """One run of the generator for all cases."""

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        cls.out = Path(cls.dir.name)
        for side in ([], ["--guest"]):
            done = bindgen(*side, "--wit", WIT, "--out", cls.out / "host")
            assert done.returncode == 0, done.stderr
        done = bindgen("--facts", "--wit", WIT)
        assert done.returncode == 0, done.stderr
        cls.facts = json.loads(done.stdout)
        cls.source = cls.read("bindings.c")
        cls.header = cls.read("bindings.h")

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    @classmethod
    def read(cls, name):
        return (cls.out / "host" / name).read_text(encoding="utf-8")

    def includes(self):
        return ["-I", self.out, "-I", ROOT / "src"]

    def succeed(self, *args):
        done = run(*args)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    # ---- numbers

    def test_c05_abi_counts(self):
        """217 functions, and the number of each interface."""
        counts = {}
        for row in self.facts["functions"]:
            counts[row["module"]] = counts.get(row["module"], 0) + 1
        self.assertEqual(counts, {m["module"]: m["count"] for m in TABLE["functions"]})
        self.assertEqual(sum(counts.values()), 217)

    def test_c05_abi_signatures(self):
        """Core parameters, result, result area, payload offset, indirect parameters, realloc."""
        mine = {(r.pop("module"), r["name"]): r for r in map(dict, self.facts["functions"])}
        want = {(m["module"], r["name"]): r for m in TABLE["functions"] for r in m["rows"]}
        self.assertEqual(sorted(mine), sorted(want))
        for key, row in want.items():
            with self.subTest(function=key):
                self.assertEqual(mine[key], row)

    def test_c05_abi_layouts(self):
        """Size, alignment, offsets and case numbers of each type."""
        mine = {(t.pop("interface"), t["name"]): t for t in map(dict, self.facts["types"])}
        want = {(i["interface"], t["name"]): t for i in TABLE["types"] for t in i["types"]}
        self.assertEqual(sorted(mine), sorted(want))
        for key, row in want.items():
            with self.subTest(type=key):
                self.assertEqual(mine[key], row)

    def test_c05_abi_import_rows(self):
        """The rows of the generated C table: complete, sorted, numbered."""
        table = self.source[self.source.index("ast_abi_imports[] = {"):]
        table = re.sub(r",\n {6}", ", ", table)
        rows = re.findall(r'\{ "([^"]*)", "([^"]*)", "([^"]*)", "([^"]*)", (\w+), (\d+) \}', table)
        self.assertEqual([int(r[5]) for r in rows], list(range(217)))
        self.assertEqual([r[:2] for r in rows], sorted(r[:2] for r in rows))
        want = {(m["module"], r["name"]): (r["params"], r["result"])
                for m in TABLE["functions"] for r in m["rows"]}
        self.assertEqual({r[:2]: r[2:4] for r in rows}, want)
        for adapter in {r[4] for r in rows}:
            self.assertIn("static void %s(" % adapter, self.source)

    def test_c05_abi_areas_in_adapters(self):
        """Each adapter writes an area of the table's size and alignment, or none."""
        adapters = dict(re.findall(r"^static void (adapt_\w+)\([^{]*\{\n(.*?)^\}", self.source,
                                   re.M | re.S))
        self.assertEqual(len(adapters), 217 - self.header.count("    AST_ABI_TYPE_") + 2)
        table = re.sub(r",\n {6}", ", ", self.source[self.source.index("imports[] = {"):])
        names = {(m, n): a for m, n, a in re.findall(
            r'\{ "([^"]*)", "([^"]*)", "[^"]*", "[^"]*", (adapt_\w+),', table)}
        for module in TABLE["functions"]:
            for row in module["rows"]:
                if row["name"].startswith("[resource-drop]"):
                    continue
                with self.subTest(function=(module["module"], row["name"])):
                    body = adapters[names[module["module"], row["name"]]]
                    size = re.search(r"uint8_t img\[(\d+)\]", body)
                    align = re.search(r"area_write\(a, area, img, sizeof img, (\d+)\)", body)
                    self.assertEqual([int(size.group(1)), int(align.group(1))] if size else None,
                                     row["area"])
                    last = re.search(r"area = \(uint32_t\)v\[(\d+)\]", body)
                    if last:
                        self.assertEqual(int(last.group(1)), len(row["params"]) - 1)

    # ---- generated C

    def test_c05_host_code_compiles(self):
        """Without warnings, and each header alone."""
        for cc in compilers():
            with self.subTest(cc=cc):
                self.succeed(cc, *WARN, "-O2", *self.includes(), "-c",
                             self.out / "host" / "bindings.c", "-o", self.out / "bindings.o")
                for name in ("bindings.h", "abi_names.h"):
                    alone = self.out / "alone.c"
                    alone.write_text('#include "host/%s"\n' % name)
                    self.succeed(cc, *WARN, *self.includes(), "-fsyntax-only", alone)

    def test_c05_adapters_lift_and_lower(self):
        """Real calls through the table; a trap half way leaves the result area alone."""
        program = self.out / "adapters"
        self.succeed(compilers()[-1], "-std=gnu17", "-g", "-fno-pie", "-no-pie", *self.includes(),
                     HERE / "wasm" / "bindgen_adapters.c", self.out / "host" / "bindings.c",
                     "-Wl,--unresolved-symbols=ignore-all", "-o", program)
        self.succeed(program)

    def test_c05_versions_share_what_is_equal(self):
        """1.1.0 adds names only for what differs."""
        for name in ("struct ast_process11_spawn_request {", "struct ast_http11_error {",
                     "int ast_http11_http_request(", "int ast_process11_spawn("):
            self.assertIn(name, self.header)
        for name in ("ast_process11_error", "ast_process11_attach(", "ast_http11_http_method",
                     "ast_http11_http_stream_status("):
            self.assertNotIn(name, self.header)
        self.assertIn("AST_ABI_TYPE_PROCESS11_PROCESS_HANDLE", self.header)

    def test_c05_outputs_are_listed_and_stable(self):
        for side in ([], ["--guest"]):
            listed = bindgen(*side, "--list-outputs").stdout.split()
            for name in listed:
                path = self.out / "host" / name
                self.assertTrue(self.read(name).startswith(
                    "/* Generated by tools/bindgen.py from wit/. Do not edit. */\n"))
                self.assertLessEqual(max(map(len, self.read(name).split("\n"))), 100)
                before = path.stat().st_mtime_ns
                bindgen(*side, "--wit", WIT, "--out", self.out / "host")
                self.assertEqual(path.stat().st_mtime_ns, before, "rewritten though unchanged")

    def test_unavailable_packages_answer_with_their_own_error(self):
        """One body for each function of the chosen packages, all compiled, none of them a success."""
        out = self.out / "some"
        done = bindgen("--unavailable", "fs", "http", "io/streams", "--wit", WIT, "--out", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        source = (out / "unavailable.c").read_text(encoding="utf-8")
        prototypes = re.findall(r"\b(ast_(?:fs|http|http11|io_(?:in|out)put_stream)_\w+)\(",
                                self.header)
        bodies = re.findall(r"^\S.*?(ast_\w+)\(\s*struct ast_abi \*a", source, re.M)
        self.assertEqual(sorted(bodies), sorted(prototypes))
        self.assertNotIn("AST_ABI_OK", source)
        self.assertIn('AST_STR("fs.fs-open is not available in this build")', source)
        notes = re.findall(r"host_unavailable\(\s*a, (\d+),", source)
        self.assertEqual([int(n) for n in notes], list(range(len(bodies))))
        bad = bindgen("--unavailable", "nosuch", "--wit", WIT, "--out", out)
        self.assertEqual(bad.returncode, 1)
        self.assertIn("no package or interface 'nosuch'", bad.stderr)

    # ---- guest header

    def test_c05_guest_header_matches_the_table(self):
        """Compiled for wasm32: its assertions hold and its imports have the core signatures."""
        cc = guest_compiler()
        if not cc:
            self.skipTest("no clang with the wasm32 target")
        header = self.read("astrid_host.h")
        names = re.findall(r'^ASTRID_IMPORT\("[^"]+", "[^"]+"\)\n(?:\w+ )+\*?(\w+)\(', header, re.M)
        self.assertEqual(len(names), 217)
        use = self.out / "guest.c"
        use.write_text('#include "host/astrid_host.h"\nvoid (*const all[])(void) = {\n%s};\n'
                       % "".join("    (void (*)(void))%s,\n" % n for n in names))
        self.succeed(cc, "--target=wasm32", "-std=gnu17", "-Wall", "-Wextra", "-Wconversion",
                     "-Wno-cast-function-type", "-Werror", "-ffreestanding", "-I", self.out, "-c",
                     use, "-o", self.out / "guest.o")
        want = {(m["module"], r["name"]): (r["params"], r["result"])
                for m in TABLE["functions"] for r in m["rows"]}
        self.assertEqual(wasm_imports((self.out / "guest.o").read_bytes()), want)

    # ---- wrong input

    def test_c05_wrong_wit_is_refused_with_its_place(self):
        head = "package a:b@1.0.0;\ninterface host {\n"
        cases = [
            ("f: func(x: nope);\n}", 3, "unknown type 'nope'"),
            ("f: func(x: u32)\n}", 4, "expected ';'"),
            ("record r { a: u32, a: u8 }\n}", 3, "'a' occurs twice in 'r'"),
            ("record r { a: list<r> }\n}", 3, "'r' contains itself"),
            ("type t = t;\n}", 3, "'t' is defined by itself"),
            ("f: func();\nf: func();\n}", 4, "'f' is defined twice"),
            ("use other.{x};\n}", 3, "no interface 'other'"),
            ("use c:d/host@1.0.0.{x};\n}", 3, "unknown package 'c:d@1.0.0'"),
            ("f: func(record: u32);\n}", 3, "'record' is a keyword"),
            ("f: func(Bad: u32);\n}", 3, "'Bad' is not in kebab-case"),
            ("f: func(a_b: u32);\n}", 3, "expected ':', found '_'"),
            ("f: func() -> stream<u8>;\n}", 3, "expected a type, found 'stream'"),
            ("resource r;\nf: func() -> borrow<r>;\n}", 4, "returns a borrow"),
            ("f: func(x: own<u32>);\n}", 3, "'u32' is a keyword"),
            ("enum e { a }\nf: func(x: own<e>);\n}", 4, "'e' is not a resource"),
            ("interface a { use b.{x}; }", 3, "'interface' is a keyword"),
            ("enum e { }\n}", 3, "'e' is empty"),
            ("f: func() -> list<result<u8>>;\n}", 3, "as a whole result only"),
            ("f: func();", 4, "expected a function or type name, found 'end of file'"),
            ("$\n}", 3, "unexpected character '$'"),
        ]
        for i, (body, line, message) in enumerate(cases):
            with self.subTest(body=body):
                folder = self.out / ("bad%d" % i)
                folder.mkdir()
                (folder / "x.wit").write_text(head + body + "\n")
                done = bindgen("--wit", folder, "--out", folder / "out")
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertTrue(done.stderr.startswith("%s:%d: " % (folder / "x.wit", line)),
                                done.stderr)
                self.assertIn(message, done.stderr)
                self.assertFalse((folder / "out").exists())


def wasm_imports(data):
    """{(module, name): (params, result)} of the function imports of a wasm object file."""
    letters = {0x7f: "i", 0x7e: "I", 0x7d: "f", 0x7c: "F"}
    at = 8

    def leb():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return value

    def word():
        nonlocal at
        n = leb()
        at += n
        return data[at - n:at].decode()

    def values():
        nonlocal at
        n = leb()
        at += n
        return "".join(letters[b] for b in data[at - n:at])

    types, found = [], {}
    while at < len(data):
        kind, size = data[at], None
        at += 1
        size = leb()
        end = at + size
        if kind == 1:
            for _ in range(leb()):
                at += 1  # the form byte of a function type
                types.append((values(), values()))
        elif kind == 2:
            for _ in range(leb()):
                module, name = word(), word()
                what = data[at]
                at += 1
                if what == 0:
                    found[module, name] = types[leb()]
                elif what == 1:
                    at += 1
                    limits(leb)
                elif what == 2:
                    limits(leb)
                else:
                    at += 2
        at = end
    return found


def limits(leb):
    flags = leb()
    leb()
    if flags & 1:
        leb()


class Lines(unittest.TextTestResult):
    """One line per case: `c05_abi_signatures ... ok`."""

    def getDescription(self, test):
        return test.id().rsplit(".test_", 1)[-1] if ".test_" in test.id() else str(test)


if __name__ == "__main__":
    runner = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Lines)
    result = runner.run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__]))
    sys.exit(0 if result.wasSuccessful() else 1)
