/* Shared by the files of fs: temp files and whole writes. */
#pragma once

#include "base/str.h"

#define FS_TEMP_PREFIX ".tmp-"
#define FS_TEMP_DIGITS 16u /* of 8 random bytes */
#define FS_TEMP_BYTES  32u

/* A name that no other file has. */
void fs_temp_name(char out[static FS_TEMP_BYTES]);
/* 0, or errno. */
int fs_write_all(int fd, struct ast_str data);
