#!/usr/bin/env python3
"""The house's rules that a compiler cannot see: includes go one way, foreign libraries stay behind their door,
each header compiles alone, no document or source speaks of anything outside the project. TAP on stdout."""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SRC = os.path.join(ROOT, "src")
ROOMS = ["base", "crypto", "store", "audit", "bus", "policy", "wasm", "host", "capsule", "kernel", "uplink", "gateway",
         "mcp", "cli", "daemon", "build", "emit"]
RANK = {room: i for i, room in enumerate(ROOMS)}
# Narrower than the order: what a room may include besides itself.
ONLY = {
    "crypto": {"base"}, "store": {"base", "crypto"},
    "audit": {"base", "crypto", "store"}, "bus": {"base", "crypto"}, "policy": {"base", "crypto"},
    "wasm": {"base", "crypto"},
    "uplink": {"base", "crypto", "store", "bus", "policy", "wasm", "host", "capsule", "kernel"},
    "gateway": {"base", "crypto", "store", "bus", "policy", "wasm", "host", "capsule", "kernel"},
}
# header -> the only files that may include it
DOORS = {
    "uv.h": ["base/loop.c", "gateway/http.c"],
    "yyjson.h": ["base/json"],
    "toml++": ["base/toml"],
    "lmdb.h": ["store/"],
    "sodium.h": ["crypto/"],
    "blake3.h": ["crypto/"],
    "wasmtime.h": ["wasm/"],
    "wasm.h": ["wasm/"],
    "libwebsockets.h": ["gateway/http"],
    "ncurses.h": ["cli/screen"],
    "archive.h": ["capsule/archive"],
    "archive_entry.h": ["capsule/archive"],
}
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')


def sources(ends):
    for folder, _, names in os.walk(SRC):
        for name in sorted(names):
            if name.endswith(ends):
                path = os.path.join(folder, name)
                yield path, os.path.relpath(path, SRC)


def includes(path):
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            m = INCLUDE.match(line)
            if m:
                yield number, m.group(1) == '"', m.group(2)


def upward_includes():
    bad = []
    for path, rel in sources((".c", ".h", ".cc")):
        room = rel.split("/")[0]
        for number, quoted, target in includes(path):
            if not quoted or "/" not in target:
                continue
            other = target.split("/")[0]
            if other == room or other not in RANK:
                continue
            if RANK[other] > RANK.get(room, 99) or (room in ONLY and other not in ONLY[room]):
                bad.append("src/%s:%d includes %s" % (rel, number, target))
    return bad


def client_side_stays_small():
    """The command line links the client half of uplink: it must not see the kernel."""
    bad = []
    for path, rel in sources((".c", ".h")):
        if rel.startswith("uplink/client") or rel.startswith("uplink/frame"):
            for number, _, target in includes(path):
                if target.split("/")[0] not in ("base", "crypto", "uplink") and "/" in target and not target.startswith("sys/"):
                    bad.append("src/%s:%d includes %s" % (rel, number, target))
    return bad


def foreign_headers():
    bad = []
    for path, rel in sources((".c", ".h", ".cc")):
        for number, _, target in includes(path):
            for header, allowed in DOORS.items():
                if target == header or target.startswith(header + "/"):
                    if not any(rel.startswith(a) for a in allowed):
                        bad.append("src/%s:%d includes %s, whose door is %s" % (rel, number, target, ", ".join(allowed)))
    return bad


def headers_alone():
    cc = os.environ.get("CC", "cc").split()
    bad = []
    for path, rel in sources((".h",)):
        if rel.endswith("_priv.h"):
            continue
        text = '#include "%s"\n' % rel
        done = subprocess.run(cc + ["-std=gnu17", "-D_GNU_SOURCE", "-fsyntax-only", "-I", SRC, "-x", "c", "-"], input=text,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            bad.append("src/%s: %s" % (rel, done.stdout.strip().splitlines()[0]))
    return bad


def speaks_of_itself():
    """Nothing committed names a place outside the project."""
    words = re.compile("|".join([r"\.\./" + "shared", "/wo" + "rk/", "helper" + "-" + r"\d", "issue" + r" #?\d"]))
    listing = subprocess.run(["git", "-C", ROOT, "ls-files"], stdout=subprocess.PIPE, text=True)
    bad = []
    for rel in listing.stdout.splitlines():
        try:
            with open(os.path.join(ROOT, rel), encoding="utf-8") as f:
                for number, line in enumerate(f, 1):
                    if words.search(line):
                        bad.append("%s:%d" % (rel, number))
        except (OSError, UnicodeDecodeError):
            continue
    return bad


def main():
    tests = [("includes_go_one_way", upward_includes), ("client_side_does_not_see_the_kernel", client_side_stays_small),
             ("foreign_headers_stay_behind_their_door", foreign_headers), ("each_header_compiles_alone", headers_alone),
             ("the_project_speaks_of_itself_alone", speaks_of_itself)]
    print("1..%d" % len(tests))
    failed = 0
    for number, (name, fn) in enumerate(tests, 1):
        bad = fn()
        for line in bad:
            print("# " + line)
        print("%sok %d - %s" % ("not " if bad else "", number, name))
        failed += bool(bad)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
