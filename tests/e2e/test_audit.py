#!/usr/bin/env python3
"""The audit log of a real daemon: what requests leave in it, across restarts and tampering (spec 02 §20, 09 §12 to §15)."""
import json
import os
import resource

import harness
from harness import Case, Daemon, check, equal, wait_for

ASKING = os.path.join(harness.BUILD, "tests", "guests", "asking")


class Log(Case):
    def set_up(self):
        self.d = Daemon()
        self.d.start()

    def tear_down(self, failed):
        self.d.stop()

    def _rows(self, *words):
        done = self.d.cli("audit", "query", "--format", "json", *words)
        equal(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def _export(self):
        done = self.d.cli("audit", "export")
        equal(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def c09_31_a_request_leaves_one_row_with_its_real_outcome(self):
        before = len(self._rows("--method", "GetStatus"))
        self.d.cli("status")
        rows = self._rows("--method", "GetStatus")
        equal(len(rows), before + 1)
        row = rows[0]
        ts = row.pop("ts_epoch")
        check(ts > 1700000000, ts)
        equal(row, {"method": "GetStatus", "required_capability": "system:status", "principal": "default",
                    "target_principal": None, "params": None, "outcome": "success"})
        done = self.d.cli("capsule", "install", "/nonexistent/x.capsule")
        check(done.returncode != 0)

    def c09_25_chains_go_on_after_a_restart_and_verify(self):
        self.d.cli("status")
        count = len(self._export())
        self.d.stop()
        self.d.start()
        entries = self._export()
        check(len(entries) > count, (count, len(entries)))
        stop = [e for e in entries if e["action"]["method"] == "Shutdown"]
        for e in stop:
            equal(e["outcome"]["status"], "success")
        equal(entries[0]["previous_hash"], "0" * 64)
        done = self.d.cli("audit", "verify", "--format", "json")
        equal(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        equal((report["valid"], report["issues"]), (True, []))
        check(report["entries"] >= len(entries), report)

    def the_tail_is_in_the_order_of_time_and_pages_join(self):
        for _ in range(5):
            self.d.cli("status")
        tail = self.d.cli("audit", "tail", "-n", "4", "--method", "GetStatus")
        equal(tail.returncode, 0, tail.stderr)
        equal(len(tail.stdout.splitlines()), 4)
        for line in tail.stdout.splitlines():
            equal(line.split()[1:], ["default", "GetStatus", "success"], line)
        equal(self.d.cli("audit", "tail", "-n", "0").returncode, 1)

    def a_change_is_refused_while_the_log_cannot_be_written_and_a_read_is_not(self):
        c = self.d.client()
        equal(c.request("GetStatus")["status"], "Status")
        pid = self.d.proc.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            answer = c.request("ReloadCapsules")
            equal(answer["status"], "Error")
            check(answer["data"].startswith("audit failed (fail-closed): "), answer)
            equal(c.request("GetStatus")["status"], "Status")
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        check(c.request("ReloadCapsules")["status"] != "Error")
        c.close()
        done = self.d.cli("audit", "verify")
        equal(done.returncode, 0, done.stdout + done.stderr)

    def c09_31_a_change_that_a_crash_cut_off_is_a_row_that_says_interrupted(self):
        c = self.d.client()
        c.send("astrid.v1.request.install_capsule.x1",
               {"type": "raw_json", "method": "InstallCapsule", "params": {"source": ASKING, "workspace": False}})
        c.recv_topic("astrid.v1.elicit", 30)  # its hook asks: the install is on its way
        self.d.kill()
        c.close()
        self.d.start()
        rows = [e for e in self._export() if e["action"]["method"] == "InstallCapsule"]
        equal([e["outcome"] for e in rows], [{"status": "failure", "error": "interrupted"}])
        done = self.d.cli("audit", "verify")
        equal(done.returncode, 0, done.stdout + done.stderr)


class Tampered(Case):
    def set_up(self):
        self.d = Daemon()
        self.d.start()

    def tear_down(self, failed):
        self.d.stop()

    def c09_32_a_tampered_chain_is_reported_and_the_daemon_starts(self):
        for _ in range(3):
            self.d.cli("status")
        self.d.stop()
        path = self.d.path("var", "astrid.lmdb", "data.mdb")
        with open(path, "r+b") as f:  # the database has no checksums of its own
            data = f.read()
            check(b'"method":"GetStatus"' in data)
            f.seek(0)
            f.write(data.replace(b'"method":"GetStatus"', b'"method":"GetStatuz"'))
        self.d.start()
        wait_for(lambda: "Audit chain verification found tampered sessions" in self.d.log(), what="the end of the walk")
        log = self.d.log()
        check("Audit chain integrity violation detected" in log and "Invalid signature at audit:" in log, log)
        check("total_sessions=1" in log and "tampered_sessions=1" in log, log)
        equal(self.d.cli("status").returncode, 0)
        done = self.d.cli("audit", "verify")
        equal(done.returncode, 1, done.stdout + done.stderr)


class Checkpoint(Case):
    def set_up(self):
        self.d = Daemon()
        self.d.start()

    def tear_down(self, failed):
        self.d.stop()

    def c09_32_the_next_start_takes_the_checkpoint_and_still_sees_what_was_changed(self):
        self.d.cli("status")
        self.d.stop()
        self.d.start()
        passed = "Audit chain verification passed for all sessions"
        wait_for(lambda: os.path.exists(self.d.path("var", "audit-checkpoint")), what="the checkpoint")
        equal(os.stat(self.d.path("var", "audit-checkpoint")).st_mode & 0o777, 0o600)
        wait_for(lambda: passed in self.d.log(), what="the walk")
        self.d.stop()
        path = self.d.path("var", "astrid.lmdb", "data.mdb")
        with open(path, "r+b") as f:
            data = f.read()
            f.seek(0)
            f.write(data.replace(b"policy allow: default holds system:status", b"policy allow: default holds system:statuz"))
        self.d.start()
        wait_for(lambda: "Audit chain verification found tampered sessions" in self.d.log(), what="the end of the walk")
        check("Invalid signature at audit:" in self.d.log())


harness.main()
