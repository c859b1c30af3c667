/* The probe with commands for streams, which come from host functions that only the test of streams has. */
#define PROBE_STREAMS
#include "probe.c"
