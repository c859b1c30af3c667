#!/usr/bin/env python3
"""The daemon beside others and over time: locks, readiness, peers, ticks, idleness, what astrid-emit brings (spec 01)."""
import fcntl
import json
import os
import socket
import subprocess
import tempfile
import time

import harness
from harness import Case, Daemon, Skipped, check, equal, program, wait_for

# Remembers the last payload it saw of what it listens to, for each principal; a prompt asks for it.
LISTENER = """
#include "astrid.h"

static struct astrid_result note(struct astrid_str payload)
{
    return astrid_kv_set(ASTRID_STR("seen"), payload) ? astrid_continue() : astrid_deny(ASTRID_STR("not kept"));
}

static struct astrid_result tell(struct astrid_str payload)
{
    struct astrid_str seen = ASTRID_STR("nothing"), session = ASTRID_STR("\\"default\\"");
    struct astrid_buf b = { 0 };

    (void)astrid_kv_get(ASTRID_STR("seen"), &seen);
    (void)astrid_json_get(payload, ASTRID_STR("session_id"), &session);
    astrid_buf_lit(&b, "{\\"type\\":\\"agent_response\\",\\"text\\":");
    astrid_buf_json(&b, seen);
    astrid_buf_lit(&b, ",\\"is_final\\":true,\\"session_id\\":");
    astrid_buf_add(&b, session);
    astrid_buf_lit(&b, "}");
    return astrid_publish(ASTRID_STR("agent.v1.response"), astrid_buf_view(&b)) ? astrid_continue()
                                                                               : astrid_deny(ASTRID_STR("not told"));
}

ASTRID_HANDLERS({ "note", note }, { "tell", tell });
ASTRID_NO_TOOLS;
"""
MANIFEST = """
[package]
name = "listener"
version = "0.1.0"

[[component]]
file = "listener.wasm"

[publish]
"agent.v1.response" = "opaque"

[subscribe]
"user.v1.prompt" = { wit = "opaque", handler = "tell" }
"astrid.v1.watchdog.tick" = { wit = "opaque", handler = "note" }
"sage.v1.hook.*" = { wit = "opaque", handler = "note" }
"""


def build(folder, manifest):
    """The listener as an archive, by the tools an author has."""
    project = os.path.join(folder, "listener")
    os.mkdir(project)
    for name, text in [("listener.c", LISTENER), ("Capsule.toml", manifest)]:
        with open(os.path.join(project, name), "w") as f:
            f.write(text)
    done = subprocess.run([program("astrid-build"), project, "--output", folder], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    equal(done.returncode, 0, done.stderr)
    return os.path.join(folder, "listener.capsule")


class Beside(Case):
    def set_up(self):
        self.d = Daemon()

    def c01_06_another_implementation_s_lock_keeps_us_out(self):
        os.makedirs(self.d.path("run"), mode=0o700, exist_ok=True)
        with open(self.d.path("run", "system.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            code, said = self.d.refuses_to_boot()
            equal(code, 1, said)
            check("Another kernel instance is already running" in said, said)
        self.d.start()
        with open(self.d.path("run", "system.lock")) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        check(False, "our lock does not keep another out")

    def c01_19_a_peer_of_another_user_gets_no_byte(self):
        if os.getuid():
            raise Skipped("only root can take another user's id")
        if self.d.proc is None:
            self.d.start()
        path = self.d.path("run", "system.sock")
        for folder in [self.d.home, self.d.path("run")]:
            os.chmod(folder, 0o755)  # as if an operator had opened the door: the check behind it must hold
        os.chmod(path, 0o777)
        child = os.fork()
        if child == 0:
            try:
                os.setgid(65534)
                os.setuid(65534)
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
                    s.settimeout(3)  # well before the handshake's own limit
                    s.connect(path)
                    os._exit(0 if s.recv(1) == b"" else 1)
            except ConnectionResetError:
                os._exit(0)
            except BaseException:
                os._exit(2)
        equal(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.d.client().close()  # its own user is served


class Ready(Case):
    def c01_09_ready_means_loaded_and_answering(self):
        d = Daemon(capsules=["astrid-echo", "astrid-time", "astrid-notes"])
        d.spawn()
        while not os.path.exists(d.path("run", "system.ready")):
            check(d.proc.poll() is None, "the daemon left")
        listed = d.client().request("ListCapsules")["data"]
        for name in ["astrid-echo", "astrid-time", "astrid-notes"]:
            check(name in listed, listed)
        d.clean()


class Listener(Case):
    def set_up(self):
        self.folder = tempfile.mkdtemp(prefix="astrid-e2e-")
        self.d = Daemon(capsules=[build(self.folder, MANIFEST)])
        self.d.add_principal("alice")
        self.d.start()

    def _seen(self, principal):
        return self.d.client().prompt("?", principal=principal)[-1]["payload"]["text"]

    def _emit(self, text, topic="sage.v1.hook.before_tool_call"):
        env = {"ASTRID_HOME": self.d.home, "ASTRID_PRINCIPAL_ID": "alice", "ASTRID_SESSION_ID": "s1", "ASTRID_HOOK_TOKEN": "tk"}
        done = subprocess.run([program("astrid-emit"), topic], env=env, input=text, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=20)
        equal((done.returncode, done.stdout), (0, b'{"continue":true}\n'), done.stderr)

    def c01_55_what_is_emitted_reaches_subscribers_unparsed(self):
        for said, heard in [(b'{"tool_name":"Bash"}', '{"tool_name":"Bash"}'), (b"not json \xff\n", "not json \ufffd\n"),
                            (b"", "")]:
            self._emit(said)
            want = {"hook": "before_tool_call", "payload": heard, "correlation_id": None, "principal_id": "alice",
                    "session_id": "s1", "token": "tk"}
            wait_for(lambda: self._seen("alice") not in ("nothing",) and json.loads(self._seen("alice")) == want, 10,
                     "the emitted event %r, last seen: %s" % (said, self._seen("alice")))

    def c01_48_the_watchdog_ticks_every_five_seconds(self):
        def ticked():
            seen = self._seen("default")
            return seen if "timestamp_ms" in seen else None

        first = wait_for(ticked, 15, "a tick")
        second = wait_for(lambda: ticked() != first and ticked(), 15, "another tick")
        apart = json.loads(second)["timestamp_ms"] - json.loads(first)["timestamp_ms"]
        check(4500 <= apart < 9000, "%d ms between two ticks" % apart)
        equal(list(json.loads(first)), ["timestamp_ms"])  # `{}` and the member that its contract asks for


class Idle(Case):
    def set_up(self):
        self.d = None

    def c01_45_an_uplink_table_keeps_an_ephemeral_daemon_up(self):
        """An ephemeral daemon with the same idle time is the clock: when it has left, the other had its chance."""
        folder = tempfile.mkdtemp(prefix="astrid-e2e-")
        with_uplink = build(folder, MANIFEST + '\n[capabilities]\nuplink = true\n\n[[uplink]]\nname = "door"\n'
                                               'platform = "cli"\nprofile = "chat"\n')
        one = {"ASTRID_IDLE_TIMEOUT_SECS": "1"}
        clock = Daemon(args=["--ephemeral"], env=one)
        staying = Daemon(args=["--ephemeral"], env=one, capsules=[with_uplink]).start()
        clock.start()
        wait_for(lambda: clock.proc.poll() is not None, 30, "the clock's end")
        began = time.monotonic()
        while time.monotonic() - began < 2.5:  # two more checks
            check(staying.proc.poll() is None, "an uplink did not keep the daemon up")
            time.sleep(0.1)
        staying.clean()
        clock.clean()


harness.main()
