#!/usr/bin/env python3
"""A prompt answered by sandboxed capsules, over the socket and over HTTP (spec 03 §22, spec 10 §15, §27, §28)."""
import json
import threading
import uuid

import harness
from harness import Case, check, equal

REHEARSAL = {"capsules": ["astrid-rehearsal", "astrid-time", "astrid-notes"], "gateway": True}


def texts(frames):
    return [f["payload"]["text"] for f in frames]


class Rehearsal(Case):
    daemon = REHEARSAL

    def c01_37_streamed_text_is_told_exactly_once(self):
        frames = self.d.client().prompt("what time is it?")
        check(len(frames) >= 3, frames)
        whole = "".join(texts(frames))
        check(whole.startswith("Let me ask the time capsule. It is "), whole)
        equal(whole.count("Let me ask"), 1)
        equal([f["payload"]["is_final"] for f in frames].count(True), 1)
        check(frames[-1]["payload"]["is_final"])

    def it_says_that_it_has_no_model(self):
        check("no model" in "".join(texts(self.d.client().prompt("tell me a joke"))))

    def c07_55_tools_are_called_for_real(self):
        c = self.d.client()
        whole = "".join(texts(c.prompt("note milk buy two \"bottles\"")))
        check("Noted." in whole, whole)
        whole = "".join(texts(c.prompt("recall milk")))
        check('milk: buy two "bottles"' in whole, whole)
        check("milk" in "".join(texts(c.prompt("notes"))))
        check("Forgotten" in "".join(texts(c.prompt("forget milk"))))
        check("there is no note named" in "".join(texts(c.prompt("recall milk"))))

    def c05_34_notes_of_principals_are_apart(self):
        c = self.d.client()
        c.prompt("note pin 1234", principal="alice")
        whole = "".join(texts(c.prompt("recall pin", principal="bob")))
        check("no note" in whole, whole)
        check("1234" in "".join(texts(c.prompt("recall pin", principal="alice"))))
        check("`bob`" in "".join(texts(c.prompt("whoami", principal="bob"))))

    def c07_56_describe_collects_the_tools_of_all_capsules(self):
        whole = "".join(texts(self.d.client().prompt("tools")))
        for name in ["current_time", "time_until", "note_set", "note_get", "note_list", "note_delete"]:
            check(name in whole, whole)

    def notes_survive_a_restart(self):
        self.d.client().prompt("note keep this stays", principal="dora")
        equal(self.d.stop(), 0)
        self.d.start()
        check("this stays" in "".join(texts(self.d.client().prompt("recall keep", principal="dora"))))

    def a_prompt_without_text_still_gets_an_answer(self):
        c = self.d.client()
        session = str(uuid.uuid4())
        c.send("user.v1.prompt", {"type": "user_input", "session_id": session})  # lacks text: opaque to the bus
        delta = c.recv_topic("agent.v1.stream.delta")
        check("could not read" in delta["payload"]["text"], delta)
        check(c.recv_topic("agent.v1.response")["payload"]["is_final"])

    def http_streams_deltas_and_then_the_response(self):
        events = self.d.http_prompt("what time is it?", self.d.bearer())
        names = [n for n, _ in events]
        equal(names[0], "ready")
        equal(names[-1], "response")
        equal(names.count("response"), 1)
        check(names.count("delta") >= 2, names)
        deltas = "".join(d["text"] for n, d in events if n == "delta")
        equal(events[-1][1]["text"], deltas)

    def c03_46_blank_sessions_are_replaced_and_given_ones_kept(self):
        token = self.d.bearer()
        events = self.d.http_prompt("help", token, session="  ")
        uuid.UUID(events[0][1]["session_id"])
        given = "my session"
        events = self.d.http_prompt("help", token, session=given)
        equal(events[0][1], {"session_id": given, "principal": "default"})
        equal(events[-1][1]["session_id"], given)

    def c03_45_principals_never_see_each_other(self):
        for who in ["alice", "bob"]:
            self.d.add_principal(who)
        tokens = {p: self.d.bearer(p) for p in ["alice", "bob"]}
        seen = {}

        def ask(who):
            seen[who] = [self.d.http_prompt("echo secret of %s" % who, tokens[who], session="shared") for _ in range(10)]

        threads = [threading.Thread(target=ask, args=(w,)) for w in tokens]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        equal(sorted(seen), ["alice", "bob"])
        for who, runs in seen.items():
            other = "bob" if who == "alice" else "alice"
            equal(len(runs), 10)
            check("secret of " + other not in json.dumps(runs), who)


class Echo(Case):
    daemon = {"capsules": ["astrid-echo"], "gateway": True}

    def every_character_comes_back(self):
        c = self.d.client()
        for text in ["", "plain", "quotes \" and \\ and / and \n\t\b\x01", "grüße 日本語 😀", "x" * 100000]:
            equal(c.prompt(text)[-1]["payload"]["text"], text)

    def c04_32_a_thousand_principals_each_get_their_own_answer(self):
        c = self.d.client()
        want = set()
        for i in range(1000):
            text = "from p%d" % i
            want.add(text)
            c.send("user.v1.prompt", {"type": "user_input", "text": text, "session_id": "default"}, principal="p%d" % i)
        got = set()
        while len(got) < 1000:
            frame = c.recv(20)
            if frame["topic"] == "agent.v1.response":
                got.add(frame["payload"]["text"])
        equal(got, want)

    def http_and_socket_give_the_same_answer(self):
        events = self.d.http_prompt("same", self.d.bearer())
        equal(events[-1][1]["text"], self.d.client().prompt("same")[-1]["payload"]["text"])


harness.main()
