#!/usr/bin/env python3
"""Framing, handshake and the native bridge (spec 01 §4, §5, §8, §9)."""
import json
import os
import socket
import struct
import threading
import time
import uuid

import harness
from harness import Case, Closed, check, equal, wait_for


class Handshake(Case):
    daemon = {}

    def c01_13_correct_token_and_version(self):
        c = self.d.client(handshake=False)
        answer = c.handshake()
        equal(answer["status"], "ok")
        equal(answer["protocol_version"], 1)
        check("server_version" in answer and "reason" not in answer, answer)

    def c01_14_version_is_checked_before_the_token(self):
        c = self.d.client(handshake=False)
        answer = c.handshake(token="0" * 64, version=2)
        equal(answer["status"], "error")
        check(answer["reason"].startswith("Protocol version mismatch (client=2, server=1)."), answer)

    def c01_15_wrong_and_malformed_tokens_look_the_same(self):
        answers = []
        for token in ["0" * 64, "zz", "", "f" * 63]:
            c = self.d.client(handshake=False)
            answers.append(c.handshake(token=token))
        check(all(a == answers[0] for a in answers), answers)
        equal(answers[0]["reason"], "authentication failed")

    def c01_16_oversized_handshake_closes_silently(self):
        c = self.d.client(handshake=False)
        c.send_bytes(struct.pack(">I", 4097))
        check(c.is_closed())

    def c01_17_malformed_handshakes_close_silently(self):
        token = self.d.client().token()
        for body in [b"", b"{", b"[]", json.dumps({"token": token, "protocol_version": 1}).encode(),
                     json.dumps({"token": token, "protocol_version": 256, "client_version": "x"}).encode(),
                     json.dumps({"token": 5, "protocol_version": 1, "client_version": "x"}).encode()]:
            c = self.d.client(handshake=False)
            c.send_raw(body)
            check(c.is_closed(), body)

    def c01_18_a_silent_client_delays_nobody_and_is_dropped(self):
        silent = self.d.client(handshake=False)
        began = time.monotonic()
        self.d.client().close()
        check(time.monotonic() - began < 2, "another handshake had to wait")
        check(silent.is_closed(8), "the silent client was not dropped")
        check(4 < time.monotonic() - began < 8, "dropped at the wrong time")

    def c01_20_probes_are_not_counted_and_not_an_error(self):
        for _ in range(10):
            self.d.client(handshake=False).close()
        c = self.d.client()
        equal(c.request("GetStatus")["data"]["connected_clients"], 1)
        check(" ERROR " not in self.d.log(), "an error was logged")

    def more_clients_than_allowed_are_told_so(self):
        clients = [self.d.client() for _ in range(64)]
        late = self.d.client(handshake=False)
        answer = late.handshake()
        equal(answer["status"], "error")
        check("too many clients" in answer["reason"], answer)
        for c in clients:
            c.close()
        wait_for(lambda: self.d.client(handshake=False).handshake()["status"] == "ok", what="a free place")


class Frames(Case):
    daemon = {"capsules": ["astrid-echo"]}

    def c01_21_size_limits_of_data_frames(self):
        c = self.d.client()
        c.send("user.v1.prompt", {"type": "user_input", "text": "x" * 1153433, "session_id": "big"})
        equal(c.prompt("still here")[-1]["payload"]["text"], "still here")
        c.send_bytes(struct.pack(">I", 10485761))
        check(c.is_closed())

    def c01_22_a_dribbled_frame_is_parsed(self):
        c = self.d.client()
        body = json.dumps({"topic": "astrid.v1.request.status.dribble", "payload": {"type": "raw_json", "method": "GetStatus"}})
        data = struct.pack(">I", len(body)) + body.encode()
        for i in range(0, len(data), 7):
            c.send_bytes(data[i:i + 7])
            time.sleep(0.02)
        equal(c.recv_topic("astrid.v1.response.status.dribble")["payload"]["status"], "Status")

    def c01_23_bad_frames_leave_the_connection_open(self):
        c = self.d.client()
        for body in [b"", b"{", b"[]", b'{"payload":{}}', b'{"topic":"user.v1.prompt"}', b'{"topic":5,"payload":{}}',
                     b"[" * 5000]:
            c.send_raw(body)
        c.send("agent.v1.response", {"text": "forged"})
        c.nothing_comes()
        equal(c.request("GetStatus")["status"], "Status")

    def c01_25_a_private_suffix_is_answered_on_that_topic_only(self):
        a, b = self.d.client(), self.d.client()
        suffix = "status." + uuid.uuid4().hex
        a.send("astrid.v1.request." + suffix, {"type": "raw_json", "method": "GetStatus"})
        a.recv_topic("astrid.v1.response." + suffix)
        frame = b.recv()  # kernel answers carry no principal, hence reach everyone, on the same topic
        equal(frame["topic"], "astrid.v1.response." + suffix)

    def c01_26_response_frames_have_three_members(self):
        c = self.d.client()
        c.send("astrid.v1.request.status", {"type": "raw_json", "method": "GetStatus"})
        frame = c.recv_topic("astrid.v1.response.status")
        equal(sorted(frame), ["payload", "source_id", "topic"])
        check("type" not in frame["payload"])

    def c01_27_requests_without_the_raw_json_tag_are_ignored(self):
        c = self.d.client()
        c.send("astrid.v1.request.status", {"method": "GetStatus"})
        c.send("astrid.v1.request.status", {"type": "custom", "data": {"method": "GetStatus"}})
        c.nothing_comes()

    def c01_29_clients_cannot_publish_on_reserved_topics(self):
        spy, c = self.d.client(), self.d.client()
        for topic in ["astrid.v1.admin.response.x", "client.v1.connect", "astrid.v1.response.x", "agent.v1.response",
                      "astrid.v1.audit.entry", "tool.v1.x", "llm.v1.x"]:
            c.send(topic, {"type": "agent_response", "text": "x", "is_final": True, "session_id": "default"})
        spy.nothing_comes()
        equal(c.request("GetStatus")["data"]["connected_clients"], 1)

    def c01_31_missing_capability_has_the_exact_text(self):
        c = self.d.client()
        answer = c.request("GetStatus", principal="nobody")
        equal(answer, {"status": "Error", "data": "permission denied for principal nobody: missing capability system:status"})

    def c01_32_unstamped_is_default_and_malformed_is_nobody(self):
        c = self.d.client()
        equal(c.request("GetStatus")["status"], "Status")
        c.send("astrid.v1.request.status.bad", {"type": "raw_json", "method": "GetStatus"}, principal="bad@name")
        c.nothing_comes()

    def c01_33_unstamped_requests_then_a_stamped_prompt(self):
        c = self.d.client()
        equal(c.request("GetStatus")["status"], "Status")
        equal(c.request("ListCapsules")["status"], "Success")
        equal(c.prompt("hi", principal="alice")[-1]["payload"]["text"], "hi")

    def c01_34_messages_of_alice_never_reach_bob(self):
        alice, bob = self.d.client(), self.d.client()
        bob.prompt("mine", session="default", principal="bob")
        alice.prompt("secret", session="default", principal="alice")
        bob.nothing_comes()

    def c01_35_sessions_of_one_principal_are_apart(self):
        a, b = self.d.client(), self.d.client()
        a.prompt("one", session=str(uuid.uuid4()), principal="alice")
        b.prompt("two", session=str(uuid.uuid4()), principal="alice")
        a.nothing_comes()
        b.nothing_comes()

    def c01_36_capsules_loaded_reaches_every_client(self):
        a, b = self.d.client(), self.d.client()
        equal(a.request("ReloadCapsules")["data"], {"status": "reloaded"})
        equal(b.recv_topic("astrid.v1.capsules_loaded")["payload"]["status"], "ready")

    def c01_30_the_sixth_reload_is_refused_on_the_response_topic(self):
        c = self.d.client()
        answers = [c.request("ReloadCapsules", principal="default") for _ in range(6)]
        equal(answers[-1], {"status": "Error", "data": "Rate limited: max 5 ReloadCapsules requests per minute"})

    def c01_46_status_counts_per_principal(self):
        before = wait_for(lambda: self._settled(), what="earlier clients to leave")
        c = self.d.client()
        c.prompt("x", principal="carol")
        status = c.request("GetStatus", principal="default")["data"]
        rows = {r["principal"]: r["count"] for r in status["connections_by_principal"]}
        equal(sum(rows.values()), status["connected_clients"])
        equal(rows.get("carol"), 1)
        equal(status["pid"], self.d.proc.pid)
        check(before is not None)

    def _settled(self):
        c = self.d.client()
        try:
            return c.request("GetStatus")["data"] if c.request("GetStatus")["data"]["connected_clients"] == 1 else None
        finally:
            c.close()

    def c01_59_nothing_from_before_the_handshake(self):
        a = self.d.client()
        a.prompt("early", session="default")
        late = self.d.client()
        late.nothing_comes()

    def c01_58_a_client_that_does_not_read_is_dropped_alone(self):
        lazy, busy = self.d.client(), self.d.client()
        lazy.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.prompt("x", session="default")
        text = "y" * 1000
        for _ in range(70):
            for _ in range(50):
                busy.send("user.v1.prompt", {"type": "user_input", "text": text, "session_id": "default"})
            for _ in range(50):
                busy.recv_topic("agent.v1.response")
        began = time.monotonic()
        busy.prompt("quick", session="default")
        check(time.monotonic() - began < 2, "the other client had to wait")
        wait_for(lambda: "client does not read" in self.d.log(), what="the disconnect")

    def many_clients_prompt_at_once(self):
        errors = []

        def one(i):
            try:
                c = self.d.client()
                for k in range(20):
                    text = "%d-%d" % (i, k)
                    equal(c.prompt(text, principal="p%d" % i)[-1]["payload"]["text"], text)
                c.close()
            except Exception as why:
                errors.append(why)

        threads = [threading.Thread(target=one, args=(i,)) for i in range(30)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        check(not errors, errors[:3])


class Requests(Case):
    daemon = {"capsules": ["astrid-time"]}

    def list_commands_and_metadata(self):
        c = self.d.client()
        listed = c.request("ListCapsules")["data"]
        check("astrid-time" in listed and "astrid-capsule-cli" in listed, listed)
        equal(c.request("GetCommands"), {"status": "Commands", "data": []})
        rows = {r["name"]: r["interceptor_events"] for r in c.request("GetCapsuleMetadata")["data"]}
        check("tool.v1.execute.current_time" in rows["astrid-time"], rows)

    def c07_24_install_refuses_what_the_daemon_cannot_reach(self):
        c = self.d.client()
        for params, text in [({"source": "/x", "workspace": True}, "workspace installs are CLI-only"),
                             ({"source": "https://x/y", "workspace": False}, "kernel-side install accepts only local paths"),
                             ({"source": "/nowhere", "workspace": False}, "source path does not exist: /nowhere"),
                             ({"source": "/etc/passwd", "workspace": False}, "source must be a directory containing")]:
            answer = c.request("InstallCapsule", params)
            equal(answer["status"], "Error")
            check(answer["data"].startswith(text), answer)
        done = c.request("InstallCapsule", {"source": harness.capsule("astrid-notes"), "workspace": False}, timeout=60)
        equal(sorted(done["data"]), ["env_needs_prompt", "env_path", "export_conflicts", "installed_version",
                                     "missing_imports", "phase", "previous_version", "target_dir", "wasm_hash"])
        equal(done["data"]["phase"], "install")
        check("astrid-notes" in c.request("ListCapsules")["data"])

    def c07_25_an_install_announces_loaded_capsules(self):
        watcher, c = self.d.client(), self.d.client()
        c.request("InstallCapsule", {"source": harness.capsule("astrid-echo"), "workspace": False}, timeout=60)
        equal(watcher.recv_topic("astrid.v1.capsules_loaded")["payload"]["status"], "ready")

    def an_agent_may_not_install_for_the_host(self):
        c = self.d.client()
        with open(self.d.path("etc/profiles/mallory.toml"), "w") as f:
            f.write('groups = ["agent"]\n')
        answer = c.request("InstallCapsule", {"source": "/x", "workspace": False}, principal="mallory")
        equal(answer["data"], "permission denied for principal mallory: missing capability capsule:install")

    def c01_28_admin_requests_echo_the_request_id(self):
        c = self.d.client()
        c.send("astrid.v1.admin.agent.list", {"type": "raw_json", "request_id": "r-1", "method": "AgentList"})
        answer = c.recv_topic("astrid.v1.admin.response.agent.list")["payload"]
        equal(answer["request_id"], "r-1")

    def c01_57_shutdown_answers_before_the_socket_closes(self):
        c = self.d.client()
        equal(c.request("Shutdown", {"reason": "test"}), {"status": "Success", "data": {"status": "shutting_down"}})
        wait_for(lambda: self.d.proc.poll() is not None, 20, "exit")
        equal(self.d.proc.returncode, 0)
        try:
            while True:
                c.recv(5)
        except (Closed, ConnectionResetError):
            pass
        check("reason=test" in self.d.log())


harness.main()
