#!/usr/bin/env python3
"""How fast prompts over HTTP are answered, against what the same machine can do.

One client: the limit is a bare epoll server that answers the same bytes. A hundred clients of a hundred principals:
the limit is the gateway's own HTTP front with a handler that streams the same events at once. Load generator and
server share the machine; limit and claim are measured in turns, so that both see the same weather.

/healthz against a bare libwebsockets server is printed for information.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

ROUNDS = 3
PROMPT = ["--method", "POST", "--path", "/api/agent/prompt", "--body", '{"text":"hello"}', "--want", "event: response"]


class Server:
    def __init__(self, program, *args):
        self.proc = subprocess.Popen([program, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = self.proc.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.proc.stdin.close()
        self.proc.wait(timeout=30)


def load(folder, server, seconds, *args):
    out = subprocess.run([os.path.join(folder, "http_load"), "--port", server.port, "--seconds", str(seconds), *args],
                         stdout=subprocess.PIPE, text=True)
    return json.loads(out.stdout)


def median(rounds, key):
    return statistics.median(r[key] for r in rounds)


def claim(name, ours, unit, goal, is_rate, limit=None):
    """The goal is in absolute figures; the limit of this machine stands beside it."""
    met = ours >= goal if is_rate else ours <= goal
    beside = " limit=%.0f ratio=%.2f" % (limit, ours / limit if is_rate else limit / ours) if limit else ""
    print("BENCH %s %.0f %s goal=%.0f%s %s" % (name, ours, unit, goal, beside, "met" if met else "missed"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build")
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    folder = os.path.join(args.build, "bench")
    program = os.path.join(folder, "gateway_server")
    with tempfile.TemporaryDirectory() as tmp:
        bearers = os.path.join(tmp, "bearers")
        with Server(program, "gateway", bearers) as gateway, Server(program, "constant") as constant, \
                Server(program, "raw") as raw, Server(program, "lws") as lws:
            one, one_limit, many, many_limit, health, health_lws = [], [], [], [], [], []
            hundred = ["--connections", "100"]
            for _ in range(ROUNDS):
                one.append(load(folder, gateway, args.seconds, *PROMPT, "--bearers", bearers))
                one_limit.append(load(folder, raw, args.seconds, *PROMPT, "--bearers", bearers))
                many.append(load(folder, gateway, args.seconds, *PROMPT, *hundred, "--bearers", bearers))
                many_limit.append(load(folder, constant, args.seconds, *PROMPT, *hundred, "--bearers", bearers))
                health.append(load(folder, gateway, args.seconds / 2, "--path", "/healthz", "--connections", "50"))
                health_lws.append(load(folder, lws, args.seconds / 2, "--path", "/healthz", "--connections", "50"))
    lost = sum(r["lost"] for r in one + many)
    claim("gateway_prompt_one_client_median", median(one, "p50_us"), "us", 1000, False, median(one_limit, "p50_us"))
    claim("gateway_prompt_100_clients", median(many, "rate"), "answers/s", 8000, True, median(many_limit, "rate"))
    claim("gateway_prompt_100_clients_p99", median(many, "p99_us"), "us", 50000, False, median(many_limit, "p99_us"))
    claim("gateway_prompt_lost", lost, "answers", 0, False)
    print("# /healthz with 50 connections: %.0f/s; a bare libwebsockets server: %.0f/s"
          % (median(health, "rate"), median(health_lws, "rate")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
