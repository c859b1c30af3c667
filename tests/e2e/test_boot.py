#!/usr/bin/env python3
"""Boot, runtime files, shutdown (spec 01 §2, §3, §16)."""
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time

import harness
from harness import Case, Daemon, check, equal, program, wait_for


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


class Home(Case):
    daemon = {}

    def c01_02_directories_are_private(self):
        for name in ["", "etc", "etc/hooks", "var", "run", "log", "keys", "bin", "wit", "home", "home/default",
                     "home/default/.local", "home/default/.config"]:
            equal(mode(self.d.path(name)), 0o700, name or ".")

    def c01_03_layout_version_is_one(self):
        with open(self.d.path("etc/layout-version"), "rb") as f:
            equal(f.read(), b"1")

    def c01_04_token_form_and_mode(self):
        with open(self.d.path("run/system.token")) as f:
            token = f.read()
        equal(len(token), 64)
        check(all(c in "0123456789abcdef" for c in token), token)
        equal(mode(self.d.path("run/system.token")), 0o600)

    def c01_05_second_daemon_exits_naming_the_lock(self):
        second = Daemon(home=self.d.home)
        began = time.monotonic()
        code, err = second.refuses_to_boot()
        equal(code, 1)
        check("Another kernel instance is already running (singleton lock held)" in err, err)
        check(time.monotonic() - began < 2, "took too long")
        self.d.client().close()

    def c01_50_runtime_key_and_default_profile(self):
        path = self.d.path("keys/runtime.key")
        equal(os.path.getsize(path), 32)
        equal(mode(path), 0o600)
        with open(self.d.path("etc/profiles/default.toml")) as f:
            check('groups = ["admin"]' in f.read())

    def c01_52_log_file_has_the_utc_date(self):
        name = time.strftime("astrid.%Y-%m-%d.log", time.gmtime())
        check(os.path.exists(self.d.path("log", name)), name)
        check("Kernel booted successfully" in self.d.log())


class Stop(Case):
    def set_up(self):
        self.d = Daemon()

    def c01_11_graceful_stop_cleans_up(self):
        self.d.start()
        first = self.d.client().token()
        equal(self.d.stop(), 0)
        for name in ["run/system.sock", "run/system.token", "run/system.ready"]:
            check(not os.path.lexists(self.d.path(name)), name)
        check(os.path.exists(self.d.path("run/system.lock")))
        self.d.start()
        check(self.d.client().token() != first, "the token must change at each boot")
        equal(self.d.stop(signal.SIGINT), 0)

    def c01_10_sigkill_leaves_nothing_in_the_way(self):
        self.d.start()
        self.d.kill()
        check(os.path.exists(self.d.path("run/system.sock")))
        self.d.start()
        self.d.client().close()
        equal(self.d.stop(), 0)

    def c01_07_stale_socket_and_symlink_are_replaced(self):
        path = self.d.path("run/system.sock")
        target = self.d.path("precious")
        with open(target, "w") as f:
            f.write("keep")
        os.symlink(target, path)
        self.d.start()
        equal(self.d.stop(), 0)
        with open(target) as f:
            equal(f.read(), "keep")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()
        code, err = self.d.refuses_to_boot()
        equal(code, 1)
        check("Another kernel instance is already running on this socket" in err, err)
        listener.close()
        os.unlink(path)

    def c01_12_failed_boot_leaves_no_runtime_files(self):
        with open(self.d.path("etc/groups.toml"), "w") as f:
            f.write("[groups.ops\n")
        code, err = self.d.refuses_to_boot()
        equal(code, 1)
        check("Failed to load groups config" in err, err)
        for name in ["run/system.sock", "run/system.token", "run/system.ready"]:
            check(not os.path.lexists(self.d.path(name)), name)
        os.unlink(self.d.path("etc/groups.toml"))

    def rules_of_the_bus_are_settings(self):
        for line, says in [("claimed_attribution = 1", "capsule.claimed_attribution': expected true or false"),
                           ("publish_depth_max = 0", "capsule.publish_depth_max': expected 1 to 254"),
                           ("publish_depth_max = 255", "capsule.publish_depth_max': expected 1 to 254")]:
            with open(self.d.path("config.toml"), "w") as f:
                f.write("[capsule]\n%s\n" % line)
            code, err = self.d.refuses_to_boot()
            equal(code, 1)
            check(says in err, err)
        with open(self.d.path("config.toml"), "w") as f:
            f.write("[capsule]\nclaimed_attribution = true\npublish_depth_max = 8\n")
        self.d.start()
        equal(self.d.stop(), 0)
        os.unlink(self.d.path("config.toml"))

    def the_cap_of_stored_values_is_a_setting(self):
        says = "capsule.kv_value_max_bytes': expected 1 to 67108864"
        for value in ("0", "67108865", '"1"'):
            with open(self.d.path("config.toml"), "w") as f:
                f.write("[capsule]\nkv_value_max_bytes = %s\n" % value)
            code, err = self.d.refuses_to_boot()
            equal(code, 1)
            check(says in err, err)
        with open(self.d.path("config.toml"), "w") as f:
            f.write("[capsule]\nkv_value_max_bytes = 1048576\n")
        self.d.start()
        equal(self.d.stop(), 0)
        os.unlink(self.d.path("config.toml"))

    def c09_42_databases_of_the_original_are_left_bit_identical(self):
        rng, files = random.Random(42), {}
        for db in ("var/state.db", "home/default/.local/audit"):
            for name in ("manifest/%020d.manifest" % 1, "sstables/%020d.sst" % 7, "wal/%020d.wal" % 3, "LOCK", "discard_stats"):
                path = self.d.path(db, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                files[path] = rng.randbytes(5000) if name != "LOCK" else b""
                with open(path, "wb") as f:
                    f.write(files[path])
                os.utime(path, (1700000000, 1700000000))
        folders = {p: sorted(os.listdir(p)) for p in (self.d.path("var/state.db"), self.d.path("home/default/.local/audit"))}
        for _ in range(2):
            self.d.start()
            equal(self.d.cli("agent", "create", "tenant%d" % _).returncode, 0)
            equal(self.d.cli("audit", "verify").returncode, 0)
            equal(self.d.stop(), 0)
        for path, data in files.items():
            with open(path, "rb") as f:
                check(f.read() == data, path)
            equal(os.stat(path).st_mtime, 1700000000, path)
        for path, names in folders.items():
            equal(sorted(os.listdir(path)), names)
            shutil.rmtree(path)

    def c01_53_sigterm_during_boot_removes_socket_and_token(self):
        self.d.spawn()
        wait_for(lambda: os.path.exists(self.d.path("run/system.token")), what="token")
        equal(self.d.stop(), 0)
        for name in ["run/system.sock", "run/system.token", "run/system.ready"]:
            check(not os.path.lexists(self.d.path(name)), name)


class Options(Case):
    def set_up(self):
        self.d = Daemon()

    def _run_with(self, *words, **env):
        return subprocess.run([program("astrid-daemon"), *words], env=dict(self.d.env, **env), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20)

    def help_and_version_exit_zero(self):
        for word in ["--help", "--version"]:
            done = self._run_with(word)
            equal(done.returncode, 0)
            check(done.stdout)

    def bad_options_exit_two_with_a_reason(self):
        for words, text in [(["--host-io-concurrency", "0"], "must be >= 1 (a concurrency ceiling of 0 would wedge the gate)"),
                            (["--host-blocking-concurrency", "x"], "not a valid concurrency value"),
                            (["--instance-pool-size", "0"], "must be >= 1"), (["--nonsense"], "")]:
            done = self._run_with(*words)
            equal(done.returncode, 2, words)
            check(text in done.stderr, done.stderr)

    def a_bad_session_exits_one(self):
        done = self._run_with("--session", "x")
        equal(done.returncode, 1)
        check("Error: Invalid UUID format" in done.stderr, done.stderr)

    def c01_01_home_variable_is_checked(self):
        for value, text in [("", "ASTRID_HOME must be an absolute path"), ("rel/x", "ASTRID_HOME must be an absolute path"),
                            ("/tmp/../x", "ASTRID_HOME must not contain '..' path components")]:
            done = self._run_with(ASTRID_HOME=value)
            equal(done.returncode, 1)
            check(text in done.stderr, done.stderr)

    def c01_08_a_long_socket_path_aborts(self):
        deep = os.path.join(tempfile.mkdtemp(prefix="astrid-e2e-"), "x" * 100)
        os.mkdir(deep, 0o700)
        done = self._run_with(ASTRID_HOME=deep)
        equal(done.returncode, 1)
        check("exceeding the platform limit of 108 bytes" in done.stderr, done.stderr)

    def c05_59_zero_in_a_file_is_refused_and_flags_win(self):
        os.makedirs(self.d.path("etc"), exist_ok=True)
        with open(self.d.path("etc/config.toml"), "w") as f:
            f.write("[capsule]\ninstance_pool_size = 0\n")
        done = self._run_with()
        equal(done.returncode, 1)
        check("Validation error in field 'capsule.instance_pool_size'" in done.stderr, done.stderr)
        os.unlink(self.d.path("etc/config.toml"))

    def identity_links_of_the_settings_are_applied_and_bad_ones_skipped(self):
        os.makedirs(self.d.path("etc"), exist_ok=True)
        link = '[[identity.links]]\nplatform = "chat"\nplatform_user_id = "%s"\nastrid_user = "%s"\n'
        with open(self.d.path("etc/config.toml"), "w") as f:
            f.write(link % ("good", "Josh Bouw"))
            f.write(link % ("lost", "3f0e7c1a-0000-4000-8000-000000000001"))
            f.write(link % ("a/b", "Josh Bouw"))
        self.d.start()
        skipped = [line for line in self.d.log().splitlines() if "identity link of the settings skipped" in line]
        equal(len(skipped), 2)
        check("lost" in skipped[0] and "user not found: 3f0e7c1a" in skipped[0], skipped[0])
        check("a/b" in skipped[1] and "platform_user_id must not contain" in skipped[1], skipped[1])
        self.d.stop()
        with open(self.d.path("etc/config.toml"), "w") as f:
            f.write('[[identity.links]]\nplatform = "chat"\nplatform_user_id = 3\nastrid_user = "x"\n')
        done = self._run_with()
        equal(done.returncode, 1)
        check("Validation error in field 'identity.links.platform_user_id'" in done.stderr, done.stderr)
        os.unlink(self.d.path("etc/config.toml"))


class Idle(Case):
    def set_up(self):
        self.d = Daemon(args=["--ephemeral"], env={"ASTRID_IDLE_TIMEOUT_SECS": "1"})

    def c01_43_an_ephemeral_daemon_ends_when_nobody_is_left(self):
        self.d.start()
        client = self.d.client()
        status = client.request("GetStatus")
        equal(status["data"]["ephemeral"], True)
        time.sleep(7.5)  # longer than the idle time: an open socket keeps it up
        check(self.d.proc.poll() is None, "it left although a client is connected")
        client.close()
        wait_for(lambda: self.d.proc.poll() is not None, 10, "idle exit")
        equal(self.d.proc.returncode, 0)
        check("Idle timeout reached, initiating shutdown" in self.d.log())


harness.main()
