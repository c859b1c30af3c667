#!/usr/bin/env python3
"""The daemon killed under writes: a short run of what `make crash` does at length."""
import crashing
import harness
from harness import Case, check


class Killed(Case):
    def no_acknowledged_write_is_lost_and_none_is_half(self):
        # A loaded machine starts programs slowly; the second that a restart may take is measured by `make crash`.
        rig = crashing.Rig("make check", ready_s=10)
        self.d = rig.d
        found = rig.run(8)
        check(found["kills"] >= 6 and found["acknowledged"] > 200, found)
        print("# " + ", ".join("%s %s" % kv for kv in found.items()))


harness.main()
