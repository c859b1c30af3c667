/* What a boot does with profiles before anybody is served: files of old places are moved, `default` is seeded (spec 02 §23). */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "policy/policy_priv.h"

#include "base/banned.h"

#define LEGACY_FILE ".config/profile.toml"
/* Homes are written by capsules, profiles are not: a file that appears in a home later is no old profile but an attempt. */
#define LEGACY_DONE "var/legacy-profiles-moved"

static bool is_regular(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Step 1 of spec 01 §17.3; spec 02 §23.2. */
static enum ast_rc move_legacy(struct ast_policy *p, struct ast_str principal, struct ast_err *err)
{
    AST_AUTO(ast_cfree)
    char *legacy =
        ast_home_path(p->home, "home/" AST_STR_FMT "/" LEGACY_FILE, AST_STR_ARG(principal));
    AST_AUTO(ast_cfree) char *current = ast_policy_profile_path(p, principal);
    AST_AUTO(ast_cfree) char *dir = ast_home_path(p->home, AST_HOME_PROFILES);
    if (!legacy || !current || !dir)
        return ast_fail(err, AST_E_NO_MEMORY, "profile");
    if (!is_regular(legacy))
        return AST_OK;
    int failed;
    if (ast_fs_exists(current)) {
        failed = unlink(legacy);
    } else {
        enum ast_rc rc = ast_fs_mkdirs(dir, 0700, err);
        if (rc)
            return rc;
        failed = chmod(legacy, 0600) || rename(legacy, current);
    }
    if (failed)
        return ast_fail_errno(err, AST_E_IO, errno, "move legacy profile %s", legacy);
    ast_log_fields(AST_LOG_WARN, "astrid.policy", "legacy profile moved or dropped",
                   AST_F_STR("principal", principal), AST_F_CSTR("path", legacy));
    ast_policy_invalidate(p, principal);
    return AST_OK;
}

static enum ast_rc move_each_home(struct ast_policy *p, const char *homes)
{
    DIR *d = opendir(homes);
    const struct dirent *e;
    enum ast_rc rc = d || errno == ENOENT ? AST_OK : AST_E_IO;

    while (d && (e = readdir(d))) {
        struct ast_str name = ast_str_c(e->d_name);
        struct ast_err err = AST_ERR_INIT;
        if (!ast_principal_valid(name) || !move_legacy(p, name, &err))
            continue;
        rc = AST_E_IO;
        ast_log_fields(AST_LOG_WARN, "astrid.policy", "legacy profile stays where it is",
                       AST_F_STR("principal", name), AST_F_CSTR("error", err.msg));
    }
    if (d)
        closedir(d);
    return rc;
}

/* Once in the life of a home. */
static enum ast_rc move_all(struct ast_policy *p, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *homes = ast_home_path(p->home, "home");
    AST_AUTO(ast_cfree) char *done = ast_home_path(p->home, LEGACY_DONE);
    if (!homes || !done)
        return ast_fail(err, AST_E_NO_MEMORY, "profiles");
    if (ast_fs_exists(done))
        return AST_OK;
    if (move_each_home(p, homes))
        return AST_OK; /* the log says why; the next boot tries again */
    return ast_fs_write_atomic(done, AST_STR(""), 0600, AST_FS_SYNC, err);
}

static enum ast_rc seed_default(struct ast_policy *p, struct ast_err *err)
{
    AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;
    enum ast_rc rc = policy_load_profile(p, AST_PRINCIPAL_DEFAULT, &profile, err);
    if (rc || profile->groups.n || profile->grants.n || profile->revokes.n)
        return rc;
    if (!ast_strings_add(&profile->groups, AST_STR("admin")))
        return ast_fail(err, AST_E_NO_MEMORY, "profile");
    return ast_policy_set_profile(p, AST_PRINCIPAL_DEFAULT, profile, err);
}

void ast_policy_bootstrap(struct ast_policy *p)
{
    struct ast_err err = AST_ERR_INIT;

    if (move_legacy(p, AST_PRINCIPAL_DEFAULT, &err) || move_all(p, &err))
        ast_log_warn("astrid.policy", "legacy profiles: %s", err.msg);
    if (seed_default(p, &err))
        ast_log_warn("astrid.policy", "default principal keeps no capabilities: %s", err.msg);
}
