#!/usr/bin/env python3
"""The audit log of a real daemon: what requests leave in it, across restarts and tampering (spec 02 §20, 09 §12 to §15)."""
import json

import harness
from harness import Case, Daemon, check, equal


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


harness.main()
