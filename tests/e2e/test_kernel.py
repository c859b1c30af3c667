"""Kernel requests, what a boot does with profiles, deleted principals, and many clients (spec 02 §12, §14.2, §22, §23)."""
import os
import socket
import uuid

import harness
from harness import Case, check, equal, wait_for

ECHO = harness.capsule("astrid-echo")


def admin(client, method, params=None, principal="default"):
    suffix = "test." + uuid.uuid4().hex
    body = {"type": "raw_json", "request_id": suffix, "method": method}
    if params is not None:
        body["params"] = params
    client.send("astrid.v1.admin." + suffix, body, principal)
    return client.recv_topic("astrid.v1.admin.response." + suffix)["payload"]


class Requests(Case):
    def set_up(self):
        self.d = harness.Daemon()
        self.d.add_principal("alice")
        self.d.add_principal("global", 'grants = ["capsule:reload", "capsule:list"]\n')
        self.d.start()
        self.c = self.d.client()

    def c02_21_what_is_no_kernel_request_gets_no_answer(self):
        self.c.send("astrid.v1.request.mcp.tools.list", {"type": "raw_json", "method": "GetStatus"}, "default")
        self.c.send("astrid.v1.request.foreign", {"type": "raw_json", "no": "method"}, "default")
        suffix = uuid.uuid4().hex  # answered in order, so the first frame would be theirs
        self.c.send("astrid.v1.request.status." + suffix, {"type": "raw_json", "method": "GetStatus"}, "default")
        equal(self.c.recv()["topic"], "astrid.v1.response.status." + suffix)

    def c02_51_status_has_its_members(self):
        data = self.c.request("GetStatus", principal="default")
        equal(data["status"], "Status")
        data = data["data"]
        equal(sorted(data), ["connected_clients", "connections_by_principal", "ephemeral", "loaded_capsules", "pid",
                             "uptime_secs", "version"])
        equal(data["pid"], self.d.proc.pid)
        equal(data["ephemeral"], False)
        equal(data["version"], "0.8.0")
        check(isinstance(data["uptime_secs"], int))
        for row in data["connections_by_principal"]:
            equal(sorted(row), ["count", "principal"])
            check(row["count"] > 0)
        equal(sum(r["count"] for r in data["connections_by_principal"]), data["connected_clients"])

    def c02_52_installs_of_a_workspace_or_from_afar_are_refused(self):
        def refused(source, workspace):
            answer = self.c.request("InstallCapsule", {"source": source, "workspace": workspace}, "default")
            equal(answer["status"], "Error", source)
            return answer["data"]
        equal(refused("/x", True), "workspace installs are CLI-only \u2014 the daemon has no meaningful CWD; use a "
              "system install (drop the --workspace flag) instead")
        for source in ["https://x/y.capsule", "http://x", "github.com/a/b", "@a/b", "gh:a/b"]:
            equal(refused(source, False), "kernel-side install accepts only local paths; resolve '%s' via the gateway "
                  "registry route first (the daemon never fetches URLs)" % source)
        equal(refused("file:///nowhere", False), "source path does not exist: /nowhere")

    def c02_52_an_agent_does_not_install_for_everybody(self):
        answer = self.c.request("InstallCapsule", {"source": "/x", "workspace": False}, "alice")
        equal(answer, {"status": "Error",
                       "data": "permission denied for principal alice: missing capability capsule:install"})
        # And the row says what was asked for.
        rows = self.c.request("AuditQuery", {"principal": "alice", "method": "InstallCapsule"}, "default")["data"]
        equal(rows["entries"][0]["params"],
              {"method": "InstallCapsule", "params": {"source": "/x", "workspace": False}})
        equal(rows["entries"][0]["outcome"], "failure")

    def c02_53_the_sixth_reload_in_a_minute_is_refused_where_the_answer_is_awaited(self):
        for _ in range(5):
            equal(self.c.request("ReloadCapsules", principal="default")["data"], {"status": "reloaded"})
        equal(self.c.request("ReloadCapsules", principal="default"),
              {"status": "Error", "data": "Rate limited: max 5 ReloadCapsules requests per minute"})
        # Another caller has its own window; the global form will do.
        equal(self.c.request("ReloadCapsules", principal="global")["status"], "Success")
        equal(self.c.request("ListCapsules", principal="global")["status"], "Success")
        equal(self.c.request("ListCapsules", principal="alice")["status"], "Success")


class SelfInstall(Case):
    def set_up(self):
        self.d = harness.Daemon(config="[capsule]\nself_install = true\n")
        self.d.add_principal("alice")
        self.d.start()

    def c02_52_a_setting_restores_the_agents_right_to_install(self):
        answer = self.d.client().request("InstallCapsule", {"source": "/nowhere", "workspace": False}, "alice")
        equal(answer, {"status": "Error", "data": "source path does not exist: /nowhere"})


class Boots(Case):
    def set_up(self):
        self.d = harness.Daemon()

    def _legacy(self, name, text):
        folder = self.d.path("home", name, ".config")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(os.path.join(folder, "profile.toml"), "w") as f:
            f.write(text)
        return os.path.join(folder, "profile.toml")

    def c02_54_c02_55_default_is_seeded_and_legacy_profiles_move_once(self):
        legacy = [self._legacy("anna", 'groups = ["agent"]\n'), self._legacy("berta", 'groups = ["admin"]\n')]
        self.d.add_principal("berta", "groups = []\n")  # the new place wins
        broken = self.d.path("home", "linked", ".config")
        os.makedirs(broken)
        os.symlink("/etc/passwd", os.path.join(broken, "profile.toml"))
        self.d.start()
        with open(self.d.path("etc", "profiles", "default.toml")) as f:
            check('groups = ["admin"]\n' in f.read())
        check(not any(os.path.exists(p) for p in legacy))
        rows = {r["principal"]: r["groups"] for r in admin(self.d.client(), "AgentList")["data"]}
        equal(rows, {"anna": ["agent"], "berta": [], "default": ["admin"]})
        self.d.stop()
        # Written by a capsule, that is: nobody gets rights from a file in a home.
        late = self._legacy("carl", 'groups = ["admin"]\n')
        with open(self.d.path("etc", "profiles", "default.toml"), "w") as f:
            f.write('grants = ["*"]\n')
        self.d.start()
        check(os.path.exists(late))
        with open(self.d.path("etc", "profiles", "default.toml")) as f:
            equal(f.read(), 'grants = ["*"]\n')
        rows = [r["principal"] for r in admin(self.d.client(), "AgentList")["data"]]
        equal(rows, ["anna", "berta", "default"])

    def c02_51_a_shutdown_is_answered_before_the_end(self):
        self.d.stop()
        self.d.start()
        c = self.d.client()
        equal(c.request("Shutdown", {"reason": "test"}, "default"),
              {"status": "Success", "data": {"status": "shutting_down"}})
        equal(self.d.proc.wait(20), 0)


class Deleted(Case):
    def set_up(self):
        self.d = harness.Daemon(capsules=[ECHO]).start()
        self.c = self.d.client()

    def a_deleted_principal_runs_nothing_until_it_is_made_again(self):
        check(self.c.prompt("one", principal="dora"))  # never made: runs with the defaults, as ever
        equal(admin(self.c, "AgentCreate", {"name": "dora"})["status"], "Success")
        check(self.c.prompt("two", principal="dora"))
        equal(admin(self.c, "AgentDelete", {"principal": "dora"})["status"], "Success")
        for times in [1, 2]:
            self.c.send("user.v1.prompt", {"type": "user_input", "text": "three", "session_id": "s"}, "dora")
            wait_for(lambda: sum("deleted principal denied" in line and "principal=dora" in line
                                 for line in self.d.log().split("\n")) == times, what="the refusal")
            self.d.stop()  # also after a restart
            self.d.start()
            self.c = self.d.client()
        equal(admin(self.c, "AgentCreate", {"name": "dora"})["status"], "Success")
        check(self.c.prompt("four", principal="dora"))


class Crowd(Case):
    CLIENTS = 1000

    def set_up(self):
        self.d = harness.Daemon(config="[uplink]\nmax_clients = %d\n" % self.CLIENTS).start()

    def a_thousand_clients_are_served_and_the_next_is_told_why_not(self):
        crowd = [self.d.client() for _ in range(self.CLIENTS - 1)]
        half = self.d.client()  # the last seat; its frame never ends
        half.send_bytes(b"\x00\x00\x10\x00{\"topic\":")
        try:
            late = self.d.client(handshake=False)
            answer = late.handshake()
            equal(answer["reason"], "too many clients are connected; close one and try again")
            late.close()
            suffixes = []
            for c in crowd:  # all at once; nobody reads yet
                suffixes.append("status." + uuid.uuid4().hex)
                c.send("astrid.v1.request." + suffixes[-1], {"type": "raw_json", "method": "GetStatus"}, "default")
            for c, suffix in zip(crowd, suffixes):
                c.recv_topic("astrid.v1.response." + suffix, 60)
        finally:
            for c in crowd[1:] + [half]:
                c.close()
        # A seat that is free again serves the next client, and no frame of those before.
        wait_for(lambda: crowd[0].request("GetStatus", principal="default")["data"]["connected_clients"] < 10,
                 what="the others' end")
        fresh = self.d.client()
        check(fresh.nothing_comes())
        equal(fresh.request("GetStatus", principal="default")["status"], "Status")


if __name__ == "__main__":
    harness.main()
