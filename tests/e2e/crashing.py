"""A daemon that is killed in the middle of writes, again and again, and held to what it had acknowledged.

Each writer owns the things it changes, so it knows what must be there: after an acknowledgement its new state and nothing else;
for the one request that the kill left without an answer, the old state or the new one, never a third. After each restart all of
it is read back through the socket, the files are parsed, leftovers are looked for and the audit log is counted and verified.

What is asked for and when the kill comes follow from the seed; how far the daemon had got by then is the machine's to say.
"""
import collections
import copy
import json
import os
import random
import re
import signal
import socket
import threading
import time
import tomllib
import uuid

import harness
from harness import Failed, check, equal

QUOTAS = {"max_memory_bytes": 67108864, "max_timeout_secs": 300, "max_ipc_throughput_bytes": 10485760,
          "max_background_processes": 8, "max_storage_bytes": 1073741824, "max_cpu_fuel_per_sec": 2000000000}
# Where temp files would lie, and how old one may be: a command that is writing beside the daemon is not disturbed.
FOLDERS = {"etc": 60, "etc/profiles": 0, "run": 0, "var": 0, "keys": 60}
LEFTOVER = re.compile(r"^\.tmp-|\.tmp$|\.tmp\.")
GONE = (harness.Closed, OSError)  # how a killed daemon looks to its clients
KV_PRINCIPALS = ["scribe0", "scribe1"]
READY_S = 1.0


def variant(text):
    """AgentCreate -> agent.create, as audit rows and rights name a request."""
    return re.sub(r"(?<!^)(?=[A-Z])", ".", text).lower()


def public_keys(start):
    """Valid ed25519 public keys without end: multiples of the base point, encoded."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    y = 4 * pow(5, -1, p) % p
    base = 15112221349535400772501151409588531511454012693041857206046113283949847762202, y

    def add(a, b):
        t = d * a[0] * b[0] * a[1] * b[1] % p
        return ((a[0] * b[1] + b[0] * a[1]) * pow(1 + t, -1, p) % p, (a[1] * b[1] + a[0] * b[0]) * pow(1 - t, -1, p) % p)

    point, step = (0, 1), base
    while start:
        if start & 1:
            point = add(point, step)
        step, start = add(step, step), start >> 1
    while True:
        point = add(point, base)
        yield (point[1] | (point[0] & 1) << 255).to_bytes(32, "little").hex()


class Ledger:
    """What the audit log must hold of one round: requests that were answered, and those that were not."""

    def __init__(self):
        self.lock = threading.Lock()
        self.answered = collections.Counter()
        self.open = collections.Counter()

    @staticmethod
    def key(method, params, principal, outcome):
        said = json.dumps({"method": method, "params": params}, sort_keys=True) if params is not None else None
        return method, said, principal, outcome

    def ask(self, key):
        with self.lock:
            self.open[key] += 1

    def answer(self, asked, got):
        with self.lock:
            self.open[asked] -= 1
            self.answered[got] += 1


class Writer(threading.Thread):
    """One client with a socket of its own, and what it knows. Subclasses say what it does next.

    `state` is what was acknowledged; `maybe` what it is if the request in flight has happened.
    """

    def __init__(self, rig, name, state):
        super().__init__(name=name, daemon=True)
        self.rig, self.state, self.maybe = rig, state, None
        self.rng = random.Random("%s/%d/%s" % (rig.seed, rig.round, name))
        self.client = harness.Client(rig.d.home)
        self.client.sock.settimeout(30)
        self.failure = None

    def run(self):
        try:
            while True:
                self.step()
        except GONE:
            pass
        except Exception as e:  # told by the rig's thread
            self.failure = e
        finally:
            self.client.close()

    def ask(self, method, params=None, principal="default", expect="Success", then=None):
        """One admin request; `then` changes a copy of the state into what the request makes of it."""
        suffix, after = "crash." + uuid.uuid4().hex, None
        if then:
            after = copy.deepcopy(self.state)
            then(after)
        body = {"type": "raw_json", "method": method}
        if params is not None:
            body["params"] = params
        outcome = "failure" if expect == "Error" else "success"
        key = Ledger.key(method, params, principal, outcome)
        self.maybe = after
        self.rig.ledger.ask(key)
        self.client.send("astrid.v1.admin." + suffix, body, principal)
        answer = self.client.recv_topic("astrid.v1.admin.response." + suffix, 30)["payload"]
        equal(answer["status"], expect, "%s %s: %s" % (method, params, answer))
        self.rig.ledger.answer(key, key)
        if then:
            self.state = after
        self.maybe = None
        self.rig.acknowledged()
        return answer["data"]

    def allowed(self):
        return [self.state] if self.maybe is None else [self.state, self.maybe]

    def settle(self, seen):
        """The state that was found after the restart becomes the one that counts."""
        check(seen in self.allowed(), "%s: found %r, allowed %r" % (self.name, seen, self.allowed()))
        self.state, self.maybe = seen, None


class Agents(Writer):
    """Principals: made, changed in every way there is, deleted. state: {name: facts}."""
    count = 4

    def names(self):
        return ["%s-%d" % (self.name, i) for i in range(self.count)]

    def step(self):
        name = self.rng.choice(self.names())
        have = self.state.get(name)
        if have is None:
            self.create(name)
        else:
            self.rng.choice([self.modify, self.modify, self.switch, self.quota, self.grant, self.revoke, self.delete,
                             self.refuse])(name, have)

    def create(self, name):
        groups = self.rng.choice([["agent"], ["agent", "staff"], ["restricted"]])
        grants = self.rng.choice([[], ["system:status"]])

        def then(s):
            s[name] = {"enabled": True, "groups": groups, "grants": grants, "revokes": [], "quotas": dict(QUOTAS)}

        self.ask("AgentCreate", {"name": name, "groups": groups, "grants": grants}, then=then)

    def modify(self, name, have):
        group = "g%d" % self.rng.randrange(6)
        if group in have["groups"]:
            params = {"principal": name, "add_groups": [], "remove_groups": [group]}
            self.ask("AgentModify", params, then=lambda s: s[name]["groups"].remove(group))
        else:
            params = {"principal": name, "add_groups": [group], "remove_groups": []}
            self.ask("AgentModify", params, then=lambda s: s[name]["groups"].append(group))

    def switch(self, name, have):
        on = not have["enabled"]
        self.ask("AgentEnable" if on else "AgentDisable", {"principal": name},
                 then=lambda s: s[name].update(enabled=on))

    def quota(self, name, have):
        quotas = dict(QUOTAS, max_timeout_secs=self.rng.randrange(1, 86400),
                      max_storage_bytes=self.rng.randrange(1, 1 << 40))
        self.ask("QuotaSet", {"principal": name, "quotas": quotas}, then=lambda s: s[name].update(quotas=quotas))

    def caps(self, method, member, name, have):
        cap = "crash:c%d" % self.rng.randrange(40)

        def then(s):
            if cap not in have[member]:
                s[name][member].append(cap)

        self.ask(method, {"principal": name, "capabilities": [cap]}, then=then)

    def grant(self, name, have):
        self.caps("CapsGrant", "grants", name, have)

    def revoke(self, name, have):
        self.caps("CapsRevoke", "revokes", name, have)

    def delete(self, name, have):
        self.ask("AgentDelete", {"principal": name}, then=lambda s: s.pop(name))

    def refuse(self, name, have):
        """Nothing may come of these, whatever the kill does."""
        if self.rng.random() < 0.5:
            self.ask("AgentCreate", {"name": name, "groups": [], "grants": []}, expect="Error")
        else:
            self.ask("CapsGrant", {"principal": "default", "capabilities": ["*"], "unsafe_admin": True}, name, "Error")

    def found(self, rig):
        seen = {}
        for name in self.names():
            row = rig.roster.get(name)
            if row:
                seen[name] = {k: row[k] for k in ("enabled", "groups", "grants", "revokes")}
                seen[name]["quotas"] = rig.admin("QuotaGet", {"principal": name}, status="Quotas")
        return seen


class Crowd(Writer):
    """One of several who grant to the same principal: no acknowledged grant may be lost to another's write."""

    def step(self):
        cap = "crowd:%s:n%d" % (self.name, len(self.state["grants"]))
        self.ask("CapsGrant", {"principal": self.rig.shared, "capabilities": [cap]},
                 then=lambda s: s["grants"].append(cap))

    def found(self, rig):
        row = rig.roster[rig.shared]
        return {"grants": [g for g in row["grants"] if g.startswith("crowd:%s:" % self.name)]}


class Groups(Writer):
    """Groups. state: {name: [capabilities, description]}."""

    def step(self):
        name = "%s-%d" % (self.name, self.rng.randrange(4))
        caps = ["crash:%d" % self.rng.randrange(1000) for _ in range(self.rng.randrange(1, 30))]
        said = "made for %d" % self.rng.randrange(1000)
        if name not in self.state:
            params = {"name": name, "capabilities": caps, "description": said, "unsafe_admin": False}
            self.ask("GroupCreate", params, then=lambda s: s.update({name: [caps, said]}))
        elif self.rng.random() < 0.3:
            self.ask("GroupDelete", {"name": name}, then=lambda s: s.pop(name))
        else:
            params = {"name": name, "capabilities": caps, "description": said, "unsafe_admin": None}
            self.ask("GroupModify", params, then=lambda s: s.update({name: [caps, said]}))

    def found(self, rig):
        return {n: [g["capabilities"], g["description"]] for n, g in rig.groups.items() if n.startswith(self.name + "-")}


class Prompts(Writer):
    """Prompts whose answer says that a capsule has stored something for the principal. state: {"principal/name": text}."""

    def step(self):
        principal, name = self.rng.choice(KV_PRINCIPALS), "%s%d" % (self.name, self.rng.randrange(3))
        text = "%d %s" % (self.rng.randrange(1 << 30), "x" * self.rng.randrange(1, 2000))
        key = principal + "/" + name
        self.maybe = dict(self.state, **{key: text})
        said = self.answer("note %s %s" % (name, text), principal)
        check("Noted." in said, said)
        self.state, self.maybe = self.maybe, None
        self.rig.acknowledged(brings_kill=False)

    def answer(self, text, principal, client=None):
        frames = (client or self.client).prompt(text, principal=principal, timeout=30)
        return "".join(f["payload"]["text"] for f in frames)

    def found(self, rig):
        seen = {}
        for key in set().union(*self.allowed()):
            principal, name = key.split("/")
            said = self.answer("recall " + name, principal, rig.c)
            if said.startswith(name + ": "):
                seen[key] = said[len(name) + 2:]
            else:
                check("there is no note named" in said, said)
        return seen


class Invites(Writer):
    """Invites: issued, spent, withdrawn. state: {metadata: uses left}; `tokens` holds what an answer has told.

    A use may be lost to the kill, but never be spent twice: a withdrawn or used up token must stay dead.
    """

    def __init__(self, rig, name, state):
        super().__init__(rig, name, state)
        self.tokens = rig.tokens
        self.keys = public_keys(self.rng.getrandbits(64))

    def step(self):
        live = sorted(m for m in self.state if m in self.tokens)
        what = self.rng.random()
        if not live or (what < 0.4 and len(live) < 12):
            self.issue()
        elif what < 0.7:
            self.redeem(self.rng.choice(live))
        else:
            self.withdraw(self.rng.choice(live))

    def issue(self):
        note, uses = "m" + uuid.UUID(int=self.rng.getrandbits(128)).hex, self.rng.randrange(1, 4)
        data = self.ask("InviteIssue", {"group": "agent", "max_uses": uses, "metadata": note}, expect="Invite",
                        then=lambda s: s.update({note: uses}))
        self.tokens[note] = data["token"]

    def redeem(self, note):
        def then(s):
            s[note] -= 1
            if not s[note]:
                del s[note]

        params = {"token": self.tokens[note], "public_key": next(self.keys)}
        made = self.ask("InviteRedeem", params, expect="InviteRedeemed", then=then)["principal"]
        self.rig.redeemed.append(made)

    def withdraw(self, note):
        self.ask("InviteRevoke", {"token": self.tokens[note]}, then=lambda s: s.pop(note))

    def found(self, rig):
        seen = {i["metadata"]: i["remaining_uses"] for i in rig.admin("InviteList", status="InviteList")}
        for note in [m for m in self.tokens if m not in seen]:
            token = self.tokens.pop(note)
            answer = rig.raw("InviteRedeem", {"token": token, "public_key": next(self.keys)},
                             "prober%d" % rig.round)  # failed redeems are limited per caller
            equal(answer["status"], "Error", "a dead invite was redeemed: %s" % answer)
        return seen


class Rig:
    """The daemon, what is expected of it, and the rounds.

    ready_s  how long a restart may take until the daemon serves; a slow one counts only if it is slow three times in a row.
    say      gets a line of progress.
    """

    def __init__(self, seed, ready_s=READY_S, say=lambda line: None):
        self.seed, self.ready_s, self.say = seed, ready_s, say
        self.rng = random.Random("%s/kills" % seed)
        self.round = 0
        self.d = harness.Daemon(capsules=["astrid-rehearsal", "astrid-notes"])
        self.states, self.tokens, self.redeemed = {}, {}, []
        self.starts, self.acks, self.kills, self.verify_s = [], 0, 0, 0.0
        self.lock, self.target, self.reached = threading.Lock(), 0, threading.Event()
        self.d.start()
        self.connect()
        for name in KV_PRINCIPALS:
            self.admin("AgentCreate", {"name": name})
        known = self.raw("InviteList")
        self.has_invites = known["status"] == "InviteList"
        self.c.close()

    # ---- talking ----

    def connect(self):
        self.c = harness.Client(self.d.home)
        self.c.sock.settimeout(30)

    def raw(self, method, params=None, principal="default"):
        suffix, body = "rig." + uuid.uuid4().hex, {"type": "raw_json", "method": method}
        if params is not None:
            body["params"] = params
        self.c.send("astrid.v1.admin." + suffix, body, principal)
        return self.c.recv_topic("astrid.v1.admin.response." + suffix, 30)["payload"]

    def admin(self, method, params=None, status="Success"):
        answer = self.raw(method, params)
        equal(answer["status"], status, "%s: %s" % (method, answer))
        return answer["data"]

    def kernel(self, method, params):
        answer = self.c.request(method, params, "default", timeout=60)
        equal(answer["status"], "Success", "%s: %s" % (method, answer))
        return answer["data"]

    def acknowledged(self, brings_kill=True):
        """Notes come several times as quickly as changes of principals; the kill waits for the slower ones."""
        with self.lock:
            self.acks += 1
            self.target -= brings_kill
            if self.target <= 0:
                self.reached.set()

    # ---- one round ----

    def writers(self):
        kinds = [(Agents, "agents-a"), (Agents, "agents-b"), (Crowd, "crowd-a"), (Crowd, "crowd-b"), (Groups, "groups"),
                 (Prompts, "pa"), (Prompts, "pb")]
        if self.has_invites:
            kinds.append((Invites, "invites"))
        made = []
        for kind, name in kinds:
            state = {"grants": []} if kind is Crowd else self.states.get(name, {})
            made.append(kind(self, name, state))
        return made

    def newest_row(self):
        page = self.kernel("AuditQuery", {"limit": 1, "oldest_first": False})
        return page["newest_cursor"]

    def rows_since(self, cursor):
        """Every audit row after that one, oldest first."""
        rows = []
        while True:
            page = self.kernel("AuditQuery", {"limit": 1000, "oldest_first": True, "tail": True, "cursor": cursor})
            rows += page["entries"]
            if len(page["entries"]) < 1000:
                return rows
            cursor = page["next_cursor"]

    def run_round(self, is_last=False):
        self.round += 1
        self.connect()
        self.shared = "shared-%d" % self.round
        self.admin("AgentCreate", {"name": self.shared})
        self.ledger = Ledger()
        cursor = self.newest_row()
        with self.lock:
            self.target = self.rng.randrange(1, 150)
        self.reached.clear()
        writers = self.writers()
        for w in writers:
            w.start()
        check(self.reached.wait(60), "the writers stand still")
        pause = self.rng.random() * 0.004
        end = time.monotonic() + pause
        while time.monotonic() < end:
            pass  # a sleep would be rounded up to the scheduler's taste
        gently = is_last or self.rng.random() < 0.05
        self.end_daemon(gently)
        for w in writers:
            w.join(60)
            check(not w.is_alive(), w.name + " does not notice the end")
            if w.failure:
                raise w.failure
        self.c.close()
        if self.rng.random() < 0.2:
            self.kill_while_starting()
        self.start()
        self.connect()
        self.look(writers, cursor)
        self.c.close()
        self.say("round %d: %s, %d acknowledged so far, ready in %.0f ms"
                 % (self.round, "stopped" if gently else "killed", self.acks, self.starts[-1] * 1000))

    def end_daemon(self, gently):
        if gently:
            equal(self.d.stop(), 0, "exit code under load")
        else:
            self.kills += 1
            os.kill(self.d.proc.pid, signal.SIGKILL)
            self.d.proc.wait()
            self.d.kill()

    def kill_while_starting(self):
        self.d.spawn()
        time.sleep(self.rng.random() * 0.1)
        self.kills += 1
        self.d.kill()

    def start(self):
        for attempt in range(3):
            self.started, began = time.time(), time.monotonic()
            self.d.start()
            took = time.monotonic() - began
            if took <= self.ready_s:
                break
            if attempt == 2:
                raise Failed("ready only after %.2f s, three times in a row" % took)
            self.d.kill()
        self.starts.append(took)

    # ---- what must hold after a restart ----

    def look(self, writers, cursor):
        self.roster = {r["principal"]: r for r in self.admin("AgentList", status="AgentList")}
        self.groups = {g["name"]: g for g in self.admin("GroupList", status="GroupList")}
        for w in writers:
            w.settle(w.found(self))
            if not isinstance(w, Crowd):
                self.states[w.name] = w.state
        for name in self.redeemed:
            check(name in self.roster, "the redeemed principal %s is lost" % name)
        self.look_at_files()
        self.look_at_audit(cursor)
        check(self.raw("AgentDelete", {"principal": self.shared})["status"] == "Success")
        for name in self.redeemed:
            self.admin("AgentDelete", {"principal": name})
        self.redeemed.clear()

    def look_at_files(self):
        profiles = os.listdir(self.d.path("etc", "profiles"))
        for name in profiles:
            check(name.endswith(".toml"), "a leftover among the profiles: " + name)
            with open(self.d.path("etc", "profiles", name), "rb") as f:
                tomllib.load(f)
        equal(sorted(n[:-5] for n in profiles), sorted(self.roster), "profiles and roster")
        if os.path.exists(self.d.path("etc", "groups.toml")):
            with open(self.d.path("etc", "groups.toml"), "rb") as f:
                names = sorted(tomllib.load(f).get("groups", {}))
            equal(names, sorted(n for n, g in self.groups.items() if not g["builtin"]), "groups.toml and GroupList")
        for folder, spared in FOLDERS.items():
            for name in filter(LEFTOVER.search, os.listdir(self.d.path(folder))):
                age = self.started - os.stat(self.d.path(folder, name)).st_mtime
                check(age < spared, "a leftover: %s/%s" % (folder, name))
        log = self.d.log()
        check("integrity violation" not in log, "the log tells of a broken audit chain")
        check("half-made principal" not in log, "a principal was half made")

    def look_at_audit(self, cursor):
        counted = collections.Counter()
        for row in self.rows_since(cursor):
            said = row["params"]
            if not row["method"].startswith("admin.") or said is None:
                continue  # a writer's requests all have parameters
            key = (said["method"], json.dumps(said, sort_keys=True) if "params" in said else None, row["principal"],
                   row["outcome"])
            counted[key] += 1
        for key, n in self.ledger.answered.items():
            if key[0] in ("InviteRedeem", "InviteRevoke"):
                continue  # their parameters are redacted; counted below
            check(counted[key] >= n, "audit rows lost: %d of %d of %r" % (counted[key], n, key))
            check(counted[key] <= n + self.ledger.open[key], "audit rows too many: %d for %d of %r" % (counted[key], n, key))
        for method in ("InviteRedeem", "InviteRevoke"):
            n = sum(v for k, v in self.ledger.answered.items() if k[0] == method)
            rows = sum(v for k, v in counted.items() if k[0] == method and k[3] == "success")
            check(n <= rows, "audit rows of %s lost: %d of %d" % (method, rows, n))
        # Verifying costs what the log is long: each round while that is quick, then each tenth.
        if self.verify_s < 1.0 or self.round % 10 == 0:
            self.verify()

    def verify(self):
        began = time.monotonic()
        done = self.d.cli("audit", "verify", "--format", "json", timeout=600)
        self.verify_s = time.monotonic() - began
        equal(done.returncode, 0, "audit verify: %s%s" % (done.stdout, done.stderr))
        report = json.loads(done.stdout)
        equal((report["valid"], report["issues"]), (True, []), "audit verify")
        self.entries = report["entries"]

    # ---- all of it ----

    def run(self, rounds):
        for i in range(rounds):
            self.run_round(is_last=i == rounds - 1)
        self.verify()
        equal(self.d.stop(), 0, "exit code")
        starts = sorted(self.starts)
        return {"kills": self.kills, "acknowledged": self.acks, "audit_entries": self.entries,
                "ready_ms_median": round(starts[len(starts) // 2] * 1000), "ready_ms_max": round(starts[-1] * 1000)}
