/* SPDX-License-Identifier: MIT */
/* What this machine and kernel offer, tried on a child instead of asked by version. */
#ifndef PAC_PROBE_H
#define PAC_PROBE_H

#include <stdbool.h>
#include <stdint.h>

struct machine_pac {
    bool address_auth; /* return addresses and pointers can be signed */
    bool generic_auth;
    bool enabled_keys; /* the mask of enabled keys can be read and written */
    uint64_t data_mask;
    uint64_t insn_mask;
};

/*
 * Read the sets of a stopped child and write them back. Returns 0, or -1 with the reason why
 * keys cannot be handled here. A machine without PAC is no error: both *_auth are false.
 */
#define PROBE_REASON_SIZE 192
int probe_machine(struct machine_pac *machine, char reason[PROBE_REASON_SIZE]);

/* Number of plugin hooks this CRIU knows, from the size of its exported table; 0: unknown. */
unsigned int probe_hook_count(void);

#endif
