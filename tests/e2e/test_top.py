#!/usr/bin/env python3
"""What operators see: GetActivity, ps, top and /metrics tell the same, to whom they may (spec 08 §5.5, 03 §24.2)."""
import fcntl
import json
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time

import harness
from harness import Case, check, equal, program, wait_for

GUEST = os.path.join(harness.BUILD, "tests", "guests", "hostile")
SENT = {("alice", "user.v1.prompt"): 5, ("alice", "cli.v1.command.execute"): 2, ("bob", "user.v1.prompt"): 3,
        ("carol", "cli.v1.command.execute"): 4}


def second_guest():
    """The same code behind another topic."""
    folder = tempfile.mkdtemp(prefix="astrid-e2e-")
    shutil.copy(os.path.join(GUEST, "hostile.wasm"), folder)
    with open(os.path.join(GUEST, "Capsule.toml")) as f:
        text = f.read()
    with open(os.path.join(folder, "Capsule.toml"), "w") as f:
        f.write(text.replace('name = "hostile"', 'name = "second"').replace('"user.v1.prompt"', '"cli.v1.command.execute"'))
    return folder


def prompt(text):
    return {"type": "user_input", "text": text, "session_id": "default"}


def daemon(**more):
    d = harness.Daemon(capsules=[GUEST], **more)
    folder = second_guest()
    d.install(folder)
    shutil.rmtree(folder)
    return d


def rows(answer, kind):
    return {r[kind]: r for r in answer[kind + "s"]}


class Figures(Case):
    def set_up(self):
        self.d = daemon(gateway=True)
        self.d.add_principal("mallory", 'groups = []\n[quotas]\nmax_timeout_secs = 3\nmax_cpu_fuel_per_sec = 100000000000\n')
        self.d.add_principal("member", 'groups = ["agent"]\n')
        self.d.add_principal("nobody", 'groups = []\n')
        self.d.start()
        self.c = self.d.client()
        for (principal, topic), n in SENT.items():
            for _ in range(n):
                self.c.send(topic, prompt("hello"), principal)
                self.c.recv_topic("agent.v1.response")
        wait_for(lambda: self._total() == sum(SENT.values()), what="the last call's end")

    def _activity(self, principal="default", **params):
        answer = self.d.client().request("GetActivity", params or None, principal)
        equal(answer["status"], "Activity", answer)
        return answer["data"]

    def _total(self):
        return sum(r["calls"] for r in self._activity()["principals"])

    def _metric(self, name, capsule):
        """The sum of a family's series of one capsule."""
        text = self.d.http("GET", "/metrics")[1].decode()
        values = re.findall(r'^%s\{capsule="%s"[^}]*\} (\d+)$' % (name, capsule), text, re.M)
        return sum(int(v) for v in values)

    def numbers_agree_with_what_was_sent(self):
        a = self._activity()
        equal((a["scope"], a["capsules_total"], a["pid"]), ("all", 2, self.d.proc.pid))
        for who in ["alice", "bob", "carol"]:
            equal(rows(a, "principal")[who]["calls"], sum(n for (p, _), n in SENT.items() if p == who), who)
        for name, topic in [("hostile", "user.v1.prompt"), ("second", "cli.v1.command.execute")]:
            row = rows(a, "capsule")[name]
            equal(row["calls"], sum(n for (_, t), n in SENT.items() if t == topic), name)
            equal((row["state"], row["failures"], row["dropped"], row["queued"]), ("ready", 0, 0, 0))
            check(row["memory_peak_bytes"] >= 65536, row)
        fuel = sum(r["cpu_fuel"] for r in a["capsules"])
        check(fuel > 0)
        equal(sum(r["cpu_fuel"] for r in a["principals"]) + a["other"]["cpu_fuel"], fuel, "fuel of all")

    def ps_shows_the_same_and_keeps_its_old_members(self):
        ps = json.loads(self.d.cli("ps", "--format", "json").stdout)
        for name in ["astrid-capsule-cli", "hostile", "second"]:
            check(any(r["capsule"] == name and r["state"] == "ready" for r in ps), ps)
        equal([r["capsule"] for r in ps], sorted(r["capsule"] for r in ps))
        a = self._activity()
        for name in ["hostile", "second"]:
            row = [r for r in ps if r["capsule"] == name][0]
            for key in ["calls", "cpu_fuel", "memory_peak_bytes", "dropped", "failures", "restarts"]:
                equal(row[key], rows(a, "capsule")[name][key], key)
        text = self.d.cli("ps").stdout
        check(re.search(r"^hostile +ready +8 ", text, re.M), text)
        check(re.search(r"^alice +7 ", text, re.M), text)

    def c03_55_metrics_agree_and_name_no_principal(self):
        a = self._activity()
        for name, row in rows(a, "capsule").items():
            equal(self._metric("astrid_capsule_invocation_duration_seconds_count", name), row["calls"], name)
            for family, key in [("cpu_fuel_total", "cpu_fuel"), ("memory_peak_bytes", "memory_peak_bytes"),
                                ("queued_events", "queued"), ("running_calls", "running")]:
                equal(self._metric("astrid_capsule_" + family, name), row[key], family)
        text = self.d.http("GET", "/metrics")[1].decode()
        check(re.search(r"^astrid_principals_known %d$" % a["principals_total"], text, re.M), text)
        for who in ["alice", "bob", "carol"]:
            check(who not in text, who)

    def top_once_prints_rates_and_leaves(self):
        done = self.d.cli("top", "--once", "--interval", "0.1")
        equal(done.returncode, 0, done.stderr)
        check(done.stdout.startswith("astrid 0.8.0, up "), done.stdout)
        for line in [r"^CAPSULE .*FUEL/S\*.*RST$", r"^second +ready ", r"^PRINCIPAL .*CALLS/S", r"^carol +4 "]:
            check(re.search(line, done.stdout, re.M), (line, done.stdout))
        check("\x1b" not in done.stdout, "escape codes outside a terminal")
        equal(self.d.cli("top", "--interval", "0.1").stdout.count("CAPSULE"), 1)  # no terminal: the same

    def top_json_is_an_object_a_refresh(self):
        one = json.loads(self.d.cli("top", "-n", "--interval", "0.1", "--format", "json").stdout)
        equal(sorted(rows(one, "capsule")), ["hostile", "second"])
        p = subprocess.Popen([program("astrid"), "top", "--format", "json", "--interval", "0.2"], env=self.d.env,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        first = json.loads(p.stdout.readline())
        before = time.monotonic()
        for _ in range(4):
            self.c.send("user.v1.prompt", prompt("rate"), "bob")
            self.c.recv_topic("agent.v1.response")
        now, counted = first, 0
        while counted < 4:  # the calls show up in the rates of the refreshes they happened in, once
            check(time.monotonic() - before < 10, "the rates miss calls: %r" % now)
            now = json.loads(p.stdout.readline())
            check(now["elapsed_secs"] >= 0.19, now["elapsed_secs"])
            counted += round(rows(now, "principal")["bob"]["calls_per_sec"] * now["elapsed_secs"])
        equal(counted, 4)
        equal(rows(now, "principal")["bob"]["calls"], rows(first, "principal")["bob"]["calls"] + 4)
        p.stdout.close()  # the reader leaves: so does top
        p.wait(10)

    def a_trap_is_a_failure(self):
        before = self._activity()
        self.c.send("user.v1.prompt", prompt("trap"), "mallory")
        self.c.send("user.v1.prompt", prompt("hello"), "mallory")
        self.c.recv_topic("agent.v1.response")
        wait_for(lambda: rows(self._activity(), "principal")["mallory"]["calls"] == 2, what="the second call's end")
        a = self._activity()
        equal(rows(a, "principal")["mallory"]["failures"], 1)
        equal(rows(a, "capsule")["hostile"]["failures"], rows(before, "capsule")["hostile"]["failures"] + 1)
        equal(rows(a, "capsule")["second"]["failures"], 0)
        equal(self._metric("astrid_capsule_failures_total", "hostile"), rows(a, "capsule")["hostile"]["failures"])

    def c04_30_waiting_and_dropped_events_are_visible(self):
        m = self.d.client()
        m.send("user.v1.prompt", prompt("loop"), "mallory")  # ended after three seconds
        wait_for(lambda: rows(self._activity(), "principal")["mallory"]["running"] == 1, what="the loop")
        for _ in range(70):
            m.send("user.v1.prompt", prompt("hello"), "mallory")
        equal(m.request("GetActivity", principal="mallory")["status"], "Error")  # and all 70 were read
        a = self._activity()
        equal(rows(a, "principal")["mallory"]["queued"], 64)
        equal(rows(a, "principal")["mallory"]["dropped"], 6)
        equal(rows(a, "capsule")["hostile"]["queued"], 64)
        equal(rows(a, "capsule")["hostile"]["dropped"], 6)
        equal(self._metric("astrid_dispatch_dropped_total", "hostile"), 6)
        equal(self._metric("astrid_capsule_queued_events", "hostile"), 64)
        for _ in range(64):
            m.recv_topic("agent.v1.response", 20)
        wait_for(lambda: rows(self._activity(), "principal")["mallory"]["running"] == 0, what="quiet")
        equal(rows(self._activity(), "principal")["mallory"]["queued"], 0)
        m.close()

    def a_member_sees_only_itself(self):
        self.c.send("user.v1.prompt", prompt("mine"), "member")
        self.c.recv_topic("agent.v1.response")
        wait_for(lambda: rows(self._activity(), "principal").get("member", {}).get("calls") == 1, what="its call's end")
        a = self._activity("member")
        equal(a["scope"], "own")
        equal([(r["principal"], r["calls"]) for r in a["principals"]], [("member", 1)])
        check("other" not in a, a)
        for row in a["capsules"]:
            equal(sorted(row), ["capsule", "is_run_loop", "queued", "running", "state"])
        for who in ["alice", "bob", "carol"]:
            check(who not in json.dumps(a), who)
        answer = self.d.client().request("GetActivity", principal="nobody")
        equal(answer, {"status": "Error",
                       "data": "permission denied for principal nobody: missing capability self:capsule:list"})

    def an_answer_reaches_no_other_principal_s_client(self):
        watcher = self.d.client()
        watcher.request("GetActivity", principal="member")  # from here on it is the member's client
        operator = self.d.client()
        equal(operator.request("GetActivity", suffix="activity.seen")["status"], "Activity")
        operator.request("GetStatus", suffix="status.after")  # for everybody, and later
        seen = []
        while not seen or seen[-1] != "astrid.v1.response.status.after":
            seen.append(watcher.recv()["topic"])
        check("astrid.v1.response.activity.seen" not in seen, seen)

    def a_member_s_ps_and_top_work_without_the_others(self):
        path = self.d.path("run", "cli-context.toml")
        with open(path, "w") as f:
            f.write('active_agent = "member"\n')
        try:
            for words in [["ps"], ["top", "-n", "--interval", "0.1"]]:
                done = self.d.cli(*words)
                equal(done.returncode, 0, done.stderr)
                check(re.search(r"^hostile +ready +- ", done.stdout, re.M), done.stdout)
                check("alice" not in done.stdout and "member" in done.stdout, done.stdout)
            check({"capsule": "hostile", "state": "ready", "queued": 0, "running": 0} in
                  json.loads(self.d.cli("ps", "--format", "json").stdout))
        finally:
            os.unlink(path)

    def answers_are_cut_to_the_asked_size_and_sums_stay_whole(self):
        whole = self._activity()
        calls = sum(r["calls"] for r in whole["principals"]) + whole["other"]["calls"]
        for sort, first in [("calls", None), ("drops", None), ("memory", None), ("queue", None), ("cpu", None)]:
            a = self._activity(limit=1, sort=sort)
            equal((len(a["principals"]), len(a["capsules"]), a["sort"]), (1, 1, sort))
            equal(a["principals_total"], whole["principals_total"])
            equal(a["principals"][0]["calls"] + a["other"]["calls"], calls)
        for params in [{"limit": 0}, {"limit": 501}, {"limit": -1}, {"limit": "5"}, {"sort": "names"}, {"sort": 5}]:
            answer = self.d.client().request("GetActivity", params)
            equal(answer["status"], "Error", params)
            check(answer["data"].startswith("GetActivity: "), answer)

    def usage_errors_exit_two(self):
        for words, text in [(["top", "--interval", "0"], "--interval takes"), (["top", "--interval", "x"], "--interval takes"),
                            (["top", "--interval", "nan"], "--interval takes"), (["top", "--sort", "\x1b[2J"], "not '\\x1b[2J'"),
                            (["top", "extra"], "unexpected argument")]:
            done = self.d.cli(*words)
            equal((done.returncode, done.stdout), (2, ""), words)
            check(text in done.stderr, done.stderr)


class Terminal:
    """A pseudo terminal with a program on it, and what its screen shows."""

    def __init__(self, d, *words, rows=24, columns=80, term="xterm"):
        self.master, self.slave = os.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.raw = b""
        self.fed = 0
        self.column = self.row = 0
        slave = self.slave

        def take_terminal():
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.proc = subprocess.Popen([program("astrid"), *words], env=dict(d.env, TERM=term), stdin=slave, stdout=slave,
                                     stderr=slave, preexec_fn=take_terminal)

    def resize(self, rows, columns):
        self.rows, self.columns = rows, columns
        self.cells = [[" "] * columns for _ in range(rows)]
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds=0.05):
        while select.select([self.master], [], [], seconds)[0]:
            self.raw += os.read(self.master, 65536)
        self._feed()

    def _feed(self):
        token = re.compile(rb"\x1b\[([?>]?)([\d;]*)([a-zA-Z])|\x1b[()].|\x1b[=>78c]|([\x20-\x7e]+)|([\r\n\b\x0f\x0e\x07])")
        while self.fed < len(self.raw):
            m = token.match(self.raw, self.fed)
            if not m:
                return  # the rest of a sequence is still to come
            self.fed = m.end()
            private, numbers, command, text, control = m.groups()
            if text:
                self._put(text.decode())
            elif control == b"\r":
                self.column = 0
            elif control == b"\n":
                self.row = min(self.row + 1, self.rows - 1)
            elif control == b"\b":
                self.column = max(self.column - 1, 0)
            elif command and not private:
                self._command(command.decode(), [int(n) if n else 0 for n in numbers.decode().split(";")])

    def _put(self, text):
        for c in text:
            if self.row < self.rows and self.column < self.columns:
                self.cells[self.row][self.column] = c
            self.last = c
            self.column += 1

    def _command(self, command, numbers):
        n = max(numbers[0], 1)
        if command == "H":
            self.row = n - 1
            self.column = (numbers[1] if len(numbers) > 1 and numbers[1] else 1) - 1
        elif command == "d":
            self.row = n - 1
        elif command == "G":
            self.column = n - 1
        elif command in "ABCD":
            self.row += {"A": -n, "B": n}.get(command, 0)
            self.column += {"C": n, "D": -n}.get(command, 0)
        elif command == "b":
            self._put(self.last * n)
        elif command == "X":
            for i in range(self.column, min(self.column + n, self.columns)):
                self.cells[self.row][i] = " "
        elif command == "P":
            line = self.cells[self.row]
            self.cells[self.row] = line[:self.column] + line[self.column + n:] + [" "] * n
        elif command == "@":
            line = self.cells[self.row]
            self.cells[self.row] = (line[:self.column] + [" "] * n + line[self.column:])[:self.columns]
        elif command == "K":
            span = range(0, self.column + 1) if numbers[0] == 1 else range(self.column, self.columns)
            for i in span:
                self.cells[self.row][i] = " "
        elif command == "J":
            for r in range(0 if numbers[0] == 2 else self.row, self.rows):
                for i in range(self.column if r == self.row and numbers[0] != 2 else 0, self.columns):
                    self.cells[r][i] = " "

    def text(self):
        self.read()
        return "\n".join("".join(line).rstrip() for line in self.cells)

    def shows(self, pattern, seconds=10):
        deadline = time.monotonic() + seconds
        while True:
            text = self.text()
            if re.search(pattern, text, re.M):
                return text
            if self.proc.poll() is not None or time.monotonic() > deadline:
                raise harness.Failed("%r is not on the screen (exit %r):\n%s" % (pattern, self.proc.poll(), text))

    def press(self, keys):
        os.write(self.master, keys.encode())

    def ended(self):
        """The exit code; the terminal is as it was."""
        deadline = time.monotonic() + 10
        while self.proc.poll() is None:
            check(time.monotonic() < deadline, "it did not end:\n" + self.text())
            self.read(0.02)
        self.read()
        check(self.raw.rfind(b"\x1b[?1049l") > self.raw.rfind(b"\x1b[?1049h"), "the alternate screen was not left")
        check(self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l") or b"\x1b[?12l\x1b[?25h" in self.raw[-200:],
              "the cursor stays hidden")
        equal(termios.tcgetattr(self.slave), self.before, "the terminal's modes")
        return self.proc.returncode

    def close(self):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        os.close(self.master)
        os.close(self.slave)


class Screen(Case):
    def set_up(self):
        self.d = daemon().start()
        self.c = self.d.client()
        for who in ["alice", "bob"] + ["p%02d" % i for i in range(30)]:
            self.c.send("user.v1.prompt", prompt("hello"), who)
            self.c.recv_topic("agent.v1.response")

    def keys_choose_the_order_and_q_leaves(self):
        t = Terminal(self.d, "top", "--interval", "0.2")
        text = t.shows(r"^CAPSULE .*FUEL/S\*")
        check(b"\x1b[?1049h" in t.raw, "no alternate screen")
        for part in [r"^astrid 0\.8\.0, up ", r"^order: cpu, every 0\.2 s", r"^hostile +ready ", r"^PRINCIPAL "]:
            check(re.search(part, text, re.M), (part, text))
        for key, name, heading in [("s", "calls", r"CALLS/S\*"), ("m", "memory", r"MEM\*"), ("Q", "queue", r"QUEUE\*"),
                                   ("d", "drops", r"DROPS\*"), ("c", "cpu", r"FUEL/S\*")]:
            t.press(key)
            text = t.shows(r"^order: %s," % name)
            t.shows(r"^CAPSULE .*%s" % heading)
            t.shows(r"^PRINCIPAL .*%s" % heading)
        t.press("x")  # no key: nothing happens
        t.press("q")
        equal(t.ended(), 0)
        t.close()

    def what_does_not_fit_is_one_row_and_a_resize_shows_more(self):
        t = Terminal(self.d, "top", "--interval", "0.2", rows=14)
        # 14 rows: two lines, a gap, three of capsules, a gap, a heading, 5 principals, the others.
        t.shows(r"^other \(2[0-9]\) ")
        t.resize(50, 100)
        text = t.shows(r"^p29 ")
        check("other (" not in text, text)
        t.resize(5, 30)
        text = t.shows(r"\Aastrid 0\.8\.0, up [^\n]{1,15}\n")
        check(all(len(line) <= 30 for line in text.split("\n")), text)
        t.press("q")
        equal(t.ended(), 0)
        t.close()

    def a_signal_gives_the_terminal_back_and_ends_as_a_signal(self):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the program would inherit that it is ignored
        for signum, want in [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP), (signal.SIGINT, 0),
                             (signal.SIGABRT, -signal.SIGABRT), (signal.SIGSEGV, -signal.SIGSEGV)]:
            t = Terminal(self.d, "top")
            t.shows("^PRINCIPAL")
            t.proc.send_signal(signum)
            equal(t.ended(), want, signal.Signals(signum).name)
            t.close()

    def control_c_leaves(self):
        t = Terminal(self.d, "top")
        t.shows("^PRINCIPAL")
        t.press("\x03")
        equal(t.ended(), 0)
        t.close()

    def a_terminal_without_a_cursor_gets_one_table(self):
        t = Terminal(self.d, "top", "--interval", "0.1", term="dumb", rows=60)
        t.shows("has no full screen")
        t.shows("^PRINCIPAL")
        check(t.proc.wait(10) == 0)
        check(b"\x1b[" not in t.raw.replace(b"\x1b[33m", b"").replace(b"\x1b[0m", b""), t.raw)
        t.close()

    def numbers_on_the_screen_are_live(self):
        t = Terminal(self.d, "top", "--interval", "0.2", rows=50)
        t.shows(r"^bob +1 ")
        for _ in range(6):
            self.c.send("user.v1.prompt", prompt("hello"), "bob")
            self.c.recv_topic("agent.v1.response")
        t.shows(r"^bob +7 ")
        t.press("q")
        equal(t.ended(), 0)
        t.close()


class Gone(Case):
    def set_up(self):
        self.d = daemon().start()

    def top_outlives_a_restart_of_the_daemon(self):
        t = Terminal(self.d, "top", "--interval", "0.2")
        t.shows("^PRINCIPAL|^CAPSULE")
        equal(self.d.stop(), 0)
        text = t.shows("^no answer, trying again: ")
        check(re.search("^hostile ", text, re.M), "the last figures stay: " + text)
        self.d.start()
        t.shows(r"^astrid 0\.8\.0, up ")
        t.press("q")
        equal(t.ended(), 0)
        t.close()

    def without_a_daemon_there_is_an_answer(self):
        self.d.stop()
        done = self.d.cli("top")
        equal((done.returncode, done.stdout), (0, "i No Astrid daemon is running.\n"))
        equal(json.loads(self.d.cli("top", "--format", "json").stdout), {"running": False})
        equal(json.loads(self.d.cli("ps", "--format", "json").stdout), [])


harness.main()
