/* Facts about this process for the exposition (spec 03 §25.2). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bus_process_metric {
    const char *name, *help;
    bool is_counter; /* else a gauge */
    bool known;      /* could be read just now */
    uint64_t value;
};

#define BUS_PROCESS_METRICS 8u
void bus_process_read(struct bus_process_metric ret[static BUS_PROCESS_METRICS]);
