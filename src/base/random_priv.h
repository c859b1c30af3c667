/* Randomness of the operating system, for ids and seeds. Threads: any. */
#pragma once

#include <stddef.h>

/* Fills n bytes, at most 256. Never fails: a system without randomness ends the process. */
void base_random(void *out, size_t n);
