/* Changes of profiles and groups. The kernel calls these from one thread; checks on other threads go on with the snapshots
 * they hold and see the new state once a function here has returned. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/time.h"
#include "policy/capability.h"
#include "policy/policy_priv.h"

#include "base/banned.h"

/* ---- profiles ---- */

char *ast_policy_profile_path(struct ast_policy *p, struct ast_str principal)
{
    return ast_home_path(p->home, AST_HOME_PROFILES "/" AST_STR_FMT ".toml",
                         AST_STR_ARG(principal));
}

static void roster_changed(struct ast_policy *p)
{
    AST_WITH_LOCK(&p->lock);
    p->roster.valid = false;
    p->roster_generation++;
}

/* Also after a failure: a rename whose directory could not be synced has happened all the same. */
static void profile_changed(struct ast_policy *p, struct ast_str principal, bool roster)
{
    ast_policy_invalidate(p, principal);
    if (roster)
        roster_changed(p);
}

enum ast_rc ast_policy_set_profile(struct ast_policy *p, struct ast_str principal,
                                   const struct ast_profile *profile, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *dir = ast_home_path(p->home, AST_HOME_PROFILES);
    AST_AUTO(ast_cfree) char *path = ast_policy_profile_path(p, principal);
    if (!dir || !path)
        return ast_fail(err, AST_E_NO_MEMORY, "profile");
    enum ast_rc rc = ast_fs_mkdirs(dir, 0700, err);
    if (rc)
        return ast_wrap(err, rc, "profile io error");
    bool is_new = !ast_fs_exists(path);
    rc = ast_profile_save(path, profile, err);
    profile_changed(p, principal, is_new);
    return rc;
}

/* The files of newcomers, pairwise. */
struct arrivals {
    struct ast_policy_newcomer *v;
    struct ast_fs_file *files;
    struct ast_buf *texts;
    char (*names)[AST_PRINCIPAL_MAX + sizeof ".toml"];
    enum ast_rc (*meanwhile)(void *arg, size_t i, struct ast_err *err);
    void *arg;
    size_t n;
};

static enum ast_rc write_newcomer(struct arrivals *a, size_t i, struct ast_err *err)
{
    struct ast_principal id;
    enum ast_rc rc = ast_principal_parse(a->v[i].principal, &id, err);

    a->texts[i] = (struct ast_buf)AST_BUF_INIT(POLICY_MAX_FILE);
    if (!rc)
        rc = policy_print_profile(a->v[i].profile, &a->texts[i], err);
    if (rc)
        return rc;
    (void)snprintf(a->names[i], sizeof a->names[i], "%s.toml", id.name);
    a->files[i].name = a->names[i];
    a->files[i].data = ast_buf_view(&a->texts[i]);
    return AST_OK;
}

/* What `meanwhile` says is its own; what the disk says is a profile's error. */
static enum ast_rc meanwhile_one(void *arg, size_t i, struct ast_err *err)
{
    struct arrivals *a = arg;
    struct ast_policy_newcomer *v = &a->v[i];

    v->rc = a->meanwhile ? a->meanwhile(a->arg, i, &v->err) : AST_OK;
    return v->rc ? ast_fail(err, v->rc, "%s", v->err.msg) : AST_OK;
}

static void write_newcomers(struct ast_policy *p, struct arrivals *a, const char *dir)
{
    for (size_t i = 0; i < a->n; i++) {
        struct ast_policy_newcomer *v = &a->v[i];
        if (!v->rc)
            v->rc = write_newcomer(a, i, &v->err);
        a->files[i].rc = v->rc;
    }
    ast_fs_write_group(dir, a->files, a->n, 0600, meanwhile_one, a);
    for (size_t i = 0; i < a->n; i++) {
        struct ast_policy_newcomer *v = &a->v[i];
        if (!v->rc && a->files[i].rc)
            v->rc = ast_fail(&v->err, a->files[i].rc, "profile io error: %s", a->files[i].err.msg);
        ast_policy_invalidate(p, v->principal);
        ast_buf_done(&a->texts[i]);
    }
}

void ast_policy_add_profiles(struct ast_policy *p, struct ast_policy_newcomer *v, size_t n,
                             enum ast_rc (*meanwhile)(void *arg, size_t i, struct ast_err *err),
                             void *arg)
{
    AST_AUTO(ast_cfree) char *dir = ast_home_path(p->home, AST_HOME_PROFILES);
    struct arrivals a = { .v = v, .n = n, .meanwhile = meanwhile, .arg = arg };
    AST_AUTO(ast_cfree) struct ast_fs_file *files = a.files = calloc(n, sizeof *a.files);
    AST_AUTO(ast_cfree) struct ast_buf *texts = a.texts = calloc(n, sizeof *a.texts);
    AST_AUTO(ast_cfree) void *names = a.names = calloc(n, sizeof *a.names);
    struct ast_err err = AST_ERR_INIT;

    enum ast_rc rc = dir && files && texts && names ? ast_fs_mkdirs(dir, 0700, &err)
                                                    : ast_fail(&err, AST_E_NO_MEMORY, "profile");
    if (rc) {
        for (size_t i = 0; i < n; i++)
            if (!v[i].rc)
                v[i].rc = ast_fail(&v[i].err, rc, "profile io error: %s", err.msg);
        return;
    }
    write_newcomers(p, &a, dir);
    roster_changed(p);
}

enum ast_rc ast_policy_remove_profile(struct ast_policy *p, struct ast_str principal,
                                      struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *dir_path = ast_home_path(p->home, AST_HOME_PROFILES);
    AST_AUTO(ast_cfree) char *path = ast_policy_profile_path(p, principal);
    if (!dir_path || !path)
        return ast_fail(err, AST_E_NO_MEMORY, "profile");
    int failed = unlink(path) ? errno : 0;
    profile_changed(p, principal, true);
    if (failed == ENOENT)
        return AST_OK;
    if (failed)
        return ast_fail_errno(err, ast_rc_from_errno(failed), failed,
                              "failed to remove profile.toml at %s", path);
    AST_AUTO(ast_fs_close) int dir = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || fsync(dir)) /* a power loss must not bring the principal back */
        return ast_fail_errno(err, AST_E_IO, errno, "failed to remove profile.toml at %s", path);
    return AST_OK;
}

/* ---- who is there ---- */

void policy_roster_done(struct ast_policy *p)
{
    ast_strings_done(&p->roster.names);
}

static int by_text(const void *a, const void *b)
{
    return ast_str_cmp(*(const struct ast_str *)a, *(const struct ast_str *)b);
}

/* "alice" of "alice.toml" when that is a regular file and a principal. */
static bool principal_of(int dir, const struct dirent *e, struct ast_str *ret)
{
    struct ast_str name = ast_str_c(e->d_name), suffix = AST_STR(".toml");
    struct stat st;

    if (!ast_str_ends(name, suffix))
        return false;
    *ret = ast_str_first(name, name.n - suffix.n);
    if (!ast_principal_valid(*ret))
        return false;
    if (e->d_type != DT_UNKNOWN)
        return e->d_type == DT_REG;
    return fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

static enum ast_rc read_names(const char *path, struct ast_strings *ret, struct ast_err *err)
{
    DIR *d = opendir(path);
    if (!d)
        return errno == ENOENT ? AST_OK
                               : ast_fail_errno(err, ast_rc_from_errno(errno), errno,
                                                "failed to read %s", path);
    enum ast_rc rc = AST_OK;
    struct ast_str name;
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(d);
        if (!e) {
            if (errno)
                rc = ast_fail_errno(err, AST_E_IO, errno, "failed to read %s", path);
            break;
        }
        if (principal_of(dirfd(d), e, &name) && !ast_strings_add(ret, name)) {
            rc = ast_fail(err, AST_E_NO_MEMORY, "failed to read %s", path);
            break;
        }
    }
    closedir(d);
    if (!rc && ret->n)
        qsort(ret->v, ret->n, sizeof *ret->v, by_text);
    return rc;
}

/* The directory's change time. -1: not there. A time that is fresh says little: clocks of file systems are coarse. */
static int64_t changed_ns(const char *path)
{
    struct stat st;
    if (stat(path, &st))
        return -1;
    return (int64_t)st.st_mtim.tv_sec * AST_NS_PER_SEC + st.st_mtim.tv_nsec;
}

#define ROSTER_SETTLED_NS (2 * AST_NS_PER_SEC)

/* A copy of the names, from memory when nothing changed since. */
static enum ast_rc roster(struct ast_policy *p, struct ast_strings *ret, struct ast_err *err)
{
    AST_AUTO(ast_cfree) char *path = ast_home_path(p->home, AST_HOME_PROFILES);
    if (!path)
        return ast_fail(err, AST_E_NO_MEMORY, "profiles");
    int64_t changed = changed_ns(path);
    uint64_t generation;
    {
        AST_WITH_LOCK(&p->lock);
        generation = p->roster_generation;
        if (p->roster.valid && p->roster.changed_ns == changed)
            return policy_strings_copy(&p->roster.names, ret)
                       ? AST_OK
                       : ast_fail(err, AST_E_NO_MEMORY, "profiles");
    }
    enum ast_rc rc = read_names(path, ret, err);
    if (rc || ast_wall_ns() - changed < ROSTER_SETTLED_NS)
        return rc;
    struct ast_strings copy = { 0 };
    bool complete = policy_strings_copy(ret, &copy);
    AST_WITH_LOCK(&p->lock);
    if (complete && generation == p->roster_generation) {
        struct ast_strings old = p->roster.names;
        p->roster = (struct policy_roster){ .names = copy, .valid = true, .changed_ns = changed };
        copy = old;
    }
    ast_strings_done(&copy);
    return AST_OK;
}

enum ast_rc ast_policy_each_profile(struct ast_policy *p,
                                    bool (*each)(void *arg, struct ast_str principal,
                                                 const struct ast_profile *profile),
                                    void *arg, struct ast_err *err)
{
    AST_AUTO(ast_strings_done) struct ast_strings names = { 0 };
    enum ast_rc rc = roster(p, &names, err);

    for (size_t i = 0; !rc && i < names.n; i++) {
        AST_AUTO(ast_profile_unref) struct ast_profile *profile = NULL;
        struct ast_err why = AST_ERR_INIT;
        if (ast_policy_profile(p, names.v[i], &profile, &why))
            ast_log_fields(AST_LOG_WARN, "astrid.policy", "profile cannot be read; not listed",
                           AST_F_STR("principal", names.v[i]), AST_F_CSTR("error", why.msg));
        else if (!profile->exists)
            ast_policy_invalidate(p, names.v[i]); /* the file came after the cache looked */
        else if (!each(arg, names.v[i], profile))
            break;
    }
    return rc;
}

/* ---- groups ---- */

static struct policy_groups *current_groups(struct ast_policy *p)
{
    AST_WITH_LOCK(&p->lock);
    return policy_groups_ref(p->groups);
}

/* The set to change is the file's, so that an edit by hand is merged and not lost. */
static enum ast_rc groups_on_disk(struct ast_policy *p, char **ret_path, struct policy_groups **ret,
                                  struct ast_err *err)
{
    *ret_path = ast_home_path(p->home, AST_HOME_GROUPS);
    return *ret_path ? policy_groups_load(*ret_path, ret, err)
                     : ast_fail(err, AST_E_NO_MEMORY, "groups");
}

/* File first, then the readers; a failed write leaves both as they were. */
static enum ast_rc publish_groups(struct ast_policy *p, const char *path,
                                  struct policy_groups *next, struct ast_err *err)
{
    enum ast_rc rc = policy_groups_save(path, next, err);
    if (rc) {
        (void)ast_wrap(err, rc, "groups.toml save failed");
        return AST_E_IO;
    }
    struct policy_groups *old;
    {
        AST_WITH_LOCK(&p->lock);
        old = p->groups;
        p->groups = policy_groups_ref(next);
    }
    policy_groups_unref(old);
    return AST_OK;
}

static enum ast_rc change_group(struct ast_policy *p, const char *path,
                                const struct policy_groups *now, struct ast_str name,
                                const struct ast_group *group, struct ast_err *err)
{
    AST_AUTO(policy_groups_unref) struct policy_groups *next = NULL;
    enum ast_rc rc = policy_groups_with(now, name, group, &next, err);
    return rc ? rc : publish_groups(p, path, next, err);
}

static enum ast_rc refuse_builtin(const struct policy_groups *now, struct ast_str name,
                                  struct ast_err *err)
{
    char quoted[POLICY_QUOTE_BYTES];
    const struct ast_group *g = policy_groups_find(now, name);
    return g && g->builtin ? ast_fail(err, AST_E_INVALID,
                                      "built-in group %s may not be redefined in groups.toml",
                                      policy_quote(name, quoted))
                           : AST_OK;
}

enum ast_rc ast_policy_group_create(struct ast_policy *p, const struct ast_group *g,
                                    struct ast_err *err)
{
    AST_AUTO(policy_groups_unref) struct policy_groups *now = NULL;
    AST_AUTO(ast_cfree) char *path = NULL;
    char quoted[POLICY_QUOTE_BYTES];
    enum ast_rc rc = groups_on_disk(p, &path, &now, err);

    if (!rc)
        rc = refuse_builtin(now, g->name, err);
    if (!rc && !ast_principal_valid(g->name)) /* no profile could ever join it */
        rc = ast_fail(
            err, AST_E_INVALID,
            "groups config: group name %s must be 1 to 64 characters of a-z, A-Z, 0-9, -, _",
            policy_quote(g->name, quoted));
    if (!rc && policy_groups_find(now, g->name))
        rc = ast_fail(err, AST_E_EXISTS, "groups config declares %s more than once",
                      policy_quote(g->name, quoted));
    return rc ? rc : change_group(p, path, now, g->name, g, err);
}

static enum ast_rc find_custom(const struct policy_groups *now, struct ast_str name,
                               const struct ast_group **ret, struct ast_err *err)
{
    char quoted[POLICY_QUOTE_BYTES];
    enum ast_rc rc = refuse_builtin(now, name, err);
    if (rc)
        return rc;
    *ret = policy_groups_find(now, name);
    return *ret ? AST_OK
                : ast_fail(err, AST_E_NOT_FOUND, "groups config: unknown group %s",
                           policy_quote(name, quoted));
}

enum ast_rc ast_policy_group_delete(struct ast_policy *p, struct ast_str name, struct ast_err *err)
{
    AST_AUTO(policy_groups_unref) struct policy_groups *now = NULL;
    AST_AUTO(ast_cfree) char *path = NULL;
    const struct ast_group *old;
    enum ast_rc rc = groups_on_disk(p, &path, &now, err);

    if (!rc)
        rc = find_custom(now, name, &old, err);
    return rc ? rc : change_group(p, path, now, name, NULL, err);
}

enum ast_rc ast_policy_group_modify(struct ast_policy *p, struct ast_str name,
                                    const struct ast_group_change *change, struct ast_err *err)
{
    AST_AUTO(policy_groups_unref) struct policy_groups *now = NULL;
    AST_AUTO(ast_cfree) char *path = NULL;
    const struct ast_group *old = NULL;
    enum ast_rc rc = groups_on_disk(p, &path, &now, err);

    if (!rc)
        rc = find_custom(now, name, &old, err);
    if (rc)
        return rc;
    struct ast_group next = *old; /* borrows; change_group() copies */
    if (change->capabilities)
        next.capabilities = *change->capabilities;
    if (change->unsafe_admin)
        next.unsafe_admin = *change->unsafe_admin;
    if (change->description) {
        next.description = *change->description;
        next.has_description = change->description->n > 0;
    }
    return change_group(p, path, now, name, &next, err);
}

void ast_policy_each_group(struct ast_policy *p, bool (*each)(void *arg, const struct ast_group *g),
                           void *arg)
{
    AST_AUTO(policy_groups_unref) struct policy_groups *groups = current_groups(p);
    size_t built_in = 0, custom;

    while (built_in < groups->v.n && groups->v.v[built_in].builtin)
        built_in++;
    /* Two ascending runs, merged. */
    custom = built_in;
    for (size_t b = 0, left = groups->v.n; left; left--) {
        bool from_custom =
            b == built_in || (custom < groups->v.n &&
                              ast_str_cmp(groups->v.v[custom].name, groups->v.v[b].name) < 0);
        if (!each(arg, &groups->v.v[from_custom ? custom++ : b++]))
            return;
    }
}

enum ast_rc ast_policy_group_require(struct ast_policy *p, struct ast_str name, struct ast_err *err)
{
    AST_AUTO(policy_groups_unref) struct policy_groups *groups = current_groups(p);
    char quoted[POLICY_QUOTE_BYTES];

    return policy_groups_find(groups, name)
               ? AST_OK
               : ast_fail(
                     err, AST_E_NOT_FOUND,
                     "group %s is not defined \xe2\x80\x94 create it via `astrid group create` "
                     "first",
                     policy_quote(name, quoted));
}

/* ---- what may be handed on ---- */

/* A pattern covers another one where it matches its text: a '*' there is only matched by a '*' here. */
static enum ast_rc may_confer_one(struct ast_policy *p, struct ast_str principal,
                                  struct ast_str cap, struct ast_err *err)
{
    char quoted[POLICY_QUOTE_BYTES];

    if (ast_str_starts(cap, AST_STR("self:")) || ast_str_starts(cap, AST_STR("delegate:self:")) ||
        ast_policy_holds(p, principal, cap))
        return AST_OK;
    return ast_fail(err, AST_E_DENIED,
                    "permission denied for principal " AST_STR_FMT
                    ": cannot confer capability %s without holding it",
                    AST_STR_ARG(principal), policy_quote(cap, quoted));
}

enum ast_rc ast_policy_may_confer(struct ast_policy *p, struct ast_str principal,
                                  const struct ast_strings *capabilities,
                                  const struct ast_strings *names, struct ast_err *err)
{
    AST_AUTO(policy_groups_unref) struct policy_groups *groups = current_groups(p);
    enum ast_rc rc = AST_OK;

    if (ast_policy_holds(p, principal, AST_STR("*")))
        return AST_OK;
    for (size_t i = 0; !rc && capabilities && i < capabilities->n; i++)
        rc = may_confer_one(p, principal, capabilities->v[i], err);
    for (size_t i = 0; !rc && names && i < names->n; i++) {
        const struct ast_group *g = policy_groups_find(groups, names->v[i]);
        for (size_t k = 0; !rc && g && k < g->capabilities.n; k++)
            rc = may_confer_one(p, principal, g->capabilities.v[k], err);
    }
    return rc;
}
