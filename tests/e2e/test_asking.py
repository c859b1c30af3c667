#!/usr/bin/env python3
"""Capsules that ask: for approval, answered over the socket and by the command line; for settings, at install."""
import json
import os
import pty
import select
import signal
import subprocess
import threading
import time

import harness
from harness import Case, check, equal, wait_for

ASKING = os.path.join(harness.BUILD, "tests", "guests", "asking")
APPROVAL = "astrid.v1.approval"


class Asking(Case):
    def set_up(self):
        self.d = harness.Daemon()
        for name in ["alice", "bob"]:
            self.d.add_principal(name)
        self.d.add_principal("guest", "groups = []\n")
        self.d.start()
        self._install("")

    def _install(self, stdin, *flags):
        done = self.d.cli(*flags, "capsule", "install", ASKING, stdin=stdin)
        equal(done.returncode, 0, done.stdout + done.stderr)
        return done

    def _ask(self, c, text, principal):
        c.send("user.v1.prompt", {"type": "user_input", "text": text, "session_id": "default"}, principal)

    def _said(self, c):
        return c.recv_topic("agent.v1.response", 20)["payload"]["text"]

    def _request(self, c):
        return c.recv_topic(APPROVAL)["payload"]

    def _answer(self, c, request, decision, principal=None):
        c.send("%s.response.%s" % (APPROVAL, request["request_id"]),
               {"type": "approval_response", "request_id": request["request_id"], "decision": decision}, principal)

    def _decide(self, c, text, principal, decision):
        self._ask(c, text, principal)
        self._answer(c, self._request(c), decision)
        return self._said(c)

    def c05_41_c09_21_a_client_answers_over_the_socket(self):
        c = self.d.client()
        self._ask(c, "git push|git push origin main", "alice")
        frame = c.recv_topic(APPROVAL)
        equal(sorted(frame), ["payload", "source_id", "topic"])
        equal(frame["source_id"], harness.NIL)
        request = frame["payload"]
        equal({k: v for k, v in request.items() if k != "request_id"},
              {"type": "approval_required", "action": "git push", "resource": "git push origin main",
               "reason": "Capsule 'asking' requests approval"})
        self._answer(c, request, "approve")  # unstamped, as original clients do
        equal(self._said(c), "once go")
        equal(self._decide(c, "git push|git push origin main", "alice", "deny"), "denied stop")
        equal(self._decide(c, "git push|git push origin main", "alice", "whatever"), "denied stop")
        c.close()

    def c05_42_c05_43_an_allowance_lasts_as_long_as_the_connection(self):
        c = self.d.client()
        equal(self._decide(c, "git push|git push x", "alice", "approve_session"), "session go")
        self._ask(c, "git push|git push origin main", "alice")
        equal(self._said(c), "allowance go")
        equal(self._decide(c, "git push|git push origin main; rm x", "alice", "deny"), "denied stop")
        equal(self._decide(c, "git push|git push origin main\nrm x", "alice", "deny"), "denied stop")
        b = self.d.client()
        self._ask(b, "git push|git push origin main", "bob")
        self._answer(b, self._request(b), "deny")
        equal(self._said(b), "denied stop")
        b.close()
        second = self.d.client()
        self._ask(second, "git push|git push again", "alice")
        equal(self._said(second), "allowance go")
        c.close()
        self._ask(second, "git push|git push again", "alice")  # one of two is gone
        equal(self._said(second), "allowance go")
        second.close()
        wait_for(lambda: "session state cleared" in self.d.log() and
                 "principal=alice" in self.d.log().split("session state cleared")[-1].split("\n")[0], what="the end of the session")
        third = self.d.client()
        equal(self._decide(third, "git push|git push again", "alice", "deny"), "denied stop")
        third.close()

    def requests_answers_and_uses_are_in_the_audit_log(self):
        c = self.d.client()
        equal(self._decide(c, "tar x|tar x y", "alice", "approve"), "once go")
        equal(self._decide(c, "tar x|tar x y", "alice", "no"), "denied stop")
        equal(self._decide(c, "tar x|tar x y", "alice", "approve_session"), "session go")
        self._ask(c, "tar x|tar x z", "alice")
        equal(self._said(c), "allowance go")
        c.close()
        rows = []

        def are_stored():  # nobody waits for the disk with an approval
            done = self.d.cli("audit", "export")
            equal(done.returncode, 0, done.stderr)
            exported = [json.loads(line) for line in done.stdout.splitlines()]
            rows[:] = [r for r in exported if r["action"].get("action", r["action"].get("action_type")) == "tar x"]
            return len(rows) >= 7

        wait_for(are_stored, what="the rows")
        check(all(r["principal"] == "alice" for r in rows), rows)
        for r in rows:  # how it is signed, not what it says
            del r["action"]["form"], r["action"]["outcome_hash"]
        asked = ({"type": "approval_requested", "action_type": "tar x", "resource": "tar x y"}, "not_required", "success")
        granted = lambda resource, scope: {"type": "approval_granted", "action": "tar x", "resource": resource, "scope": scope}
        equal([(r["action"], r["authorization"]["type"], r["outcome"]["status"]) for r in rows],
              [asked, (granted("tar x y", "once"), "user_approval", "success"),
               asked, ({"type": "approval_denied", "action": "tar x", "reason": None}, "denied", "failure"),
               asked, (granted("tar x y", "session"), "user_approval", "success"),
               (granted("tar x z", "once"), "not_required", "success")])
        equal(rows[-1]["authorization"]["reason"], "covered by allowance")
        equal(rows[0]["authorization"]["reason"], "asked by capsule 'asking'")
        done = self.d.cli("audit", "verify")
        equal(done.returncode, 0, done.stdout + done.stderr)

    def c01_47_c02_58_one_principal_s_last_disconnect_leaves_another_s_session_alone(self):
        alice = self.d.client()
        equal(self._decide(alice, "git fetch|git fetch x", "alice", "approve_session"), "session go")
        bob = self.d.client()  # after her question, which everybody sees
        equal(self._decide(bob, "git fetch|git fetch x", "bob", "approve_session"), "session go")
        ends = self.d.log().count("session state cleared")
        alice.close()
        wait_for(lambda: self.d.log().count("session state cleared") > ends, what="the end of alice's session")
        self._ask(bob, "git fetch|git fetch x", "bob")
        equal(self._said(bob), "allowance go")
        again = self.d.client()
        equal(self._decide(again, "git fetch|git fetch x", "alice", "deny"), "denied stop")
        again.close()
        bob.close()

    def the_wrong_people_are_not_heard(self):
        c, b = self.d.client(), self.d.client()
        self._ask(c, "a|a", "alice")
        request = self._request(c)
        self._answer(b, request, "approve", "bob")
        self._answer(b, request, "approve", "guest")
        wait_for(lambda: "answer to a question does not count" in self.d.log(), what="the refusal in the log")
        self._answer(b, request, "deny", "default")  # the operator may
        equal(self._said(c), "denied stop")
        c.close()
        b.close()

    def approve_always_survives_a_restart(self):
        c = self.d.client()
        equal(self._decide(c, "make|make all", "alice", "approve_always"), "always go")
        c.close()
        equal(self.d.stop(), 0)
        self.d.start()
        c = self.d.client()
        self._ask(c, "make|make test", "alice")
        equal(self._said(c), "allowance go")
        c.close()

    def c08_26_headless_denies_and_yes_approves(self):
        done = self.d.cli("-p", "a|a")
        equal(done.returncode, 0, done.stderr)
        equal(done.stdout, "denied stop\n")
        equal(done.stderr.count("[headless] Auto-denied approval for: a\n"), 1, done.stderr)
        done = self.d.cli("-y", "-p", "a|a")
        equal(done.stdout, "once go\n")
        equal(done.stderr.count("[headless] Auto-approved approval for: a\n"), 1, done.stderr)

    def chat_without_a_terminal_denies(self):
        done = self.d.cli("chat", stdin="a|a\ny\n")
        equal(done.returncode, 0, done.stderr)
        check("denied stop" in done.stdout, done.stdout)
        check("Auto-denied approval for: a" in done.stderr, done.stderr)
        check("no bar" in done.stdout, "the line after the prompt is a prompt, not an answer: %s" % done.stdout)
        done = self.d.cli("--yes", "chat", stdin="a|a\n")
        check("once go" in done.stdout, done.stdout)

    def _terminal(self, *words):
        return Terminal(self.d, *words)

    def chat_asks_on_a_terminal(self):
        t = self._terminal("chat")
        t.expect("\n> ")
        t.type("git push|git push \x1b[2J origin main\n".replace("\x1b", ""))
        t.expect("Approval required")
        t.expect("Resource: git push [2J origin main")
        t.expect("[N] no: ")
        t.type("n\n")
        t.expect("denied stop")
        t.type("git push|git push origin\n")
        t.expect("[N] no: ")
        t.type("s\n")
        t.expect("session go")
        t.type("git push|git push elsewhere\n")
        t.expect("allowance go")
        t.type("/quit\n")
        equal(t.end(), 0)

    def an_idle_chat_asks_at_once(self):
        t = self._terminal("chat")
        t.expect("\n> ")
        c = self.d.client()
        t.type("y")  # typed before the question is there: no answer to it
        t.expect("y")  # the terminal's echo
        self._ask(c, "git push|git push idle", "default")
        t.expect("Resource: git push idle")
        t.expect("[N] no: ")
        t.type("n\n")
        equal(self._said(c), "denied stop")
        t.expect("\n> ")
        self._ask(c, "git push|git push idle", "default")
        t.expect("[N] no: ")
        t.type("y\n")
        equal(self._said(c), "once go")
        t.expect("\n> ")
        c.send("agent.v1.response", {"type": "agent_response", "text": "of another session", "is_final": True,
                                     "session_id": harness.NIL}, "default")
        t.type("git push|git push mine\n")  # and a prompt is a prompt
        t.expect("Resource: git push mine")
        t.expect("[N] no: ")
        t.type("y\n")
        t.expect("once go")
        t.expect("\n> ")
        check("another session" not in t.text, t.text)
        c.close()
        equal(self.d.stop(), 0)
        t.expect("the daemon closed the connection")
        equal(t.end(), 1)
        self.d.start()

    def an_idle_chat_without_a_terminal_denies_at_once(self):
        chat = subprocess.Popen([harness.program("astrid"), "chat"], env=self.d.env, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            check("session" in chat.stdout.readline())
            c = self.d.client()
            self._ask(c, "a|a", "default")
            equal(self._said(c), "denied stop")
            c.close()
            out, err = chat.communicate("b|b\nnothing\n", timeout=30)
            equal(chat.returncode, 0, err)
            check("Auto-denied approval for: a\n" in err and "Auto-denied approval for: b\n" in err, err)
            check("denied stop" in out and "no bar" in out, out)
        finally:
            if chat.poll() is None:
                chat.kill()

    def c05_40_an_install_asks_and_keeps_the_secret(self):
        self.d.cli("capsule", "remove", "asking")
        done = self._install("https://my.example\nus\none\ntwo\n\nsk-very-secret\n")
        check("Which server? [https://example.com]: " in done.stdout, done.stdout)
        check("Select [1-2]: " in done.stdout, done.stdout)
        check("(secret, input hidden): " in done.stdout, done.stdout)
        c = self.d.client()
        self._ask(c, "settings", "default")
        equal(self._said(c), "url=https://my.example;region=us;tags=<one><two>;key=stored;has=yes;"
              "config=sk-very-secret;now=not-in-hook;")
        c.close()
        check("sk-very-secret" not in self.d.log(), "the secret is in the log")
        export = self.d.cli("audit", "export").stdout
        check("sk-very-secret" not in export, "the secret is in the audit log")
        rows = [json.loads(line)["action"] for line in export.splitlines()]
        sent = [r for r in rows if r.get("type") == "elicitation_sent"][-4:]
        got = [r for r in rows if r.get("type") == "elicitation_received"][-4:]
        equal([(r["server"], r["elicitation_type"]) for r in sent],
              [("asking", kind) for kind in ["text", "select", "array", "secret"]])
        equal([(r["request_id"], r["action"]) for r in got], [(r["request_id"], "accept") for r in sent])
        path = self.d.path("secrets", "default", "asking", "API_KEY")
        with open(path) as f:
            equal(f.read(), "sk-very-secret")
        equal(os.stat(path).st_mode & 0o777, 0o600)

    def an_install_on_a_terminal_hides_the_secret(self):
        self.d.cli("capsule", "remove", "asking")
        t = self._terminal("capsule", "install", ASKING)
        t.expect("Which server?")
        t.type("\n")
        t.expect("Select [1-2]: ")
        t.type("9\n")
        t.expect("Select [1-2]: ")
        t.type("1\n")
        t.expect("> ")
        t.type("\n")
        t.expect("input hidden): ")
        wait_for(t.hides, what="echo off")
        t.type("sk-typed-secret\n")
        equal(t.end(), 0)
        check("sk-typed-secret" not in t.text, t.text)
        c = self.d.client()
        self._ask(c, "settings", "default")
        check("url=https://example.com;region=eu;tags=;key=stored;has=yes;config=sk-typed-secret" in self._said(c))
        c.close()

    def nobody_at_the_keyboard_cancels(self):
        self.d.cli("capsule", "remove", "asking")
        done = self.d.cli("capsule", "install", ASKING)
        equal(done.returncode, 0, done.stderr)
        check("Cancelled a question that needs a person" in done.stderr, done.stderr)
        c = self.d.client()
        self._ask(c, "settings", "default")
        check("url=cancelled;region=cancelled;tags=;key=cancelled;" in self._said(c))
        c.close()

    def elicit_answers_never_reach_another_client(self):
        self.d.cli("capsule", "remove", "asking")
        spy, c = self.d.client(), self.d.client()
        seen = []

        def answer():
            for value in [{"value": "u"}, {"value": "eu"}, {"values": []}, {"value": "sk-other"}]:
                request = c.recv_topic("astrid.v1.elicit")["payload"]
                seen.append(request["field"]["key"])
                body = dict(value, type="elicit_response", request_id=request["request_id"])
                c.send("astrid.v1.elicit.response." + request["request_id"], body, "default")

        c.send("astrid.v1.request.install_capsule.x1",
               {"type": "raw_json", "method": "InstallCapsule", "params": {"source": ASKING, "workspace": False}})
        answer()
        equal(c.recv_topic("astrid.v1.response.install_capsule.x1", 30)["payload"]["status"], "Success")
        equal(seen, ["url", "region", "tags", "API_KEY"])
        topics = []
        while True:
            topics.append(spy.recv(10))
            if topics[-1]["topic"] == "astrid.v1.capsules_loaded":
                break
        check("sk-other" not in json.dumps(topics), topics)
        equal([f["topic"] for f in topics if "elicit" in f["topic"]], ["astrid.v1.elicit"] * 4)
        spy.close()
        c.close()

    def a_shutdown_does_not_wait_for_people(self):
        self.d.cli("capsule", "remove", "asking")
        c = self.d.client()
        c.send("astrid.v1.request.install_capsule.x2",
               {"type": "raw_json", "method": "InstallCapsule", "params": {"source": ASKING, "workspace": False}})
        c.recv_topic("astrid.v1.elicit")
        began = time.monotonic()
        equal(self.d.stop(signal.SIGTERM, 30), 0)
        check(time.monotonic() - began < 20, "the daemon waited for an answer")
        c.close()
        check(not os.path.exists(self.d.path("home", "default", ".local", "capsules", "asking")), "half an install stays")
        self.d.start()
        self._install("")


class Settings(Case):
    def set_up(self):
        self.d = harness.Daemon(config="[timeouts]\napproval_secs = 1\n[uplink]\nown_questions_only = true\n")
        for name in ["alice", "bob"]:
            self.d.add_principal(name)
        self.d.start()
        self.d.install(ASKING)  # its hook needs a daemon

    def c05_44_a_question_for_whom_it_concerns_and_its_end(self):
        operator, bob, alice = self.d.client(), self.d.client(), self.d.client()
        bob.request("GetStatus", principal="bob")
        operator.request("GetStatus")
        alice.send("user.v1.prompt", {"type": "user_input", "text": "a|a", "session_id": "default"}, "alice")
        alice.recv_topic(APPROVAL)
        equal(alice.recv_topic("agent.v1.response", 20)["payload"]["text"], "no-answer stop")
        for c, name in [(operator, None), (bob, "bob")]:  # frames keep the order of the bus
            c.send("astrid.v1.request.get_status.last", {"type": "raw_json", "method": "GetStatus"}, name)
            topics = []
            while not topics or topics[-1] != "astrid.v1.response.get_status.last":
                topics.append(c.recv()["topic"])
            check(APPROVAL not in topics, topics)
        for c in [operator, bob, alice]:
            c.close()

    def bad_settings_stop_the_start(self):
        for text in ["[timeouts]\napproval_secs = 0\n", "[uplink]\nown_questions_only = 1\n"]:
            d = harness.Daemon(config=text)
            code, said = d.refuses_to_boot()
            check(code != 0 and "Validation error in field" in said, said)
            d.clean()


class Terminal:
    """A program on a pseudo-terminal: types, and waits for what it shows."""

    def __init__(self, daemon, *words):
        self.master, slave = pty.openpty()
        self.proc = subprocess.Popen([harness.program("astrid"), *words], env=daemon.env, stdin=slave, stdout=slave,
                                     stderr=slave, start_new_session=True)
        os.close(slave)
        self.text, self.at = "", 0

    def _read(self, seconds):
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.text += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)

    def expect(self, what, seconds=20):
        deadline = time.monotonic() + seconds
        while what not in self.text[self.at:]:
            if time.monotonic() > deadline or (not self._read(1) and self.proc.poll() is not None):
                raise harness.Failed("%r was not shown: %r" % (what, self.text[self.at:]))
        self.at = self.text.index(what, self.at) + len(what)

    def type(self, text):
        os.write(self.master, text.encode())

    def hides(self):
        import termios
        return not termios.tcgetattr(self.master)[3] & termios.ECHO

    def end(self, seconds=30):
        deadline = time.monotonic() + seconds
        while self._read(0.2) or self.proc.poll() is None:
            if time.monotonic() > deadline:
                self.proc.kill()
                raise harness.Failed("the program goes on: %r" % self.text)
        os.close(self.master)
        return self.proc.wait()


harness.main()
