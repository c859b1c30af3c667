#!/usr/bin/env python3
"""A capsule written in Rust against the published SDK answers a prompt (optional: skipped without its toolchain)."""
import json
import os
import subprocess
import sys
import tempfile

import harness
from harness import Case, Daemon, Skipped, check, equal


class Rust(Case):
    def set_up(self):
        self.d = Daemon()

    def c05_06_a_component_of_the_rust_sdk_loads_and_answers(self):
        out = tempfile.mkdtemp(prefix="astrid-e2e-")
        tool = os.path.join(harness.ROOT, "tools", "rust_guest.py")
        done = subprocess.run([sys.executable, tool, "build", "--out", out], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        if done.returncode == 77:
            raise Skipped(done.stdout.strip().splitlines()[-1])
        equal(done.returncode, 0, done.stdout)
        self.d.install(out)
        self.d.install("astrid-time")
        self.d.start()
        c = self.d.client()
        equal(c.prompt("hello")[-1]["payload"]["text"], "rust: hello")
        equal(c.prompt("again", principal="alice")[-1]["payload"]["text"], "rust: again")
        check("astrid-time" in c.request("ListCapsules", principal="default")["data"])


harness.main()
