#!/usr/bin/env python3
"""Cold start to ready with 4 capsules and a warm code cache; resident memory of that daemon when idle.

The limits are those of a process that creates the engine and nothing else, measured in the same run."""
import argparse
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

CAPSULES = ["astrid-rehearsal", "astrid-time", "astrid-notes", "tally"]
TALLY = """[package]
name = "tally"
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


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", default="build")
    build = os.path.abspath(ap.parse_args().build)
    home = tempfile.mkdtemp(prefix="astrid-bench-")
    env = dict(os.environ, ASTRID_HOME=home)
    ready = os.path.join(home, "run", "system.ready")
    try:
        fourth = os.path.join(home, "tally-source")
        os.makedirs(fourth)
        shutil.copy(os.path.join(build, "capsules", "astrid-echo", "astrid-echo.wasm"), fourth)
        with open(os.path.join(fourth, "Capsule.toml"), "w") as f:
            f.write(TALLY)
        for name in CAPSULES:
            source = fourth if name == "tally" else os.path.join(build, "capsules", name)
            subprocess.run([os.path.join(build, "astrid"), "capsule", "install", source], env=env, check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        starts, sizes, alone, alone_kib = [], [], [], []
        for turn in range(8):
            began = time.monotonic()
            out = subprocess.run([os.path.join(build, "bench", "engine_alone")], stdout=subprocess.PIPE, check=True).stdout
            alone.append((time.monotonic() - began) * 1000)
            alone_kib.append(int(out.split()[0]))
            if os.path.exists(ready):
                os.unlink(ready)
            began = time.monotonic()
            daemon = subprocess.Popen([os.path.join(build, "astrid-daemon"), "--workspace", home], env=env,
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not os.path.exists(ready):
                if daemon.poll() is not None or time.monotonic() - began > 60:
                    raise SystemExit("the daemon did not start")
                time.sleep(0.0005)
            took = (time.monotonic() - began) * 1000
            time.sleep(0.5)
            with open("/proc/%d/status" % daemon.pid) as f:
                kib = int(re.search(r"VmRSS:\s*(\d+)", f.read()).group(1))
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(20)
            if turn >= 3:  # the first ones compile and warm the page cache
                starts.append(took)
                sizes.append(kib / 1024)
        report("cold_start_4_capsules", median(starts), "ms", median(alone), 60)
        report("resident_idle_4_capsules", median(sizes), "MiB", median(alone_kib) / 1024, 32)
    finally:
        shutil.rmtree(home, ignore_errors=True)


main()
