#!/usr/bin/env python3
"""The gateway's streams and the history behind them: /api/events, /api/sys/audit, /api/agent/prompt (spec 03 §21 to §23)."""
import json
import time
import urllib.parse
import uuid

import harness
from harness import Case, Daemon, Sse, check, equal


def same_second(act, tries=10):
    """Does it until the clock's second was the same before and after."""
    for _ in range(tries):
        before = int(time.time())
        act()
        if int(time.time()) == before:
            return before
    raise harness.Failed("the clock never stood still for long enough")


def admin(client, method, params):
    """An admin request of `default`; its answer's data."""
    suffix = "test." + uuid.uuid4().hex
    client.send("astrid.v1.admin." + suffix,
                {"type": "raw_json", "request_id": "r", "method": method, "params": params}, "default")
    answer = client.recv_topic("astrid.v1.admin.response." + suffix)["payload"]
    equal(answer["status"], "Success", answer)
    return answer["data"]


class History(Case):
    daemon = {"gateway": True}

    def set_up(self):
        super().set_up()
        self.token = self.d.bearer()
        for name, text in [("alice", 'groups = ["agent"]\n'), ("bob", 'groups = ["agent"]\n'),
                           ("auditor", 'groups = []\ngrants = ["audit:read_all"]\n'),
                           ("half", 'groups = []\ngrants = ["audit:*"]\n'),
                           ("denied", 'groups = ["admin"]\nrevokes = ["audit:read_all"]\n'),
                           ("nothing", "groups = []\n")]:
            self.d.add_principal(name, text)
        self.c = self.d.client()

    def _get(self, token=None, **params):
        answer, body = self.d.http("GET", "/api/sys/audit?" + urllib.parse.urlencode(params), token=token or self.token)
        return answer.status, json.loads(body)

    def _entries(self, token=None, **params):
        status, page = self._get(token, **params)
        equal(status, 200, page)
        return page["entries"]

    def _walk(self, limit, token=None, cursor=None, **params):
        rows, pages = [], 0
        while True:
            extra = {"cursor": cursor} if cursor else {}
            status, page = self._get(token, limit=limit, **params, **extra)
            equal(status, 200, page)
            rows += page["entries"]
            pages += 1
            cursor = page["next_cursor"]
            check((cursor is not None) == (len(page["entries"]) == limit), page)
            if cursor is None:
                return rows, pages

    def c03_48_paging_visits_rows_of_one_second_exactly_once(self):
        def five():
            self.five = [self.c.request("ListCapsules", principal="alice") for _ in range(5)]
        ts = same_second(five)
        mine = dict(method="ListCapsules", since=ts, until=ts)
        rows = self._entries(**mine)
        check(len(rows) >= 5, rows)
        rows, pages = self._walk(2, **mine)
        equal(rows, self._entries(**mine), "the walk by twos")
        equal(pages, len(rows) // 2 + 1)

        # The two forms of the original: "<ts>_<offset>" and "<ts>".
        equal(self._entries(cursor="%d_2" % ts, **mine), rows[2:])
        equal(self._entries(cursor="%d" % ts, **mine), rows)
        equal(self._entries(cursor="%d" % (ts - 1), **mine), [])
        by_offset = []
        while True:
            page = self._entries(cursor="%d_%d" % (ts, len(by_offset)), limit=2, **mine)
            by_offset += page
            if len(page) < 2:
                break
        equal(by_offset, rows)
        # and a page that began with one goes on with ours
        status, page = self._get(cursor="%d_1" % ts, limit=2, **mine)
        rest, _ = self._walk(2, cursor=page["next_cursor"], **mine)
        equal(page["entries"] + rest, rows[1:])

    def c03_48_garbage_in_a_cursor_is_400(self):
        for cursor, reason in [("x", "cursor timestamp must be an integer"), ("_", "cursor timestamp must be an integer"),
                               ("-1", "cursor timestamp must be an integer"),
                               ("12_", "cursor offset must be a non-negative integer"),
                               ("12_-1", "cursor offset must be a non-negative integer"),
                               ("1_2_3", 'cursor must be "<ts>" or "<ts>_<offset>"'),
                               ("pzz", 'cursor must be "<ts>" or "<ts>_<offset>"'),
                               ("", "cursor timestamp must be an integer")]:
            equal(self._get(cursor=cursor), (400, {"error": "bad_request", "reason": reason}), cursor)

    def c03_49_limits_and_numbers(self):
        for _ in range(120):
            self.c.request("ListCapsules", principal="bob")
        equal(len(self._entries(limit=0)), 100)
        equal(len(self._entries()), 100)
        equal(len(self._entries(limit=101)), 101)
        equal(self._get(limit=1001), (400, {"error": "bad_request", "reason": "limit 1001 exceeds the cap of 1000"}))
        for params in ({"since": ""}, {"until": "x"}, {"limit": "-1"}, {"limit": "1.5"}):
            status, error = self._get(**params)
            equal(status, 400)
            check(error["reason"].startswith("Failed to deserialize query string: "), error)
        answer, body = self.d.http("GET", "/api/sys/audit?limit=1&limit=2", token=self.token)
        equal(answer.status, 400)
        check(b"duplicate field `limit`" in body, body)
        equal(self._get(limit=1, colour="blue")[0], 200)
        equal(self._entries(until=0), [])
        equal(self._entries(since=int(time.time()) + 1000), [])

    def c03_50_deletes_are_found_by_their_wire_name(self):
        admin(self.c, "AgentCreate", {"name": "shortlived", "groups": ["agent"]})
        admin(self.c, "AgentDelete", {"principal": "shortlived"})
        rows = self._entries(method="admin.agent.delete")
        row = dict(rows[0])
        check(row.pop("ts_epoch") > 1700000000)
        equal(row, {"method": "admin.agent.delete", "required_capability": "agent:delete", "principal": "default",
                    "target_principal": "shortlived", "outcome": "success",
                    "params": {"method": "AgentDelete", "params": {"principal": "shortlived"}}})
        equal(self._entries(method="AgentDelete"), [])
        equal(self._entries(method=""), [])

    def c03_47_others_rows_are_for_readers_of_all(self):
        for who in ["alice", "bob"]:
            self.c.request("ListCapsules", principal=who)
        alice = self.d.bearer("alice")
        for params in ({}, {"principal": "bob"}, {"principal": "not a principal!"}):
            rows = self._entries(alice, limit=1000, **params)
            check(rows and all(r["principal"] == "alice" for r in rows), rows[:3])
        equal(self._entries(self.d.bearer("nothing")), [])
        for who in ["auditor", "half", "default"]:
            token = self.d.bearer(who)
            check({"alice", "bob"} <= {r["principal"] for r in self._entries(token, limit=1000)}, who)
            rows = self._entries(token, principal="bob", limit=1000)
            check(rows and all(r["principal"] == "bob" for r in rows), rows[:3])
            status, error = self._get(token, principal="not a principal!")
            equal(status, 400)
            check(error["reason"].startswith("invalid `principal` query value: "), error)
        check(all(r["principal"] == "denied" for r in self._entries(self.d.bearer("denied"), limit=1000)))

    def reading_everybodys_rows_leaves_a_row_and_a_walk_just_one(self):
        token = self.d.bearer("auditor")
        before = len(self._entries(method="AuditQuery", principal="auditor"))
        self._walk(50, token)
        equal(len(self._entries(method="AuditQuery", principal="auditor")), before + 1)


class Live(Case):
    daemon = {"gateway": True, "gateway_config": "keep-alive-secs = 1\n"}

    def set_up(self):
        super().set_up()
        for name in ["alice", "bob"]:
            self.d.add_principal(name)
        self.c = self.d.client()

    def _open(self, who="default", path="/api/events", **more):
        s = Sse(self.d, path, self.d.bearer(who), **more)
        s.headers = s.head()
        equal(s.status, 200, s.headers)
        name, data = s.next()
        equal((name, data["principal"]), ("ready", who))
        s.ready = data
        return s

    def _act(self, who, times=1, method="ListCapsules"):
        for _ in range(times):
            self.c.request(method, principal=who)

    def c03_42_the_frames_of_an_event_stream(self):
        s = Sse(self.d, "/api/events", self.d.bearer("alice"))
        head = s.head()
        for line in ["HTTP/1.1 200 OK", "content-type: text/event-stream", "cache-control: no-cache",
                     "transfer-encoding: chunked", "x-content-type-options: nosniff"]:
            check(line in head, head)
        while s.text.count("\n\n") < 1:
            s._chunk()
        equal(s.text, 'event: ready\ndata: {"principal":"alice","firehose":false}\n\n')
        s.text = ""
        s.sock.settimeout(10)
        while "\n\n" not in s.text:
            s._chunk()
        equal(s.text, ": keep-alive\n\n")
        s.text = ""
        self._act("alice")
        while "event" not in s.text or not s.text.endswith("\n\n"):
            s._chunk()
        lines = s.text[s.text.index("event"):].split("\n")
        equal(lines[0], "event: audit")
        check(lines[1].startswith('data: {"ts_epoch":'), lines)
        equal(json.loads(lines[1][6:])["method"], "ListCapsules")
        equal(lines[2:], ["", ""])
        s.close()

    def c03_47_a_stream_shows_own_rows_and_all_rows_to_readers_of_all(self):
        mine, all_rows = self._open("alice"), self._open("default")
        equal((mine.ready["firehose"], all_rows.ready["firehose"]), (False, True))
        self._act("bob")
        self._act("alice")
        self._act("bob")
        equal([all_rows.next()[1]["principal"] for _ in range(3)], ["bob", "alice", "bob"])
        equal(mine.next()[1]["principal"], "alice")
        self._act("alice")
        name, row = mine.next()
        equal((name, row["principal"]), ("audit", "alice"))
        mine.close()
        all_rows.close()

    def rows_from_before_the_stream_are_not_shown(self):
        self._act("alice", 3)
        s = self._open("alice")
        self._act("alice", 1, "GetCommands")
        equal(s.next()[1]["method"], "GetCommands")
        s.close()

    def a_burst_comes_complete_and_in_order_to_a_client_that_does_not_read(self):
        s, n = self._open("default"), 6000  # more than the ring holds: the rest comes from the log
        for i in range(n):
            suffix = "list_capsules.%d" % i
            self.c.send("astrid.v1.request." + suffix, {"type": "raw_json", "method": "ListCapsules"},
                        "alice" if i % 3 else "bob")
            if i % 50 == 49:
                self.c.recv_topic("astrid.v1.response." + suffix, 30)
        got = []
        while len(got) < n:
            name, row = s.next()
            equal(name, "audit")
            if row["method"] == "ListCapsules":
                got.append(row["principal"])
        answer, body = self.d.http("GET", "/api/sys/audit?method=ListCapsules&limit=1000", token=self.d.bearer())
        tail = [r["principal"] for r in json.loads(body)["entries"]][::-1]
        equal(got[-1000:], tail)
        equal(got.count("bob"), n // 3)
        s.close()

    def a_client_that_comes_back_goes_on_behind_its_last_event(self):
        s = self._open("alice", "/api/events?ids=true")
        self._act("alice", 3)
        ids = []
        for _ in range(3):
            block = s.next_block()
            equal(sorted(block), ["data", "event", "id"])
            ids.append(int(block["id"]))
        equal(ids, sorted(set(ids)))
        s.close()
        self._act("bob", 2)
        self._act("alice", 2, "GetCommands")
        again = self._open("alice", headers=[("Last-Event-ID", str(ids[0]))])
        methods = [json.loads(again.next_block()["data"])["method"] for _ in range(4)]
        equal(methods, ["ListCapsules", "ListCapsules", "GetCommands", "GetCommands"])
        self._act("alice")
        block = again.next_block()
        check(int(block["id"]) > ids[-1], block)
        equal(json.loads(block["data"])["method"], "ListCapsules")
        again.close()

    def a_resumed_stream_survives_a_restart_and_starts_from_the_first_row(self):
        d = Daemon(gateway=True).start()
        d.cli("status")
        d.cli("status")
        equal(d.stop(), 0)
        d.start()
        s = Sse(d, "/api/events", d.bearer(), headers=[("Last-Event-ID", "0")])
        s.head()
        equal(s.next()[0], "ready")
        first = [s.next()[1]["method"] for _ in range(2)]
        equal(first, ["GetStatus", "GetStatus"])
        s.close()
        d.clean()

    def a_last_event_id_that_is_none_is_400(self):
        answer, body = self.d.http("GET", "/api/events", token=self.d.bearer(), headers={"Last-Event-ID": "seven"})
        equal((answer.status, json.loads(body)["reason"]), (400, "Last-Event-ID is not the id of an event"))

    def c03_13_a_stream_ends_when_its_principal_is_deleted(self):
        admin(self.c, "AgentCreate", {"name": "doomed", "groups": ["agent"]})
        s = self._open("doomed")
        admin(self.c, "AgentDelete", {"principal": "doomed"})
        equal(s.next(5), None)

    def a_stream_ends_when_its_bearer_expires(self):
        token = self.d.bearer("alice", seconds=3)
        s = Sse(self.d, "/api/events", token)
        s.head()
        equal(s.next()[0], "ready")
        begin = time.monotonic()
        equal(s.next(10), None)
        check(time.monotonic() - begin < 6)

    def a_stream_of_everything_ends_when_the_right_goes(self):
        admin(self.c, "AgentCreate", {"name": "reader", "groups": ["agent"]})
        admin(self.c, "CapsGrant", {"principal": "reader", "capabilities": ["audit:read_all"]})
        s = self._open("reader")
        equal(s.ready["firehose"], True)
        admin(self.c, "CapsRevoke", {"principal": "reader", "capabilities": ["audit:read_all"]})
        seen = []
        while True:
            event = s.next(5)
            if event is None:
                break
            seen.append(event[1]["method"])
        check("admin.caps.revoke" not in seen, seen)
        s = self._open("reader")
        equal(s.ready["firehose"], False)
        s.close()

    def a_disabled_principal_has_no_stream(self):
        admin(self.c, "AgentCreate", {"name": "sleepy", "groups": ["agent"]})
        s = self._open("sleepy")
        admin(self.c, "AgentDisable", {"principal": "sleepy"})
        equal(s.next(10), None)
        equal(self.d.http("GET", "/api/events", token=self.d.bearer("sleepy"))[0].status, 401)

    def head_on_a_stream_gives_its_head_and_ends(self):
        answer, body = self.d.http("HEAD", "/api/events", token=self.d.bearer())
        equal((answer.status, answer.getheader("content-type"), body), (200, "text/event-stream", b""))


harness.main()
