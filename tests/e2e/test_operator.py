#!/usr/bin/env python3
"""What an operator types: agents, rights, groups, quotas, keys, the context (spec 08 §1 to §5, checklist 1 to 20)."""
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import tomllib

import harness
from harness import Case, Daemon, Skipped, check, equal, program, wait_for

SHELLS = ["bash", "zsh", "fish", "elvish", "powershell"]
AGENT = {"principal": "alice", "enabled": True, "groups": ["agent", "ops"], "grants": ["a:b"], "revokes": []}
QUOTAS = {"max_memory_bytes": 67108864, "max_timeout_secs": 300, "max_ipc_throughput_bytes": 10485760,
          "max_background_processes": 8, "max_storage_bytes": 1073741824, "max_cpu_fuel_per_sec": 2000000000}


class Cli(Case):
    """Runs commands and checks how they end."""

    def _run(self, *words, code=0, **more):
        done = self.d.cli(*words, **more)
        equal(done.returncode, code, "%s: %s%s" % (words, done.stdout, done.stderr))
        return done

    def _json(self, *words, **more):
        return json.loads(self._run(*words, "--format", "json", **more).stdout)

    def _fails(self, text, *words, code=1, **more):
        done = self._run(*words, code=code, **more)
        check(text in done.stderr, "%s: got %r, want %r" % (words, done.stderr, text))
        equal(done.stdout, "", "stdout of a failure")
        return done


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


class Peer:
    """A daemon of the original as far as the wire goes: it records requests and answers what it was told to."""

    def __init__(self, home):
        os.makedirs(os.path.join(home, "run"), mode=0o700, exist_ok=True)
        with open(os.path.join(home, "run", "system.token"), "w") as f:
            f.write("ab" * 32)
        os.chmod(f.name, 0o600)
        self.path = os.path.join(home, "run", "system.sock")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(self.path)
        self.sock.listen(8)
        self.frames = []
        self.answers = {}  # topic -> (status, data)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _read(self, conn):
        data = b""
        while len(data) < 4 or len(data) < 4 + struct.unpack(">I", data[:4])[0]:
            more = conn.recv(65536)
            if not more:
                return None
            data += more
        return json.loads(data[4:])

    def _write(self, conn, value):
        body = json.dumps(value).encode()
        conn.sendall(struct.pack(">I", len(body)) + body)

    def _serve(self):
        while True:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            with conn:
                if self._read(conn) is None:
                    continue
                self._write(conn, {"status": "ok", "protocol_version": 1, "server_version": "0.8.0"})
                frame = self._read(conn)
                if frame is None:
                    continue
                self.frames.append(frame)
                body = frame["payload"]
                if "request_id" not in body:
                    continue
                status, data = self.answers.get(frame["topic"], ("Success", {}))
                topic = frame["topic"].replace("astrid.v1.admin.", "astrid.v1.admin.response.")
                # Noise first: another request's answer on the same topic, and another topic.
                for noise in ({"request_id": "other", "status": "Error", "data": "not for you"}, {}):
                    self._write(conn, {"topic": topic if noise else "x.y", "payload": noise, "source_id": harness.NIL})
                self._write(conn, {"topic": topic, "source_id": harness.NIL,
                                   "payload": {"request_id": body["request_id"], "status": status, "data": data}})
                self._read(conn)

    def answer(self, suffix, status, data):
        self.answers["astrid.v1.admin." + suffix] = (status, data)

    def take(self):
        """[(suffix, method, params, principal)] since the last call."""
        out = [(f["topic"].replace("astrid.v1.admin.", ""), f["payload"]["method"], f["payload"].get("params"),
                f.get("principal")) for f in self.frames]
        for f in self.frames:
            equal(f["payload"]["type"], "raw_json")
            equal((f["seq"], f["signature"], f["source_id"]), (0, None, harness.NIL))
        self.frames = []
        return out

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join()
        os.unlink(self.path)


# ---- without a daemon -------------------------------------------------------------------------------------------------


class Alone(Cli):
    def set_up(self):
        self.d = Daemon()

    def c08_01_version_and_completions_need_nothing(self):
        bare = {"PATH": "/nowhere"}

        def out(*words):
            done = subprocess.run([program("astrid"), *words], env=bare, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=20, cwd="/")
            equal((done.returncode, done.stderr), (0, ""), words)
            return done.stdout
        equal(out("--version"), "astrid 0.8.0\n")
        record = json.loads(out("version", "--format", "json"))
        equal(sorted(record), ["commit", "target", "version"])
        equal((record["version"], record["target"]), ("0.8.0", os.uname().machine + "-linux"))
        equal(out("version").split("\n")[0], "astrid 0.8.0")
        equal(tomllib.loads(out("version", "--format", "toml")), record)
        for shell in SHELLS:
            check("astrid" in out("completions", shell) and "keypair" in out("completions", shell), shell)
        self._fails("bash, zsh, fish, elvish or powershell", "completions", "tcsh", code=2)

    def every_command_has_a_help_page_that_fits(self):
        page = self._run("help").stdout
        names = [re.split(r" [<\[]|  ", l.strip())[0] for l in page.split("\nOptions:")[0].splitlines() if l.startswith("  ")]
        check(len(names) > 50 and "agent create" in names and "chat" in names, names)
        check(all(len(l) <= 100 for l in page.splitlines()), "a line of the help page is too long")
        for name in names:
            text = self._run(*name.split(), "--help").stdout
            equal(self._run("help", *name.split()).stdout, text)
            check("\nUsage: astrid %s" % name in text, text)
            if " " in name:
                check("  " + name in self._run("help", name.split()[0]).stdout, name)
                equal(self._run(name.split()[0], "--help").stdout, self._run("help", name.split()[0]).stdout)

    def completions_of_bash_know_verbs_and_options(self):
        with tempfile.NamedTemporaryFile("w", suffix=".bash") as f:
            f.write(self._run("completions", "bash").stdout)
            f.flush()

            def offers(*words):
                script = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _astrid; echo "${COMPREPLY[@]}"'
                return subprocess.run(["bash", "--norc", "-c", script, f.name, *words], stdout=subprocess.PIPE, text=True,
                                      check=True).stdout.split()
            check("agent" in offers("astrid", "") and "--prompt" in offers("astrid", ""))
            equal(offers("astrid", "agent", "s"), ["show", "switch"])
            equal(offers("astrid", "agent", "modify", "bob", "--add"), ["--add-group"])
            check("--rename" not in offers("astrid", "agent", "modify", ""), "what is not available is not offered")
            equal(offers("astrid", "keypair", "delete", "--y"), ["--yes"])

    def c08_03_errors_usage_and_deferred_verbs(self):
        for words in (["agent", "list"], ["quota", "show"], ["caps", "show"], ["group", "list"], ["invite", "list"],
                      ["pair", "issue"], ["audit", "query"], ["keypair", "show", "none"]):
            done = self._fails("\u2717 error: ", *words)
            equal(done.stderr.count("\n"), 1, "one line")
        self._fails("Failed to connect to Astrid daemon. Run `astrid start` to launch it.: Global OS Socket not found at "
                   + self.d.path("run", "system.sock"), "agent", "list")
        for words in (["agent", "create"], ["agent", "create", "a", "--nonsense"], ["quota", "set", "--memory"],
                      ["agent"], ["agent", "bogus"], ["keypair", "pubkey", "k", "--format", "pem"],
                      ["invite", "redeem", "t", "--keypair", "a", "--public-key", "b"]):
            self._fails("error: ", *words, code=2)
        for words in (["agent", "link", "a", "b"], ["agent", "discover", "--any", "-x"], ["agent", "card"],
                      ["agent", "delegate", "a", "--to", "b"], ["voucher", "create", "--amount", "3"], ["trust", "list"],
                      ["budget", "show"], ["agent", "list", "--remote"], ["agent", "list", "--tree"],
                      ["agent", "create", "a", "--bare"], ["agent", "create", "a", "--link", "cli:x"],
                      ["agent", "create", "a", "--distro", "mine"], ["agent", "create", "a", "--expires", "1d"],
                      ["agent", "modify", "a", "--rename", "b"], ["caps", "grant", "a", "b", "-g", "c"],
                      ["caps", "revoke", "a", "b", "--group", "c"], ["group", "modify", "a", "--rename", "b"],
                      ["quota", "show", "-g", "x"], ["quota", "set", "--streams", "3"]):
            done = self._fails("is not available in this release.", *words, code=2)
            check(done.stderr.startswith("astrid: "), done.stderr)
            equal(done.stderr.count("\n"), 1, words)

    def c08_04_nothing_is_written_outside_the_home(self):
        elsewhere, away = tempfile.mkdtemp(prefix="astrid-e2e-"), os.path.join(self.d.home, "deep", "er")
        env = {"HOME": elsewhere, "ASTRID_HOME": away, "PATH": os.environ["PATH"]}
        for words in (["agent", "switch", "bob"], ["keypair", "generate", "--name", "k"], ["capsule", "list"],
                      ["capsule", "install", harness.capsule("astrid-time")], ["status"], ["logs"]):
            done = subprocess.run([program("astrid"), *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  stdin=subprocess.DEVNULL, text=True, cwd=elsewhere, timeout=30)
            equal(done.returncode, 0, done.stderr)
        equal(os.listdir(elsewhere), [])
        for path in ("run/cli-context.toml", "keys/local/k.ed25519", "home/default/.local/capsules/astrid-time"):
            check(os.path.exists(os.path.join(away, path)), path)
        for bad in ("relative", "/a/../b"):
            done = subprocess.run([program("astrid"), "agent", "current"], env=dict(env, ASTRID_HOME=bad),
                                  stderr=subprocess.PIPE, text=True)
            equal(done.returncode, 1)
            check("ASTRID_HOME must" in done.stderr, done.stderr)
        shutil.rmtree(elsewhere)

    def c08_06_the_context_file_is_the_original_s(self):
        path = self.d.path("run", "cli-context.toml")
        equal(self._run("agent", "current").stdout, "default\n")
        self._run("agent", "switch", "alice")
        with open(path) as f:
            equal(f.read(), 'active_agent = "alice"\n')
        equal(os.listdir(self.d.path("run")), ["cli-context.toml"])
        for text, name in (("", "default"), ("# only a comment\n", "default"), ('other = 1\n', "default"),
                           ("active_agent = 'b-o_b9'\n", "b-o_b9")):
            with open(path, "w") as f:
                f.write(text)
            equal(self._run("agent", "current").stdout, name + "\n", text)
        for text, error in (("= =", "Failed to parse " + path), ("active_agent = 3\n", "Failed to parse " + path),
                            ('active_agent = "../x"\n', "invalid principal id in cli-context.toml")):
            with open(path, "w") as f:
                f.write(text)
            self._fails(error, "agent", "current")
        os.unlink(path)
        os.mkdir(path)
        self._fails("Failed to read " + path, "agent", "current")
        os.rmdir(path)
        self._fails("invalid agent name: a b", "agent", "switch", "a b")
        check(not os.path.exists(path))

    def c08_07_the_daemon_beside_the_program_comes_first(self):
        """Then that of PATH; without either an error that names it."""
        beside, inpath = tempfile.mkdtemp(prefix="astrid-e2e-"), tempfile.mkdtemp(prefix="astrid-e2e-")
        copy = os.path.join(beside, "astrid")
        shutil.copy(program("astrid"), copy)

        def start(path):
            return subprocess.run([copy, "start"], env=dict(self.d.env, PATH=path), stdout=subprocess.PIPE, text=True,
                                  stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=30).stderr
        for folder, code in ((beside, 31), (inpath, 32)):
            with open(os.path.join(folder, "astrid-daemon"), "w") as f:
                f.write("#!/bin/sh\nexit %d\n" % code)
            os.chmod(f.name, 0o755)
        check("Daemon exited prematurely (exit status: 31). Check logs: " + self.d.path("log") in start(inpath))
        os.unlink(os.path.join(beside, "astrid-daemon"))
        check("(exit status: 32)" in start(inpath))
        check("astrid-daemon not found. Ensure it is installed alongside the astrid CLI or available in PATH."
              in start("/nowhere"))
        shutil.rmtree(beside)
        shutil.rmtree(inpath)

    def c08_10_status_and_stop_without_a_daemon(self):
        equal(self._run("status").stdout, "i No Astrid daemon is running.\n")
        equal(self._json("status"), {"running": False})
        equal(self._run("stop").stdout, "i No Astrid daemon is running.\n")
        self._run("status", "--exit-code", code=1)
        for words in (["ps"], ["who"]):
            equal(self._run(*words).stdout, "i No Astrid daemon is running.\n")
            equal(self._json(*words), [])
            equal(tomllib.loads(self._run(*words, "--format", "toml").stdout), {"value": []})

    def c08_10_a_socket_nobody_listens_on(self):
        os.makedirs(self.d.path("run"), mode=0o700, exist_ok=True)
        dead = self.d.path("run", "system.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.bind(dead)
        text = "\u2717 Daemon socket exists but connection failed. It may be starting up or in a bad state.\n"
        equal(self._run("status").stderr, text)
        equal(self._run("who", code=1).stderr, "\u2717 Failed to connect to daemon\n")
        equal(self._run("ps", code=1).stderr, "\u2717 Failed to connect to daemon\n")
        equal(self._run("stop").stdout, "i Cleaned up stale daemon socket.\n")
        check(not os.path.exists(dead))

    def c08_11_doctor_looks_and_changes_nothing(self):
        def run(home, *words):
            return subprocess.run([program("astrid"), "doctor", *words], env={"ASTRID_HOME": home, "PATH": "/nowhere"},
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20)
        done = run("relative", "--no-daemon")
        equal(done.returncode, 1)
        equal(done.stdout.split("\n")[:2], ["Astrid health check", "  [FAIL] ASTRID_HOME \u2014 ASTRID_HOME must be an absolute path"])
        equal(done.stderr, "\u2717 One or more checks failed.\n")
        home = os.path.join(self.d.home, "not-there")
        for words in ((), ("--no-daemon",)):
            done = run(home, *words)
            equal(done.returncode, 0, done.stdout)
            lines = done.stdout.split("\n")
            equal([l[:8] for l in lines[1:4]], ["  [OK]  ", "  [WARN]", "  [WARN]"])
            equal(lines[4], "\u2713 All checks passed.")
        check(not os.path.exists(home), "doctor made something")
        os.makedirs(self.d.path("run"), mode=0o700, exist_ok=True)
        dead = self.d.path("run", "system.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.bind(dead)
        check("  [FAIL] Daemon roundtrip \u2014 " in self._run("doctor", code=1).stdout)
        check("roundtrip" not in self._run("doctor", "--no-daemon").stdout)
        os.unlink(dead)

    def _with_secrets(self):
        """An installed capsule that declares a secret and a setting."""
        folder = self.d.path("home", "default", ".local", "capsules", "vault")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "Capsule.toml"), "w") as f:
            f.write('[package]\nname = "vault"\nversion = "1.0.0"\n[env.API_KEY]\ntype = "Secret"\n'
                    '[env.URL]\ntype = "string"\n')

    def c08_19_secrets_and_settings_of_the_original_s_files(self):
        self._with_secrets()
        store = lambda scope: self.d.path("secrets", scope, "vault", "API_KEY")
        env = self.d.path("home", "ann", ".config", "env", "vault.env.json")
        vault = ["-a", "ann", "--capsule", "vault"]
        self._run("secret", "set", "API_KEY", "s3cret\u00e4", *vault)
        self._run("secret", "set", "API_KEY", "-", *vault, "--scope", "shared", stdin="from stdin\n")
        for scope, text in (("ann", "s3cret\u00e4"), ("__host__", "from stdin")):
            with open(store(scope)) as f:
                equal(f.read(), text)
            equal((mode_of(store(scope)), mode_of(os.path.dirname(store(scope)))), (0o600, 0o700))
        # The original wrote this; what it holds stays.
        os.makedirs(os.path.dirname(env), mode=0o700)
        with open(env, "w") as f:
            f.write('{\n  "URL": "http://old",\n  "API_KEY": "plain"\n}')
        self._run("secret", "set", "MODE", stdin="fast", *vault)
        with open(env) as f:
            text = f.read()
        equal(json.loads(text), {"URL": "http://old", "API_KEY": "plain", "MODE": "fast"})
        check(text.startswith('{\n  "'), text)
        equal(mode_of(env), 0o600)
        want = [{"capsule": "vault", "key": "API_KEY", "storage": "env-json-legacy"},
                {"capsule": "vault", "key": "API_KEY", "storage": "file", "scope": "agent"},
                {"capsule": "vault", "key": "API_KEY", "storage": "file", "scope": "shared"},
                {"capsule": "vault", "key": "MODE", "storage": "env-json"},
                {"capsule": "vault", "key": "URL", "storage": "env-json"}]
        equal(self._json("secret", "list", "-a", "ann"), want)
        shown = self._run("secret", "list", "-a", "ann").stdout
        for value in ("s3cret", "stdin", "plain", "http", "fast"):
            check(value not in shown + json.dumps(want), "a value is shown")
        equal(shown.split("\n")[0].split(), ["CAPSULE", "KEY", "STORAGE", "SCOPE"])
        self._run("secret", "delete", "API_KEY", *vault)
        equal([r["key"] for r in self._json("secret", "list", "-a", "ann")], ["MODE", "URL"])
        for key in ("MODE", "URL"):
            self._run("secret", "delete", key, *vault)
        check(not os.path.exists(env), "the last key takes the file with it")
        self._fails("! 'URL' not set", "secret", "delete", "URL", *vault)
        self._run("secret", "set", "PLAIN", "x")
        with open(self.d.path("home/default/.config/env/default.env.json")) as f:
            equal(json.load(f), {"PLAIN": "x"})

    def c08_19_what_is_wrong_with_a_secret_is_said(self):
        self._with_secrets()
        self._fails("invalid key: must not be empty", "secret", "set", "", "x")
        self._fails("--scope requires --capsule (", "secret", "set", "K", "x", "--scope", "agent")
        self._fails("--scope requires the capsule manifest to declare 'URL' as type=\"secret\" (", "secret", "set", "URL", "x",
                    "--capsule", "vault", "--scope", "shared")
        self._fails("agent or shared", "secret", "set", "K", "x", "--scope", "all", code=2)
        self._fails("error: ", "secret", "set", "API_KEY", "", "--capsule", "vault")
        for name in ("../up", "a/b", "UP"):
            self._fails("error: ", "secret", "set", "K", "x", "--capsule", name)
        folder = self.d.path("home", "bad", ".config", "env")
        os.makedirs(folder)
        for text, error in (("[]", "vault.env.json is not a JSON object"), ("{", "vault.env.json is not valid JSON")):
            with open(os.path.join(folder, "vault.env.json"), "w") as f:
                f.write(text)
            self._fails(error, "secret", "set", "URL", "x", "--capsule", "vault", "-a", "bad")
            with open(f.name) as f:
                equal(f.read(), text, "a broken file is not replaced")

    def c08_12_logs_print_the_last_lines_of_the_newest_file(self):
        folder = self.d.path("log")
        os.makedirs(folder, exist_ok=True)
        for name, when, text in (("astrid.1.log", 100, "old\n"), ("astrid.2.log", 200, "".join("l%d\n" % i for i in range(9)))):
            with open(os.path.join(folder, name), "w") as f:
                f.write(text)
            os.utime(f.name, (when, when))
        equal(self._run("logs", "-n", "3").stdout, "l6\nl7\nl8\n")
        equal(self._run("logs", "-n", "99").stdout.count("\n"), 9)
        for name in ("../log", "a/b", "..", "/etc"):
            self._fails("error: ", "logs", name)

    def a_secret_that_is_typed_is_not_shown(self):
        """On a terminal of its own: the prompt appears, the value does not."""
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(program("astrid"), ["astrid", "secret", "set", "TYPED"], self.d.env)
        shown, typed = b"", False
        while select.select([fd], [], [], 20)[0]:
            try:
                more = os.read(fd, 1024)
            except OSError:  # the other side is closed
                break
            shown += more
            if not more:
                break
            if not typed and b"hidden): " in shown:
                typed = os.write(fd, b"s3cret\n") > 0
        else:
            os.kill(pid, signal.SIGKILL)
        os.close(fd)
        equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        check(b"s3cret" not in shown and b"Stored 'TYPED'" in shown, shown)
        with open(self.d.path("home/default/.config/env/default.env.json")) as f:
            equal(json.load(f)["TYPED"], "s3cret")

    def c08_18_a_key_and_its_files(self):
        done = self._run("keypair", "generate", "--name", "laptop", "--note", "my \u00e4 one")
        check(done.stdout.startswith("\u2713 Generated keypair 'laptop'\n"), done.stdout)
        folder = self.d.path("keys", "local")
        modes = {n: mode_of(os.path.join(folder, n)) for n in os.listdir(folder)}
        equal(modes, {"laptop.ed25519": 0o600, "laptop.pub.hex": 0o644, "laptop.meta.toml": 0o600})
        equal(mode_of(folder), 0o700)
        with open(os.path.join(folder, "laptop.ed25519"), "rb") as f:
            seed = f.read()
        with open(os.path.join(folder, "laptop.pub.hex")) as f:
            public = f.read()
        with open(os.path.join(folder, "laptop.meta.toml"), "rb") as f:
            meta = tomllib.load(f)
        equal((len(seed), len(public), public[-1]), (32, 65, "\n"))
        equal(self._run("keypair", "pubkey", "laptop").stdout, public)
        equal((meta["schema_version"], meta["backend"], meta["note"]), (1, "file", "my \u00e4 one"))
        row = self._json("keypair", "list")[0]
        equal(row, {"name": "laptop", "fingerprint": meta["fingerprint"], "created_at_epoch": meta["created_at_epoch"],
                    "backend": "file", "note": "my \u00e4 one", "bound_principal": None})
        equal(json.loads(self._run("keypair", "list", "--json").stdout), [row])
        shown = self._run("keypair", "show", "laptop").stdout
        for line in ("public key (hex): " + public, "fingerprint: " + meta["fingerprint"] + "\n",
                     "private key: " + os.path.join(folder, "laptop.ed25519") + "\n"):
            check(line in shown, shown)
        # Another implementation derives the same public key from the seed.
        der = bytes.fromhex("302e020100300506032b657004220420") + seed
        openssl = shutil.which("openssl")
        if openssl:
            spki = subprocess.run([openssl, "pkey", "-inform", "DER", "-pubout", "-outform", "DER"], input=der,
                                  stdout=subprocess.PIPE, check=True).stdout
            equal(spki[-32:].hex(), public.strip())

    def openssh_reads_the_public_key(self):
        self._run("keypair", "generate", "--name", "ssh")
        line = self._run("keypair", "pubkey", "ssh", "--format", "openssh").stdout
        check(line.startswith("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"), line)
        keygen = shutil.which("ssh-keygen")
        if not keygen:
            raise Skipped("no ssh-keygen")
        done = subprocess.run([keygen, "-l", "-f", "-"], input=line, stdout=subprocess.PIPE, text=True)
        check(done.returncode == 0 and "ED25519" in done.stdout, done.stdout)

    def keys_are_not_replaced_or_deleted_by_accident(self):
        first = self._run("keypair", "generate", "--name", "keep", "--raw").stdout
        equal(len(first), 65)
        self._fails('keypair "keep" already exists at ' + self.d.path("keys/local/keep.ed25519")
                   + " \u2014 pass --force to overwrite", "keypair", "generate", "--name", "keep")
        equal(self._run("keypair", "pubkey", "keep").stdout, first)
        check(self._run("keypair", "generate", "--name", "keep", "--raw", "--force").stdout != first)
        self._fails("cannot be undone", "keypair", "delete", "keep")
        self._run("keypair", "delete", "keep", "--yes")
        self._fails('keypair "keep" not found', "keypair", "show", "keep")
        for name in ("UP", "a_b", "../x", "", "x" * 65):
            self._fails("1 to 64 of a-z, 0-9 and -", "keypair", "generate", "--name", name)
        made_up = self._run("keypair", "generate").stdout.split("'")[1]
        check(made_up.startswith("key-") and len(made_up) == 12, made_up)
        with open(self.d.path("keys/local", made_up + ".meta.toml"), "w") as f:
            f.write("schema_version = 7\n")
        done = self._run("keypair", "list")
        check("was written by a newer astrid (schema 7 > 1)" in done.stderr, done.stderr)


# ---- what goes over the wire ------------------------------------------------------------------------------------------


class Wire(Cli):
    def set_up(self):
        self.d = Daemon()
        self.peer = Peer(self.d.home)
        self.peer.answer("agent.list", "AgentList", [AGENT])
        self.peer.answer("quota.get", "Quotas", QUOTAS)

    def tear_down(self, failed):
        self.peer.close()
        super().tear_down(failed)

    def _sends(self, words, *want, code=0, principal="default", **more):
        done = self._run(*words, code=code, **more)
        equal(self.peer.take(), [(s, m, p, principal) for s, m, p in want], words)
        return done

    def c08_13_agent_requests(self):
        done = self._sends(["agent", "create", "bob"], ("agent.create", "AgentCreate", {"name": "bob", "groups": [], "grants": []}))
        equal(done.stdout, "\u2713 Created agent 'bob'\n")
        done = self._sends(["agent", "create", "bob", "--group", "agent", "--group=ops", "--egress", "local,lan:*",
                           "--process-allow", "git", "--process-allow", "ls, cat", "--memory", "32MiB", "--timeout", "1h30m",
                           "--processes", "0", "-y"],
                          ("agent.create", "AgentCreate",
                           {"name": "bob", "groups": ["agent", "ops"],
                            "grants": ["network:egress:local", "network:egress:lan:*", "process:spawn:git",
                                       "process:spawn:ls", "process:spawn:cat"]}),
                          ("quota.get", "QuotaGet", {"principal": "bob"}),
                          ("quota.set", "QuotaSet",
                           {"principal": "bob", "quotas": dict(QUOTAS, max_memory_bytes=33554432, max_timeout_secs=5400,
                                                               max_background_processes=0)}))
        equal(done.stdout, "\u2713 Created agent 'bob'\n  i Quotas set (3 fields)\n")
        self._sends(["agent", "list"], ("agent.list", "AgentList", {}))
        self._sends(["agent", "show", "alice"], ("agent.list", "AgentList", {}))
        self._sends(["agent", "enable", "bob"], ("agent.enable", "AgentEnable", {"principal": "bob"}))
        self._sends(["agent", "disable", "bob"], ("agent.disable", "AgentDisable", {"principal": "bob"}))
        self._sends(["agent", "delete", "bob", "--yes"], ("agent.delete", "AgentDelete", {"principal": "bob"}))
        self._sends(["agent", "delete", "bob"], code=1, stdin="n\n")
        self._sends(["agent", "delete", "bob"], ("agent.delete", "AgentDelete", {"principal": "bob"}), stdin="y\n")
        self.peer.answer("agent.modify", "Success", {"principal": "bob", "groups": ["a", "b"], "changed": True})
        done = self._sends(["agent", "modify", "bob", "--add-group", "a", "--add-group", "b", "--remove-group", "c"],
                          ("agent.modify", "AgentModify", {"principal": "bob", "add_groups": ["a", "b"], "remove_groups": ["c"]}))
        equal(done.stdout, "\u2713 Updated agent 'bob' groups: [a, b]\n")
        self.peer.answer("agent.modify", "Success", {"principal": "bob", "groups": ["a"], "changed": False})
        done = self._sends(["agent", "modify", "bob", "--add-group", "a"],
                          ("agent.modify", "AgentModify", {"principal": "bob", "add_groups": ["a"], "remove_groups": []}))
        equal(done.stdout, "i agent 'bob' already in the requested groups (no change)\n")
        check("nothing to do" in self._sends(["agent", "modify", "bob"], code=1).stderr)

    def c08_13_what_is_wrong_is_refused_before_any_request(self):
        for words, text in ((["--egress", "api.example.com"], 'invalid --egress entry "api.example.com": capability segment'),
                            (["--process-allow", "a b"], 'invalid --process-allow entry "a b": '),
                            (["--memory", "12XB"], "--memory: unknown byte suffix: XB"),
                            (["--timeout", "2d"], "--timeout: 172800s is more than the limit of 86400s"),
                            (["--processes", "257"], "--processes: 257 is more than the limit of 256")):
            check(text in self._sends(["agent", "create", "bob"] + words, code=1).stderr, text)
        self._sends(["agent", "create", "a b"], code=1)

    def an_agent_stays_when_its_quotas_fail(self):
        self.peer.answer("quota.set", "Error", "disk full")
        done = self._run("agent", "create", "bob", "--memory", "1MiB", code=1)
        check("agent 'bob' created, but failed to apply quotas \u2014 re-run `astrid quota set -a bob ...` to retry: "
              "kernel rejected request: disk full" in done.stderr, done.stderr)
        self.peer.answer("quota.set", "Success", {"principal": "bob"})
        self.peer.take()

    def c08_14_everything_is_refused_without_the_override(self):
        for cap in ("*", "*:*"):
            check("--unsafe-admin" in self._sends(["caps", "grant", "alice", cap], code=2).stderr)
        self._sends(["caps", "grant", "alice", "*", "--unsafe-admin"],
                   ("caps.grant", "CapsGrant", {"principal": "alice", "capabilities": ["*"], "unsafe_admin": True}))
        done = self._sends(["caps", "grant", "alice", "net:*"],
                          ("caps.grant", "CapsGrant", {"principal": "alice", "capabilities": ["net:*"], "unsafe_admin": False}))
        equal(done.stdout, "\u2713 Granted 'net:*' to agent 'alice'\n")
        done = self._sends(["caps", "revoke", "alice", "*"],
                          ("caps.revoke", "CapsRevoke", {"principal": "alice", "capabilities": ["*"]}))
        equal(done.stdout, "\u2713 Revoked '*' from agent 'alice'\n")

    def c08_16_sizes_go_out_as_bytes_and_the_rest_is_kept(self):
        want = dict(QUOTAS, max_storage_bytes=1610612736, max_timeout_secs=1, max_ipc_throughput_bytes=2000000)
        done = self._sends(["quota", "set", "-a", "bob", "--storage", "1.5GiB", "--timeout", "300ms", "--ipc-rate", "2MB/s"],
                          ("quota.get", "QuotaGet", {"principal": "bob"}),
                          ("quota.set", "QuotaSet", {"principal": "bob", "quotas": want}))
        equal(done.stdout, "\u2713 Updated quotas for 'bob'.\n")
        check("nothing to set" in self._sends(["quota", "set"], code=1).stderr)

    def group_requests(self):
        self._sends(["group", "create", "ops", "--caps", "a:b, c", "--caps", "d", "--description", "x y"],
                   ("group.create", "GroupCreate", {"name": "ops", "capabilities": ["a:b", "c", "d"], "description": "x y",
                                                    "unsafe_admin": False}))
        self._sends(["group", "create", "ops", "--caps", ","], code=1)
        self._sends(["group", "create", "ops"], code=1)
        self.peer.answer("group.list", "GroupList", [{"name": "ops", "capabilities": ["a", "b", "c"], "unsafe_admin": False,
                                                      "builtin": False}])
        fetch = ("group.list", "GroupList", {})
        for words, caps, text in ((["--add-caps", "d,b", "--remove-caps", "a"], ["b", "c", "d"], None),
                                  (["--description", "new"], None, "new"), (["--description", ""], None, "")):
            self._sends(["group", "modify", "ops"] + words, fetch,
                       ("group.modify", "GroupModify", {"name": "ops", "capabilities": caps, "description": text,
                                                        "unsafe_admin": None}))
        check("nothing to do" in self._sends(["group", "modify", "ops"], code=1).stderr)

    def c08_05_the_option_beats_the_context_and_that_beats_default(self):
        self._sends(["quota", "show", "--format", "json"], ("quota.get", "QuotaGet", {"principal": "default"}))
        self._run("agent", "switch", "alice")
        self.peer.take()
        self._sends(["quota", "show", "--format", "json"], ("quota.get", "QuotaGet", {"principal": "alice"}), principal="alice")
        for words in (["-a", "bob"], ["-abob"], ["--agent", "bob"], ["--agent=bob"], ["--principal", "bob"]):
            self._sends(["quota", "show", "--format", "json"] + words, ("quota.get", "QuotaGet", {"principal": "bob"}),
                       principal="alice")
        check("invalid agent name: b/c" in self._sends(["quota", "show", "-a", "b/c"], code=1).stderr)
        self._run("agent", "switch", "default")
        self.peer.take()

    def invite_and_pair_requests(self):
        token = "-" + "x" * 31  # one in sixty-four begins like an option
        invite = {"token": token, "group": "agent", "remaining_uses": 1, "expires_at_epoch": 1767700000}
        self.peer.answer("invite.issue", "Invite", invite)
        done = self._sends(["invite", "issue"], ("invite.issue", "InviteIssue", {"group": "agent", "expires_secs": 86400,
                                                                               "max_uses": 1}))
        equal(done.stdout, "\u2713 issued %s (group: agent, uses: 1, metadata: -)\nexpires at unix epoch 1767700000\n" % token)
        done = self._sends(["invite", "issue", "--group", "ops", "--expires-secs", "60", "--max-uses", "3", "--metadata", "lab",
                           "--raw"],
                          ("invite.issue", "InviteIssue", {"group": "ops", "expires_secs": 60, "max_uses": 3, "metadata": "lab"}))
        equal((done.stdout, done.stderr), (token + "\n", ""))
        key = "ed25519:" + "ab" * 32
        self.peer.answer("invite.redeem", "InviteRedeemed", {"principal": "zoe", "group": "agent", "public_key_fingerprint": "f0"})
        self._run("agent", "switch", "alice")
        self.peer.take()
        want = ("invite.redeem", "InviteRedeem", {"token": token, "public_key": key, "display_name": "Zoe"})
        done = self._sends(["invite", "redeem", token, "--public-key", key, "--display-name", "Zoe"], want)
        equal(done.stdout, "\u2713 redeemed principal: zoe (group: agent, key fp: f0)\nnext step: astrid agent switch zoe\n")
        done = self._sends(["invite", "redeem", "-", "--public-key", key, "--display-name", "Zoe"], want, stdin=token + "\n")
        done = self._sends(["invite", "redeem", "t"], code=1)
        check("redeem requires either --public-key <hex> or --keypair <name>. Generate one with `astrid keypair generate`."
              in done.stderr, done.stderr)
        check("the token is empty" in self._sends(["invite", "redeem", "-", "--public-key", key], code=1, stdin="\n").stderr)
        check("too long" in self._sends(["invite", "redeem", "x" * 256, "--public-key", key], code=1).stderr)
        self.peer.answer("invite.revoke", "Success", {"removed": 1})
        done = self._sends(["invite", "revoke", token], ("invite.revoke", "InviteRevoke", {"token": token}), principal="alice")
        equal(done.stdout, '\u2713 revoked {"removed":1}\n')
        self.peer.answer("auth.pair.issue", "PairToken", {"token": token, "principal": "alice", "expires_at_epoch": 5, "label": "phone"})
        done = self._sends(["pair", "issue", "--label", "phone"],
                          ("auth.pair.issue", "PairDeviceIssue", {"expires_secs": 300, "label": "phone"}), principal="alice")
        equal(done.stdout, "\u2713 issued %s (principal: alice, label: phone)\nexpires at unix epoch 5\n" % token)
        self._sends(["pair", "issue", "-a", "bob", "--expires-secs", "9", "--raw"],
                   ("auth.pair.issue", "PairDeviceIssue", {"expires_secs": 9}), principal="bob")
        self.peer.answer("auth.pair.redeem", "PairTokenRedeemed", {"principal": "alice", "public_key_fingerprint": "f1"})
        self._run("keypair", "generate", "--name", "phone")
        public = self._run("keypair", "pubkey", "phone").stdout.strip()
        done = self._sends(["pair", "redeem", token, "--keypair", "phone", "--switch"],
                          ("auth.pair.redeem", "PairDeviceRedeem", {"token": token, "public_key": public}))
        equal(done.stdout, "\u2713 paired with principal: alice (key fp: f1)\n\u2713 Active agent set to 'alice'\n")
        equal(self._json("keypair", "list")[0]["bound_principal"], "alice")
        self._run("agent", "switch", "default")
        self.peer.take()

    def emit_publishes_what_a_hook_says(self):
        env = {"ASTRID_HOME": self.d.home, "ASTRID_PRINCIPAL_ID": "alice", "ASTRID_SESSION_ID": "s-1", "ASTRID_HOOK_TOKEN": "t"}
        for words in (["sage.v1.hook.before_tool"], ["--topic", "sage.v1.hook.before_tool"]):
            done = subprocess.run([program("astrid-emit"), *words], env=env, input=b'{"a":"\xc3\xa4\xff"}', stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, timeout=20)
            equal((done.returncode, done.stdout, done.stderr), (0, b'{"continue":true}\n', b""))
            wait_for(lambda: self.peer.frames, what="the event")
            frame = self.peer.frames.pop()
            equal((frame["topic"], frame["principal"]), ("sage.v1.hook.before_tool", "alice"))
            equal(frame["payload"], {"type": "raw_json", "hook": "before_tool", "payload": '{"a":"\u00e4\ufffd"}',
                                     "correlation_id": None, "principal_id": "alice", "session_id": "s-1", "token": "t"})
        for word in ("--help", "--version"):
            done = subprocess.run([program("astrid-emit"), word], env={}, stdout=subprocess.PIPE, text=True)
            equal(done.returncode, 0)
            check("continue" not in done.stdout.split("\n")[0], done.stdout)

    def an_answer_of_another_kind_is_an_error(self):
        self.peer.answer("agent.create", "Weird", {})
        self._fails("unexpected response from kernel: ", "agent", "create", "bob")
        self.peer.answer("invite.issue", "Invite", {"group": "agent"})
        self._fails("unexpected response shape: ", "invite", "issue")
        self.peer.answer("group.list", "GroupList", [])
        self._fails("group 'x' not found", "group", "show", "x")
        self.peer.take()

    def names_in_answers_cannot_drive_the_terminal(self):
        self.peer.answer("agent.list", "AgentList", [dict(AGENT, groups=["a\u001b[2J\nb"])])
        for words in (["agent", "list"], ["agent", "show", "alice"]):
            check("\u001b" not in self._run(*words).stdout, words)
        self.peer.answer("agent.list", "AgentList", [AGENT])
        self.peer.take()


# ---- with a daemon ----------------------------------------------------------------------------------------------------


class Served(Cli):
    daemon = {}

    def c08_02_every_format_is_read_by_a_stock_parser(self):
        self._run("agent", "create", "fmt", "--process-allow", "git,ls")
        for words in (["agent", "list"], ["agent", "show", "fmt"], ["caps", "show", "fmt"], ["group", "list"],
                      ["group", "show", "agent"], ["quota", "show"], ["quota", "usage"], ["who"], ["ps"], ["status"],
                      ["version"], ["keypair", "list"], ["capsule", "list"], ["audit", "verify"]):
            value = self._json(*words)

            def steady(v):  # what changes while the test looks
                return {k: x for k, x in v.items() if k not in ("uptime_secs", "entries", "chains", "heads")} \
                    if isinstance(v, dict) else v
            toml = tomllib.loads(self._run(*words, "--format", "ToMl").stdout)
            want = without_nulls(value) if isinstance(value, dict) else {"value": without_nulls(value)}
            equal(steady(toml), steady(want), words)
            try:
                import yaml
            except ImportError:
                yaml = None
            for name in ("yaml", "YML") if yaml else ():
                equal(steady(yaml.safe_load(self._run(*words, "--format", name).stdout)), steady(value), words)
            equal(steady(json.loads(self._run("--format", "json", *words).stdout)), steady(value), "the global option")
        pretty = self._run("agent", "list").stdout
        for typo in ("jsno", "", "xml", "pretty"):
            equal(self._run("agent", "list", "--format", typo).stdout, pretty, typo)

    def c08_13_agents_from_cradle_to_grave(self):
        self._run("agent", "create", "anna", "--group", "agent", "--group", "crew", "--process-allow", "git", "--memory", "32MiB")
        row = {"principal": "anna", "enabled": True, "groups": ["agent", "crew"], "grants": ["process:spawn:git"], "revokes": []}
        equal(self._json("agent", "show", "anna"), row)
        check(row in self._json("agent", "list"))
        names = [r["principal"] for r in self._json("agent", "list")]
        equal(names, sorted(names))
        equal([r["principal"] for r in self._json("agent", "list", "--group", "crew")], ["anna"])
        table = self._run("agent", "list").stdout.split("\n")
        equal(table[0], "AGENT                    STATE      GROUPS")
        check("anna                     enabled    agent, crew" in table, table)
        equal(self._run("agent", "list", "--group", "nobody").stdout, "i No agents.\n")
        self._run("agent", "disable", "anna")
        equal(self._run("agent", "show", "anna").stdout,
              "Principal: anna\nEnabled:   no\nGroups:    agent, crew\nGrants:\n    + process:spawn:git\n")
        self._run("agent", "enable", "anna")
        self._run("caps", "revoke", "anna", "self:x")
        self._run("agent", "modify", "anna", "--remove-group", "crew")
        check(self._run("agent", "show", "anna").stdout.endswith("Revokes:\n    - self:x\n"))
        equal(self._json("quota", "show", "-a", "anna")["max_memory_bytes"], 33554432)
        self._fails("aborted.\n", "agent", "delete", "anna", stdin="\n")
        self._run("agent", "delete", "anna", "-y")
        self._fails("agent 'anna' not found", "agent", "show", "anna")
        self._fails("kernel rejected request: principal \"default\" is reserved", "agent", "create", "default")

    def c08_05_a_switched_context_acts_and_sees_as_that_agent(self):
        self._run("agent", "create", "self")
        equal(self._run("agent", "switch", "self").stdout, "\u2713 Active agent set to 'self'\n")
        equal([r["principal"] for r in self._json("agent", "list")], ["self"])
        equal(self._json("agent", "show")["principal"], "self")
        equal(self._json("quota", "show")["principal"], "self")
        self._fails("kernel rejected request: permission denied for principal self: missing capability agent:create",
                   "agent", "create", "more")
        done = self._run("agent", "switch", "ghost")
        check("agent 'ghost' was not found, or you may not see it" in done.stderr, done.stderr)
        equal(self._run("agent", "current").stdout, "ghost\n")
        self._run("agent", "switch", "default")

    def c08_15_check_says_what_the_daemon_would(self):
        self._run("group", "create", "watch", "--caps", "system:status,log:*")
        self._run("agent", "create", "carl", "--group", "agent", "--group", "watch")
        self._run("caps", "grant", "carl", "net:*")
        self._run("caps", "revoke", "carl", "net:evil")
        for cap, code, text in (("net:good:deep", 0, "allowed: 'net:good:deep' is granted to agent 'carl' via \"net:*\"\n"),
                                ("net:evil", 1, "denied: 'net:evil' is revoked from agent 'carl' via \"net:evil\"\n"),
                                ("log:a:b", 0, "allowed: agent 'carl' is in group 'watch', which holds \"log:*\"\n"),
                                ("agent:create", 1, "denied: nothing grants 'agent:create' to agent 'carl'\n")):
            equal(self._run("caps", "check", "carl", cap, code=code).stdout, text)
        self._fails("agent 'nobody' not found", "caps", "check", "nobody", "a:b")
        self._fails("double glob", "caps", "check", "carl", "a:**")
        equal(self._json("caps", "show", "carl"),
              {"principal": "carl", "groups": ["agent", "watch"], "grants": ["net:*"], "revokes": ["net:evil"]})
        self._run("caps", "grant", "carl", "net:evil")
        table = [l.split("  ") for l in self._run("caps", "show", "carl").stdout.split("\n")]
        rows = [[c.strip() for c in l if c.strip()] for l in table if l != [""]]
        equal(rows[0], ["CAPABILITY", "SOURCE", "STATUS"])
        for row in (["net:*", "grant", "active"], ["net:evil", "grant", "shadowed by revoke"],
                    ["log:*", "group watch", "active"], ["net:evil", "revoke", "denied"]):
            check(row in rows, (row, rows))
        self._run("agent", "disable", "carl")
        equal(self._run("caps", "check", "carl", "net:good", code=1).stdout, "denied: agent 'carl' is disabled\n")
        # The same question, answered by the daemon: the status request needs system:status.
        self._run("agent", "enable", "carl")
        client = self.d.client()
        self._run("caps", "check", "carl", "system:status")
        equal(client.request("GetStatus", principal="carl")["status"], "Status")
        self._run("caps", "revoke", "carl", "system:status")
        self._run("caps", "check", "carl", "system:status", code=1)
        equal(client.request("GetStatus", principal="carl")["status"], "Error")
        client.close()

    def c08_16_limits_change_one_by_one(self):
        self._run("agent", "create", "quinn")
        before = self._json("quota", "show", "-a", "quinn")
        equal(before, dict(QUOTAS, principal="quinn"))
        self._run("quota", "set", "-a", "quinn", "--memory", "32MiB")
        self._run("quota", "set", "-a", "quinn", "--processes", "2", "--cpu-rate", "1.5G")
        equal(self._json("quota", "show", "-a", "quinn"),
              dict(before, max_memory_bytes=33554432, max_background_processes=2, max_cpu_fuel_per_sec=1500000000))
        shown = self._run("quota", "show", "-a", "quinn").stdout
        equal(shown, "Quotas for quinn\n"
                     "  memory                 32.0 MiB\n"
                     "  timeout                5m00s\n"
                     "  storage                1.0 GiB\n"
                     "  processes              2\n"
                     "  ipc-rate               10.0 MiB/s\n"
                     "  cpu-rate               1.5G/s\n"
                     "\n"
                     "Usage vs budget\n"
                     "  cpu consumed           0\n"
                     "  cpu rate limit         1.5G/s\n"
                     "  exempt                 no\n"
                     "  memory current         n/a\n"
                     "  memory peak            n/a\n"
                     "  memory limit/instance  32.0 MiB\n")
        check("yes (limits advisory)" in self._run("quota", "show").stdout)
        equal(self._json("quota", "usage", "-a", "quinn")["cpu_fuel_per_sec_limit"], 1500000000)
        self._fails("kernel rejected request: ", "quota", "show", "-a", "nobody")
        # An agent may lower its own limits and not raise them.
        self._run("agent", "switch", "quinn")
        self._run("quota", "set", "--memory", "16MiB")
        self._fails("kernel rejected request: ", "quota", "set", "--memory", "64MiB")
        self._run("agent", "switch", "default")

    def c08_20_builtin_groups_are_refused_with_the_server_s_words(self):
        for name in ("admin", "agent", "restricted"):
            for verb, words in (("create", ["--caps", "a"]), ("modify", ["--add-caps", "a"]), ("delete", [])):
                self._fails('kernel rejected request: group.%s rejected: built-in group "%s" may not be redefined' % (verb, name),
                           "group", verb, name, *words)

    def groups_grow_shrink_and_go(self):
        self._run("group", "create", "crew", "--caps", "a:b,c:d", "--caps", "e:f", "--description", "who rows")
        equal(self._json("group", "show", "crew"), {"name": "crew", "capabilities": ["a:b", "c:d", "e:f"],
                                                   "description": "who rows", "unsafe_admin": False, "builtin": False})
        done = self._run("group", "modify", "crew", "--add-caps", "g:h,a:b", "--remove-caps", "c:d,zz")
        equal((done.stdout, done.stderr), ("\u2713 Updated group 'crew'\n", "! group 'crew' does not hold 'zz'\n"))
        equal(self._json("group", "show", "crew")["capabilities"], ["a:b", "e:f", "g:h"])
        equal(self._json("group", "show", "crew")["description"], "who rows")
        self._run("group", "modify", "crew", "--description", "")
        check("description" not in self._json("group", "show", "crew"))
        self._run("group", "modify", "crew", "--add-caps", "i:j")
        rows = self._run("group", "list").stdout.split("\n")
        equal(rows[0], "GROUP            TYPE       CAPABILITIES")
        check("crew             custom     a:b, e:f, g:h, ...(4 total)" in rows, rows)
        names = [g["name"] for g in self._json("group", "list")]
        equal(names, sorted(names))
        check("Capabilities:\n    + a:b\n" in self._run("group", "show", "crew").stdout)
        self._fails("kernel rejected request: group.create rejected: ", "group", "create", "all", "--caps", "*")
        self._run("group", "create", "all", "--caps", "*", "--unsafe-admin")
        for name in ("crew", "all"):
            equal(self._run("group", "delete", name).stdout, "\u2713 Deleted group '%s'\n" % name)
        self._fails("group 'crew' not found", "group", "show", "crew")

    def the_daemon_verbs_do_not_ask_as_the_active_agent(self):
        self._run("agent", "create", "small", "--group", "restricted")
        self._run("agent", "switch", "small")
        check(self._run("status").stdout.startswith("\u2713 Astrid daemon (PID "))
        check("active" in self._run("who").stdout)
        self._run("doctor")
        self._fails("kernel rejected request: permission denied for principal small: missing capability self:agent:list",
                    "agent", "list")
        equal(self._run("agent", "switch", "default").stderr, "")

    def c08_02_rows_of_the_audit_log_are_a_list_in_toml_and_yaml(self):
        words = ["audit", "query", "-n", "3", "--method", "admin.agent.create"]
        for name in ("log1", "log2"):
            self._run("agent", "create", name)
        want = [without_nulls(json.loads(l)) for l in self._run(*words, "--format", "json").stdout.splitlines()]
        check(len(want) >= 2)
        equal(tomllib.loads(self._run(*words, "--format", "toml").stdout), {"value": want})
        try:
            import yaml
        except ImportError:
            return
        equal(without_nulls(yaml.safe_load(self._run(*words, "--format", "yaml").stdout)), want)

    def rows_of_the_audit_log_line_up(self):
        self._run("agent", "create", "rowan")
        rows = self._run("audit", "query", "-n", "50").stdout.splitlines()
        check(any(r[22:].startswith("default       admin.agent.create       success") for r in rows), rows)
        check(all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  \S+ +\S+ +(success|\S.*)", r) for r in rows), rows)

    def who_has_a_row_for_each_connection(self):
        clients = [self.d.client() for _ in range(2)]
        for c in clients:
            c.request("GetStatus", principal="default")
        rows = self._json("who")
        equal(rows[:2], [{"agent": "default", "platform": "cli"}] * 2)
        lines = self._run("who").stdout.split("\n")
        equal(lines[0], "AGENT                    PLATFORM     STATE")
        equal(lines[1], "default                  cli          active")
        for c in clients:
            c.close()

    def c08_09_a_live_daemon_s_socket_stays(self):
        path = self.d.path("run", "system.sock")
        inode = os.stat(path).st_ino
        self._run("start")
        equal(os.stat(path).st_ino, inode)
        # A dead socket in its place: whoever holds the lock is alive, so nothing is cleaned.
        os.rename(path, path + ".aside")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.bind(path)
        for verb in ("stop", "start", "restart"):
            done = self._run(verb, code=1)
            check("a daemon holds the singleton lock" in done.stderr, done.stderr)
            check(os.path.exists(path), verb)
        os.rename(path + ".aside", path)
        self._json("status")


def without_nulls(v):
    if isinstance(v, dict):
        return {k: without_nulls(x) for k, x in v.items() if x is not None}
    return [without_nulls(x) for x in v] if isinstance(v, list) else v


class Story(Cli):
    daemon = {}

    def _profile(self, name):
        with open(self.d.path("etc", "profiles", name + ".toml"), "rb") as f:
            return tomllib.load(f)

    def c08_17_an_operator_s_day(self):
        """A group, an agent, its rights and limits; somebody is invited, pairs a second device; the log tells it all."""
        self._run("group", "create", "crew", "--caps", "self:*,system:status", "--description", "who rows")
        self._run("agent", "create", "ann", "--group", "agent", "--group", "crew")
        self._run("caps", "grant", "ann", "net:lan")
        self._run("quota", "set", "-a", "ann", "--memory", "32MiB", "--processes", "2")

        done = self._run("invite", "issue", "--group", "crew", "--expires-secs", "600", "--metadata", "Zoe's laptop")
        token = done.stdout.split()[2]
        equal(len(token), 32)
        equal((done.stdout + done.stderr).count(token), 1, "the token is printed once")
        check(done.stdout.startswith("\u2713 issued %s (group: crew, uses: 1, metadata: Zoe's laptop)\nexpires at unix epoch 1"
                                     % token), done.stdout)
        row = self._json("invite", "list")[0]
        equal((row["token_fingerprint"], row["group"], row["remaining_uses"], row["metadata"]),
              (hashlib.sha256(token.encode()).hexdigest(), "crew", 1, "Zoe's laptop"))
        equal(json.loads(self._run("invite", "list", "--json").stdout), [row])
        lines = self._run("invite", "list").stdout.split("\n")
        equal(lines[0].split(), ["FINGERPRINT", "GROUP", "USES", "EXPIRES", "LABEL"])
        check(re.fullmatch(row["token_fingerprint"] + r" crew {12}1     (9m\d\ds|10m00s) {5,6}Zoe's laptop", lines[1]), lines)

        public = self._run("keypair", "generate", "--name", "laptop", "--raw").stdout.strip()
        done = self._run("invite", "redeem", "-", "--keypair", "laptop", "--display-name", "Zoe Y.", "--switch", stdin=token + "\n")
        finger = hashlib.sha256(("ed25519:" + public).encode()).hexdigest()
        equal(done.stdout, "\u2713 redeemed principal: zoe-y (group: crew, key fp: %s)\n"
                           "\u2713 Active agent set to 'zoe-y'\n" % finger)
        key = self._json("keypair", "list")[0]
        equal((key["bound_principal"], key["fingerprint"]), ("zoe-y", finger))
        profile = self._profile("zoe-y")
        equal((profile["groups"], profile["auth"]), (["crew"], {"methods": ["keypair"], "public_keys": ["ed25519:" + public]}))
        self._fails("kernel rejected request: invite token invalid, expired, or already consumed",
                    "invite", "redeem", token, "--keypair", "laptop")

        # Zoe works, as far as she may, and adds her phone.
        equal(self._run("agent", "current").stdout, "zoe-y\n")
        equal(self._json("quota", "show")["principal"], "zoe-y")
        self._fails("permission denied for principal zoe-y: missing capability invite:issue", "invite", "issue")
        done = self._run("pair", "issue", "--label", "phone")
        pair = done.stdout.split()[2]
        equal((done.stdout + done.stderr).count(pair), 1, "the token is printed once")
        check("(principal: zoe-y, label: phone)" in done.stdout and "astrid pair redeem <TOKEN>" in done.stderr, done)
        phone = self._run("keypair", "generate", "--name", "phone", "--raw").stdout.strip()
        self._run("agent", "switch", "default")
        done = self._run("pair", "redeem", pair, "--keypair", "phone")
        check(done.stdout.startswith("\u2713 paired with principal: zoe-y (key fp: "), done.stdout)
        check(done.stdout.endswith("\nnext step: astrid agent switch zoe-y\n"), done.stdout)
        equal(self._profile("zoe-y")["auth"]["public_keys"], ["ed25519:" + public, "ed25519:" + phone])
        self._fails("pair-device token invalid or expired", "pair", "redeem", pair, "--keypair", "phone")

        # What was not used is withdrawn, by fingerprint.
        spare = self._run("invite", "issue", "--raw").stdout.strip()
        spare_row = self._json("invite", "list")[0]
        equal(self._run("invite", "revoke", spare_row["token_fingerprint"]).stdout, '\u2713 revoked {"removed":1}\n')
        equal(self._run("invite", "list").stdout, "no outstanding invites\n")
        self._fails("no invite matches the supplied token or fingerprint", "invite", "revoke", spare)

        rows = [json.loads(l) for l in self._run("audit", "query", "--format", "json").stdout.splitlines()]
        told = [(r["method"], r["principal"]) for r in reversed(rows)]
        at = 0
        for want in (("admin.group.create", "default"), ("admin.agent.create", "default"), ("admin.caps.grant", "default"),
                     ("admin.quota.set", "default"), ("admin.invite.issue", "default"), ("admin.invite.redeem", "default"),
                     ("admin.auth.pair.issue", "zoe-y"), ("admin.auth.pair.redeem", "default"),
                     ("admin.invite.revoke", "default")):
            check(want in told[at:], "%r is not behind %r in %r" % (want, told[:at], told))
            at = told.index(want, at) + 1
        text = json.dumps(rows)
        check(token not in text and pair not in text and spare not in text, "a token in the audit log")
        self._run("audit", "verify")


class Autostart(Cli):
    def set_up(self):
        self.d = Daemon(capsules=["astrid-echo"])

    def tear_down(self, failed):
        self.d.cli("stop")
        super().tear_down(failed)

    def c08_08_two_at_once_beside_a_dead_socket(self):
        os.makedirs(self.d.path("run"), mode=0o700, exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.bind(self.d.path("run", "system.sock"))
        self.c08_08_two_at_once_start_one_daemon()

    def c08_08_two_at_once_start_one_daemon(self):
        self.d.cli("stop")
        words = [program("astrid"), "-p"]
        both = [subprocess.Popen(words + ["hello %d" % i], env=self.d.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True) for i in range(2)]
        for i, p in enumerate(both):
            out, err = p.communicate(timeout=60)
            equal((p.returncode, out), (0, "hello %d\n" % i), err)
        pid = self._json("status")["pid"]
        alive = []
        for name in os.listdir("/proc"):
            try:
                with open("/proc/%s/environ" % name, "rb") as f:
                    env = f.read()
                with open("/proc/%s/comm" % name) as f:
                    comm = f.read()
            except OSError:
                continue
            if ("ASTRID_HOME=" + self.d.home).encode() in env.split(b"\0") and comm.startswith("astrid-daemon"):
                alive.append(int(name))
        equal(alive, [pid])


if __name__ == "__main__":
    harness.main()
