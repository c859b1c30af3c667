#!/usr/bin/env python3
"""Guests that loop, grow, overflow and crash end their own call; other principals' prompts keep their latency."""
import os
import threading
import time

import harness
from harness import Case, check, equal


def median(values):
    return sorted(values)[len(values) // 2]


class Hostile(Case):
    def set_up(self):
        self.d = harness.Daemon()
        self.d.install(os.path.join(harness.BUILD, "tests", "guests", "hostile"))
        self.d.add_principal("mallory", 'groups = []\n[quotas]\nmax_timeout_secs = 1\n')
        self.d.start()
        self.c = self.d.client()

    def _ask(self, text, principal):
        began = time.monotonic()
        got = self.c.prompt(text, session="default", principal=principal)[-1]["payload"]["text"]
        return got, (time.monotonic() - began) * 1000

    def _evil(self, text):
        m = self.d.client()
        m.send("user.v1.prompt", {"type": "user_input", "text": text, "session_id": "default"}, principal="mallory")
        return m

    def _mallory_still_answers(self, m):
        m.send("user.v1.prompt", {"type": "user_input", "text": "hello", "session_id": "default"}, principal="mallory")
        equal(m.recv_topic("agent.v1.response", 20)["payload"]["text"], "hello")
        m.close()

    def c05_60_a_trap_ends_its_call_alone(self):
        self._mallory_still_answers(self._evil("trap"))

    def a_stack_overflow_ends_its_call_alone(self):
        self._mallory_still_answers(self._evil("overflow"))

    def c05_55_a_memory_bomb_meets_its_ceiling(self):
        m = self._evil("bomb")
        equal(m.recv_topic("agent.v1.response", 20)["payload"]["text"], "the ceiling held")
        self._mallory_still_answers(m)

    def c04_31_an_endless_loop_delays_nobody_else(self):
        calm = []
        for i in range(50):
            text, ms = self._ask("a%d" % i, "alice")
            equal(text, "a%d" % i)
            calm.append(ms)
        began = time.monotonic()
        evil = self._evil("loop")
        busy = []
        while time.monotonic() - began < 0.9:
            text, ms = self._ask("b", "alice")
            equal(text, "b")
            busy.append(ms)
        check(len(busy) >= 10, "only %d answers while a guest looped" % len(busy))
        print("# median %.2f ms calm, %.2f ms beside a loop" % (median(calm), median(busy)))
        check(median(busy) < max(50, 20 * median(calm)), "%.1f ms beside a loop" % median(busy))
        self._mallory_still_answers(evil)
        took = time.monotonic() - began
        check(took < 15, "the loop was ended after %.1f s" % took)
        check("deadline" in self.d.log() or "Interceptor invocation failed" in self.d.log())

    def several_at_once_leave_the_daemon_alive(self):
        evils = [self._evil(t) for t in ["trap", "overflow", "loop", "trap", "bomb"] for _ in range(3)]
        results = []
        threads = [threading.Thread(target=lambda i=i: results.append(self._one(i))) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        equal(len(results), 8)
        check(all(results), results)
        for e in evils:
            e.close()

    def _one(self, i):
        c = self.d.client()
        for k in range(10):
            text = "%d/%d" % (i, k)
            if c.prompt(text, session="default", principal="p%d" % i, timeout=20)[-1]["payload"]["text"] != text:
                return False
        c.close()
        return True


harness.main()
