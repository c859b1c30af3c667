#!/usr/bin/env python3
"""Replacing capsules in a running daemon (spec 04 §9.5, §15.4; 07 §5, §9)."""
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import uuid

import harness
from harness import Case, check, equal, program, wait_for

SWAPS = 20
PRINCIPALS = ["default", "alice", "bob", "carol"]
ECHO = os.path.join(harness.ROOT, "capsules", "echo")
HEAD = 'astrid_buf_lit(&b, "{\\"type\\":\\"agent_response\\",\\"text\\":");'


class Versions:
    """Builds of the echo capsule that put their name before the text, in two messages: a first part, then the answer."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="astrid-e2e-")

    def clean(self):
        shutil.rmtree(self.dir, ignore_errors=True)

    def build(self, name, version, extra="", manifest=lambda text: text, first=""):
        folder = os.path.join(self.dir, name)
        os.mkdir(folder)
        with open(os.path.join(ECHO, "echo.c")) as f:
            source = f.read()
        with open(os.path.join(ECHO, "Capsule.toml")) as f:
            toml = f.read()
        check(source.count(HEAD) == 1, "the echo capsule has changed")
        part = source.replace(HEAD, first + """{
        struct astrid_buf d = { 0 };
        astrid_buf_lit(&d, "{\\"type\\":\\"agent_response\\",\\"text\\":\\"%s part\\",\\"is_final\\":false,\\"session_id\\":");
        astrid_buf_add(&d, session);
        astrid_buf_lit(&d, "}");
        (void)astrid_publish(ASTRID_STR("agent.v1.response"), astrid_buf_view(&d));
    }
    astrid_buf_lit(&b, "{\\"type\\":\\"agent_response\\",\\"text\\":\\"%s \");
    text.p++; /* the opening quote is written */
    text.n--;""" % (name, name))
        check(part != source)
        toml = re.sub('version = "[^"]*"', 'version = "%s"' % version, toml, count=1)
        for file, text in (("echo.c", part + extra), ("Capsule.toml", manifest(toml))):
            with open(os.path.join(folder, file), "w") as f:
                f.write(text)
        done = subprocess.run([program("astrid-build"), folder, "--output", self.dir], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        equal(done.returncode, 0, done.stdout)
        shutil.move(os.path.join(self.dir, "astrid-echo.capsule"), os.path.join(self.dir, name + ".capsule"))
        return os.path.join(self.dir, name + ".capsule")


def names_in(frames):
    """The versions that the frames of one prompt came from, and the answer's text."""
    words = [f["payload"]["text"].split(" ", 1) for f in frames]
    return [w[0] for w in words], words[-1][1]


class Swapping(Case):
    """A daemon that runs version one, with version two at hand."""

    def set_up(self):
        self.versions = Versions()
        self.one = self.versions.build("one", "1.0.0")
        self.two = self.versions.build("two", "2.0.0")
        self.d = harness.Daemon(capsules=[self.two, self.one])
        self.folder = self.d.path("home", "default", ".local", "capsules", "astrid-echo")
        # What an install leaves, to be put in place by hand; the code is in bin/ already.
        self.files = {"one": self._snapshot(self.one), "two": self._snapshot(self.two)}
        self._install(self.one)
        self.d.start()

    def tear_down(self, failed):
        super().tear_down(failed)
        self.versions.clean()

    def _snapshot(self, archive):
        equal(self._install(archive).returncode, 0)
        files = {}
        for name in os.listdir(self.folder):
            with open(os.path.join(self.folder, name), "rb") as f:
                files[name] = f.read()
        return files

    def _put(self, name, only=None):
        """Writes a version's files one after the other, as a hand or another program would."""
        for file, data in self.files[name].items():
            if only is None or file in only:
                with open(os.path.join(self.folder, file), "wb") as f:
                    f.write(data)

    def _ask(self, text, client=None):
        c = client or self.d.client()
        frames = c.prompt(text)
        if client is None:
            c.close()
        names, answer = names_in(frames)
        equal(answer, text)
        equal(len(set(names)), 1, "one prompt, one version")
        return names[0]

    def _install(self, archive):
        return self.d.cli("capsule", "install", archive)

    def _loaded_events(self, client):
        return client.recv_topic("astrid.v1.capsules_loaded")


class Sustained(Swapping):
    def c04_48_prompts_of_several_principals_survive_twenty_replacements(self):
        stop, told, problems = threading.Event(), [], []

        def prompts(principal):
            try:
                c, n = self.d.client(), 0
                while not stop.is_set():
                    text = "%s %d" % (principal, n)
                    session = str(uuid.uuid4())
                    c.send("user.v1.prompt", {"type": "user_input", "text": text, "session_id": session}, principal)
                    frames = []
                    while not frames or not frames[-1]["payload"].get("is_final"):
                        frame = c.recv(20)
                        if frame["topic"] == "agent.v1.response" and frame["payload"].get("session_id") == session:
                            frames.append(frame)
                    names, answer = names_in(frames)
                    sources = {f["source_id"] for f in frames}
                    told.append((principal, n, names))
                    if len(names) != 2 or len(set(names)) != 1 or len(sources) != 1 or answer != text:
                        problems.append("%r %r %r" % (text, names, answer))
                    n += 1
                c.close()
            except Exception as e:
                problems.append("%s: %r" % (principal, e))

        threads = [threading.Thread(target=prompts, args=(p,)) for p in PRINCIPALS]
        for t in threads:
            t.start()
        try:
            for i in range(SWAPS):
                name = ["two", "one"][i % 2]
                if i % 4 < 2:
                    done = self._install(self.two if name == "two" else self.one)
                    equal(done.returncode, 0, done.stderr)
                else:
                    watcher = self.d.client()
                    self._put(name)
                    self._loaded_events(watcher)
                    watcher.close()
                equal(self._ask("after %d" % i), name, "the version that answers after the replacement")
        finally:
            stop.set()
            for t in threads:
                t.join(30)
        equal(problems, [])
        for p in PRINCIPALS:
            mine = [names[0] for who, _, names in told if who == p]
            check(len(mine) > SWAPS, "%s was answered %d times" % (p, len(mine)))
        check({names[0] for _, _, names in told} == {"one", "two"})


class Broken(Swapping):
    def a_version_that_does_not_load_leaves_the_old_one_and_says_why(self):
        equal(self._install(self.one).returncode, 0)
        broken = [
            ("foreign", dict(extra='__attribute__((import_module("wasi:io/streams@0.2.0"), import_name("drop")))\n'
                                   'void foreign(void);\n__attribute__((export_name("touch"))) void touch(void);\n'
                                   'void touch(void)\n{\n    foreign();\n}\n'), "wasi:io/streams@0.2.0"),
            ("trap", dict(extra='__attribute__((export_name("astrid-upgrade"))) void upgrade(void);\n'
                                'void upgrade(void)\n{\n    __builtin_trap();\n}\n'), "lifecycle hook astrid-upgrade failed"),
            ("topics", dict(manifest=lambda t: t.replace('"user.v1.prompt"', '"user..prompt"')), "contains empty segments"),
        ]
        for name, change, says in broken:
            folder = os.path.join(self.versions.dir, name)
            if name == "topics": # the builder refuses it, so the installer gets a folder
                shutil.copytree(os.path.join(self.versions.dir, "two"), folder)
                toml = os.path.join(folder, "Capsule.toml")
                with open(toml) as f:
                    text = change["manifest"](f.read())
                with open(toml, "w") as f:
                    f.write(text)
                source = folder
            else:
                source = self.versions.build(name, "3.0.0", **change)
            done = self._install(source)
            equal(done.returncode, 1, name)
            check(says in done.stderr, "%s: %s" % (name, done.stderr))
            equal(self._ask("still"), "one", name)
        with open(os.path.join(self.folder, "meta.json")) as f:
            equal(json.load(f)["version"], "1.0.0")

    def files_that_do_not_fit_together_are_waited_for_and_then_named(self):
        equal(self._install(self.one).returncode, 0)
        with open(os.path.join(self.folder, "meta.json")) as f:
            meta = json.load(f)
        meta["wasm_hash"] = "0" * 64
        with open(os.path.join(self.folder, "meta.json"), "w") as f:
            json.dump(meta, f)
        wait_for(lambda: "keeping the one that runs" in self.d.log(), 20, "the line that says why")
        check("Failed to read WASM" in self.d.log() or "expected BLAKE3 " + "0" * 64 in self.d.log(), self.d.log()[-2000:])
        equal(self._ask("still"), "one")
        watcher = self.d.client()
        self._put("two")
        self._loaded_events(watcher)
        equal(self._ask("now"), "two")


class Folders(Swapping):
    def a_removed_capsule_is_gone_at_once_and_a_copied_one_comes(self):
        equal(self._install(self.two).returncode, 0)
        done = self.d.cli("capsule", "remove", "astrid-echo")
        equal(done.returncode, 0, done.stderr)
        check("astrid-echo" not in self.d.client().request("ListCapsules")["data"])
        watcher = self.d.client()
        os.mkdir(self.folder)
        self._put("one")
        self._loaded_events(watcher)
        equal(self._ask("back"), "one")

    def a_reload_request_follows_what_changed(self):
        self._put("two")
        equal(self.d.client().request("ReloadCapsules"), {"data": {"status": "reloaded"}, "status": "Success"})
        equal(self._ask("asked for"), "two")


    def a_file_beside_the_manifest_counts_and_what_builds_leave_does_not(self):
        equal(self._install(self.one).returncode, 0)
        watcher = self.d.client()
        for folder in ("target", ".git", "node_modules", "dist"):
            os.mkdir(os.path.join(self.folder, folder))
            with open(os.path.join(self.folder, folder, "x"), "w") as f:
                f.write("x")
        check(watcher.nothing_comes(1.5))
        os.mkdir(os.path.join(self.folder, "context"))
        with open(os.path.join(self.folder, "context", "guide.md"), "w") as f:
            f.write("# Guide")
        self._loaded_events(watcher)
        equal(self._ask("with a guide"), "one")

    def a_binary_put_there_by_hand_is_noticed_and_refused(self):
        equal(self._install(self.one).returncode, 0)
        with open(os.path.join(self.folder, "Capsule.toml")) as f:
            name = re.search('file = "([^"]+)"', f.read()).group(1)
        with open(os.path.join(self.folder, "meta.json")) as f:
            recorded = json.load(f)["wasm_hash"]
        with open(self.d.path("bin", recorded + ".wasm"), "rb") as f:
            code = f.read()
        with open(os.path.join(self.folder, name), "wb") as f:
            f.write(code + b"\0\5\1xabc") # a custom section
        wait_for(lambda: "expected BLAKE3 " + recorded in self.d.log(), 20, "the line that says why")
        check("keeping the one that runs" in self.d.log())
        equal(self._ask("still"), "one")


class Workspace(Swapping):
    """The workspace of these daemons is their home."""

    def a_folder_of_capsules_made_after_the_start_is_found_and_followed(self):
        equal(self.d.cli("capsule", "remove", "astrid-echo").returncode, 0)
        top = self.d.path(".astrid")
        self.folder, home = os.path.join(top, "capsules", "astrid-echo"), self.folder
        for name in ("one", "two"):
            watcher = self.d.client()
            os.mkdir(top)
            os.makedirs(self.folder)
            self._put(name)
            self._loaded_events(watcher)
            equal(self._ask("from the workspace"), name)
            os.rename(top, self.d.path("moved away"))
            ids = self._loaded_events(watcher)["payload"]["capsule_ids"]
            check("astrid-echo" not in ids, ids)
            shutil.rmtree(self.d.path("moved away"))
            watcher.close()
        self.folder = home
        equal(self._install(self.one).returncode, 0)

    def the_folder_of_the_home_may_be_replaced_as_a_whole(self):
        root = os.path.dirname(self.folder)
        watcher = self.d.client()
        self._put("two")
        self._loaded_events(watcher)
        os.rename(root, root + ".old")
        self._loaded_events(watcher)
        os.makedirs(self.folder)
        self._put("one")
        self._loaded_events(watcher)
        equal(self._ask("replaced"), "one")


class Loops(Swapping):
    LOOP = """
__attribute__((export_name("run"))) void run(void);
void run(void)
{
    astrid_subscription s = astrid_subscribe(ASTRID_STR("user.v1.prompt"));
    const struct astrid_message *m;
    uint32_t n;
    while (astrid_receive(s, 60000, &m, &n))
        for (uint32_t i = 0; i < n; i++)
            (void)answer(m[i].payload);
}
"""

    def a_run_loop_that_crashes_at_once_is_rolled_back(self):
        crash = self.LOOP.replace("while (", "__builtin_trap(); while (")
        equal(self._install(self.versions.build("loop", "3.0.0", extra=self.LOOP)).returncode, 0)
        equal(self._ask("by the loop"), "loop")
        done = self._install(self.versions.build("crash", "4.0.0", extra=crash))
        equal(done.returncode, 1)
        check("installed, but it does not serve" in done.stderr and "the run loop ended at once" in done.stderr, done.stderr)
        equal(self._ask("by the old one"), "loop")
        watcher = self.d.client()
        self._put("two")  # by hand, and handlers again
        self._loaded_events(watcher)
        equal(self._ask("by the next one"), "two")
        watcher.close()


class Uplinks(Swapping):
    def what_a_capsule_registered_is_listed_until_it_is_replaced(self):
        c = self.d.client()
        mine = lambda: [r for r in c.request("GetCapsuleMetadata")["data"] if r["name"] == "astrid-echo"][0]
        check("uplinks" not in mine())
        chat = self.versions.build("chat", "3.0.0", manifest=lambda t: t + "\n[capabilities]\nuplink = true\n", first="""{
            struct astrid_str uplink;
            (void)astrid_uplink_register(ASTRID_STR("bot"), ASTRID_STR(" Telegram "), ASTRID_UPLINK_CHAT, &uplink);
        }
        """)
        equal(self._install(chat).returncode, 0)
        equal(mine()["uplinks"], [])
        equal(self._ask("register"), "chat")
        listed = mine()["uplinks"]
        equal(len(listed), 1)
        uuid.UUID(listed[0].pop("id"))
        check(re.fullmatch(r"[0-9T:.-]+Z", listed[0].pop("registered_at")))
        equal(listed[0], {"name": "bot", "platform": "telegram", "profile": "chat", "metadata": {},
                          "source": {"wasm": {"capsule_id": "astrid-echo"}},
                          "capabilities": dict(can_receive=True, can_send=False, can_approve=False, can_elicit=False,
                                               supports_rich_media=False, supports_threads=False,
                                               supports_buttons=False)})
        equal(self._install(self.one).returncode, 0)
        check("uplinks" not in mine())
        c.close()


class Unwatched(Case):
    def set_up(self):
        self.d = harness.Daemon(capsules=["astrid-echo"], config="[gateway]\nwatch_plugins = false\n").start()

    def with_the_watch_off_only_a_request_loads(self):
        folder = self.d.path("home", "default", ".local", "capsules", "astrid-echo")
        shutil.rmtree(folder)
        watcher = self.d.client()
        check(watcher.nothing_comes(1.5))
        check("astrid-echo" in self.d.client().request("ListCapsules")["data"])
        equal(self.d.client().request("ReloadCapsules")["status"], "Success")
        check("astrid-echo" not in self.d.client().request("ListCapsules")["data"])

    def a_wrong_setting_stops_the_start(self):
        d = harness.Daemon(config="[gateway]\nwatch_plugins = 1\n")
        code, said = d.refuses_to_boot()
        equal(code, 1)
        check("gateway.watch_plugins" in said, said)
        d.clean()


harness.main()
