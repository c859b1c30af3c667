/* The commands, their options and their help, as one table: parsing, help and completions come from it. */
#include "cli/cli.h"

#include "base/banned.h"

#define OPTION_END                                                                                 \
    {                                                                                              \
        0, NULL, NULL, NULL                                                                        \
    }
#define FORMAT_ROW                                                                                 \
    {                                                                                              \
        0, "format", "F", "pretty, json, yaml or toml [default: pretty]"                           \
    }
#define JSON_ROW                                                                                   \
    {                                                                                              \
        0, "format", "F", "pretty or json [default: pretty]"                                       \
    }
#define LIST_JSON_ROW                                                                              \
    {                                                                                              \
        0, "json", NULL, "print JSON"                                                              \
    }
#define AGENT_ROW(what)                                                                            \
    {                                                                                              \
        'a', "agent", "NAME", what " [default: the active agent]"                                  \
    }
#define LATER_FLAG(letter, name)                                                                   \
    {                                                                                              \
        letter, name, NULL, "", CLI_LATER                                                          \
    }
#define LATER_VALUE(letter, name)                                                                  \
    {                                                                                              \
        letter, name, "VALUE", "", CLI_LATER                                                       \
    }

static const struct cli_option format_options[] = { FORMAT_ROW, OPTION_END };
static const struct cli_option top_options[] = {
    { 'n', "once", NULL, "print one table and exit" },
    { 0, "interval", "SECONDS", "time between two refreshes, 0.1 to 3600 [default: 1]" },
    { 0, "sort", "KEY", "cpu, calls, memory, queue or drops [default: cpu]" },
    JSON_ROW,
    OPTION_END,
};
static const struct cli_option run_options[] = {
    { 'y', "yes", NULL, "approve what capsules ask for" },
    { 0, "session", "ID", "continue a session (a UUID or a name)" },
    { 0, "print-session", NULL, "print the session id on stderr" },
    JSON_ROW,
    OPTION_END,
};
static const struct cli_option chat_options[] = { { 's', "session", "UUID", "continue a session" },
                                                  OPTION_END };
static const struct cli_option status_options[] = {
    FORMAT_ROW,
    { 0, "exit-code", NULL, "exit 1 when no daemon answers" },
    OPTION_END,
};
static const struct cli_option logs_options[] = {
    { 'a', "agent", "NAME", "the principal whose capsule log to show [default: default]" },
    { 'f', "follow", NULL, "print new lines as they come" },
    { 'n', "lines", "N", "how many lines of the end to print [default: 100]" },
    OPTION_END,
};
static const struct cli_option audit_tail_options[] = {
    { 'f', "follow", NULL, "print new rows as they come" },
    { 'n', "lines", "N", "how many rows to print [default: 20]" },
    { 0, "principal", "NAME", "only rows of this acting principal" },
    { 0, "method", "NAME", "only this method, as in admin.agent.create" },
    FORMAT_ROW,
    OPTION_END,
};
static const struct cli_option audit_query_options[] = {
    { 'n', "lines", "N", "how many rows to print [default: 100]" },
    { 0, "principal", "NAME", "only rows of this acting principal" },
    { 0, "method", "NAME", "only this method, as in admin.agent.create" },
    { 0, "since", "SECS", "from this second on (seconds since 1970)" },
    { 0, "until", "SECS", "up to this second" },
    FORMAT_ROW,
    OPTION_END,
};
static const struct cli_option audit_export_options[] = {
    { 0, "principal", "NAME", "only rows of this acting principal" },
    { 0, "method", "NAME", "only this method, as in admin.agent.create" },
    { 0, "since", "SECS", "from this second on (seconds since 1970)" },
    { 0, "until", "SECS", "up to this second" },
    OPTION_END,
};
static const struct cli_option install_options[] = {
    { 0, "workspace", NULL, "install for this project only (./.astrid/capsules)" },
    OPTION_END,
};
static const struct cli_option remove_options[] = {
    { 0, "workspace", NULL, "remove from this project" },
    { 0, "force", NULL, "also when another capsule needs it" },
    { 0, "purge", NULL, "delete its settings too" },
    OPTION_END,
};
static const struct cli_option list_options[] = {
    FORMAT_ROW,
    OPTION_END,
};
static const struct cli_option token_options[] = {
    { 0, "principal", "NAME", "whom the token speaks for [default: default]" },
    { 0, "seconds", "N", "how long it is valid [default: 28800]" },
    OPTION_END,
};
static const struct cli_option build_options[] = {
    { 'o', "output", "DIR", "where the archive goes" }, OPTION_END
};

static const struct cli_option agent_create_options[] = {
    { 'd', "distro", "NAME", "only astralis [default: astralis]" },
    { 0, "group", "G", "a group to join; may repeat [default: agent]", CLI_REPEATS },
    { 0, "egress", "D,..", "grant network:egress:D; may repeat", CLI_REPEATS },
    { 0, "process-allow", "C,..", "grant process:spawn:C; may repeat", CLI_REPEATS },
    { 0, "memory", "SIZE", "memory of one capsule instance, as in 64MiB" },
    { 0, "timeout", "TIME", "longest call, as in 90s or 5m" },
    { 0, "storage", "SIZE", "what it may store, as in 1GiB" },
    { 0, "processes", "N", "processes in the background, 0 to 256" },
    LATER_FLAG(0, "bare"),
    LATER_VALUE(0, "link"),
    LATER_VALUE(0, "spawned-by"),
    LATER_VALUE(0, "budget-voucher"),
    LATER_VALUE(0, "grant-access"),
    LATER_VALUE(0, "expires"),
    LATER_VALUE(0, "budget"),
    LATER_VALUE(0, "period"),
    OPTION_END,
};
static const struct cli_option agent_list_options[] = {
    { 0, "group", "G", "only members of this group" },
    FORMAT_ROW,
    LATER_FLAG(0, "remote"),
    LATER_FLAG(0, "tree"),
    OPTION_END,
};
static const struct cli_option agent_modify_options[] = {
    { 0, "add-group", "G", "a group to join; may repeat", CLI_REPEATS },
    { 0, "remove-group", "G", "a group to leave; may repeat", CLI_REPEATS },
    LATER_VALUE(0, "rename"),
    LATER_VALUE(0, "egress"),
    LATER_VALUE(0, "process-allow"),
    OPTION_END,
};
static const struct cli_option grant_options[] = {
    { 0, "unsafe-admin", NULL, "confirm that everything is granted" },
    LATER_VALUE('g', "group"),
    OPTION_END,
};
static const struct cli_option revoke_options[] = { LATER_VALUE('g', "group"), OPTION_END };
static const struct cli_option group_create_options[] = {
    { 0, "caps", "C,..", "what its members may do; may repeat", CLI_REPEATS },
    { 0, "description", "TEXT", "what it is for" },
    { 0, "unsafe-admin", NULL, "confirm that it holds everything" },
    OPTION_END,
};
static const struct cli_option group_modify_options[] = {
    { 0, "add-caps", "C,..", "capabilities to add; may repeat", CLI_REPEATS },
    { 0, "remove-caps", "C,..", "capabilities to take away; may repeat", CLI_REPEATS },
    { 0, "description", "TEXT", "what it is for; an empty text clears it" },
    LATER_VALUE(0, "rename"),
    OPTION_END,
};
static const struct cli_option quota_show_options[] = {
    AGENT_ROW("whose quotas"),
    FORMAT_ROW,
    LATER_VALUE('g', "group"),
    OPTION_END,
};
static const struct cli_option quota_set_options[] = {
    AGENT_ROW("whose quotas"),
    { 0, "memory", "SIZE", "memory of one capsule instance, as in 64MiB" },
    { 0, "timeout", "TIME", "longest call, as in 90s or 5m; at most 1d" },
    { 0, "storage", "SIZE", "what it may store, as in 1GiB" },
    { 0, "processes", "N", "processes in the background, 0 to 256" },
    { 0, "ipc-rate", "SIZE", "messages a second, as in 10MiB/s" },
    { 0, "cpu-rate", "N", "units of CPU a second, as in 2G" },
    LATER_VALUE('g', "group"),
    LATER_VALUE(0, "streams"),
    OPTION_END,
};
static const struct cli_option invite_issue_options[] = {
    { 0, "group", "G", "the group that a new agent joins [default: agent]" },
    { 0, "expires-secs", "N", "how long it is valid, at most 2592000 [default: 86400]" },
    { 0, "max-uses", "N", "how many agents it makes [default: 1]" },
    { 0, "metadata", "TEXT", "a note for the list" },
    { 0, "raw", NULL, "print the token only" },
    OPTION_END,
};
static const struct cli_option invite_redeem_options[] = {
    { 0, "keypair", "NAME", "register this key of `astrid keypair`" },
    { 0, "public-key", "HEX", "register this ed25519 key instead" },
    { 0, "display-name", "TEXT", "what the agent is called; its id is made from it" },
    { 0, "switch", NULL, "act as the new agent from now on" },
    OPTION_END,
};
static const struct cli_option invite_list_options[] = { LIST_JSON_ROW, FORMAT_ROW, OPTION_END };
static const struct cli_option pair_issue_options[] = {
    AGENT_ROW("whose device is added"),
    { 0, "expires-secs", "N", "how long it is valid, at most 3600 [default: 300]" },
    { 0, "label", "TEXT", "what the device is called" },
    { 0, "raw", NULL, "print the token only" },
    OPTION_END,
};
static const struct cli_option pair_redeem_options[] = {
    { 0, "keypair", "NAME", "register this key of `astrid keypair`" },
    { 0, "public-key", "HEX", "register this ed25519 key instead" },
    { 0, "switch", NULL, "act as that agent from now on" },
    OPTION_END,
};
static const struct cli_option keypair_generate_options[] = {
    { 0, "name", "NAME", "1 to 64 of a-z, 0-9 and - [default: key-XXXXXXXX]" },
    { 0, "note", "TEXT", "what it is for" },
    { 0, "force", NULL, "replace a keypair of that name" },
    { 0, "raw", NULL, "print the public key only" },
    OPTION_END,
};
static const struct cli_option keypair_list_options[] = { LIST_JSON_ROW, FORMAT_ROW, OPTION_END };
static const struct cli_option keypair_pubkey_options[] = {
    { 0, "format", "F", "hex or openssh [default: hex]" }, OPTION_END
};
static const struct cli_option secret_set_options[] = {
    AGENT_ROW("whose value"),
    { 0, "capsule", "NAME", "the capsule that reads it" },
    { 0, "scope", "S", "agent or shared (with every agent) [default: agent]" },
    OPTION_END,
};
static const struct cli_option secret_list_options[] = { AGENT_ROW("whose values"), FORMAT_ROW,
                                                         OPTION_END };
static const struct cli_option secret_delete_options[] = {
    AGENT_ROW("whose value"), { 0, "capsule", "NAME", "the capsule that reads it" }, OPTION_END
};
static const struct cli_option doctor_options[] = {
    { 0, "no-daemon", NULL, "do not ask the daemon" }, OPTION_END
};
static const struct cli_option keypair_delete_options[] = { { 'y', "yes", NULL, "do not ask back" },
                                                            OPTION_END };

/* Verbs of clients that are known to exist and that nothing here serves (spec 08 §5.23). */
#define LATER(name)                                                                                \
    {                                                                                              \
        name, "", 0, CLI_ANY_WORDS, NULL, NULL, NULL, cmd_deferred                                 \
    }

/* Order of the help page. */
const struct cli_command cli_commands[] = {
    { "chat", "", 0, 0, "Talk to the agent, line by line", NULL, chat_options, cmd_chat,
      "Talking" },
    { "run", "<PROMPT>", 1, 1, "Send one prompt, print the answer, exit",
      "Exit status 53: no answer within 120 seconds. Text on standard input is put in front of the prompt.",
      run_options, cmd_run },
    { "start", "", 0, 0, "Start the daemon and leave it running", NULL, NULL, cmd_start,
      "The daemon" },
    { "stop", "", 0, 0, "Stop the daemon", NULL, NULL, cmd_stop },
    { "restart", "", 0, 0, "Stop the daemon and start it again", NULL, NULL, cmd_restart },
    { "status", "", 0, 0, "Show whether the daemon runs, and what it runs", NULL, status_options,
      cmd_status },
    { "ps", "", 0, 0, "List the loaded capsules and what they and principals did", NULL,
      format_options, cmd_ps },
    { "top", "", 0, 0, "Watch what capsules and principals do",
      "Keys: c CPU, s calls, m memory, Q queue, d drops choose the order; q quits. Not on a terminal, or\n"
      "with --once, one table is printed. With --format json a line of JSON comes at every refresh.\n"
      "Exit status as of a signal when one ends it.",
      top_options, cmd_top },
    { "who", "", 0, 0, "List the connected clients", NULL, format_options, cmd_who },
    { "logs", "[CAPSULE]", 0, 1, "Print the daemon's log, or a capsule's", NULL, logs_options,
      cmd_logs },
    { "agent create", "<NAME>", 1, 1, "Create an agent (a principal)", NULL, agent_create_options,
      cmd_agent_create, "Agents and what they may do" },
    { "agent list", "", 0, 0, "List the agents you may see", NULL, agent_list_options,
      cmd_agent_list },
    { "agent show", "[NAME]", 0, 1, "Show one agent; without a name the active one", NULL,
      format_options, cmd_agent_show },
    { "agent current", "", 0, 0, "Print who you act as", NULL, NULL, cmd_agent_current },
    { "agent switch", "<NAME>", 1, 1, "Act as this agent from now on", NULL, NULL,
      cmd_agent_switch },
    { "agent modify", "<NAME>", 1, 1, "Change the groups of an agent", NULL, agent_modify_options,
      cmd_agent_modify },
    { "agent enable", "<NAME>", 1, 1, "Switch an agent on", NULL, NULL, cmd_agent_enable },
    { "agent disable", "<NAME>", 1, 1, "Switch an agent off", NULL, NULL, cmd_agent_disable },
    { "agent delete", "<NAME>", 1, 1, "Delete an agent; its home stays",
      "Asks first; --yes (-y) does not.", NULL, cmd_agent_delete },
    { "caps show", "[NAME]", 0, 1, "Show what an agent may do, and why", NULL, format_options,
      cmd_caps_show },
    { "caps check", "<NAME> <CAP>", 2, 2, "Tell whether an agent may do something",
      "Exit status 0: allowed, 1: denied.", NULL, cmd_caps_check },
    { "caps grant", "<NAME> <CAP>", 2, 2, "Grant a capability", NULL, grant_options,
      cmd_caps_grant },
    { "caps revoke", "<NAME> <CAP>", 2, 2, "Revoke a capability; beats every grant", NULL,
      revoke_options, cmd_caps_revoke },
    { "group create", "<NAME>", 1, 1, "Create a group of capabilities", NULL, group_create_options,
      cmd_group_create },
    { "group list", "", 0, 0, "List the groups", NULL, format_options, cmd_group_list },
    { "group show", "<NAME>", 1, 1, "Show one group", NULL, format_options, cmd_group_show },
    { "group modify", "<NAME>", 1, 1, "Change what the members of a group may do", NULL,
      group_modify_options, cmd_group_modify },
    { "group delete", "<NAME>", 1, 1, "Delete a group", NULL, NULL, cmd_group_delete },
    { "quota show", "", 0, 0, "Show an agent's limits and what it used", NULL, quota_show_options,
      cmd_quota_show },
    { "quota set", "", 0, 0, "Change an agent's limits; the others stay",
      "Sizes: 64MiB, 1.5GB, 1000. Times: 90, 90s, 2h30m.", quota_set_options, cmd_quota_set },
    { "quota usage", "", 0, 0, "Show what an agent used", NULL, quota_show_options,
      cmd_quota_usage },
    { "invite issue", "", 0, 0, "Make a token with which somebody becomes an agent",
      "The token is shown once and kept nowhere.", invite_issue_options, cmd_invite_issue,
      "People and devices" },
    { "invite redeem", "<TOKEN>", 1, 1, "Become an agent with a token and a key",
      "TOKEN may be -: it is read from standard input, where other users cannot see it.",
      invite_redeem_options, cmd_invite_redeem },
    { "invite list", "", 0, 0, "List the invites that can still be redeemed", NULL,
      invite_list_options, cmd_invite_list },
    { "invite revoke", "<TOKEN>", 1, 1, "Withdraw an invite, by its token or fingerprint",
      "TOKEN may be -: it is read from standard input, where other users cannot see it.", NULL,
      cmd_invite_revoke },
    { "pair issue", "", 0, 0, "Make a token that adds a device to an agent",
      "The token is shown once and kept nowhere.", pair_issue_options, cmd_pair_issue },
    { "pair redeem", "<TOKEN>", 1, 1, "Add this device's key to the agent that issued the token",
      "TOKEN may be -: it is read from standard input, where other users cannot see it.",
      pair_redeem_options, cmd_pair_redeem },
    { "keypair generate", "", 0, 0, "Make an ed25519 key on this machine", NULL,
      keypair_generate_options, cmd_keypair_generate },
    { "keypair list", "", 0, 0, "List the keys of this machine", NULL, keypair_list_options,
      cmd_keypair_list },
    { "keypair show", "<NAME>", 1, 1, "Show one key", NULL, NULL, cmd_keypair_show },
    { "keypair pubkey", "<NAME>", 1, 1, "Print a public key", NULL, keypair_pubkey_options,
      cmd_keypair_pubkey },
    { "keypair delete", "<NAME>", 1, 1, "Delete a key for ever", NULL, keypair_delete_options,
      cmd_keypair_delete },
    { "capsule install", "<SOURCE>", 1, 1, "Install a capsule from a folder or a .capsule archive",
      "A running daemon loads it at once.", install_options, cmd_capsule_install, "Capsules" },
    { "capsule list", "", 0, 0, "List the installed capsules", NULL, list_options,
      cmd_capsule_list },
    { "capsule show", "<NAME>", 1, 1, "Show one installed capsule", NULL, format_options,
      cmd_capsule_show },
    { "capsule remove", "<NAME>", 1, 1, "Remove an installed capsule", NULL, remove_options,
      cmd_capsule_remove },
    { "secret set", "<KEY> [VALUE]", 1, 2, "Give a capsule a setting or a secret",
      "Without VALUE, or with -, it is read from the terminal (hidden) or from standard input. What the\n"
      "capsule's manifest declares as a secret goes to the secret store, the rest to the agent's settings.",
      secret_set_options, cmd_secret_set },
    { "secret list", "", 0, 0, "List settings and secrets, without their values", NULL,
      secret_list_options, cmd_secret_list },
    { "secret delete", "<KEY>", 1, 1, "Delete a setting or a secret", NULL, secret_delete_options,
      cmd_secret_delete },
    { "build", "[PATH]", 0, 1, "Build a capsule project into an archive", NULL, build_options,
      cmd_build },
    { "audit tail", "", 0, 0, "Print the newest rows of the audit log", NULL, audit_tail_options,
      cmd_audit_tail, "The audit log" },
    { "audit query", "", 0, 0, "Print rows of the audit log, newest first", NULL,
      audit_query_options, cmd_audit_query },
    { "audit export", "", 0, 0, "Print signed audit entries as JSON lines, oldest first", NULL,
      audit_export_options, cmd_audit_export },
    { "audit verify", "", 0, 0, "Check every signature and link of the audit log",
      "Exit status 1 when something was tampered with.", format_options, cmd_audit_verify },
    { "gateway token", "", 0, 0, "Print a bearer token for the HTTP gateway",
      "Signs with keys/gateway.ed25519 of this home: who can read that file can speak for anybody.",
      token_options, cmd_gateway_token, "More" },
    { "doctor", "", 0, 0, "Check this installation; changes nothing", NULL, doctor_options,
      cmd_doctor },
    { "version", "", 0, 0, "Print version and build", NULL, format_options, cmd_version },
    { "completions", "<SHELL>", 1, 1,
      "Print a completion script for bash, zsh, fish, elvish or powershell", NULL, NULL,
      cmd_completions },
    { "help", "[COMMAND]...", 0, 2, "Print help for a command", NULL, NULL, cmd_help },
    LATER("agent link"),
    LATER("agent unlink"),
    LATER("agent discover"),
    LATER("agent add"),
    LATER("agent card"),
    LATER("agent export"),
    LATER("agent import"),
    LATER("agent delegate"),
    LATER("voucher"),
    LATER("trust"),
    LATER("budget"),
    { NULL },
};

/* Known before and after the command's name. */
const struct cli_option cli_globals[] = {
    { 'p', "prompt", "TEXT", "send one prompt, print the answer, exit" },
    { 'y', "yes", NULL, "with -p: approve what capsules ask for" },
    { 0, "session", "ID", "with -p: continue a session (a UUID or a name)" },
    { 0, "print-session", NULL, "with -p: print the session id on stderr" },
    { 0, "format", "F", "pretty, json, yaml or toml" },
    { 'v', "verbose", NULL, "say more" },
    { 0, "emit-path", NULL, "print the path of astrid-emit" },
    { 'h', "help", NULL, "print help" },
    { 'V', "version", NULL, "print the version" },
    OPTION_END,
};
