/* Memory for messages, which one thread makes and another gives up. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define BUS_BLOCK_PLAIN 255u /* straight from malloc */

/* At least `n` bytes, uninitialised; NULL: out of memory. *ret_size is for bus_block_free().
 * Threads: any. */
void *bus_block_new(size_t n, uint8_t *ret_size);
void bus_block_free(void *p, uint8_t size);
