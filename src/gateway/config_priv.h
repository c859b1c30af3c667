/* etc/gateway-http.toml: what the operator wants (spec 03 §2). Read once at boot, immutable afterwards. */
#pragma once

#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/json.h"
#include "base/vec.h"

#define GW_DEFAULT_LISTEN       "127.0.0.1:2787"
#define GW_DEFAULT_SESSION_SECS 28800u
#define GW_DEFAULT_REDEEM_SECS  1u
#define GW_COUNT_MAX            86400u /* of the settings that are ours: seconds, connections */

/* Owner: the gateway. */
struct gw_config {
    bool enabled;
    struct ast_str listen;
    struct ast_str distro_path; /* empty: none */
    uint64_t session_lifetime_secs;
    uint64_t redeem_rate_limit_secs;
    /* Ours: how long a prompt stream lives, a silent kernel is waited for, a quiet stream stays silent. */
    unsigned prompt_secs, kernel_secs, keep_alive_secs;
    unsigned max_connections;
    AST_VEC(struct ast_str) origins;
    AST_VEC(struct in6_addr) trusted; /* IPv4 as mapped addresses */
    bool has_tls;
    struct ast_str tls_cert_path, tls_key_path; /* NUL-terminated */
    struct ast_json_doc *doc; /* owned; every text above is borrowed from it or static */
};

void gw_config_done(struct gw_config *c);
AST_DEFINE_AUTO_VALUE(struct gw_config, gw_config_done)

/* Parses and validates; the texts of spec 03 §2.1. A TLS key others may read is a warning in the log. */
AST_MUST_CHECK
enum ast_rc gw_config_parse(struct ast_str toml, struct gw_config *ret, struct ast_err *err);
/* NOT_FOUND when there is no such file. */
AST_MUST_CHECK
enum ast_rc gw_config_load(const char *path, struct gw_config *ret, struct ast_err *err);

/* "IP:port" or "[IPv6]:port"; no names. */
struct gw_address {
    struct sockaddr_storage sa;
    socklen_t len;
    bool is_loopback;
};
AST_MUST_CHECK
enum ast_rc gw_address_parse(struct ast_str text, struct gw_address *ret, struct ast_err *err);

/* The eight rules for one browser origin (spec 03 §2.1), in order. */
AST_MUST_CHECK
enum ast_rc gw_origin_check(struct ast_str raw, struct ast_err *err);
