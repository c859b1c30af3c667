#!/usr/bin/env python3
"""How fast prompts over HTTP are answered, against what the same machine can do.

One client: the limit is a bare epoll server that answers the same bytes. A hundred clients of a hundred principals:
the limit is the gateway's own HTTP front with a handler that streams the same events at once. Load generator and
server share the machine; limit and claim are measured in turns, so that both see the same weather.

/healthz against a bare libwebsockets server is printed for information.

Then a whole daemon: pages of the audit log, one audited request that a thousand event streams hear (from sending it to
the last byte of the last stream, read by one client that shares the machine; its limit: the same bytes through as many
socket pairs to the same client), and what an idle stream costs in resident memory.
"""
import argparse
import http.client
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time

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


# --- A whole daemon ---

STREAMS = 1000
EVENT_GOAL_MS = 50


def hear_all(socks, want):
    """Reads until every socket has `want` further bytes."""
    left = {s.fileno(): [s, want] for s in socks}
    poll = select.epoll()
    for fd in left:
        poll.register(fd, select.EPOLLIN)
    while left:
        for fd, _ in poll.poll(20):
            entry = left[fd]
            entry[1] -= len(entry[0].recv(65536))
            if entry[1] <= 0:
                poll.unregister(fd)
                del left[fd]
    poll.close()


def fan_out_limit(size):
    """Milliseconds for an event of that size through STREAMS socket pairs."""
    pairs = [socket.socketpair() for _ in range(STREAMS)]
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for ours, _ in pairs:
            ours.send(b"x" * size)
        hear_all([theirs for _, theirs in pairs], size)
        times.append((time.perf_counter() - begin) * 1e3)
    for pair in pairs:
        for s in pair:
            s.close()
    return statistics.median(times)


def resident(pid):
    with open("/proc/%d/status" % pid) as f:
        return [int(line.split()[1]) for line in f if line.startswith("VmRSS")][0]


def pages(daemon, token):
    """Median microseconds of the first page of a hundred rows."""
    conn = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=20)
    times = []
    for _ in range(200):
        begin = time.perf_counter()
        conn.request("GET", "/api/sys/audit?limit=100", headers={"Authorization": "Bearer " + token})
        page = json.loads(conn.getresponse().read())
        times.append((time.perf_counter() - begin) * 1e6)
        assert len(page["entries"]) == 100
    conn.close()
    return statistics.median(times)


def whole_daemon(build):
    os.environ["ASTRID_BUILD"] = os.path.abspath(build)
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "e2e"))
    import harness
    daemon = harness.Daemon(gateway=True)
    daemon.add_principal("alice")
    daemon.start()
    token, client = daemon.bearer("alice"), daemon.client()
    for _ in range(500):
        client.request("ListCapsules", principal="alice")
    page_us = pages(daemon, token)

    before, streams = resident(daemon.proc.pid), []
    for _ in range(STREAMS):
        streams.append(harness.Sse(daemon, "/api/events", token))
    for s in streams:
        s.head()
        assert s.next()[0] == "ready"
    idle_kib = (resident(daemon.proc.pid) - before) / STREAMS
    times, size = [], 0
    for i in range(ROUNDS + 2):
        socks = [s.sock for s in streams]
        if i == 0:  # how long the event is
            client.send("astrid.v1.request.list_capsules.%d" % i, {"type": "raw_json", "method": "ListCapsules"}, "alice")
            for s in socks:
                s.settimeout(20)
            size = len(socks[0].recv(65536))
            hear_all(socks[1:], size)
            continue
        begin = time.perf_counter()
        client.send("astrid.v1.request.list_capsules.%d" % i, {"type": "raw_json", "method": "ListCapsules"}, "alice")
        hear_all(socks, size)
        times.append((time.perf_counter() - begin) * 1e3)
    for s in streams:
        s.close()
    daemon.clean()
    claim("gateway_audit_page_of_100_median", page_us, "us", 5000, False)
    claim("gateway_event_to_1000_streams", statistics.median(times), "ms", EVENT_GOAL_MS, False, fan_out_limit(size))
    claim("gateway_idle_stream", idle_kib, "KiB", 12, False)


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
    whole_daemon(args.build)
    print("# /healthz with 50 connections: %.0f/s; a bare libwebsockets server: %.0f/s"
          % (median(health, "rate"), median(health_lws, "rate")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
