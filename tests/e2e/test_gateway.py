#!/usr/bin/env python3
"""The HTTP gateway of a real daemon: start, refusals, routes, streams, TLS, end (spec 03)."""
import http.client
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import time

import harness
from harness import Case, Daemon, Skipped, check, equal, wait_for

SECURITY = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer",
            "content-security-policy": "default-src 'none'; frame-ancestors 'none'"}


class Stream:
    """An open prompt stream, read line by line."""

    def __init__(self, daemon, token, body):
        self.sock = socket.create_connection(("127.0.0.1", daemon.port), timeout=30)
        data = json.dumps(body).encode()
        self.sock.sendall(b"POST /api/agent/prompt HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
                          b"Content-Length: %d\r\n\r\n%s" % (token.encode(), len(data), data))
        self.got = b""

    def wait(self, needle, seconds=30):
        self.sock.settimeout(seconds)
        while needle not in self.got:
            data = self.sock.recv(65536)
            if not data:
                return False
            self.got += data
        return True

    def ended(self, seconds=10):
        self.sock.settimeout(seconds)
        try:
            while True:
                data = self.sock.recv(65536)
                if not data:
                    return True
                self.got += data
        except ConnectionResetError:
            return True
        except socket.timeout:
            return False


class Starting(Case):
    """Each test starts daemons of its own."""

    def c03_01_without_a_file_the_daemon_runs_and_logs_nothing_about_it(self):
        d = Daemon().start()
        check("gateway listening" not in d.log())
        check(not os.path.exists(d.path("keys", "gateway.ed25519")))
        equal(d.stop(), 0)
        d.clean()

    def c03_02_enabled_alone_serves_on_the_default_address(self):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", 2787))
            except OSError:
                raise Skipped("port 2787 is taken")
        d = Daemon(gateway=True)
        with open(d.path("etc", "gateway-http.toml"), "w") as f:
            f.write("enabled = true\n")
        d.port = 2787
        d.start()
        answer, body = d.http("GET", "/healthz")
        equal((answer.status, body), (200, b"ok\n"))
        with open("/proc/net/tcp") as f:
            listening = [line.split()[1] for line in f if line.split()[3] == "0A"]
        check("0100007F:0AE3" in listening, listening)  # loopback only
        equal(d.stop(), 0)
        d.clean()

    def c03_03_a_bad_file_leaves_a_healthy_daemon_without_gateway(self):
        d = Daemon(gateway=True, gateway_config='trust-forwarded-from = ["10.0.0.0/8"]\n').start()
        equal(d.client().request("GetStatus")["status"], "Status")
        check("failed to load gateway config; gateway not started" in d.log(), d.log())
        try:
            socket.create_connection(("127.0.0.1", d.port), timeout=2).close()
            raise harness.Failed("something listens")
        except ConnectionRefusedError:
            pass
        d.stop()
        d.clean()

    def a_port_in_use_leaves_a_healthy_daemon_without_gateway(self):
        first = Daemon(gateway=True).start()
        second = Daemon(gateway=True)
        with open(second.path("etc", "gateway-http.toml"), "w") as f:
            f.write('enabled = true\nlisten = "127.0.0.1:%d"\n' % first.port)
        second.start()
        check("astrid-gateway exited with error" in second.log(), second.log())
        equal(second.client().request("GetStatus")["status"], "Status")
        for d in (first, second):
            equal(d.stop(), 0)
            d.clean()

    def c03_07_c03_15_state_that_cannot_be_built_stops_the_boot(self):
        for name, content, word in [("keys/gateway.ed25519", b"x" * 31, "31"),
                                    ("etc/gateway-revocations.json", b'{"alice": -1}', "gateway-revocations.json")]:
            d = Daemon(gateway=True)
            os.makedirs(os.path.dirname(d.path(name)), mode=0o700, exist_ok=True)
            with open(d.path(name), "wb") as f:
                f.write(content)
            code, said = d.refuses_to_boot()
            said += d.log()
            check(code != 0, "the daemon runs with a bad %s" % name)
            check(word in said, said)
            check(not os.path.exists(d.path("run", "system.ready")))
            d.clean()

    def c03_11_bearers_survive_a_restart(self):
        d = Daemon(gateway=True).start()
        mode = os.stat(d.path("keys", "gateway.ed25519"))
        equal((mode.st_size, stat.S_IMODE(mode.st_mode)), (32, 0o600))
        token = d.bearer()
        equal(d.stop(), 0)
        d.start()
        equal(d.http("GET", "/api/auth/me", token=token)[0].status, 200)
        equal(d.stop(), 0)
        os.unlink(d.path("keys", "gateway.ed25519"))
        d.start()
        equal(d.http("GET", "/api/auth/me", token=token)[0].status, 401)
        d.stop()
        d.clean()

    def a_signal_ends_the_daemon_with_streams_open(self):
        d = Daemon(gateway=True).start()
        streams = [Stream(d, d.bearer(), {"text": "nobody answers"}) for _ in range(5)]
        for s in streams:
            check(s.wait(b"event: ready\n"))
        begin = time.monotonic()
        equal(d.stop(), 0)
        check(time.monotonic() - begin < 10, "it took %.1f s" % (time.monotonic() - begin))
        for s in streams:
            check(s.ended())
        d.clean()


class Serving(Case):
    daemon = {"capsules": ["astrid-echo"], "gateway": True}

    def c03_16_c03_17_paths_methods_and_headers(self):
        token = self.d.bearer()
        for method, path, with_token, status, allow in [
                ("GET", "/nope", False, 404, None), ("POST", "/healthz", False, 405, "GET,HEAD"),
                ("DELETE", "/api/auth/me", False, 401, "GET,HEAD"), ("DELETE", "/api/auth/me", True, 405, "GET,HEAD"),
                ("GET", "/api/auth/me", True, 200, None), ("GET", "/api/auth/me", False, 401, None),
                ("OPTIONS", "/api/auth/me", True, 405, "GET,HEAD")]:
            answer, _ = self.d.http(method, path, token=token if with_token else None)
            equal(answer.status, status, "%s %s" % (method, path))
            equal(answer.getheader("allow"), allow)
            for name, value in SECURITY.items():
                equal(answer.getheader(name), value)
            equal(answer.getheader("strict-transport-security"), None)
            check(answer.getheader("date"))

    def what_is_not_there_yet_says_so_after_the_bearer_check(self):
        equal(self.d.http("GET", "/api/sys/groups")[0].status, 401)
        answer, body = self.d.http("GET", "/api/sys/groups", token=self.d.bearer())
        equal(answer.status, 501)
        equal(json.loads(body), {"error": "not_implemented", "reason": "GET /api/sys/groups is not available in this build"})

    def c03_23_status_and_capsules_come_from_the_kernel(self):
        answer, body = self.d.http("GET", "/api/sys/status", token=self.d.bearer())
        equal(answer.status, 200, body.decode())
        status = json.loads(body)
        equal(status["pid"], self.d.proc.pid)
        equal(status["version"], "0.8.0")
        check("connected_clients" in status and "uptime_secs" in status)
        answer, body = self.d.http("GET", "/api/capsules", token=self.d.bearer())
        equal(answer.status, 200)
        check("astrid-echo" in json.loads(body)["capsules"], body)
        self.d.add_principal("mallory", 'groups = []\n')
        answer, body = self.d.http("GET", "/api/sys/status", token=self.d.bearer("mallory"))
        equal(answer.status, 403)
        reason = json.loads(body)["reason"]
        equal(reason, "permission denied for principal mallory: missing capability system:status")

    def refresh_gives_a_bearer_that_works(self):
        answer, body = self.d.http("POST", "/api/auth/refresh", token=self.d.bearer())
        equal(answer.status, 200)
        fresh = json.loads(body)
        equal(fresh["principal"], "default")
        answer, body = self.d.http("GET", "/api/auth/me", token=fresh["session_token"])
        equal(json.loads(body), {"principal": "default", "expires_at_epoch": fresh["session_expires_at_epoch"]})

    def principals_that_are_unknown_or_disabled_cannot_prompt(self):
        self.d.add_principal("sleeper", "enabled = false\n")
        for who in ["nobody-here", "sleeper"]:
            answer, body = self.d.http("POST", "/api/agent/prompt", {"text": "x"}, self.d.bearer(who))
            equal((answer.status, json.loads(body)), (401, {"error": "unauthorized"}))

    def c03_20_c03_22_bad_bodies(self):
        token = self.d.bearer()
        answer, body = self.d.http("POST", "/api/agent/prompt", b"x" * 65537, token)
        equal((answer.status, json.loads(body)["reason"]), (400, "body read: length limit exceeded"))
        answer, body = self.d.http("POST", "/api/agent/prompt", b"{", token)
        equal(answer.status, 400)
        check(json.loads(body)["reason"].startswith("invalid JSON: "))

    def one_connection_carries_many_prompts(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.d.port, timeout=20)
        token = self.d.bearer()
        for i in range(20):
            conn.request("POST", "/api/agent/prompt", json.dumps({"text": "n %d" % i}), {"Authorization": "Bearer " + token})
            sock = conn.sock
            answer = conn.getresponse()
            equal(answer.getheader("content-type"), "text/event-stream")
            events = harness.parse_sse(answer.read().decode())
            equal([n for n, _ in events], ["ready", "response"])
            equal(events[-1][1]["text"], "n %d" % i)
            check(conn.sock is sock, "a new connection was needed")
        conn.close()

    def c03_51_to_c03_55_probes(self):
        answer, body = self.d.http("GET", "/healthz")
        equal((answer.status, body), (200, b"ok\n"))
        before = self.d.http("GET", "/metrics")[1].decode()
        self.d.http("GET", "/api/auth/me")
        self.d.http("GET", "/some/private/path")
        answer, body = self.d.http("GET", "/metrics")
        text = body.decode()
        equal(answer.getheader("content-type"), "text/plain; version=0.0.4; charset=utf-8")
        name = "astrid_gateway_auth_failures_total "

        def value(t):
            return int([l for l in t.split("\n") if l.startswith(name)][0][len(name):])
        equal(value(text), value(before) + 1)
        check('route="<unmatched>",status="404"' in text)
        check('astrid_build_info{version="0.8.0",' in text)
        for secret in ["private", "mallory", self.d.home]:
            check(secret not in text, secret)

    def the_log_names_routes_and_no_secrets(self):
        token = self.d.bearer()
        self.d.http("GET", "/api/auth/me?principal=very-private", token=token)
        wait_for(lambda: "/api/auth/me" in self.d.log(), 10, "the request's line")
        log = self.d.log()
        check("very-private" not in log and token not in log)

    def c03_42_a_quiet_stream_says_so_every_15_seconds(self):
        d = Daemon(gateway=True).start()  # without capsules nobody answers
        stream = Stream(d, d.bearer(), {"text": "x"})
        check(stream.wait(b"event: ready\n"))
        begin = time.monotonic()
        check(stream.wait(b"\n: keep-alive\n\n", 25), stream.got)
        check(14 < time.monotonic() - begin < 22, "after %.1f s" % (time.monotonic() - begin))
        stream.sock.close()
        d.stop()
        d.clean()


class Tls(Case):
    def set_up(self):
        self.d = Daemon(gateway=True)
        if not shutil.which("openssl"):
            return
        self.cert, self.key = self.d.path("cert.pem"), self.d.path("key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-keyout", self.key, "-out", self.cert, "-days", "2", "-subj", "/CN=localhost"],
                       check=True, stderr=subprocess.DEVNULL)
        with open(self.d.path("etc", "gateway-http.toml"), "a") as f:
            f.write('[tls]\ncert-path = "%s"\nkey-path = "%s"\n' % (self.cert, self.key))
        self.d.start()

    def c03_18_hsts_is_on_every_answer_over_tls(self):
        if not shutil.which("openssl"):
            raise Skipped("openssl is not installed")
        context = ssl.create_default_context(cafile=self.cert)
        context.check_hostname = False
        conn = http.client.HTTPSConnection("127.0.0.1", self.d.port, timeout=20, context=context)
        for path, status in [("/healthz", 200), ("/nope", 404), ("/api/auth/me", 401)]:
            conn.request("GET", path)
            answer = conn.getresponse()
            answer.read()
            equal(answer.status, status)
            equal(answer.getheader("strict-transport-security"), "max-age=63072000; includeSubDomains")
        conn.close()
        check("scheme=https" in self.d.log(), self.d.log())

    def a_missing_key_file_refuses_the_gateway_by_name(self):
        if not shutil.which("openssl"):
            raise Skipped("openssl is not installed")
        equal(self.d.stop(), 0)
        os.unlink(self.key)
        self.d.start()
        check("tls.key-path %s is not a regular file" % self.key in self.d.log(), self.d.log())


harness.main()
