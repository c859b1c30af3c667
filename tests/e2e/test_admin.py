"""Admin requests over the real socket: principals, quotas, groups, grants (spec 02, checklist of section 28)."""
import json
import os
import stat
import threading
import uuid

import harness
from harness import Case, check, equal

DEFAULT_QUOTAS = {"max_memory_bytes": 67108864, "max_timeout_secs": 300, "max_ipc_throughput_bytes": 10485760,
                  "max_background_processes": 8, "max_storage_bytes": 1073741824, "max_cpu_fuel_per_sec": 2000000000}


def send(client, method, params=None, principal=None, suffix=None, kind="raw_json", request_id=None):
    suffix = suffix or "test." + uuid.uuid4().hex
    body = {"request_id": request_id or uuid.uuid4().hex, "method": method}
    if kind:
        body["type"] = kind
    if params is not None:
        body["params"] = params
    # Always stamped: on one connection an unstamped frame speaks for whoever was named last.
    client.send("astrid.v1.admin." + suffix, body, principal or "default")
    return suffix, body["request_id"]


def ask(client, method, params=None, principal=None, **more):
    suffix, request_id = send(client, method, params, principal, **more)
    payload = client.recv_topic("astrid.v1.admin.response." + suffix)["payload"]
    equal(payload.get("request_id"), request_id, "request_id of " + method)
    return payload


class Admin:
    """Helpers, mixed into the cases."""
    daemon = {}

    def set_up(self):
        super().set_up()
        self.c = self.d.client()

    def ok(self, method, params=None, principal=None, status="Success"):
        answer = ask(self.c, method, params, principal)
        equal(answer["status"], status, "%s: %s" % (method, answer))
        return answer["data"]

    def refused(self, text, method, params=None, principal=None):
        answer = ask(self.c, method, params, principal)
        equal(answer["status"], "Error", "%s: %s" % (method, answer))
        check(answer["data"].startswith(text), "%s: got %r, want %r" % (method, answer["data"], text))

    def make(self, name, **more):
        return self.ok("AgentCreate", dict({"name": name}, **more))

    def profile(self, name):
        return self.d.path("etc", "profiles", name + ".toml")

    def text(self, name):
        with open(self.profile(name)) as f:
            return f.read()

    def row(self, name):
        rows = [r for r in self.ok("AgentList", status="AgentList") if r["principal"] == name]
        return rows[0] if rows else None


class Agents(Admin, Case):
    def c02_25_create_gives_group_identity_and_home(self):
        data = self.make("anna")
        equal(sorted(data), ["astrid_user_id", "principal"])
        uuid.UUID(data["astrid_user_id"])
        check('groups = ["agent"]\n' in self.text("anna"), self.text("anna"))
        for part in (".local/capsules", ".local/kv", ".local/log", ".local/audit", ".local/tokens", ".local/tmp",
                     ".config/env"):
            check(os.path.isdir(self.d.path("home", "anna", part)), part)
        equal(stat.S_IMODE(os.stat(self.d.path("home", "anna")).st_mode), 0o700)

    def c02_04_a_created_profile_is_private_and_leaves_no_temporary_file(self):
        self.make("quiet")
        equal(stat.S_IMODE(os.stat(self.profile("quiet")).st_mode), 0o600)
        equal([n for n in os.listdir(os.path.dirname(self.profile("quiet"))) if not n.endswith(".toml")], [])

    def c02_26_bad_names_are_refused(self):
        self.make("taken")
        self.refused("principal taken already exists", "AgentCreate", {"name": "taken"})
        self.refused("invalid principal name: principal id contains invalid character '.'", "AgentCreate",
                     {"name": "a.b"})
        self.refused("invalid principal name: principal id must not be empty", "AgentCreate", {"name": ""})
        self.refused("invalid principal name: principal id exceeds 64 characters", "AgentCreate", {"name": "x" * 65})
        self.refused('principal "default" is reserved for single-tenant bootstrap', "AgentCreate", {"name": "default"})
        self.refused('principal "__host__" is reserved', "AgentCreate", {"name": "__host__"})
        self.refused("profile rejected: profile validation error: grants entry", "AgentCreate",
                     {"name": "other", "grants": ["a::b"]})
        check(not os.path.exists(self.profile("other")))

    def c02_01_names_of_64_characters(self):
        self.make("n" * 64)
        check(self.row("n" * 64))

    def c02_27_a_home_that_cannot_be_made_undoes_everything(self):
        with open(self.d.path("home", "blocked"), "w"):
            pass
        self.refused("principal home tree provisioning failed (rolled back): ", "AgentCreate", {"name": "blocked"})
        check(not os.path.exists(self.profile("blocked")))
        equal(self.row("blocked"), None)
        os.unlink(self.d.path("home", "blocked"))
        self.make("blocked")

    def c02_25_c02_27_many_creations_at_once_fail_alone(self):
        with open(self.d.path("home", "many-77"), "w"):
            pass
        names = ["many-%d" % i for i in range(200)] + ["many-5", "many-6", "bad.name"]
        asked = {}
        for name in names:
            suffix, request_id = send(self.c, "AgentCreate", {"name": name})
            asked[request_id] = name
        answers = {}
        for _ in names:
            body = self.c.recv(30)["payload"]
            answers.setdefault(asked.pop(body["request_id"]), []).append(body)
        equal(asked, {})
        for name, bodies in answers.items():
            good = [b for b in bodies if b["status"] == "Success"]
            bad = [b["data"] for b in bodies if b["status"] != "Success"]
            if name == "bad.name":
                check(not good and bad[0].startswith("invalid principal name: "), bad)
            elif name == "many-77":
                check(not good and bad[0].startswith("principal home tree provisioning failed (rolled back): "), bad)
                check(not os.path.exists(self.profile(name)))
            else:
                equal(len(good), 1, name)
                equal(bad, ["principal %s already exists" % name] * (len(bodies) - 1))
                check(os.path.isdir(self.d.path("home", name, ".config", "env")))
        listed = lambda: [r["principal"] for r in self.ok("AgentList", status="AgentList") if "many-" in r["principal"]]
        rows = listed()
        equal(rows, sorted(n for n in answers if n not in ("bad.name", "many-77")))
        equal([n for n in os.listdir(self.d.path("etc", "profiles")) if not n.endswith(".toml")], [])
        self.d.kill()  # what was answered is there
        self.d.start()
        self.c = self.d.client()
        equal(listed(), rows)

    def c02_28_delete_keeps_the_home_and_is_idempotent(self):
        self.make("gone")
        with open(self.d.path("home", "gone", "notes"), "w") as f:
            f.write("mine")
        equal(self.ok("AgentDelete", {"principal": "gone"}), {"principal": "gone"})
        check(not os.path.exists(self.profile("gone")))
        check(os.path.exists(self.d.path("home", "gone", "notes")))
        equal(self.ok("AgentDelete", {"principal": "gone"}), {"principal": "gone"})
        equal(self.ok("AgentDelete", {"principal": "never-was"}), {"principal": "never-was"})
        self.refused("cannot delete the `default` principal \u2014 it is the single-tenant bootstrap anchor",
                     "AgentDelete", {"principal": "default"})
        self.refused("permission denied for principal gone: missing capability self:agent:list", "AgentList",
                     principal="gone")
        self.make("gone")
        check(not os.path.exists(self.d.path("home", "gone", "notes")), "a successor meets old data")
        kept = os.listdir(self.d.path("var", "removed"))
        check(any(n.startswith("home-gone-") for n in kept), kept)

    def c02_29_disable_is_idempotent_and_spares_default(self):
        self.make("sleepy")
        want = {"changed": True, "enabled": False, "principal": "sleepy"}
        equal(self.ok("AgentDisable", {"principal": "sleepy"}), want)
        equal(self.ok("AgentDisable", {"principal": "sleepy"}), dict(want, changed=False))
        self.refused("permission denied for principal sleepy: agent is disabled", "AgentList", principal="sleepy")
        equal(self.ok("AgentEnable", {"principal": "sleepy"}), dict(want, enabled=True))
        self.ok("AgentList", principal="sleepy", status="AgentList")
        self.refused("cannot disable the `default` principal \u2014 it is the single-tenant bootstrap anchor",
                     "AgentDisable", {"principal": "default"})

    def c02_23_a_disabled_administrator_is_denied(self):
        self.make("boss", groups=["admin"])
        self.ok("GroupList", principal="boss", status="GroupList")
        self.ok("AgentDisable", {"principal": "boss"})
        for method, params in (("GroupList", None), ("AgentEnable", {"principal": "boss"}),
                               ("CapsGrant", {"principal": "boss", "capabilities": ["a"]})):
            self.refused("permission denied for principal boss: agent is disabled", method, params, "boss")

    def c02_30_modify_removes_then_adds(self):
        self.make("mod", groups=["agent", "x"])
        data = self.ok("AgentModify", {"principal": "mod", "add_groups": ["x", "ops"], "remove_groups": ["x", "agent"]})
        equal(data, {"changed": True, "groups": ["x", "ops"], "principal": "mod"})
        data = self.ok("AgentModify", {"principal": "mod", "add_groups": ["x"], "remove_groups": ["x"]})
        equal(data, {"changed": False, "groups": ["ops", "x"], "principal": "mod"})
        equal(self.row("mod")["groups"], ["x", "ops"])
        self.refused("agent.modify: at least one of `add_groups` or `remove_groups` must be non-empty", "AgentModify",
                     {"principal": "mod"})
        self.refused("profile rejected: profile validation error: groups entry", "AgentModify",
                     {"principal": "mod", "add_groups": ["a b"]})
        self.refused("cannot remove group `admin` from the `default` principal", "AgentModify",
                     {"principal": "default", "remove_groups": ["admin"]})
        self.ok("AgentModify", {"principal": "default", "add_groups": ["agent"]})
        self.ok("AgentModify", {"principal": "default", "remove_groups": ["agent"]})

    def c02_31_the_list_is_ones_own_row_or_everybody(self):
        self.make("lister")
        rows = self.ok("AgentList", principal="lister", status="AgentList")
        equal(rows, [{"enabled": True, "grants": [], "groups": ["agent"], "principal": "lister", "revokes": []}])
        names = [r["principal"] for r in self.ok("AgentList", status="AgentList")]
        equal(names, sorted(names))
        check("default" in names and "lister" in names)
        os.symlink(self.profile("lister"), self.profile("linked"))
        check("linked" not in [r["principal"] for r in self.ok("AgentList", status="AgentList")])
        os.unlink(self.profile("linked"))
        self.make("half", groups=["restricted"], grants=["agent:list"])
        self.refused("permission denied for principal half: missing capability self:agent:list", "AgentList",
                     principal="half")

    def what_is_handed_out_must_be_held(self):
        self.make("clerk", grants=["agent:create", "agent:modify", "group:create", "group:modify", "ops:read"])
        denied = "permission denied for principal clerk: cannot confer capability "
        self.refused(denied + '"*"', "AgentCreate", {"name": "evil", "groups": ["admin"]}, "clerk")
        self.refused(denied + '"*"', "AgentCreate", {"name": "evil", "grants": ["*"]}, "clerk")
        self.refused(denied + '"*:*"', "AgentCreate", {"name": "evil", "grants": ["*:*"]}, "clerk")
        self.refused(denied + '"capsule:install"', "AgentCreate", {"name": "evil", "grants": ["capsule:install"]},
                     "clerk")
        check(not os.path.exists(self.profile("evil")))
        self.refused(denied + '"*"', "AgentModify", {"principal": "clerk", "add_groups": ["admin"]}, "clerk")
        self.refused(denied + '"capsule:install"', "GroupCreate",
                     {"name": "wide", "capabilities": ["capsule:install"]}, "clerk")
        self.ok("AgentCreate", {"name": "fine", "grants": ["ops:read", "self:x"]}, "clerk")
        self.ok("GroupCreate", {"name": "readers", "capabilities": ["ops:read"]}, "clerk")
        self.refused(denied + '"*"', "GroupModify",
                     {"name": "readers", "capabilities": ["*"], "unsafe_admin": True}, "clerk")
        self.refused("permission denied for principal fine: missing capability caps:grant", "CapsGrant",
                     {"principal": "fine", "capabilities": ["*"], "unsafe_admin": True}, "fine")

    def settings_of_default_are_copied_and_nothing_else(self):
        env = self.d.path("home", "default", ".config", "env")
        with open(os.path.join(env, "some.env.json"), "w") as f:
            json.dump({"model": "tiny"}, f)
        with open(self.d.path("home", "default", "diary"), "w") as f:
            f.write("private")
        self.make("fresh")
        with open(self.d.path("home", "fresh", ".config", "env", "some.env.json")) as f:
            equal(json.load(f), {"model": "tiny"})
        check(not os.path.exists(self.d.path("home", "fresh", "diary")))

    def an_early_look_does_not_hide_a_later_principal(self):
        self.refused("permission denied for principal late: missing", "AgentList", principal="late")
        self.make("late")
        equal(len(self.ok("AgentList", principal="late", status="AgentList")), 1)


class Envelope(Admin, Case):
    def c02_17_the_answer_comes_on_the_suffix_that_was_asked(self):
        for principal in (None, "nobody"):
            payload = ask(self.c, "GroupList", principal=principal, suffix="foo.bar." + uuid.uuid4().hex)
            equal(payload["status"], "Error" if principal else "GroupList")

    def c02_18_an_answer_is_never_a_request(self):
        send(self.c, "AgentCreate", {"name": "echo"}, suffix="response.agent.create")
        self.ok("GroupList", status="GroupList")  # one after it, answered: the other one had its chance
        check(not os.path.exists(self.profile("echo")))

    def c02_19_only_tagged_payloads_are_requests(self):
        for kind in (None, "custom"):
            send(self.c, "AgentCreate", {"name": "untagged"}, kind=kind)
        self.make("tagged")
        check(not os.path.exists(self.profile("untagged")))

    def c02_20_methods_without_parameters(self):
        for params in (None, {}):
            self.ok("AgentList", params, status="AgentList")

    def requests_that_cannot_be_read_are_answered(self):
        for method, params in (("AgentExplode", {}), ("AgentDelete", None), ("AgentDelete", {}),
                               ("AgentDelete", {"principal": "a.b"}), ("AgentDelete", {"principal": 3}),
                               ("AgentList", {"x": 1}), ("AgentCreate", {"name": "x", "groups": "agent"}),
                               ("AgentCreate", {"name": "x", "groups": ["g"] * 257}),
                               ("CapsGrant", {"principal": "x"}), ("QuotaSet", {"principal": "x"}),
                               ("InviteForget", {"group": "agent", "max_uses": 1}),
                               ("CapsGrant", {"principal": "x", "capabilities": ["a"], "unsafe_admin": "yes"})):
            self.refused("invalid request: ", method, params)

    def c02_24_a_denied_request_changes_nothing(self):
        self.make("plain")
        before = {n: open(self.profile(n[:-5])).read() for n in os.listdir(self.d.path("etc", "profiles"))}
        for method, params in (("AgentCreate", {"name": "more"}), ("AgentDelete", {"principal": "plain"}),
                               ("AgentModify", {"principal": "plain", "add_groups": ["admin"]}),
                               ("CapsGrant", {"principal": "plain", "capabilities": ["a"]}),
                               ("CapsRevoke", {"principal": "plain", "capabilities": ["a"]}),
                               ("GroupCreate", {"name": "g", "capabilities": []}),
                               ("GroupDelete", {"name": "g"}), ("GroupModify", {"name": "g"}),
                               ("QuotaSet", {"principal": "default", "quotas": {}})):
            self.refused("permission denied for principal plain: missing capability ", method, params, "plain")
        after = {n: open(self.profile(n[:-5])).read() for n in os.listdir(self.d.path("etc", "profiles"))}
        equal(after, before)
        check(not os.path.exists(self.d.path("etc", "groups.toml")))


class Quotas(Admin, Case):
    def c02_06_ranges(self):
        self.make("q6")
        bad = [(k, 0) for k in DEFAULT_QUOTAS if k != "max_background_processes"]
        for key, value in bad + [("max_timeout_secs", 86401), ("max_background_processes", 257)]:
            self.refused("quotas rejected: profile validation error: quotas." + key, "QuotaSet",
                         {"principal": "q6", "quotas": {key: value}})
        self.ok("QuotaSet", {"principal": "q6", "quotas": {"max_background_processes": 0}})

    def c02_07_omitted_fields_become_defaults(self):
        self.make("q7")
        equal(self.ok("QuotaSet", {"principal": "q7", "quotas": {"max_timeout_secs": 120}}), {"principal": "q7"})
        equal(self.ok("QuotaGet", {"principal": "q7"}, status="Quotas"), dict(DEFAULT_QUOTAS, max_timeout_secs=120))
        self.ok("QuotaSet", {"principal": "q7", "quotas": {}})
        equal(self.ok("QuotaGet", {"principal": "q7"}, status="Quotas"), DEFAULT_QUOTAS)
        before = self.text("q7")
        self.refused("invalid request: ", "QuotaSet", {"principal": "q7", "quotas": {"max_fun": 1}})
        equal(self.text("q7"), before)

    def c02_22_self_and_global_forms(self):
        self.make("own")
        self.make("reader", groups=[], grants=["quota:get"])
        self.ok("AgentModify", {"principal": "reader", "remove_groups": ["agent"]})
        for method, status in (("QuotaGet", "Quotas"), ("UsageGet", "Usage")):
            self.ok(method, {"principal": "own"}, "own", status)
            self.refused("permission denied for principal own: missing capability quota:get", method,
                         {"principal": "reader"}, "own")
            self.ok(method, {"principal": "own"}, "reader", status)
            self.refused("permission denied for principal reader: missing capability self:quota:get", method,
                         {"principal": "reader"}, "reader")

    def an_agent_only_lowers_its_own_ceilings(self):
        self.make("greedy")
        self.ok("QuotaSet", {"principal": "greedy", "quotas": {"max_memory_bytes": 1 << 20}}, "greedy")
        self.refused("permission denied for principal greedy: raising max_memory_bytes needs capability quota:set",
                     "QuotaSet", {"principal": "greedy", "quotas": {}}, "greedy")
        equal(self.ok("QuotaGet", {"principal": "greedy"}, status="Quotas")["max_memory_bytes"], 1 << 20)
        self.ok("QuotaSet", {"principal": "greedy", "quotas": {}})

    def c02_38_usage_tells_exemption(self):
        for i, cap in enumerate(("system:resources:unbounded", "net_bind", "uplink")):
            self.make("free%d" % i, grants=[cap])
            check(self.ok("UsageGet", {"principal": "free%d" % i}, status="Usage")["exempt"], cap)
        check(self.ok("UsageGet", {"principal": "default"}, status="Usage")["exempt"])

    def c02_39_usage_of_one_who_did_nothing(self):
        self.make("idle")
        equal(self.ok("UsageGet", {"principal": "idle"}, status="Usage"), {
            "cpu_fuel_consumed_total": 0, "cpu_fuel_per_sec_limit": 2000000000, "exempt": False,
            "memory_bytes_current_total": None, "memory_bytes_limit_per_instance": 67108864,
            "memory_bytes_peak_total": None, "principal": "idle"})


class Groups(Admin, Case):
    def c02_16_an_empty_set_is_an_empty_file(self):
        self.ok("GroupCreate", {"name": "brief", "capabilities": []})
        self.ok("GroupDelete", {"name": "brief"})
        info = os.stat(self.d.path("etc", "groups.toml"))
        equal((info.st_size, stat.S_IMODE(info.st_mode)), (0, 0o600))

    def c02_36_builtin_groups_stay_and_changes_are_seen_at_once(self):
        for name in ("admin", "agent", "restricted"):
            text = 'rejected: built-in group "%s" may not be redefined in groups.toml' % name
            self.refused("group.create " + text, "GroupCreate", {"name": name, "capabilities": []})
            self.refused("group.modify " + text, "GroupModify", {"name": name})
            self.refused("group.delete " + text, "GroupDelete", {"name": name})
        self.make("member", groups=["crew"])
        equal(self.ok("GroupCreate", {"name": "crew", "capabilities": ["self:group:list"]}), {"status": "ok"})
        self.ok("GroupList", principal="member", status="GroupList")
        self.ok("GroupModify", {"name": "crew", "capabilities": []})
        self.refused("permission denied for principal member: missing", "GroupList", principal="member")
        self.ok("GroupModify", {"name": "crew", "capabilities": ["self:*"], "description": None})
        self.ok("GroupList", principal="member", status="GroupList")
        self.ok("GroupDelete", {"name": "crew"})
        self.refused("permission denied for principal member: missing", "GroupList", principal="member")
        self.refused('group.delete rejected: groups config: unknown group "crew"', "GroupDelete", {"name": "crew"})
        self.refused('group.modify rejected: groups config: unknown group "crew"', "GroupModify", {"name": "crew"})

    def c02_37_the_list_is_sorted_and_marks_builtin_groups(self):
        self.ok("GroupCreate", {"name": "zeta", "capabilities": ["a:b", "c"], "description": "last", "unsafe_admin": False})
        self.ok("GroupCreate", {"name": "alpha", "capabilities": [], "description": None})
        rows = self.ok("GroupList", status="GroupList")
        equal([r["name"] for r in rows], sorted(r["name"] for r in rows))
        equal([r["name"] for r in rows if r["builtin"]], ["admin", "agent", "restricted"])
        equal(rows[-1], {"builtin": False, "capabilities": ["a:b", "c"], "description": "last", "name": "zeta",
                         "unsafe_admin": False})
        check("description" not in [r for r in rows if r["name"] == "alpha"][0])
        with open(self.d.path("etc", "groups.toml")) as f:
            equal(f.read(), '[groups.alpha]\ncapabilities = []\nunsafe_admin = false\n\n'
                  '[groups.zeta]\ncapabilities = [\n    "a:b",\n    "c",\n]\ndescription = "last"\nunsafe_admin = false\n')
        self.ok("GroupModify", {"name": "zeta", "description": None})
        equal(self.ok("GroupList", status="GroupList")[-1]["description"], "last")
        self.ok("GroupModify", {"name": "zeta", "description": ""})
        check("description" not in self.ok("GroupList", status="GroupList")[-1])
        for name in ("zeta", "alpha"):
            self.ok("GroupDelete", {"name": name})

    def c02_15_universal_patterns_need_the_flag(self):
        for star in ("*", "*:*", "*:*:*"):
            self.refused('group.create rejected: groups config: custom group "root" grants \'*\'', "GroupCreate",
                         {"name": "root", "capabilities": [star]})
        self.ok("GroupCreate", {"name": "root", "capabilities": ["*"], "unsafe_admin": True})
        self.refused('group.modify rejected: groups config: custom group "root" grants', "GroupModify",
                     {"name": "root", "unsafe_admin": False})
        self.refused('group.create rejected: groups config declares "root" more than once', "GroupCreate",
                     {"name": "root", "capabilities": []})
        self.refused("group.create rejected: groups config: group \"bad\" capability \"a::b\" rejected", "GroupCreate",
                     {"name": "bad", "capabilities": ["a::b"]})
        for name in ("", "a b", "x" * 65):
            self.refused("group.create rejected: groups config: group name", "GroupCreate",
                         {"name": name, "capabilities": []})
        self.ok("GroupDelete", {"name": "root"})

    def an_edit_by_hand_survives_the_next_change(self):
        with open(self.d.path("etc", "groups.toml"), "a") as f:
            f.write('[groups.byhand]\ncapabilities = ["x"]\n')
        self.ok("GroupCreate", {"name": "bywire", "capabilities": []})
        names = [r["name"] for r in self.ok("GroupList", status="GroupList")]
        check("byhand" in names and "bywire" in names, names)
        for name in ("byhand", "bywire"):
            self.ok("GroupDelete", {"name": name})


class Caps(Admin, Case):
    def c02_32_a_star_needs_the_flag(self):
        self.make("star")
        for text in ("*", "*:*"):
            self.refused("caps.grant rejected: granting `%s` to star confers universal admin; pass `unsafe_admin = true` "
                         "(CLI: `--unsafe-admin`) to confirm this elevation" % text, "CapsGrant",
                         {"principal": "star", "capabilities": [text]})
        equal(self.ok("CapsGrant", {"principal": "star", "capabilities": ["network:egress:*"]}),
              {"capabilities": ["network:egress:*"], "principal": "star"})
        self.ok("CapsGrant", {"principal": "star", "capabilities": ["*"], "unsafe_admin": True})
        self.refused("capabilities must not be empty", "CapsGrant", {"principal": "star", "capabilities": []})
        self.refused('capability "a::b" rejected: capability contains an empty segment', "CapsGrant",
                     {"principal": "star", "capabilities": ["x", "a::b"]})

    def c02_33_repeating_changes_nothing(self):
        self.make("rep")
        for _ in range(3):
            self.ok("CapsGrant", {"principal": "rep", "capabilities": ["a:b", "c"]})
            self.ok("CapsRevoke", {"principal": "rep", "capabilities": ["a:*"]})
        self.ok("CapsGrant", {"principal": "rep", "capabilities": ["a:*"]})
        row = self.row("rep")
        equal((row["grants"], row["revokes"]), (["a:b", "c", "a:*"], ["a:*"]))

    def c02_11_the_denial_names_the_pattern(self):
        self.make("wheel", groups=["admin"])
        self.ok("CapsRevoke", {"principal": "wheel", "capabilities": ["group:*"]})
        self.refused('permission denied for principal wheel: capability group:create is revoked via "group:*"',
                     "GroupCreate", {"name": "x", "capabilities": []}, "wheel")

    def c02_34_default_and_phantoms(self):
        self.refused("cannot revoke capabilities from the `default` principal \u2014 it is the single-tenant bootstrap anchor",
                     "CapsRevoke", {"principal": "default", "capabilities": ["a"]})
        self.ok("CapsGrant", {"principal": "default", "capabilities": ["a:b"]})
        for method, more in (("AgentEnable", {}), ("AgentDisable", {}), ("AgentModify", {"add_groups": ["x"]}),
                             ("QuotaSet", {"quotas": {}}), ("QuotaGet", {}), ("UsageGet", {}),
                             ("CapsGrant", {"capabilities": ["a"]}), ("CapsRevoke", {"capabilities": ["a"]})):
            self.refused("principal phantom does not exist (no profile.toml at %s)" % self.profile("phantom"), method,
                         dict({"principal": "phantom"}, **more))
        check(not os.path.exists(self.profile("phantom")))

    def c02_35_concurrent_grants_all_land(self):
        self.make("many")
        failures = []

        def work(n):
            try:
                client = self.d.client()
                for i in range(10):
                    answer = ask(client, "CapsGrant", {"principal": "many", "capabilities": ["c%d:%d" % (n, i)]})
                    equal(answer["status"], "Success", str(answer))
                client.close()
            except BaseException as why:
                failures.append(why)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        equal(failures, [])
        equal(sorted(self.row("many")["grants"]), sorted("c%d:%d" % (n, i) for n in range(8) for i in range(10)))

    def after_the_reply_a_revoked_right_is_never_served(self):
        self.make("race", groups=["restricted"], grants=["self:group:list"])
        stop, wrong, count = threading.Event(), [], [0]
        revoked = threading.Event()

        def check_forever():
            client = self.d.client()
            while not stop.is_set():
                was_revoked = revoked.is_set()
                status = ask(client, "GroupList", principal="race")["status"]
                count[0] += 1
                if was_revoked and status != "Error":
                    wrong.append(status)
            client.close()
        threads = [threading.Thread(target=check_forever) for _ in range(4)]
        for t in threads:
            t.start()
        harness.wait_for(lambda: count[0] > 50, what="checks")
        self.ok("CapsRevoke", {"principal": "race", "capabilities": ["self:group:list"]})
        revoked.set()
        seen = count[0]
        harness.wait_for(lambda: count[0] > seen + 100, what="checks after the revoke")
        stop.set()
        for t in threads:
            t.join()
        equal(wrong, [])


class Cli(Admin, Case):
    def _run(self, *words, code=0, **more):
        done = self.d.cli(*words, **more)
        equal(done.returncode, code, "%s: %s%s" % (words, done.stdout, done.stderr))
        return done

    def agents_caps_and_groups_from_the_command_line(self):
        self._run("agent", "create", "cliff", "--group", "agent,ops")
        row = json.loads(self._run("agent", "show", "cliff", "--format", "json").stdout)
        equal((row["groups"], row["enabled"]), (["agent", "ops"], True))
        self._run("agent", "modify", "cliff", "--remove-group", "ops")
        self._run("agent", "disable", "cliff")
        check("Enabled:   no\n" in self._run("agent", "show", "cliff").stdout)
        self._run("agent", "enable", "cliff")
        self._run("caps", "grant", "cliff", "*", code=2)
        self._run("caps", "grant", "cliff", "a:b")
        self._run("caps", "revoke", "cliff", "a:*")
        row = json.loads(self._run("agent", "show", "cliff", "--format", "json").stdout)
        equal((row["groups"], row["grants"], row["revokes"]), (["agent"], ["a:b"], ["a:*"]))
        self._run("group", "create", "crew", "--caps", "x,y:z")
        check("crew" in self._run("group", "list").stdout)
        self._run("group", "delete", "crew")
        said = self._run("group", "delete", "crew", code=1).stderr
        check("kernel rejected request: group.delete rejected: " in said, said)
        self._run("agent", "delete", "cliff", stdin="n\n", code=1)
        self._run("agent", "delete", "cliff", "--yes")
        self._run("agent", "show", "cliff", code=1)


class Restart(Case):
    def what_was_answered_survives_a_kill(self):
        d = harness.Daemon().start()
        try:
            c = d.client()
            for i in range(20):
                equal(ask(c, "AgentCreate", {"name": "k%d" % i})["status"], "Success")
            equal(ask(c, "CapsRevoke", {"principal": "k3", "capabilities": ["self:*"]})["status"], "Success")
            equal(ask(c, "GroupCreate", {"name": "kept", "capabilities": ["x"]})["status"], "Success")
            d.kill()
            d.start()
            c = d.client()
            rows = {r["principal"]: r for r in ask(c, "AgentList")["data"]}
            equal([n for n in ("k%d" % i for i in range(20)) if n not in rows], [])
            equal(rows["k3"]["revokes"], ["self:*"])
            check("kept" in [g["name"] for g in ask(c, "GroupList")["data"]])
        finally:
            d.clean()


if __name__ == "__main__":
    harness.main()
