#!/usr/bin/env python3
"""The command line against a real daemon (spec 08 §1, §2, §4, §5)."""
import json
import os
import signal
import subprocess
import tempfile
import time
import uuid

import harness
from harness import Case, Daemon, check, equal, program, wait_for


class Words(Case):
    def set_up(self):
        self.d = Daemon()

    def help_lists_every_command_and_exits_zero(self):
        done = self.d.cli("--help")
        equal(done.returncode, 0)
        for word in ["start", "stop", "status", "logs", "capsule install", "capsule list", "-p,"]:
            check(word in done.stdout, word)
        for words in [["start", "--help"], ["help", "capsule", "install"], ["capsule", "install", "-h"], ["logs", "--help"]]:
            done = self.d.cli(*words)
            equal(done.returncode, 0, words)
            check(done.stdout.startswith(("Start", "Install", "Print")), done.stdout)

    def version_is_the_original_s(self):
        equal(self.d.cli("--version").stdout, "astrid 0.8.0\n")
        equal(json.loads(self.d.cli("version", "--format", "json").stdout)["version"], "0.8.0")

    def usage_errors_exit_two_with_one_precise_line(self):
        for words, text in [(["nonsense"], "unrecognized command 'nonsense'"), (["--nonsense"], "unexpected argument '--nonsense'"),
                            (["capsule"], "needs a subcommand"), (["capsule", "install"], "required argument"),
                            (["start", "x"], "unexpected argument 'x'"), (["-p"], "a value is required")]:
            done = self.d.cli(*words)
            equal(done.returncode, 2, words)
            check(text in done.stderr, done.stderr)
            equal(done.stdout, "")

    def c01_56_emit_path_needs_nothing(self):
        done = subprocess.run([program("astrid"), "--emit-path"], env={"PATH": "/nowhere"}, stdout=subprocess.PIPE, text=True)
        equal(done.returncode, 0)
        equal(done.stdout.strip(), program("astrid-emit"))

    def without_a_daemon_status_is_an_answer(self):
        done = self.d.cli("status")
        equal(done.returncode, 0)
        check("No Astrid daemon is running." in done.stdout)
        equal(self.d.cli("status", "--exit-code").returncode, 1)
        equal(self.d.cli("stop").returncode, 0)
        equal(json.loads(self.d.cli("ps", "--format", "json").stdout), [])


class Life(Case):
    def set_up(self):
        self.d = Daemon(capsules=["astrid-echo"])

    def tear_down(self, failed):
        self.d.cli("stop")
        super().tear_down(failed)

    def c01_24_start_status_ps_who_stop_restart(self):
        done = self.d.cli("start")
        equal(done.returncode, 0, done.stderr)
        check("Astrid daemon started (persistent mode)." in done.stdout)
        check("already running" in self.d.cli("start").stderr)
        status = self.d.cli("status").stdout
        check(status.startswith("\u2713 Astrid daemon (PID "), status)
        check("    - astrid-echo\n" in status, status)
        rows = json.loads(self.d.cli("ps", "--format", "json").stdout)
        check(any(r["capsule"] == "astrid-echo" and r["state"] == "ready" for r in rows), rows)
        equal(json.loads(self.d.cli("who", "--format", "json").stdout), [{"agent": "default", "platform": "cli"}])
        first = json.loads(self.d.cli("status", "--format", "json").stdout)["pid"]
        equal(self.d.cli("restart").returncode, 0)
        second = json.loads(self.d.cli("status", "--format", "json").stdout)["pid"]
        check(first != second)
        done = self.d.cli("stop")
        check("Astrid daemon stopped." in done.stdout)
        check(not os.path.exists(self.d.path("run/system.sock")))

    def a_prompt_starts_the_daemon_by_itself(self):
        done = self.d.cli("-p", "hello there")
        equal((done.returncode, done.stdout), (0, "hello there\n"), done.stderr)
        check("Booting Astrid daemon..." in done.stderr)
        done = self.d.cli("--format", "json", "-p", "again")
        equal(json.loads(done.stdout), {"response": "again", "tool_calls": []})

    def piped_text_goes_in_front_of_the_prompt(self):
        equal(self.d.cli("-p", "what is this?", stdin="a file\n").stdout, "a file\n\n\nwhat is this?\n")
        equal(self.d.cli(stdin="only piped").stdout, "only piped\n")

    def sessions_by_name_are_version_five_uuids(self):
        done = self.d.cli("-p", "x", "--session", "work", "--print-session")
        want = uuid.uuid5(uuid.NAMESPACE_URL, "work")
        check("[headless] Session: work (%s)" % want in done.stderr, done.stderr)

    def logs_print_the_end_of_the_daemon_s_log(self):
        self.d.cli("-p", "x")
        done = self.d.cli("logs", "-n", "500")
        check("Kernel booted successfully" in done.stdout, done.stdout)
        equal(self.d.cli("logs", "../etc").returncode, 1)

    def a_dead_daemon_s_socket_is_cleaned(self):
        self.d.cli("start")
        pid = json.loads(self.d.cli("status", "--format", "json").stdout)["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not os.path.exists("/proc/%d" % pid) or "Z" in open("/proc/%d/stat" % pid).read(), what="death")
        equal(self.d.cli("-p", "back").stdout, "back\n")


class Capsules(Case):
    def set_up(self):
        self.d = Daemon()

    def install_list_show_remove(self):
        check("No capsules are installed" in self.d.cli("capsule", "list").stdout)
        done = self.d.cli("capsule", "install", harness.capsule("astrid-time"))
        check("Installed astrid-time 0.1.0" in done.stdout, done.stdout + done.stderr)
        done = self.d.cli("capsule", "install", harness.capsule("astrid-time"))
        check("Upgraded astrid-time 0.1.0 -> 0.1.0" in done.stdout, done.stdout)
        equal(self.d.cli("capsule", "list").stdout, "astrid-time 0.1.0 [user] exports: 1, imports: 0\n")
        shown = json.loads(self.d.cli("capsule", "show", "astrid-time", "--format", "json").stdout)
        equal(sorted(shown), ["installed_at", "manifest", "name", "source", "updated_at", "version", "wasm_hash"])
        equal(len(shown["wasm_hash"]), 64)
        check(os.path.exists(self.d.path("bin", shown["wasm_hash"] + ".wasm")))
        equal(self.d.cli("capsule", "remove", "nothing").returncode, 1)
        equal(self.d.cli("capsule", "remove", "astrid-time").returncode, 0)
        check(os.path.exists(self.d.path("bin", shown["wasm_hash"] + ".wasm")), "blobs stay")

    def bad_capsules_are_refused_with_a_reason(self):
        for files, text in [({}, "No Capsule.toml found"),
                            ({"Capsule.toml": "[package]\nname = 'x'\n"}, "missing field `version`"),
                            ({"Capsule.toml": "[package]\nname = '../x'\nversion = '1.0.0'\n"},
                             "capsule id must contain only lowercase alphanumeric characters and hyphens"),
                            ({"Capsule.toml": "[package]\nname = 'x'\nversion = '1.0.0'\n[[component]]\nfile = 'x.wasm'\n"},
                             "is missing from"),
                            ({"Capsule.toml": "[package]\nname = 'x'\nversion = '1.0.0'\n[[component]]\nfile = 'x.wasm'\n",
                              "x.wasm": "junk"}, "failed to content-address WASM binary")]:
            folder = tempfile.mkdtemp(prefix="astrid-e2e-")
            for name, content in files.items():
                with open(os.path.join(folder, name), "w") as f:
                    f.write(content)
            done = self.d.cli("capsule", "install", folder)
            equal(done.returncode, 1, text)
            check(text in done.stderr, done.stderr)
        check("No capsules are installed" in self.d.cli("capsule", "list").stdout)


class Emit(Case):
    daemon = {}

    def _run_emit(self, *words, stdin="x", **env):
        base = {"ASTRID_HOME": self.d.home, "ASTRID_PRINCIPAL_ID": "alice", "ASTRID_SESSION_ID": "s", "ASTRID_HOOK_TOKEN": "t"}
        base.update(env)
        return subprocess.run([program("astrid-emit"), *words], env=base, input=stdin, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=20)

    def c01_54_the_line_is_always_the_same_and_two_is_never_used(self):
        for words, env, status, text in [(["sage.v1.hook.x"], {}, 0, ""), ([], {}, 1, "a topic is required"),
                                         (["a", "b"], {}, 1, "unexpected"), (["a"], {"ASTRID_SESSION_ID": ""}, 1, "ASTRID_SESSION_ID"),
                                         (["a"], {"ASTRID_PRINCIPAL_ID": "", "ASTRID_HOOK_TOKEN": ""}, 1, "ASTRID_PRINCIPAL_ID"),
                                         (["a"], {"ASTRID_HOME": "/nowhere"}, 1, "failed to publish on a")]:
            done = self._run_emit(*words, **env)
            equal((done.returncode, done.stdout), (status, '{"continue":true}\n'), words)
            check(text in done.stderr, done.stderr)


harness.main()
