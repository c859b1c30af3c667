#!/usr/bin/env python3
"""The metrics of a real daemon: the inventory, exposition that a strict reader takes, counters that count (spec 03 §24, §25)."""
import re
import shutil
import subprocess

import harness
from harness import Case, Sse, check, equal, wait_for

# family: type, labels, help (None: any)
INVENTORY = {
    "astrid_gateway_requests_total": ("counter", ["method", "route", "status"], "Total HTTP requests by method+route+status."),
    "astrid_gateway_request_duration_seconds": ("histogram", ["method", "route", "status"],
                                                "Per-request handler latency by method+route+status."),
    "astrid_gateway_auth_failures_total": ("counter", [], "Failed bearer verifications."),
    "astrid_gateway_redeem_attempts_total": ("counter", [], "Invite-redemption attempts."),
    "astrid_gateway_redeem_rate_limited_total": ("counter", [], "Redeem requests rejected by the rate limiter."),
    "astrid_build_info": ("gauge", ["version", "git_sha", "rustc"], "Build provenance (always 1)."),
    "process_cpu_seconds_total": ("counter", [], "Total user and system CPU time spent in seconds."),
    "process_open_fds": ("gauge", [], "Number of open file descriptors."),
    "process_max_fds": ("gauge", [], "Maximum number of open file descriptors."),
    "process_virtual_memory_bytes": ("gauge", [], "Virtual memory size in bytes."),
    "process_virtual_memory_max_bytes": ("gauge", [], "Maximum amount of virtual memory available in bytes."),
    "process_resident_memory_bytes": ("gauge", [], "Resident memory size in bytes."),
    "process_start_time_seconds": ("gauge", [], "Start time of the process since unix epoch in seconds."),
    "process_threads": ("gauge", [], "Number of OS threads in the process."),
    "astrid_bus_events_published_total": ("counter", ["event_kind"], ""),
    "astrid_daemon_active_connections": ("gauge", [], ""),
    "astrid_daemon_connections_opened_total": ("counter", [], ""),
    "astrid_daemon_connections_closed_total": ("counter", [], ""),
    "astrid_daemon_background_ticks_total": ("counter", ["loop"], ""),
    "astrid_capsule_invocation_duration_seconds": ("summary", ["capsule", "action"], ""),
}
# These appear once something was dropped.
LATER = {
    "astrid_bus_receiver_lagged_total": ("counter", ["subscriber"], ""),
    "astrid_capsule_route_byte_evictions_total": ("counter", ["capsule", "principal_class"], ""),
    "astrid_capsule_route_quantum_starved_total": ("counter", ["capsule", "principal_class"], ""),
}
BUCKETS = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"]
QUANTILES = ["0", "0.5", "0.9", "0.95", "0.99", "0.999", "1"]
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
VALUE = re.compile(r"(?:[+-]?(?:\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|Inf)|NaN)\Z")


def labels_of(text):
    """[(name, value)] of what stands between the braces; refuses everything else."""
    labels, at = [], 0
    while at < len(text):
        m = LABEL.match(text, at)
        check(m, "no label: %r" % text[at:])
        labels.append((m.group(1), m.group(2)))
        at = m.end()
        if at < len(text):
            equal(text[at], ",", text)
            at += 1
            check(at < len(text), "a comma at the end: %r" % text)
    return labels


def parse(text):
    """{family: (type, help, [(suffix, [(label, value)], number)])}; refuses what Prometheus would not take."""
    check(text.endswith("\n\n"), "the last family is not ended")
    families, seen = {}, set()
    for block in text[:-2].split("\n\n"):
        lines, help_text = block.split("\n"), ""
        if lines[0].startswith("# HELP "):
            _, _, name, help_text = lines.pop(0).split(" ", 3)
            check(help_text)
        mark, what, name2, kind = lines.pop(0).split(" ")
        equal((mark, what), ("#", "TYPE"))
        name = name2
        check(NAME.match(name) and kind in ("counter", "gauge", "histogram", "summary"), (name, kind))
        check(name not in families, "%s comes twice" % name)
        samples = []
        for line in lines:
            series, number = line.rsplit(" ", 1)
            check(VALUE.match(number), line)
            sample, _, rest = series.partition("{")
            check(not rest or rest.endswith("}"), line)
            check(NAME.match(sample) and sample.startswith(name), line)
            suffix = sample[len(name):]
            check(suffix in {"histogram": ["_bucket", "_sum", "_count"], "summary": ["", "_sum", "_count"]}.get(kind, [""]), line)
            labels = labels_of(rest[:-1] if rest else "")
            names = [n for n, _ in labels]
            equal(len(set(names)), len(names), line)
            check(series not in seen, "%s comes twice" % series)
            seen.add(series)
            samples.append((suffix, labels, float(number)))
        check(samples, "%s has no samples" % name)
        families[name] = (kind, help_text, samples)
    return families


def by_labels(samples, drop):
    groups = {}
    for suffix, labels, number in samples:
        key = tuple(l for l in labels if l[0] != drop)
        groups.setdefault(key, []).append((suffix, dict(labels).get(drop), number))
    return groups


class Metrics(Case):
    daemon = {"capsules": ["astrid-echo"], "gateway": True}

    def set_up(self):
        super().set_up()
        self.d.add_principal("very-private")
        self.token = self.d.bearer("very-private")
        self.d.http_prompt("hello", self.token)
        self.d.client().close()

    def _text(self):
        answer, body = self.d.http("GET", "/metrics")
        equal(answer.getheader("content-type"), "text/plain; version=0.0.4; charset=utf-8")
        return body.decode()

    def _read(self):
        return parse(self._text())

    def _value(self, name, **labels):
        family = self._read().get(name)
        for suffix, have, number in family[2] if family else []:
            if suffix == "" and dict(have) == labels:
                return number
        return 0

    def c03_52_the_inventory_with_labels_and_help(self):
        wait_for(lambda: "astrid_daemon_background_ticks_total" in self._read(), 30, "the first tick")
        families = self._read()
        for name, (kind, labels, text) in INVENTORY.items():
            check(name in families, "%s is missing" % name)
        for name, (kind, labels, text) in dict(INVENTORY, **LATER).items():
            if name not in families:
                continue
            got_kind, got_help, samples = families[name]
            equal((got_kind, got_help), (kind, text), name)
            for _, have, _ in samples:
                equal([n for n, _ in have if n not in ("le", "quantile")], labels, name)
                check([n for n, _ in have][-1:] in (["le"], ["quantile"]) or not {"le", "quantile"} & {n for n, _ in have}, have)
        kinds = [kind for kind, _, _ in families.values()]
        order = {"counter": 0, "gauge": 1, "histogram": 2, "summary": 2}
        equal([order[k] for k in kinds], sorted(order[k] for k in kinds), "counters, gauges, then the rest")
        info = families["astrid_build_info"][2]
        equal((len(info), info[0][2], dict(info[0][1])["version"]), (1, 1.0, "0.8.0"))
        check(re.match(r"([0-9a-f]{12}|unknown)\Z", dict(info[0][1])["git_sha"]), info)

    def c03_52_histograms_and_summaries_are_consistent(self):
        families = self._read()
        for labels, group in by_labels(families["astrid_gateway_request_duration_seconds"][2], "le").items():
            equal([le for s, le, _ in group if s == "_bucket"], BUCKETS)
            counts = [n for s, _, n in group if s == "_bucket"]
            equal(counts, sorted(counts))
            equal([n for s, _, n in group if s == "_count"], [counts[-1]])
            total = [n for s, l, n in families["astrid_gateway_requests_total"][2] if tuple(l) == labels]
            check(total and total[0] <= counts[-1] + 1, labels)
        for labels, group in by_labels(families["astrid_capsule_invocation_duration_seconds"][2], "quantile").items():
            equal([q for s, q, _ in group if s == ""], QUANTILES)
            values = [n for s, _, n in group if s == ""]
            equal(values, sorted(values))
            count, total = [[n for s, _, n in group if s == want][0] for want in ("_count", "_sum")]
            check(count >= 1 and values[0] * count <= total * 1.000001 and total <= values[-1] * count * 1.000001, group)

    def c03_54_c03_55_routes_are_templates_and_nothing_private_shows(self):
        secret_path = "/api/capsules/very-private-capsule/env"
        self.d.http("GET", secret_path, token=self.token)
        self.d.http("GET", "/very-private-path?very-private-query", token=self.token)
        text = self._text()
        for word in ["very-private", self.token, self.d.home, "default"]:
            check(word not in text, word)
        routes = {dict(l)["route"] for _, l, _ in parse(text)["astrid_gateway_requests_total"][2]}
        check({"/api/capsules/:id/env", "<unmatched>", "/metrics", "/api/agent/prompt"} <= routes, routes)
        check(not any("{" in r for r in routes), routes)
        methods = {dict(l)["method"] for _, l, _ in parse(text)["astrid_gateway_requests_total"][2]}
        check(methods <= {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "OTHER"}, methods)

    def c03_53_counters_count(self):
        auth = "astrid_gateway_auth_failures_total"
        before = self._value(auth)
        for token in [None, "x.y.z", self.token + "0"]:
            self.d.http("GET", "/api/auth/me", token=token)
        equal(self._value(auth), before + 3)

        label = dict(method="GET", route="/api/auth/me", status="401")
        before = self._value("astrid_gateway_requests_total", **label)
        self.d.http("GET", "/api/auth/me")
        equal(self._value("astrid_gateway_requests_total", **label), before + 1)

        opened, closed = ["astrid_daemon_connections_%s_total" % what for what in ("opened", "closed")]
        before = self._value(opened), self._value(closed), self._value("astrid_daemon_active_connections")
        client = self.d.client()
        client.request("GetStatus")
        equal(self._value(opened), before[0] + 1)
        equal(self._value("astrid_daemon_active_connections"), before[2] + 1)
        client.close()
        wait_for(lambda: self._value(closed) == before[1] + 1, 10, "the close")
        equal(self._value("astrid_daemon_active_connections"), before[2])

        before = self._value("astrid_bus_events_published_total", event_kind="ipc")
        self.d.http_prompt("again", self.token)
        check(self._value("astrid_bus_events_published_total", event_kind="ipc") >= before + 2)
        check(self._value("process_open_fds") > 5 and self._value("process_threads") > 3)
        check(self._value("process_resident_memory_bytes") > 1 << 20)

    def streams_count_once_and_at_their_head(self):
        label = dict(method="GET", route="/api/events", status="200")
        before = self._value("astrid_gateway_requests_total", **label)
        s = Sse(self.d, "/api/events", self.token)
        s.head()
        equal(s.next()[0], "ready")
        equal(self._value("astrid_gateway_requests_total", **label), before + 1)
        s.close()
        equal(self._value("astrid_gateway_requests_total", **label), before + 1)

    def c03_52_promtool_agrees(self):
        if not shutil.which("promtool"):
            raise harness.Skipped("promtool is not installed; the reader of this test is as strict")
        done = subprocess.run(["promtool", "check", "metrics"], input=self._text(), text=True, capture_output=True)
        check("error" not in done.stderr.lower(), done.stderr)


harness.main()
