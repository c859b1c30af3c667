#!/usr/bin/env python3
"""What `make install` puts on a machine works from where it stands."""
import os
import shutil
import subprocess
import tempfile

import harness
from harness import Case, check, equal, tutorial


class Install(Case):
    def set_up(self):
        self.root = tempfile.mkdtemp(prefix="astrid-e2e-")
        done = subprocess.run(["meson", "install", "-C", harness.BUILD, "--no-rebuild", "--quiet", "--destdir", self.root],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=60)
        equal(done.returncode, 0, done.stdout)
        self.bin = next(d for d, _, files in os.walk(self.root) if "astrid" in files)
        self.share = os.path.join(os.path.dirname(self.bin), "share", "astrid")
        self.env = dict(os.environ, ASTRID_HOME=os.path.join(self.root, "home"))

    def tear_down(self, failed):
        self._run("astrid", "stop")
        if failed:
            print("# installed tree kept: %s" % self.root)
        else:
            shutil.rmtree(self.root, ignore_errors=True)

    def _run(self, program, *words):
        return subprocess.run([os.path.join(self.bin, program), *words], env=self.env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)

    def nothing_points_to_the_builder_s_folders(self):
        with open(os.path.join(self.bin, "astrid-daemon"), "rb") as f:
            check(b"third-party/wasmtime/lib" not in f.read())

    def a_bundled_capsule_answers(self):
        done = self._run("astrid", "capsule", "install", os.path.join(self.share, "capsules", "astrid-echo"))
        equal(done.returncode, 0, done.stderr)
        done = self._run("astrid", "-p", "from the installed tree")
        equal(done.returncode, 0, done.stderr)
        check("from the installed tree" in done.stdout, done.stdout)

    def the_sdk_builds_a_capsule(self):
        folder = os.path.join(self.root, "hello")
        os.mkdir(folder)
        source, manifest = tutorial()
        for name, text in [("hello.c", source), ("Capsule.toml", manifest)]:
            with open(os.path.join(folder, name), "w") as f:
                f.write(text)
        done = self._run("astrid-build", folder, "--output", folder)
        equal(done.returncode, 0, done.stderr)
        check(os.path.exists(os.path.join(folder, "hello.capsule")), os.listdir(folder))


harness.main()
