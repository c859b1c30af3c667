/* Capsule.toml: the worked example, the defaults, and every refusal with its text. */
#include "capsule_test.h"

#include "capsule/manifest.h"

#include "base/banned.h"

#define PACKAGE "[package]\nname = \"x\"\nversion = \"1.0.0\"\n"

static struct ast_manifest *parse(const char *text)
{
    struct ast_manifest *m = NULL;
    struct ast_err err = AST_ERR_INIT;
    if (ast_manifest_parse(ast_str_c(text), &m, &err))
        fail_msg("%s", err.msg);
    return m;
}

static void assert_str(struct ast_str got, const char *want)
{
    if (!ast_str_eq(got, ast_str_c(want)))
        fail_msg("got <" AST_STR_FMT ">, want <%s>", AST_STR_ARG(got), want);
}

static const char worked_example[] =
    "[package]\nname = \"weather-bot\"\nversion = \"1.4.0-rc.1\"\ndescription = \"Forecast tools and a chat uplink\"\n"
    "authors = [\"Ada Example <ada@example.org>\"]\nlicense = \"MIT\"\nlicense-file = \"LICENSE\"\nkeywords = [\"weather\"]\n"
    "astrid-version = \">=0.8.0\"\nmetadata = { team = \"demo\" }\n"
    "[[component]]\nid = \"weather-bot\"\nfile = \"weather_bot.wasm\"\ntype = \"executable\"\n"
    "capabilities = { fs_read = [\"home://weather/\"] }\n"
    "[imports]\n\"astrid:session\" = \"^1.0\"\n[imports.astrid]\nllm = { version = \">=1.0, <2.0\", optional = true }\n"
    "[exports]\n\"acme:forecast\" = \"1.2.0\"\n"
    "[publish]\n\"tool.v1.execute.forecast.result\" = \"@acme/wit/tool/result\"\n"
    "\"tool.v1.response.describe.*\" = { wit = \"opaque\" }\n"
    "\"acme.v1.alert.*\" = { wit = \"alert\", fanout = true, path = \"./wit\" }\n"
    "[subscribe]\n\"tool.v1.execute.forecast\" = { wit = \"@acme/wit/tool/request\", version = \"^1.0\", handler = "
    "\"tool_execute_forecast\" }\n\"user.v1.prompt\" = { wit = \"opaque\", handler = \"guard_prompt\", priority = 10 }\n"
    "\"astrid.v1.capsules_loaded\" = \"opaque\"\n"
    "[capabilities]\nnet = [\"api.weather.example\"]\nhost_process = [\"node\"]\nidentity = [\"resolve\"]\n"
    "[env]\napi_key = { type = \"secret\", request = \"Weather API key\", placeholder = \"wk-...\" }\n"
    "units = { type = \"select\", enum_values = [\"metric\", \"imperial\"], default = \"metric\" }\n"
    "cities = { type = \"array\", request = \"Cities to watch\", default = [\"Oslo\", 1] }\n"
    "[[command]]\nname = \"/forecast\"\ndescription = \"Show the forecast\"\nfile = \"commands/forecast.toml\"\n"
    "[[skill]]\nname = \"reading-radar\"\nfile = \"skills/radar.md\"\n"
    "[[context_file]]\nname = \"workspace-context\"\nfile = \"AGENTS.md\"\n"
    "[[tool]]\nname = \"forecast\"\ndescription_for_llm = \"Returns a forecast for a city.\"\n"
    "[[mcp_server]]\nid = \"maps\"\ntype = \"stdio\"\ncommand = \"node\"\nargs = [\"maps.mjs\"]\n";

static void the_worked_example_is_read_whole(void **state)
{
    AST_AUTO(ast_manifest_free) struct ast_manifest *m = parse(worked_example);
    struct ast_str held[11];
    (void)state;
    assert_str(m->name, "weather-bot");
    assert_str(m->version, "1.4.0-rc.1");
    assert_int_equal(m->component_count, 1);
    assert_str(m->components[0].file, "weather_bot.wasm");
    assert_int_equal(m->import_count, 2);
    assert_str(m->imports[0].name, "llm");
    assert_true(m->imports[0].optional);
    assert_str(m->imports[1].name, "session");
    assert_int_equal(m->export_count, 1);
    assert_int_equal(m->publish_count, 3);
    assert_int_equal(m->subscribe_count, 3);
    assert_str(m->subscribe[0].pattern, "astrid.v1.capsules_loaded");
    assert_int_equal(m->subscribe[0].handler.n, 0);
    assert_int_equal(m->subscribe[1].priority, 100);
    assert_str(m->subscribe[2].handler, "guard_prompt");
    assert_int_equal(m->subscribe[2].priority, 10);
    assert_int_equal(m->env_count, 3);
    assert_true(m->env[0].is_secret);
    assert_true(m->env[1].is_array);
    assert_str(m->env[1].default_text, "[\"Oslo\",1]");
    assert_str(m->env[2].default_text, "metric");
    assert_int_equal(m->env[2].enum_values.n, 2);
    assert_int_equal(m->command_count, 1);
    assert_int_equal(m->mcp_server_count, 1);
    assert_int_equal(ast_manifest_held(m, held), 4);
    assert_str(held[0], "fs_read");
    assert_str(held[3], "net");
    assert_int_equal(m->warnings.n, 0);
}

static void c07_01_only_name_and_version_are_needed(void **state)
{
    AST_AUTO(ast_manifest_free) struct ast_manifest *m = parse(PACKAGE);
    (void)state;
    assert_int_equal(m->component_count + m->publish_count + m->subscribe_count + m->env_count, 0);
    struct ast_manifest *none = NULL;
    struct ast_err err = AST_ERR_INIT;
    assert_int_equal(ast_manifest_parse(AST_STR("[package]\nname = \"x\"\n"), &none, &err),
                     AST_E_INVALID);
    assert_holds(err.msg, "missing field `version`");
    assert_int_equal(ast_manifest_parse(AST_STR("[package]\nversion = \"1.0.0\"\n"), &none, &err),
                     AST_E_INVALID);
    assert_holds(err.msg, "missing field `name`");
}

static void c07_02_removed_forms_load_with_a_warning(void **state)
{
    AST_AUTO(ast_manifest_free)
    struct ast_manifest *m =
        parse(PACKAGE
              "[[interceptor]]\nevent = \"a\"\naction = \"b\"\n[[topic]]\nx = 1\n[[cron]]\ny = 2\n"
              "[capabilities]\nipc_publish = [\"a\"]\n[anything]\nz = 1\n");
    (void)state;
    assert_int_equal(m->subscribe_count, 0);
    assert_int_equal(m->warnings.n, 4);
    assert_holds(m->warnings.v[0].p, "`interceptor` is no longer supported");
}

static void c07_03_flat_and_nested_forms_mix(void **state)
{
    AST_AUTO(ast_manifest_free)
    struct ast_manifest *m = parse(
        PACKAGE
        "[imports]\n\"a:x\" = \"^1\"\n\"b:y\" = { version = \"1\", optional = true }\n[imports.a]\nz = \"*\"\n");
    (void)state;
    assert_int_equal(m->import_count, 3);
    assert_str(m->imports[0].ns, "a");
    assert_str(m->imports[0].name, "x");
    assert_str(m->imports[1].name, "z");
    assert_str(m->imports[2].ns, "b");
    assert_true(m->imports[2].optional);
}

static void c07_11_component_lists_join_the_root(void **state)
{
    AST_AUTO(ast_manifest_free)
    struct ast_manifest *m = parse(
        PACKAGE
        "[[component]]\nfile = \"a.wasm\"\n[component.capabilities]\nnet = [\"n\"]\nnet_bind = [\"b\"]\nfs_read = "
        "[\"r\"]\nfs_write = [\"w\"]\nhost_process = [\"p\"]\nnet_connect = [\"c\"]\nuplink = true\n"
        "[capabilities]\nnet = [\"m\"]\n");
    struct ast_str held[11];
    (void)state;
    assert_int_equal(m->caps.net.n, 2);
    assert_int_equal(m->caps.net_connect.n, 0);
    assert_false(m->caps.uplink);
    assert_int_equal(ast_manifest_held(m, held), 5);
    assert_int_equal(m->warnings.n, 2);
}

static void c07_12_scope_in_env_is_ignored(void **state)
{
    AST_AUTO(ast_manifest_free)
    struct ast_manifest *m = parse(
        PACKAGE
        "[env]\nA = { type = \"SECRET\", scope = \"host\" }\nB = { env_type = \"text\", default = 5 }\n");
    (void)state;
    assert_int_equal(m->env_count, 2);
    assert_true(m->env[0].is_secret);
    assert_str(m->env[1].default_text, "5");
}

static void every_refusal_has_its_text(void **state)
{
    static const struct {
        const char *text, *error;
    } rows[] = {
        { "", "missing field `package`" },
        { PACKAGE "[imports]\n\":x\" = \"^1\"\n",
          "[imports] key ':x' has empty namespace or interface segment" },
        { PACKAGE "[exports]\n\"x:\" = \"1.0.0\"\n",
          "[exports] key 'x:' has empty namespace or interface segment" },
        { PACKAGE "[imports]\n\"a:b\" = \"zzz\"\n",
          "[imports] flat-form 'a:b': invalid semver requirement 'zzz'" },
        { PACKAGE "[exports]\n\"a:b\" = \"^1.0\"\n",
          "[exports] flat-form 'a:b': invalid semver version '^1.0'" },
        { PACKAGE "[imports]\na = 5\n", "[imports.a]: expected table of interface declarations" },
        { PACKAGE "[imports.A]\nb = \"^1\"\n",
          "[imports].A: invalid namespace (must match ^[a-z][a-z0-9-]*$)" },
        { PACKAGE "[exports.astrid]\nBAD = \"1.0.0\"\n",
          "[exports.astrid].BAD: invalid interface name (must match ^[a-z][a-z0-9-]*$)" },
        { PACKAGE "[capabilities]\nuplink = true\n[imports]\n\"a:b\" = \"^1\"\n",
          "[imports] is not allowed on uplink capsules (uplinks load before non-uplinks and cannot depend on them)" },
        { PACKAGE "[publish]\n\"a\" = { wit = \"x\", tag = \"1\", rev = \"2\" }\n",
          "[publish] entry: at most one of version / tag / rev / branch / path may be set" },
        { PACKAGE "[subscribe]\n\"a\" = { wit = \"x\", tag = \"1\", rev = \"2\" }\n",
          "[subscribe] entry: at most one of version / tag / rev / branch / path may be set" },
        { PACKAGE "[subscribe]\n\"a\" = { wit = \"x\", priority = 5 }\n",
          "[subscribe] entry: `priority` requires a `handler` \xe2\x80\x94 a handler-less subscribe is ACL-only and has no "
          "dispatch order" },
        { PACKAGE "[publish]\n\"a\" = { fanout = true }\n",
          "data did not match any variant of untagged enum Raw" },
        { PACKAGE "[publish]\n\"a\" = 5\n", "data did not match any variant of untagged enum Raw" },
        { PACKAGE "[subscribe]\n\"a\" = { wit = \"x\", handler = \"h\", priority = -1 }\n",
          "expected u32" },
        { PACKAGE "[subscribe]\n\"a\" = { wit = \"x\", handler = \"h\", priority = 4294967296 }\n",
          "expected u32" },
        { PACKAGE "[publish]\n\"a..b\" = \"x\"\n",
          "publish pattern 'a..b' contains empty segments (consecutive dots, leading/trailing dots, or is empty)" },
        { PACKAGE "[publish]\n\"\" = \"x\"\n", "publish pattern '' contains empty segments" },
        { PACKAGE "[subscribe]\n\".a\" = \"x\"\n",
          "subscribe pattern '.a' contains empty segments" },
        { PACKAGE "[[component]]\nid = \"a\"\n", "missing field `file`" },
        { PACKAGE "[[component]]\nfile = \"a\"\nentrypoint = \"b\"\n", "duplicate field `file`" },
        { PACKAGE "[[uplink]]\nname = \"a\"\nplatform = \"b\"\nprofile = \"human\"\n",
          "unknown variant `human`, expected one of `chat`, `interactive`, `notify`, `bridge`" },
        { PACKAGE "[env]\nA = { request = \"x\" }\n", "missing field `type`" },
        { PACKAGE "[capabilities]\nnet = \"x\"\n",
          "invalid type: string, expected a sequence for `net`" },
        { "[package]\nname = \"x\"\nversion = \"1.0\"\n",
          "invalid version '1.0' in [package] - must be valid semver (MAJOR.MINOR.PATCH)" },
        { "[package]\nname = \"x\"\nversion = \"1.0.0\"\nastrid-version = \"zzz\"\n",
          "invalid astrid-version 'zzz' - " },
        { "[package]\nname = \"x\"\nversion = \"1.0.0\"\nastrid-version = \"9\"\n",
          "capsule requires astrid-version ^9, but this runtime is 0.8.0" },
        { "[package]\nname = 5\nversion = \"1.0.0\"\n", "expected a string for `name`" },
        { "[package", "line 1" },
    };
    (void)state;
    for (size_t i = 0; i < AST_ARRAY_LEN(rows); i++) {
        struct ast_manifest *m = NULL;
        struct ast_err err = AST_ERR_INIT;
        if (ast_manifest_parse(ast_str_c(rows[i].text), &m, &err) == AST_OK)
            fail_msg("taken: %s", rows[i].text);
        assert_holds(err.msg, rows[i].error);
    }
}

/* Checklist lines whose refusals stand in the table above. */
static void refuses(const char *text)
{
    struct ast_manifest *m = NULL;
    assert_int_equal(ast_manifest_parse(ast_str_c(text), &m, NULL), AST_E_INVALID);
}
static void c07_04_empty_interface_segments(void **state)
{
    (void)state;
    refuses(PACKAGE "[imports]\n\":b\" = \"^1\"\n");
}
static void c07_05_priority_needs_a_handler(void **state)
{
    AST_AUTO(ast_manifest_free)
    struct ast_manifest *m =
        parse(PACKAGE "[subscribe]\n\"a\" = { wit = \"x\", handler = \"h\" }\n");
    (void)state;
    assert_int_equal(m->subscribe[0].priority, 100);
    refuses(PACKAGE "[subscribe]\n\"a\" = { wit = \"x\", priority = 5 }\n");
}
static void c07_06_one_source_pin(void **state)
{
    (void)state;
    refuses(PACKAGE "[publish]\n\"a\" = { wit = \"x\", version = \"1\", path = \"2\" }\n");
}
static void c07_07_topic_keys_without_empty_segments(void **state)
{
    (void)state;
    refuses(PACKAGE "[publish]\n\"a.\" = \"x\"\n");
    refuses(PACKAGE "[subscribe]\n\"a..b\" = { wit = \"x\", handler = \"h\" }\n");
}
static void c07_08_uplinks_have_no_imports(void **state)
{
    (void)state;
    refuses(
        PACKAGE
        "[capabilities]\nuplink = true\n[imports]\n\"a:b\" = { version = \"^1\", optional = true }\n");
}
static void c07_10_a_short_version_is_refused(void **state)
{
    (void)state;
    refuses("[package]\nname = \"x\"\nversion = \"1.0\"\n");
}

static void loading_names_the_file(void **state)
{
    struct ast_manifest *m = NULL;
    struct ast_err err = AST_ERR_INIT;
    AST_AUTO(ast_cfree) char *dir = ast_home_path(&test_home, "c");
    (void)state;
    put_text("c/Capsule.toml", "[package]\nname = \"x\"\n");
    assert_int_not_equal(ast_manifest_load(dir, &m, &err), AST_OK);
    assert_true(ast_str_starts(ast_str_c(err.msg), AST_STR("Failed to parse manifest at /tmp/")));
    put_text("c/Capsule.toml", "[package]\nname = \"\xff\"\n");
    assert_int_not_equal(ast_manifest_load(dir, &m, &err), AST_OK);
    assert_holds(err.msg, "valid UTF-8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_worked_example_is_read_whole),
        cmocka_unit_test(c07_01_only_name_and_version_are_needed),
        cmocka_unit_test(c07_02_removed_forms_load_with_a_warning),
        cmocka_unit_test(c07_03_flat_and_nested_forms_mix),
        cmocka_unit_test(c07_04_empty_interface_segments),
        cmocka_unit_test(c07_05_priority_needs_a_handler),
        cmocka_unit_test(c07_06_one_source_pin),
        cmocka_unit_test(c07_07_topic_keys_without_empty_segments),
        cmocka_unit_test(c07_08_uplinks_have_no_imports),
        cmocka_unit_test(c07_10_a_short_version_is_refused),
        cmocka_unit_test(c07_11_component_lists_join_the_root),
        cmocka_unit_test(c07_12_scope_in_env_is_ignored),
        cmocka_unit_test(every_refusal_has_its_text),
        cmocka_unit_test_setup_teardown(loading_names_the_file, home_setup, home_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
