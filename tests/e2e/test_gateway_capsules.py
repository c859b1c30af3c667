#!/usr/bin/env python3
"""Capsules, their settings and their questions over HTTP; the distribution; readiness (spec 03 §17 to §20, §22.4)."""
import concurrent.futures
import json
import os
import stat
import threading

import harness
from harness import Case, Daemon, Sse, check, equal, wait_for

ASKING = os.path.join(harness.BUILD, "tests", "guests", "asking")
MANIFEST = """[package]
name = "demo"
version = "0.2.0"

[publish]
"demo.v1.said" = "opaque"

[subscribe]
"demo.v1.*" = { wit = "opaque", handler = "hear" }
"other.v1.topic" = "opaque"

[env]
nothing = "not a table"

[env.api_key]
type = "secret"
description = "Provider key"
request = "Enter your key"
placeholder = "sk-..."
default = "sk-leaked"

[env.old_key]
env_type = "secret"

[env.both]
type = "text"
env_type = "secret"

[env.shouted]
type = "SECRET"

[env.region]
type = "select"
default = "eu"
enum_values = ["eu", 7, "us"]

[env.url]
type = "string"
default = 5

[env.plain]

[env.tags]
type = "array"

[env.list]
type = "Array"
"""


class Settings(Case):
    daemon = {"gateway": True}

    def set_up(self):
        super().set_up()
        self.folder = self.d.path("home", "default", ".local", "capsules", "demo")
        os.makedirs(self.folder)
        with open(os.path.join(self.folder, "Capsule.toml"), "w") as f:
            f.write(MANIFEST)
        for name in ["alice", "bob"]:
            self.d.add_principal(name)
        self.d.add_principal("sleeper", "enabled = false\n")
        self.token = self.d.bearer("alice")

    def _get(self, path, token=None):
        answer, body = self.d.http("GET", path, token=token or self.token)
        return answer.status, json.loads(body) if body else None

    def _put(self, field, value, capsule="demo", token=None):
        answer, body = self.d.http("POST", "/api/capsules/%s/env/%s" % (capsule, field), {"value": value},
                                   token or self.token)
        return answer.status, json.loads(body) if body else None

    def _file(self, who="alice"):
        return self.d.path("home", who, ".config", "env", "demo.env.json")

    def _values(self, who="alice"):
        with open(self._file(who)) as f:
            return json.load(f)

    def _secret(self, field, who="alice"):
        path = self.d.path("secrets", who, "demo", field)
        equal(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        equal(stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode), 0o700)
        with open(path) as f:
            return f.read()

    def c03_38_the_schema_tells_kinds_and_no_secrets(self):
        status, schema = self._get("/api/capsules/demo/env")
        equal(status, 200)
        equal(schema, {"capsule_id": "demo", "fields": {
            "api_key": {"type": "secret", "description": "Provider key", "request": "Enter your key", "placeholder": "sk-..."},
            "old_key": {"type": "secret"}, "both": {"type": "secret"}, "shouted": {"type": "secret"},
            "region": {"type": "select", "default": "eu", "enum_values": ["eu", "us"]},
            "url": {"type": "string", "default": 5}, "plain": {"type": "text"},
            "tags": {"type": "array"}, "list": {"type": "Array"}}})

    def c03_38_secrets_go_to_the_secret_store_and_nowhere_else(self):
        for field in ["api_key", "old_key", "both", "shouted"]:
            equal(self._put(field, "hush-" + field), (204, None), field)
            equal(self._secret(field), "hush-" + field)
        equal(self._put("api_key", "hush-again"), (204, None))
        equal(self._secret("api_key"), "hush-again")
        equal(self._put("api_key", ""), (400, {"error": "bad_request", "reason": "secret value must not be empty"}))
        equal(self._secret("api_key"), "hush-again")
        text = json.dumps(self._values()) if os.path.exists(self._file()) else ""
        check("hush" not in text and "key" not in text, text)
        check("hush" not in self.d.log())
        equal(self._put("url", "http://x"), (204, None))
        equal(self._values()["url"], "http://x")

    def c03_39_writes_keep_the_other_members_and_arrays_grow(self):
        os.makedirs(os.path.dirname(self._file("bob")), exist_ok=True)
        with open(self._file("bob"), "w") as f:
            json.dump({"kept": {"deep": [1, 2.5, None]}, "tags": "was text", "url": "old"}, f)
        token = self.d.bearer("bob")
        for field, value in [("url", "new"), ("region", "us"), ("tags", "one"), ("tags", "two"), ("list", "x"),
                             ("plain", 'quote " and \u00fc')]:
            equal(self._put(field, value, token=token), (204, None))
        equal(self._values("bob"), {"kept": {"deep": [1, 2.5, None]}, "tags": ["one", "two"], "url": "new", "region": "us",
                                    "list": ["x"], "plain": 'quote " and \u00fc'})
        equal(stat.S_IMODE(os.stat(self._file("bob")).st_mode), 0o600)
        with open(self._file("bob")) as f:
            check(f.read().startswith('{\n  "kept"'), "not pretty")
        status, error = self._put("region", "mars", token=token)
        equal(status, 400)
        check("choices" in error["reason"], error)
        equal(self._values("bob")["region"], "us")

    def c03_39_fifty_writes_at_once_all_survive(self):
        folder = os.path.join(os.path.dirname(self.folder), "wide")
        os.makedirs(folder)
        with open(os.path.join(folder, "Capsule.toml"), "w") as f:
            f.write('[package]\nname = "wide"\nversion = "1.0.0"\n' +
                    "".join('[env.f%d]\ntype = "text"\n' % i for i in range(50)))
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            got = list(pool.map(lambda i: self._put("f%d" % i, str(i), capsule="wide"), range(50)))
        equal(got, [(204, None)] * 50)
        with open(self.d.path("home", "alice", ".config", "env", "wide.env.json")) as f:
            equal(json.load(f), {"f%d" % i: str(i) for i in range(50)})
        equal(sorted(os.listdir(os.path.dirname(self._file()))), sorted(n for n in os.listdir(os.path.dirname(self._file()))
                                                                        if n.endswith(".env.json")))

    def c03_40_names_that_are_none_and_fields_nobody_declared(self):
        for bad in ["..", "a..b", "a%2Fb", "x" * 129, "a b".replace(" ", "%20"), "%ff", "%zz", "a%00"]:
            equal(self._get("/api/capsules/%s/env" % bad)[0], 400, bad)
            equal(self._put("url", "x", capsule=bad)[0], 400, bad)
            status, error = self._put(bad, "x")
            equal(status, 400, bad)
            check(error["reason"].startswith("invalid env field name "), error)
        equal(self._get("/api/capsules/%s/env" % ("x" * 128)), (404, {"error": "not_found"}))
        for field in ["undeclared", "nothing"]:
            equal(self._put(field, "x"), (404, {"error": "not_found"}))
        equal(self._put("url", "x", capsule="absent"), (404, {"error": "not_found"}))
        for body in [{}, {"value": 5}, {"value": None}, [], "x"]:
            answer, text = self.d.http("POST", "/api/capsules/demo/env/url", json.dumps(body), self.token)
            equal(answer.status, 400)
            check(json.loads(text)["reason"].startswith("invalid JSON: "), text)
        answer, text = self.d.http("POST", "/api/capsules/demo/env/url", '{"value":"a","value":"b"}', self.token)
        equal((answer.status, json.loads(text)["reason"]), (400, "invalid JSON: duplicate field `value`"))

    def files_that_are_broken_are_500_and_stay(self):
        folder = os.path.join(os.path.dirname(self.folder), "broken")
        os.makedirs(folder)
        with open(os.path.join(folder, "Capsule.toml"), "w") as f:
            f.write("[env\n")
        equal(self._get("/api/capsules/broken/env"), (500, {"error": "internal"}))
        self.d.add_principal("carol")
        path = self._file("carol")
        os.makedirs(os.path.dirname(path))
        for text in ["{", "[]", ""]:
            with open(path, "w") as f:
                f.write(text)
            equal(self._put("url", "x", token=self.d.bearer("carol"))[0], 500)
            with open(path) as f:
                equal(f.read(), text)

    def a_write_leaves_a_row_without_the_value(self):
        equal(self._put("api_key", "hush-row"), (204, None))
        page = self._get("/api/sys/audit?method=env.write&limit=1")[1]
        row = page["entries"][0]
        check(row.pop("ts_epoch") > 1700000000)
        equal(row, {"method": "env.write", "required_capability": "self:env:write", "principal": "alice",
                    "target_principal": None, "outcome": "success",
                    "params": {"method": "EnvWrite", "params": {"capsule": "demo", "env_type": "secret", "field": "api_key"}}})
        check("gateway env-write" in self.d.log())
        equal(json.loads(self.d.cli("audit", "verify", "--format", "json").stdout)["valid"], True)

    def who_is_disabled_or_unknown_cannot_write(self):
        for who in ["sleeper", "nobody-here"]:
            equal(self._put("url", "x", token=self.d.bearer(who)), (401, {"error": "unauthorized"}))
            check(not os.path.exists(self._file(who)))

    def readiness_says_what_is_there(self):
        status, body = self._get("/api/sys/readiness")
        equal(status, 200)
        equal((body["ready"], body["socket"], body["capsules_failed"]), (True, True, 0))
        check(isinstance(body["capsules_loaded"], int), body)
        equal(self.d.http("GET", "/api/sys/readiness")[0].status, 401)
        os.rename(self.d.path("run", "system.ready"), self.d.path("run", "away"))
        status, body = self._get("/api/sys/readiness")
        os.rename(self.d.path("run", "away"), self.d.path("run", "system.ready"))
        equal((status, body["ready"]), (503, False))


class Capsules(Case):
    daemon = {"capsules": ["astrid-echo"], "gateway": True}

    def set_up(self):
        super().set_up()
        self.d.add_principal("alice")
        self.d.add_principal("bob")
        self.d.add_principal("nothing", "groups = []\n")
        self.token, self.alice = self.d.bearer(), self.d.bearer("alice")

    def _do(self, method, path, body=None, token=None, timeout=60):
        answer, text = self.d.http(method, path, body, token or self.token, timeout=timeout)
        return answer.status, json.loads(text) if text else None

    def one_capsule_and_its_topics(self):
        status, one = self._do("GET", "/api/capsules/astrid-echo", token=self.alice)
        equal((status, one["id"]), (200, "astrid-echo"))
        check("user.v1.prompt" in one["interceptor_events"], one)
        equal(sorted(one), ["id", "interceptor_events"])
        equal(self._do("GET", "/api/capsules/absent"), (404, {"error": "not_found"}))
        equal(self._do("GET", "/api/capsules/astrid-echo", token=self.d.bearer("nothing"))[0], 403)
        status, topics = self._do("GET", "/api/capsules/astrid-echo/topics", token=self.d.bearer("nothing"))
        equal(status, 200)
        check({"name": "user.v1.prompt", "direction": "subscribe", "description": None} in topics["topics"], topics)
        check({"name": "agent.v1.response", "direction": "publish", "description": None} in topics["topics"], topics)
        for path in ["absent", "..", "%ff%00" and "a%20b"]:
            equal(self._do("GET", "/api/capsules/%s/topics" % path), (200, {"topics": []}))

    def refused_installs(self):
        for source, reason in [("https://x/y", "kernel-side install accepts only local paths; resolve 'https://x/y' via the "
                                "gateway registry route first (the daemon never fetches URLs)"),
                               ("gh:a/b", "kernel-side install accepts only local paths"),
                               ("/nonexistent", "source path does not exist: /nonexistent"),
                               ("/etc/passwd", "source must be a directory containing Capsule.toml or a *.capsule archive: "
                                "/etc/passwd")]:
            status, error = self._do("POST", "/api/capsules", {"source": source})
            equal((status, error["error"]), (403, "forbidden"))
            check(error["reason"].startswith(reason), error)
        status, error = self._do("POST", "/api/capsules", {"source": "/x", "workspace": True})
        equal(status, 403)
        check(error["reason"].startswith("workspace installs are CLI-only"), error)
        status, error = self._do("POST", "/api/capsules", {"source": "/x"}, self.alice)
        equal((status, error["reason"]),
              (403, "permission denied for principal alice: missing capability capsule:install"))
        for body in [{}, {"source": 1}, {"source": "/x", "workspace": "yes"}, []]:
            equal(self._do("POST", "/api/capsules", body)[0], 400, body)

    def c03_16_a_reload_is_204_and_the_sixth_in_a_minute_429(self):
        equal(self._do("POST", "/api/sys/capsules/reload", token=self.d.bearer("nothing"))[0], 403)
        token = self.d.bearer("bob")
        for _ in range(5):
            equal(self._do("POST", "/api/sys/capsules/reload", token=token), (204, None))
        status, error = self._do("POST", "/api/sys/capsules/reload", token=token)
        equal((status, error["error"]), (429, "rate_limited"))
        check(1 <= error["retry_after_secs"] <= 60, error)

    def an_install_over_http_whose_questions_are_answered_over_http(self):
        listener = Sse(self.d, "/api/agent/prompt", self.token, "POST", {"text": "unrelated", "session_id": "s"})
        listener.head()
        done = []
        worker = threading.Thread(target=lambda: done.append(self._do("POST", "/api/capsules", {"source": ASKING})))

        # The echo capsule answers at once and ends the stream; one that stays open hears the questions.
        while listener.next() is not None:
            pass
        self.d.cli("capsule", "remove", "astrid-echo")
        wait_for(lambda: "astrid-echo" not in self._do("GET", "/api/capsules")[1]["capsules"], 10, "the removal")
        listener = Sse(self.d, "/api/agent/prompt", self.token, "POST", {"text": "unrelated", "session_id": "s"})
        listener.head()
        equal(listener.next()[0], "ready")
        outsider = Sse(self.d, "/api/agent/prompt", self.alice, "POST", {"text": "mine", "session_id": "s"})
        outsider.head()
        equal(outsider.next()[0], "ready")

        worker.start()
        answers = {"url": {"value": "https://u"}, "region": {"value": "us"}, "tags": {"values": ["a", "b"]},
                   "API_KEY": {"value": "sk-over-http"}}
        seen = []
        while len(seen) < 4:
            name, question = listener.next()
            equal((name, question["type"], question["capsule_id"]), ("elicit", "elicit_request", "asking"))
            key, request = question["field"]["key"], question["request_id"]
            seen.append(key)
            body = dict(answers[key], request_id=request)
            for token in [self.alice, self.d.bearer("nothing")]:  # others' questions are not there
                equal(self._do("POST", "/api/agent/elicit-response", body, token), (404, {"error": "not_found"}))
            equal(self._do("POST", "/api/agent/elicit-response", body), (204, None))
            equal(self._do("POST", "/api/agent/elicit-response", body)[0], 404, "a second answer")
        worker.join(60)
        status, result = done[0]
        equal(status, 200, result)
        equal((result["phase"], result["installed_version"], result["previous_version"]), ("install", "0.1.0", None))
        equal(seen, ["url", "region", "tags", "API_KEY"])
        with open(self.d.path("secrets", "default", "asking", "API_KEY")) as f:
            equal(f.read(), "sk-over-http")
        check("asking" in self._do("GET", "/api/capsules")[1]["capsules"])
        check("sk-over-http" not in self.d.log())
        listener.close()
        outsider.sock.settimeout(0.2)
        try:
            raise harness.Failed("alice saw %r" % (outsider.next(0.2),))
        except TimeoutError:
            pass
        outsider.close()
        for body, words in [({}, "missing field `request_id`"), ({"request_id": "x"}, "expected a UUID"),
                            ({"request_id": harness.NIL, "value": 1}, "value: expected a string"),
                            ({"request_id": harness.NIL, "values": "x"}, "values: expected an array"),
                            ({"request_id": harness.NIL, "values": [1]}, "values: expected strings"),
                            ({"request_id": harness.NIL, "value": "x", "values": []}, "exclude each other")]:
            status, error = self._do("POST", "/api/agent/elicit-response", body)
            equal(status, 400)
            check(words in error["reason"], error)
        equal(self._do("POST", "/api/agent/elicit-response", {"request_id": harness.NIL, "value": "x"})[0], 404)


class Distribution(Case):
    def _serve(self, text):
        d = Daemon(gateway=True)
        with open(d.path("Distro.toml"), "w") as f:
            f.write(text)
        with open(d.path("etc", "gateway-http.toml"), "a") as f:
            f.write('distro-path = "%s"\n' % d.path("Distro.toml"))
        return d

    def c03_41_without_a_distribution(self):
        d = Daemon(gateway=True).start()
        equal(json.loads(d.http("GET", "/api/distribution")[1]),
              {"id": "single-tenant", "name": "Astrid", "pretty_name": None, "description": None, "homepage": None,
               "invites_enabled": False, "branding": None})
        equal(json.loads(d.http("GET", "/api/distribution/onboarding")[1]), {"fields": []})
        d.stop()
        d.clean()

    def a_distribution_and_its_variables(self):
        d = self._serve('[distro]\nid = "acme"\nname = "Acme"\npretty-name = "Acme One"\ndescription = 5\n'
                        'homepage = "https://acme.example"\n[branding]\nprimary-color = "#fff"\nlogo.small = [1, 2]\n'
                        '[invites]\nissuers = ["ops"]\n[variables.zeta]\nsecret = true\ndefault = "sk-leaked"\n'
                        '[variables.alpha]\ndescription = "First"\ndefault = "a"\n[variables.mid]\ndefault = 7\n').start()
        equal(json.loads(d.http("GET", "/api/distribution")[1]),
              {"id": "acme", "name": "Acme", "pretty_name": "Acme One", "description": None,
               "homepage": "https://acme.example", "invites_enabled": True,
               "branding": {"primary-color": "#fff", "logo": {"small": [1, 2]}}})
        equal(json.loads(d.http("GET", "/api/distribution/onboarding")[1]),
              {"fields": [{"key": "alpha", "secret": False, "description": "First", "default": "a"},
                          {"key": "mid", "secret": False, "description": None, "default": None},
                          {"key": "zeta", "secret": True, "description": None, "default": None}]})
        os.unlink(d.path("Distro.toml"))  # read once
        equal(d.http("GET", "/api/distribution")[0].status, 200)
        d.stop()
        d.clean()

    def one_that_cannot_be_read_stops_the_boot(self):
        for text, words in [("[distro", "Distro.toml"), ('name = "x"\n', "no [distro] table"), (None, "Distro.toml")]:
            d = self._serve(text or "")
            if text is None:
                os.unlink(d.path("Distro.toml"))
            code, said = d.refuses_to_boot()
            check(code != 0, "it runs")
            check(words in said + d.log(), said + d.log())
            check(not os.path.exists(d.path("run", "system.ready")))
            d.clean()


harness.main()
