"""What end-to-end tests share: a real daemon in a private home, clients of its doors, TAP.

A test file defines subclasses of Case with methods named like c01_13_… or a sentence, and ends with `harness.main()`.
A failed test keeps its home and prints where it is.
"""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("ASTRID_BUILD", os.path.join(ROOT, "build")))
NIL = "00000000-0000-0000-0000-000000000000"


class Failed(AssertionError):
    pass


class Skipped(Exception):
    pass


def check(cond, text="condition does not hold"):
    if not cond:
        raise Failed(text)


def equal(got, want, what=""):
    if got != want:
        raise Failed("%s: got %r, want %r" % (what or "values differ", got, want))


def wait_for(predicate, seconds=10.0, what="event"):
    """Polls a condition that the daemon makes true; the only kind of waiting that tests do."""
    deadline = time.monotonic() + seconds
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed("%s did not come within %.0f s" % (what, seconds))
        time.sleep(0.005)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def program(name):
    return os.path.join(BUILD, name)


def tutorial():
    """The first two code blocks of the tutorial: hello.c and its manifest."""
    path = os.path.join(ROOT, "docs", "writing-a-capsule.md")
    with open(path) as f:
        text = f.read()
    return re.findall(r"```c\n(.*?)```", text, re.S)[0], re.findall(r"```toml\n(.*?)```", text, re.S)[0]


def capsule(name):
    return os.path.join(BUILD, "capsules", name)


class Closed(Exception):
    """The daemon closed the connection."""


class Client:
    """A raw client of the Unix socket: frames and the handshake."""

    def __init__(self, home, handshake=True):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(os.path.join(home, "run", "system.sock"))
        self.home = home
        self.buffer = b""
        if handshake:
            answer = self.handshake()
            equal(answer["status"], "ok", "handshake")

    def token(self):
        with open(os.path.join(self.home, "run", "system.token")) as f:
            return f.read()

    def handshake(self, token=None, version=1, client="test"):
        self.send_raw({"token": self.token() if token is None else token, "protocol_version": version,
                       "client_version": client})
        return self.recv()

    def send_bytes(self, data):
        self.sock.sendall(data)

    def send_raw(self, value):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_bytes(struct.pack(">I", len(body)) + body)

    def send(self, topic, payload, principal=None):
        frame = {"topic": topic, "payload": payload, "signature": None, "source_id": NIL,
                 "timestamp": "2026-06-11T10:00:00Z", "seq": 0}
        if principal is not None:
            frame["principal"] = principal
        self.send_raw(frame)

    def read_exactly(self, n):
        while len(self.buffer) < n:
            data = self.sock.recv(65536)
            if not data:
                raise Closed()
            self.buffer += data
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def recv(self, timeout=10):
        self.sock.settimeout(timeout)
        n = struct.unpack(">I", self.read_exactly(4))[0]
        return json.loads(self.read_exactly(n))

    def recv_topic(self, topic, timeout=10):
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed("no frame on %s within %.0f s" % (topic, timeout))
            try:
                frame = self.recv(left)
            except socket.timeout:
                raise Failed("no frame on %s within %.0f s" % (topic, timeout))
            if frame["topic"] == topic:
                return frame

    def request(self, method, params=None, principal=None, suffix=None, timeout=10):
        suffix = suffix or "%s.%s" % (re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower(), uuid.uuid4().hex)
        body = {"type": "raw_json", "method": method}
        if params is not None:
            body["params"] = params
        self.send("astrid.v1.request." + suffix, body, principal)
        return self.recv_topic("astrid.v1.response." + suffix, timeout)["payload"]

    def prompt(self, text, session=None, principal=None, timeout=20):
        """All agent frames of one prompt, up to the final one."""
        session = session or str(uuid.uuid4())
        self.send("user.v1.prompt", {"type": "user_input", "text": text, "session_id": session}, principal)
        frames = []
        while True:
            frame = self.recv(timeout)
            if frame["topic"] in ("agent.v1.response", "agent.v1.stream.delta"):
                frames.append(frame)
                if frame["topic"] == "agent.v1.response" and frame["payload"].get("is_final"):
                    return frames

    def is_closed(self, timeout=10):
        """True once the daemon has closed the connection without sending anything."""
        self.sock.settimeout(timeout)
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            return True
        except socket.timeout:
            return False
        check(data == b"", "unexpected bytes: %r" % data[:200])
        return True

    def nothing_comes(self, seconds=0.3):
        """Nothing but silence for a while: the negative of a receive."""
        self.sock.settimeout(seconds)
        try:
            frame = self.recv(seconds)
        except socket.timeout:
            return True
        raise Failed("unexpected frame: %r" % frame)

    def close(self):
        self.sock.close()


class Daemon:
    def __init__(self, capsules=(), gateway=False, home=None, args=(), env=None, gateway_config="", config=None):
        self.home = home or tempfile.mkdtemp(prefix="astrid-e2e-")
        self.owns_home = home is None
        self.args = list(args)
        self.env = dict(os.environ, ASTRID_HOME=self.home)
        self.env.pop("ASTRID_IDLE_TIMEOUT_SECS", None)
        self.env.update(env or {})
        self.proc = None
        self.port = None
        if gateway:
            self.port = free_port()
            os.makedirs(os.path.join(self.home, "etc"), mode=0o700, exist_ok=True)
            with open(os.path.join(self.home, "etc", "gateway-http.toml"), "w") as f:
                f.write('enabled = true\nlisten = "127.0.0.1:%d"\n%s' % (self.port, gateway_config))
        if config is not None:
            os.makedirs(os.path.join(self.home, "etc"), mode=0o700, exist_ok=True)
            with open(os.path.join(self.home, "etc", "config.toml"), "w") as f:
                f.write(config)
        for source in capsules:
            self.install(source)

    def path(self, *parts):
        return os.path.join(self.home, *parts)

    def install(self, source):
        if not os.path.sep in source:
            source = capsule(source)
        done = self.cli("capsule", "install", source)
        equal(done.returncode, 0, "install %s: %s" % (source, done.stderr))

    def cli(self, *words, stdin=None, timeout=60, env=None):
        return subprocess.run([program("astrid"), *words], env=dict(self.env, **(env or {})), input=stdin, text=True,
                              stdin=subprocess.DEVNULL if stdin is None else None, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=timeout)

    def spawn(self):
        # A file, not a pipe: nobody reads while the daemon runs, and a full pipe would stop it.
        self.output = tempfile.TemporaryFile()
        self.proc = subprocess.Popen([program("astrid-daemon"), "--workspace", self.home, *self.args], env=self.env,
                                     stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output,
                                     start_new_session=True)
        return self

    def said(self):
        """What the daemon wrote to stdout and stderr so far."""
        return os.pread(self.output.fileno(), 1 << 20, 0).decode(errors="replace")

    def _ended(self):
        said = self.said()
        self.output.close()
        self.proc = None
        if "Sanitizer" in said or "runtime error:" in said:
            raise Failed("the daemon's sanitizer reports: %s" % said)
        return said

    def refuses_to_boot(self, seconds=30):
        """Starts a daemon that must not come up; its exit code and output."""
        code = self.spawn().proc.wait(seconds)
        return code, self._ended()

    def start(self, seconds=60):
        ready = self.path("run", "system.ready")
        if os.path.exists(ready):
            os.unlink(ready)
        self.spawn()

        def is_up():
            if self.proc.poll() is not None:
                raise Failed("the daemon exited with %d: %s" % (self.proc.returncode, self.said()))
            return os.path.exists(ready)

        wait_for(is_up, seconds, "readiness")
        return self

    def stop(self, signum=signal.SIGTERM, seconds=20):
        if self.proc is None:
            return None
        if self.proc.poll() is None:
            self.proc.send_signal(signum)
        try:
            code = self.proc.wait(seconds)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise Failed("the daemon did not stop within %d s" % seconds)
        self._ended()
        return code

    def kill(self):
        if self.proc is not None:
            self.proc.kill()
            self.proc.wait()
            self._ended()

    def client(self, handshake=True):
        return Client(self.home, handshake)

    def log(self):
        folder = self.path("log")
        text = ""
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            with open(os.path.join(folder, name), errors="replace") as f:
                text += f.read()
        return text

    def add_principal(self, name, text='groups = ["agent"]\n'):
        """A profile file: the gateway serves only principals that exist."""
        folder = self.path("etc", "profiles")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(os.path.join(folder, name + ".toml"), "w") as f:
            f.write(text)

    def bearer(self, principal="default", seconds=3600):
        done = self.cli("gateway", "token", "--principal", principal, "--seconds", str(seconds))
        equal(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def http(self, method, path, body=None, token=None, headers=None, timeout=20):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        headers = dict(headers or {})
        if token:
            headers["Authorization"] = "Bearer " + token
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        conn.request(method, path, body, headers)
        answer = conn.getresponse()
        data = answer.read()
        conn.close()
        return answer, data

    def http_prompt(self, text, token, session=None, timeout=30, context=None):
        """[(event, data)] of one prompt stream, to its end."""
        body = {"text": text}
        if session is not None:
            body["session_id"] = session
        if context is not None:
            body["context"] = context
        answer, data = self.http("POST", "/api/agent/prompt", body, token, timeout=timeout)
        equal(answer.status, 200, data.decode())
        return parse_sse(data.decode())

    def clean(self):
        if self.proc is not None and self.proc.poll() is None:
            equal(self.stop(), 0, "the daemon's exit code")
        self.kill()
        if self.owns_home:
            shutil.rmtree(self.home, ignore_errors=True)


def parse_sse(text):
    events, name = [], None
    for line in text.split("\n"):
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            events.append((name, json.loads(line[6:])))
    return events


class Sse:
    """An open event stream: events one by one, or None at its end. Raises socket.timeout."""

    def __init__(self, daemon, path, token, method="GET", body=None, headers=(), timeout=20, sock=None):
        self.sock = sock or socket.create_connection(("127.0.0.1", daemon.port), timeout=timeout)
        data = json.dumps(body).encode() if body is not None else b""
        lines = ["%s %s HTTP/1.1" % (method, path), "Host: x", "Authorization: Bearer " + token]
        lines += ["%s: %s" % h for h in headers]
        if body is not None:
            lines.append("Content-Length: %d" % len(data))
        self.sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        self.raw, self.text, self.is_over = b"", "", False
        self.comments = 0

    def fileno(self):
        return self.sock.fileno()

    def _more(self):
        data = self.sock.recv(65536)
        if not data:
            raise Closed()
        self.raw += data

    def head(self):
        while b"\r\n\r\n" not in self.raw:
            self._more()
        head, self.raw = self.raw.split(b"\r\n\r\n", 1)
        self.status = int(head.split()[1])
        return head.decode()

    def _chunk(self):
        while b"\r\n" not in self.raw:
            self._more()
        size, rest = self.raw.split(b"\r\n", 1)
        n = int(size, 16)
        while len(rest) < n + 2:
            self._more()
            rest = self.raw.split(b"\r\n", 1)[1]
        self.raw = rest[n + 2:]
        if n == 0:
            self.is_over = True
        self.text += rest[:n].decode()

    def next_block(self):
        """The fields of the next event as a dictionary; None at the end of the stream."""
        while True:
            while "\n\n" in self.text:
                block, self.text = self.text.split("\n\n", 1)
                if block.startswith(":"):
                    self.comments += 1
                    continue
                return dict(line.split(": ", 1) for line in block.split("\n"))
            if self.is_over:
                return None
            try:
                self._chunk()
            except (Closed, ConnectionResetError):
                return None

    def next(self, timeout=20):
        """(event, data), or None at the end."""
        self.sock.settimeout(timeout)
        block = self.next_block()
        return block and (block["event"], json.loads(block["data"]))

    def close(self):
        self.sock.close()


class Case:
    """Subclasses hold tests; `daemon` settings make one daemon for the whole class, started once."""
    daemon = None  # keyword arguments of Daemon, or None

    def set_up(self):
        self.d = Daemon(**self.daemon).start() if self.daemon is not None else None

    def tear_down(self, failed):
        if self.d is None:
            return
        if failed:
            print("# home kept: %s" % self.d.home)
            self.d.kill()
        else:
            self.d.clean()


HELPERS = {"set_up", "tear_down"}


def tests_of(cls):
    return [n for n, v in vars(cls).items() if callable(v) and not n.startswith("_") and n not in HELPERS]


def run_case(cls, names, number):
    case, failed = cls(), 0
    try:
        case.set_up()
    except Exception:
        for name in names:
            number += 1
            print("not ok %d - %s" % (number, name))
        print("".join("# " + l + "\n" for l in traceback.format_exc().splitlines()))
        if getattr(case, "d", None):
            case.tear_down(True)
        return len(names), number
    for name in names:
        number += 1
        try:
            getattr(case, name)()
            print("ok %d - %s" % (number, name))
        except Skipped as why:
            print("ok %d - %s # SKIP %s" % (number, name, why))
        except Exception:
            failed += 1
            print("not ok %d - %s" % (number, name))
            print("".join("# " + l + "\n" for l in traceback.format_exc().splitlines()), end="")
        sys.stdout.flush()
    try:
        case.tear_down(failed > 0)
    except Exception:
        failed += 1
        print("not ok %d - tear_down" % number)
        print("".join("# " + l + "\n" for l in traceback.format_exc().splitlines()), end="")
    return failed, number


def main():
    cases = [v for v in vars(sys.modules["__main__"]).values()
             if isinstance(v, type) and issubclass(v, Case) and v is not Case]
    only = sys.argv[1:]
    plan = [(c, [n for n in tests_of(c) if not only or any(o in n for o in only)]) for c in cases]
    plan = [(c, n) for c, n in plan if n]
    print("1..%d" % sum(len(n) for _, n in plan))
    failed = number = 0
    for cls, names in plan:
        bad, number = run_case(cls, names, number)
        failed += bad
    sys.exit(1 if failed else 0)
