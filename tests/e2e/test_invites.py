#!/usr/bin/env python3
"""Invites and device pairing over the real socket (spec 02 §18, §19, checklist of section 28)."""
import hashlib
import json
import os
import re
import threading
import time
import uuid

import harness
from harness import Case, Daemon, check, equal, wait_for

# Points of the curve: the public keys of RFC 8032's test vectors.
KEYS = ["d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e"]
SMALL_ORDER = "01" + "00" * 31
GONE = "invite token invalid, expired, or already consumed"
LATE = "pair-device token invalid or expired"


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def request(method, params):
    body = {"type": "raw_json", "request_id": uuid.uuid4().hex, "method": method}
    if params is not None:
        body["params"] = params
    return body


def ask(client, method, params=None, principal="default"):
    suffix, body = "test." + uuid.uuid4().hex, request(method, params)
    client.send("astrid.v1.admin." + suffix, body, principal)
    payload = client.recv_topic("astrid.v1.admin.response." + suffix)["payload"]
    equal(payload.get("request_id"), body["request_id"], "request_id of " + method)
    return payload


class Rig:
    """Helpers, mixed into the cases."""
    daemon = {}

    def set_up(self):
        super().set_up()
        self.c = self.d.client()

    def ok(self, method, params=None, principal="default", status="Success"):
        answer = ask(self.c, method, params, principal)
        equal(answer["status"], status, "%s: %s" % (method, answer))
        return answer["data"]

    def refused(self, text, method, params=None, principal="default"):
        answer = ask(self.c, method, params, principal)
        equal((answer["status"], answer["data"][:len(text)]), ("Error", text), method)

    def issue(self, group="agent", max_uses=1, principal="default", **more):
        return self.ok("InviteIssue", dict({"group": group, "max_uses": max_uses}, **more), principal, "Invite")

    def redeem(self, token, key=KEYS[0], principal="default", **more):
        return self.ok("InviteRedeem", dict({"token": token, "public_key": key}, **more), principal, "InviteRedeemed")

    def refuse_redeem(self, text, token, key=KEYS[0], **more):
        self.refused(text, "InviteRedeem", dict({"token": token, "public_key": key}, **more))

    def listed(self, **params):
        return self.ok("InviteList", params or None, status="InviteList")

    def pair(self, principal, params=None):
        return self.ok("PairDeviceIssue", params, principal, "PairToken")

    def refuse_pair(self, text, token, key=KEYS[0]):
        self.refused(text, "PairDeviceRedeem", {"token": token, "public_key": key})

    def profile(self, name):
        return self.d.path("etc", "profiles", name + ".toml")

    def text(self, name):
        with open(self.profile(name)) as f:
            return f.read()

    def rows(self):
        done = self.d.cli("audit", "export")
        equal(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def rows_of(self, method):
        return [r for r in self.rows() if r["action"].get("method") == method]


class Invites(Rig, Case):
    def c02_40_an_issued_token_is_shown_once(self):
        data = self.issue(max_uses=3, expires_secs=600, metadata="lab tablet")
        equal(sorted(data), ["expires_at_epoch", "group", "metadata", "remaining_uses", "token"])
        check(re.fullmatch(r"[A-Za-z0-9_-]{32}", data["token"]), data["token"])
        equal((data["group"], data["remaining_uses"], data["metadata"]), ("agent", 3, "lab tablet"))
        check(abs(data["expires_at_epoch"] - time.time() - 600) < 30)
        equal(sorted(self.issue()), ["group", "remaining_uses", "token"])
        row = [r for r in self.listed() if r["token_fingerprint"] == sha(data["token"])][0]
        equal(sorted(row), ["expires_at_epoch", "group", "issued_at_epoch", "metadata", "remaining_uses",
                            "token_fingerprint"])
        for folder, _, names in os.walk(self.d.home):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    with open(path, "rb") as f:
                        check(data["token"].encode() not in f.read(), "the raw token is in " + path)

    def c02_41_bad_issues_are_refused(self):
        self.refused("max_uses must be greater than 0", "InviteIssue", {"group": "agent", "max_uses": 0})
        self.refused("expires_secs 2592001 exceeds the 30-day cap (2592000s)", "InviteIssue",
                     {"group": "agent", "max_uses": 1, "expires_secs": 2592001})
        self.refused("expires_secs must be greater than 0", "InviteIssue",
                     {"group": "agent", "max_uses": 1, "expires_secs": 0})
        self.refused('group "nobody" is not defined \u2014 create it via `astrid group create` first', "InviteIssue",
                     {"group": "nobody", "max_uses": 1})
        self.refused("metadata exceeds 256 bytes", "InviteIssue",
                     {"group": "agent", "max_uses": 1, "metadata": "m" * 257})
        for params in ({"group": "agent"}, {"max_uses": 1}, {"group": "agent", "max_uses": 1 << 32},
                       {"group": "agent", "max_uses": -1}, {"group": 3, "max_uses": 1}):
            self.refused("invalid request: ", "InviteIssue", params)
        self.issue(expires_secs=2592000, metadata="m" * 256)

    def what_an_invite_confers_must_be_held(self):
        self.ok("AgentCreate", {"name": "host", "grants": ["invite:issue", "ops:read"]})
        self.ok("GroupCreate", {"name": "readers", "capabilities": ["ops:read"]})
        self.ok("GroupCreate", {"name": "wide", "capabilities": ["ops:read", "capsule:install"]})
        self.issue("agent", principal="host")
        self.issue("readers", principal="host")
        for group, cap in (("admin", "*"), ("wide", "capsule:install")):
            self.refused('permission denied for principal host: cannot confer capability "%s"' % cap, "InviteIssue",
                         {"group": group, "max_uses": 1}, "host")
        self.issue("admin")
        self.refused("permission denied for principal nobody: missing capability invite:issue", "InviteIssue",
                     {"group": "agent", "max_uses": 1}, "nobody")

    def c02_42_of_64_clients_that_redeem_one_invite_exactly_one_wins(self):
        token = self.issue()["token"]
        answers, clients = [], [self.c] + [self.d.client() for _ in range(63)]  # as many as are served
        ready = threading.Barrier(64, timeout=60)

        def run(i):
            ready.wait()
            answers.append(ask(clients[i], "InviteRedeem", {"token": token, "public_key": KEYS[0],
                                                            "display_name": "racer %d" % i}))

        threads = [threading.Thread(target=run, args=(i,)) for i in range(64)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for client in clients[1:]:
            client.close()
        equal(len(answers), 64)
        won = [a for a in answers if a["status"] == "InviteRedeemed"]
        equal(len(won), 1, "winners")
        equal({a["data"] for a in answers if a not in won}, {GONE})
        made = [n for n in os.listdir(self.d.path("etc", "profiles")) if n.startswith("racer-")]
        equal(made, [won[0]["data"]["principal"] + ".toml"])
        self.refuse_redeem(GONE, token)

    def c02_43_one_text_for_all_and_each_leaves_a_row(self):
        before = len(self.rows_of("admin.invite.redeem"))
        consumed = self.issue()["token"]
        self.redeem(consumed)
        expired = self.issue(expires_secs=1)["token"]
        wait_for(lambda: sha(expired) not in [r["token_fingerprint"] for r in self.listed()], what="expiry")
        bad = ("never issued", expired, consumed)
        for token in bad:
            self.refuse_redeem(GONE, token)
        rows = self.rows_of("admin.invite.redeem")[before + 1:]
        equal([r["action"]["params"]["params"]["token_fingerprint"] for r in rows], [sha(t) for t in bad])
        for r in rows:
            equal(r["outcome"], {"status": "failure", "error": GONE})
            equal(r["authorization"], {"type": "denied", "reason": GONE})
            equal(r["action"]["required_capability"], "invite:redeem")

    def c02_44_names_come_from_the_display_name(self):
        token = self.issue(max_uses=9)["token"]
        for given, want in (("Alice Smith", "alice-smith"), ("bob@example.com", "bob-example-com"),
                            ("--Carol--", "carol"), ("d_e  f", "d-e-f"), ("x" * 70, "x" * 64),
                            ("Z\u00fcrich", "z-rich")):
            equal(self.redeem(token, display_name=given)["principal"], want)
        for more in ({"display_name": "Alice Smith"}, {"display_name": "\u00fc!"}, {}):
            name = self.redeem(token, **more)["principal"]
            check(re.fullmatch(r"agent-[0-9a-f]{8}", name), name)
        self.refuse_redeem(GONE, token, display_name="late")
        token = self.issue()["token"]
        self.refuse_redeem("`default` is the bootstrap principal and cannot be re-created", token,
                           display_name="Default")
        equal(self.redeem(token, display_name="after all")["principal"], "after-all")

    def c02_45_the_newcomer_has_its_key_and_its_group_at_once(self):
        self.ok("GroupCreate", {"name": "guests", "capabilities": ["ops:read"]})
        token = self.issue("guests")["token"]
        data = self.redeem(token, "ed25519: " + KEYS[1].upper() + "\n", display_name="newcomer")
        equal(data, {"group": "guests", "principal": "newcomer",
                     "public_key_fingerprint": sha("ed25519:" + KEYS[1])})
        text = self.text("newcomer")
        for line in ('groups = ["guests"]', 'methods = ["keypair"]', 'public_keys = ["ed25519:%s"]' % KEYS[1]):
            check(line + "\n" in text, text)
        check(os.path.isdir(self.d.path("home", "newcomer", ".local", "tmp")))
        # Seen at once, also where the name was looked up in vain before.
        token = self.issue()["token"]
        self.refused("permission denied for principal early: missing capability self:agent:list", "AgentList",
                     principal="early")
        self.redeem(token, KEYS[2], display_name="early")
        self.ok("AgentList", principal="early", status="AgentList")

    def keys_that_are_none_are_refused_and_cost_nothing(self):
        token = self.issue()["token"]
        self.refuse_redeem("public_key must be 32 bytes hex-encoded (64 hex chars); got 3 chars", token, "abc")
        self.refuse_redeem("public_key contains non-hex characters", token, "g" * 64)
        self.refuse_redeem("public_key is not a valid ed25519 public key", token, SMALL_ORDER)
        self.redeem(token)

    def a_home_that_cannot_be_made_gives_the_use_back(self):
        token = self.issue()["token"]
        with open(self.d.path("home", "walled"), "w"):
            pass
        self.refuse_redeem("principal home tree provisioning failed: ", token, display_name="walled")
        check(not os.path.exists(self.profile("walled")))
        os.unlink(self.d.path("home", "walled"))
        equal(self.redeem(token, display_name="walled")["principal"], "walled")

    def a_group_that_went_is_not_joined(self):
        self.ok("GroupCreate", {"name": "brief", "capabilities": ["ops:read"]})
        token = self.issue("brief")["token"]
        self.ok("GroupDelete", {"name": "brief"})
        self.refuse_redeem('group "brief" is not defined', token)
        self.ok("GroupCreate", {"name": "brief", "capabilities": ["ops:read"]})
        self.redeem(token)

    def c02_46_revoking_takes_the_token_or_its_fingerprint(self):
        one, two = self.issue()["token"], self.issue(max_uses=5)["token"]
        equal(self.ok("InviteRevoke", {"token": one}), {"removed": 1})
        equal(self.ok("InviteRevoke", {"token": sha(two)}), {"removed": 1})
        for token in (one, two):
            self.refuse_redeem(GONE, token)
            self.refused("no invite matches the supplied token or fingerprint", "InviteRevoke", {"token": token})
        self.refused("no invite matches the supplied token or fingerprint", "InviteRevoke", {"token": "x"})

    def c02_23_a_disabled_caller_may_redeem(self):
        self.ok("AgentCreate", {"name": "asleep"})
        self.ok("AgentDisable", {"principal": "asleep"})
        self.redeem(self.issue()["token"], principal="asleep")
        self.redeem(self.issue()["token"], principal="never-was")

    def _events(self):
        """The rows in the shape of live events, oldest first."""
        done = self.d.cli("audit", "query", "--format", "json")
        equal(done.returncode, 0, done.stderr)
        events = [json.loads(line) for line in done.stdout.splitlines()][::-1]
        return [e for e in events if e["method"].startswith(("admin.invite.", "admin.auth."))]

    def c02_49_rows_and_events_have_no_token_and_no_key(self):
        token = self.issue()["token"]
        self.redeem(token, display_name="Quiet One")
        pair = self.pair("quiet-one", {"label": "phone"})["token"]
        self.ok("PairDeviceRedeem", {"token": pair, "public_key": KEYS[3]}, status="PairTokenRedeemed")
        revoked = self.issue()["token"]
        self.ok("InviteRevoke", {"token": revoked})
        self.refuse_redeem(GONE, token, KEYS[2], display_name="again")
        events = self._events()
        for event in events:
            equal(sorted(event), ["method", "outcome", "params", "principal", "required_capability",
                                  "target_principal", "ts_epoch"])
            equal(event["target_principal"], None, event["method"])
        everything = json.dumps([self.rows(), events])
        for secret in (token, pair, revoked, KEYS[0], KEYS[2], KEYS[3]):
            check(secret not in everything, "a secret is in the log")
        redeemed = [e for e in events if e["method"] == "admin.invite.redeem" and e["outcome"] == "success"][-1]["params"]
        equal(redeemed, {"method": "InviteRedeem", "params": {
            "display_name": "Quiet One", "public_key_fingerprint": sha("ed25519:" + KEYS[0]),
            "token_fingerprint": sha(token)}})
        paired = [e for e in events if e["method"] == "admin.auth.pair.redeem"][0]["params"]
        equal(paired, {"method": "PairDeviceRedeem", "params": {
            "public_key_fingerprint": sha("ed25519:" + KEYS[3]), "token_fingerprint": sha(pair)}})
        gone = [e for e in events if e["method"] == "admin.invite.revoke" and e["outcome"] == "success"][-1]["params"]
        equal(gone, {"method": "InviteRevoke", "params": {"token_fingerprint": sha(revoked)}})
        row = [r for r in self.rows_of("admin.invite.redeem") if r["outcome"]["status"] == "success"][-1]
        equal(row["authorization"], {"type": "system", "reason": "redeem (invite or pair-device): token is the auth"})
        check("target_principal" not in row["action"], row["action"])

    def z_failed_redeems_are_recorded_up_to_a_limit(self):
        before = len(self.rows_of("admin.invite.redeem"))
        good, limited = self.issue()["token"], 0
        for _ in range(140):
            answer = ask(self.c, "InviteRedeem", {"token": "guess", "public_key": KEYS[0]}, "flooder")
            limited += answer["data"] == "Rate limited: max 120 failed redeem requests per minute"
        equal(limited, 20)
        equal(len(self.rows_of("admin.invite.redeem")) - before, 120)
        self.redeem(good, principal="flooder")  # who holds a token is not locked out


class ListInParts(Rig, Case):
    def a_list_can_be_had_in_parts(self):
        tokens = [self.issue(metadata=str(i))["token"] for i in range(7)]
        equal([r["metadata"] for r in self.listed()], [str(i) for i in range(7)])
        seen, after = [], {}
        while True:
            part = self.listed(limit=3, **after)
            seen += [r["token_fingerprint"] for r in part]
            if len(part) < 3:
                break
            after = {"after": seen[-1]}
        equal(seen, [sha(t) for t in tokens])
        self.refused("invalid request: field `limit`", "InviteList", {"limit": 5001})
        self.refused("nothing has this fingerprint any more", "InviteList", {"after": sha("x")})


class Pairing(Rig, Case):
    def set_up(self):
        super().set_up()
        self.ok("AgentCreate", {"name": "owner"})

    def c02_47_a_pair_token_is_the_callers(self):
        data = self.pair("owner", {"principal": "default", "label": "phone"})
        equal(sorted(data), ["expires_at_epoch", "label", "principal", "token"])
        equal((data["principal"], data["label"]), ("owner", "phone"))
        check(abs(data["expires_at_epoch"] - time.time() - 300) < 30)
        check(re.fullmatch(r"[A-Za-z0-9_-]{32}", data["token"]), data["token"])
        equal(sorted(self.pair("owner")), ["expires_at_epoch", "principal", "token"])
        self.pair("owner", {"expires_secs": 3600})
        self.refused("expires_secs must be greater than 0", "PairDeviceIssue", {"expires_secs": 0}, "owner")
        self.refused("expires_secs 3601 exceeds the 1-hour cap (3600s) \u2014 pair-tokens are intended for immediate use",
                     "PairDeviceIssue", {"expires_secs": 3601}, "owner")
        self.refused("label exceeds 256 bytes", "PairDeviceIssue", {"label": "l" * 257}, "owner")
        self.refused("permission denied for principal nobody: missing capability self:auth:pair", "PairDeviceIssue",
                     {}, "nobody")

    def c02_48_a_device_is_paired_once(self):
        token = self.pair("owner")["token"]
        data = self.ok("PairDeviceRedeem", {"token": token, "public_key": KEYS[1].upper()}, "nobody",
                       "PairTokenRedeemed")
        equal(data, {"principal": "owner", "public_key_fingerprint": sha("ed25519:" + KEYS[1])})
        text = self.text("owner")
        check('methods = ["keypair"]\npublic_keys = ["ed25519:%s"]\n' % KEYS[1] in text, text)
        self.refuse_pair(LATE, token)
        token = self.pair("owner")["token"]
        self.ok("PairDeviceRedeem", {"token": token, "public_key": KEYS[1]}, status="PairTokenRedeemed")
        equal(self.text("owner"), text)
        self.refuse_pair(LATE, token)
        self.refuse_pair(LATE, self.issue()["token"])

    def what_cannot_be_paired_keeps_its_token(self):
        self.ok("AgentCreate", {"name": "resting"})
        token = self.pair("resting")["token"]
        self.refuse_pair("public_key is not a valid ed25519 public key", token, SMALL_ORDER)
        self.ok("AgentDisable", {"principal": "resting"})
        self.refuse_pair("permission denied for principal resting: agent is disabled", token)
        self.ok("AgentEnable", {"principal": "resting"})
        os.rename(self.profile("resting"), self.profile("elsewhere"))
        self.refuse_pair("bound principal resting disappeared between issue and redeem", token)
        os.rename(self.profile("elsewhere"), self.profile("resting"))
        self.ok("PairDeviceRedeem", {"token": token, "public_key": KEYS[0]}, status="PairTokenRedeemed")

    def tokens_go_with_their_principal(self):
        self.ok("AgentCreate", {"name": "leaving"})
        token = self.pair("leaving")["token"]
        self.ok("AgentDelete", {"principal": "leaving"})
        self.refuse_pair(LATE, token)
        self.ok("AgentCreate", {"name": "leaving"})
        self.refuse_pair(LATE, token)


class Lasting(Case):
    def _start(self, home):
        self.d = Daemon(home=home).start()
        self.c = self.d.client()

    def c02_42_what_was_answered_survives_a_kill(self):
        first = Daemon().start()
        self.d, self.c = first, first.client()
        invite = {"group": "agent", "max_uses": 2}
        kept = ask(self.c, "InviteIssue", invite)["data"]["token"]
        spent = ask(self.c, "InviteIssue", dict(invite, max_uses=1))["data"]["token"]
        equal(ask(self.c, "InviteRedeem", {"token": spent, "public_key": KEYS[0]})["status"], "InviteRedeemed")
        first.kill()
        self._start(first.home)
        self.c = self.d.client()
        equal(ask(self.c, "InviteRedeem", {"token": spent, "public_key": KEYS[0]})["data"], GONE)
        rows = ask(self.c, "InviteList")["data"]
        equal([(r["token_fingerprint"], r["remaining_uses"]) for r in rows], [(sha(kept), 2)])
        equal(ask(self.c, "InviteRedeem", {"token": kept, "public_key": KEYS[0]})["status"], "InviteRedeemed")
        self.d.kill()
        self._start(first.home)
        equal(ask(self.c, "InviteList")["data"][0]["remaining_uses"], 1)
        self.d.clean()
        first.clean()
        self.d = None

    def files_of_the_original_are_taken_over(self):
        d = Daemon()
        os.makedirs(d.path("etc"), mode=0o700, exist_ok=True)
        with open(d.path("etc", "invites.toml"), "w") as f:
            f.write('[[invite]]\ntoken_hash = "%s"\ngroup = "agent"\nremaining_uses = 1\nissued_at_epoch = 1767613600\n'
                    'metadata = "old"\n' % sha("old token"))
        with open(d.path("etc", "pair-tokens.toml"), "w") as f:
            f.write('[[pair_token]]\ntoken_hash = "%s"\nprincipal = "default"\nexpires_at_epoch = 9767613600\n'
                    'issued_at_epoch = 1767613600\n' % sha("old pair"))
        d.start()
        c = d.client()
        equal([r["metadata"] for r in ask(c, "InviteList")["data"]], ["old"])
        equal(ask(c, "InviteRedeem", {"token": "old token", "public_key": KEYS[0]})["status"], "InviteRedeemed")
        equal(ask(c, "PairDeviceRedeem", {"token": "old pair", "public_key": KEYS[0]})["data"]["principal"], "default")
        check(os.path.exists(d.path("etc", "invites.toml.imported")))
        check(not os.path.exists(d.path("etc", "invites.toml")))
        d.stop()
        with open(d.path("etc", "invites.toml"), "w") as f:
            f.write("[[invite]\n")
        d.start()
        c = d.client()
        for method, params in (("InviteList", None), ("InviteIssue", {"group": "agent", "max_uses": 1}),
                               ("InviteRedeem", {"token": "x", "public_key": KEYS[0]}),
                               ("InviteRevoke", {"token": "x"})):
            answer = ask(c, method, params)
            check(answer["data"].startswith("invites.toml load failed: invite store parse"), answer)
        equal(ask(c, "PairDeviceIssue")["status"], "PairToken")
        check(os.path.exists(d.path("etc", "invites.toml")))
        d.clean()

    def an_invite_gets_the_default_lifetime(self):
        d = Daemon(config="[invites]\ndefault_expires_secs = 3600\n").start()
        c = d.client()
        data = ask(c, "InviteIssue", {"group": "agent", "max_uses": 1})["data"]
        check(abs(data["expires_at_epoch"] - time.time() - 3600) < 30, data)
        data = ask(c, "InviteIssue", {"group": "agent", "max_uses": 1, "expires_secs": 60})["data"]
        check(abs(data["expires_at_epoch"] - time.time() - 60) < 30, data)
        d.clean()
        d = Daemon(config="[invites]\ndefault_expires_secs = 2592001\n")
        check(d.refuses_to_boot()[0] != 0)


harness.main()
