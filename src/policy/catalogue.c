/* The table of capabilities. */
#include "policy/catalogue.h"

#include "base/banned.h"

/* Columns: id, label, category, scope, danger, description. */
const struct ast_cap_entry ast_cap_catalogue[AST_CAP_CATALOGUE_LEN] = {
#define C(id, label, category, scope, danger, text)                                                \
    {                                                                                              \
        { id, sizeof id - 1 }, label, text, category, scope, danger                                \
    }
    C("system:shutdown", "Shut down daemon", "system", "global", "extreme",
      "Stop the daemon in an orderly way"),
    C("system:status", "Read daemon status", "system", "global", "safe",
      "See pid, uptime, client count and loaded capsules"),
    C("capsule:install", "Install capsules", "capsule", "global", "extreme",
      "Add a capsule for the whole host"),
    C("self:capsule:install", "Install capsules (own workspace)", "capsule", "self", "elevated",
      "Add a capsule for oneself"),
    C("capsule:reload", "Reload all capsules", "capsule", "global", "normal",
      "Rediscover and load capsules host-wide"),
    C("self:capsule:reload", "Reload capsules (self)", "capsule", "self", "normal",
      "Same, self-scoped form"),
    C("capsule:list", "List all capsules", "capsule", "global", "safe",
      "Enumerate installed capsules"),
    C("self:capsule:list", "List capsules (self)", "capsule", "self", "safe",
      "Same, self-scoped form"),
    C("agent:create", "Create agents", "agent", "global", "normal", "Provision a new principal"),
    C("agent:delete", "Delete agents", "agent", "global", "elevated",
      "Remove a principal's policy and identity, never default"),
    C("agent:enable", "Enable agents", "agent", "global", "normal",
      "Switch a disabled principal back on"),
    C("agent:disable", "Disable agents", "agent", "global", "elevated",
      "Switch a principal off without deleting it"),
    C("agent:modify", "Modify agent groups", "agent", "global", "elevated",
      "Change a principal's group memberships"),
    C("agent:list", "List all agents", "agent", "global", "safe",
      "See every principal's policy summary"),
    C("self:agent:list", "View own agent row", "agent", "self", "safe",
      "See one's own policy summary"),
    C("quota:set", "Set agent quotas", "quota", "global", "normal",
      "Change any principal's ceilings"),
    C("self:quota:set", "Set own quotas", "quota", "self", "normal", "Change one's own ceilings"),
    C("quota:get", "Read agent quotas", "quota", "global", "safe",
      "Read any principal's ceilings and usage"),
    C("self:quota:get", "Read own quotas", "quota", "self", "safe",
      "Read one's own ceilings and usage"),
    C("group:create", "Create capability groups", "group", "global", "elevated",
      "Define a custom group"),
    C("group:delete", "Delete capability groups", "group", "global", "elevated",
      "Remove a custom group"),
    C("group:modify", "Modify capability groups", "group", "global", "elevated",
      "Edit a custom group; takes effect at the next check"),
    C("group:list", "List all groups", "group", "global", "safe",
      "Enumerate groups and what they hold"),
    C("self:group:list", "List groups (self-membership)", "group", "self", "safe",
      "Same, so that one can resolve inherited rights"),
    C("caps:grant", "Grant capabilities", "caps", "global", "extreme",
      "Add grants to a principal; enough to elevate oneself"),
    C("caps:revoke", "Revoke capabilities", "caps", "global", "elevated",
      "Add denials to a principal, never to default"),
    C("invite:issue", "Issue invite tokens", "invite", "global", "elevated",
      "Mint a bearer token that enrols new principals into a group"),
    C("invite:redeem", "Redeem invite tokens (no-op grant)", "invite", "global", "normal",
      "Name used in audit rows only; redeeming needs no capability"),
    C("invite:list", "List outstanding invites", "invite", "global", "safe",
      "See outstanding invites by fingerprint"),
    C("invite:revoke", "Revoke invites", "invite", "global", "normal",
      "Cancel an outstanding invite"),
    C("audit:read_all", "View full audit firehose", "system", "global", "elevated",
      "See every principal's audit events, not just one's own"),
    C("self:approval:respond", "Approve own capability requests", "approval", "self", "safe",
      "Answer approval prompts addressed to oneself"),
    C("self:auth:pair", "Pair an additional device", "approval", "self", "normal",
      "Mint a short-lived token to add a key to one's own profile"),
    C("auth:pair:redeem", "Redeem pair-device tokens (no-op grant)", "approval", "global", "normal",
      "Name used in audit rows only"),
#undef C
};

const struct ast_cap_entry *ast_cap_find(struct ast_str id)
{
    for (size_t i = 0; i < AST_CAP_CATALOGUE_LEN; i++)
        if (ast_str_eq(ast_cap_catalogue[i].id, id))
            return &ast_cap_catalogue[i];
    return NULL;
}
