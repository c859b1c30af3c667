/* How many processors a control group grants. Pure except for reading files below `cgroup_root`. */
#pragma once

#include "base/str.h"

/* self_cgroup  text of /proc/self/cgroup
 * cgroup_root  where the hierarchies are mounted, "/sys/fs/cgroup"
 * Returns the smallest quota on the way from our group to the root, rounded up to whole
 * processors; 0 when nothing limits us. */
unsigned base_cpu_quota(struct ast_str self_cgroup, const char *cgroup_root);
