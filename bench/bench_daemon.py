#!/usr/bin/env python3
"""Cold start to ready with a warm code cache, and resident memory of that daemon when idle: with 4 capsules, with 100.

The limits are measured in the same run: for 4 capsules a process that creates the engine and nothing else, for
100 the time that same process needs to take their code from a cache, and its memory with all of it loaded."""
import argparse
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

CAPSULES = ["astrid-rehearsal", "astrid-time", "astrid-notes", "tally"]
MANY = 100
TALLY = """[package]
name = "%s"
version = "0.1.0"
[[component]]
file = "astrid-echo.wasm"
[publish]
"agent.v1.response" = "opaque"
[subscribe]
"bench.v1.prompt" = { wit = "opaque", handler = "answer" }
"""


def median(values):
    return sorted(values)[len(values) // 2]


def report(name, ours, unit, limit, reach):
    print("BENCH %s %.2f %s limit=%.2f ratio=%.2f reach=%.2f %s"
          % (name, ours, unit, limit, ours / limit if limit else 0, reach, "met" if ours <= reach else "missed"), flush=True)


def copy_of_echo(build, home, name):
    """The source of a capsule whose binary nobody else has: a custom section with its name makes the difference."""
    source = os.path.join(home, "sources", name)
    os.makedirs(source)
    section = bytes([len(name)]) + name.encode()
    with open(os.path.join(build, "capsules", "astrid-echo", "astrid-echo.wasm"), "rb") as f:
        binary = f.read() + b"\0" + bytes([len(section)]) + section
    with open(os.path.join(source, "astrid-echo.wasm"), "wb") as f:
        f.write(binary)
    with open(os.path.join(source, "Capsule.toml"), "w") as f:
        f.write(TALLY % name)
    return source


def install(build, env, source):
    subprocess.run([os.path.join(build, "astrid"), "capsule", "install", source], env=env, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start(build, home, env, names):
    """One start: milliseconds to ready, resident MiB half a second later. All capsules must be loaded by then."""
    ready = os.path.join(home, "run", "system.ready")
    if os.path.exists(ready):
        os.unlink(ready)
    began = time.monotonic()
    daemon = subprocess.Popen([os.path.join(build, "astrid-daemon"), "--workspace", home], env=env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not os.path.exists(ready):
            if daemon.poll() is not None or time.monotonic() - began > 60:
                raise SystemExit("the daemon did not start")
            time.sleep(0.0005)
        took = (time.monotonic() - began) * 1000
        time.sleep(0.5)
        with open("/proc/%d/status" % daemon.pid) as f:
            kib = int(re.search(r"VmRSS:\s*(\d+)", f.read()).group(1))
        listed = subprocess.run([os.path.join(build, "astrid"), "ps", "--format", "json"], env=env, check=True,
                                stdout=subprocess.PIPE, text=True).stdout
        missing = [name for name in names if '"%s"' % name not in listed]
        if missing:
            raise SystemExit("not loaded: %s" % ", ".join(missing))
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(20)
    return took, kib / 1024


def alone(build, binaries=()):
    """The same without a daemon: milliseconds of the process, then what it printed."""
    began = time.monotonic()
    out = subprocess.run([os.path.join(build, "bench", "engine_alone"), *binaries], stdout=subprocess.PIPE, check=True).stdout
    return (time.monotonic() - began) * 1000, [float(line.split()[0]) for line in out.splitlines()]


def bench(build, names):
    home = tempfile.mkdtemp(prefix="astrid-bench-")
    env = dict(os.environ, ASTRID_HOME=home)
    try:
        binaries = []
        for name in names:
            source = os.path.join(build, "capsules", name)
            if not os.path.isdir(source):
                source = copy_of_echo(build, home, name)
                binaries.append(os.path.join(source, "astrid-echo.wasm"))
            install(build, env, source)
        starts, sizes, limits, limit_sizes = [], [], [], []
        for turn in range(8):
            took, printed = alone(build, binaries if len(names) == MANY else ())
            limits.append(printed[1] if len(names) == MANY else took)
            limit_sizes.append(printed[-1] / 1024)
            took, mib = start(build, home, env, names)
            if turn >= 3:  # the first ones compile and warm the page cache
                starts.append(took)
                sizes.append(mib)
        reach_ms, reach_mib = (400, 120) if len(names) == MANY else (60, 32)
        report("cold_start_%d_capsules" % len(names), median(starts), "ms", median(limits), reach_ms)
        report("resident_idle_%d_capsules" % len(names), median(sizes), "MiB", median(limit_sizes), reach_mib)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", default="build")
    build = os.path.abspath(ap.parse_args().build)
    bench(build, CAPSULES)
    bench(build, ["tally%d" % i for i in range(MANY)])


main()
