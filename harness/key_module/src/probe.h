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
    uint64_t midr;          /* 0 where it cannot be read */
    uint64_t address_probe; /* differs where the algorithm differs; 0 without address_auth */
    uint64_t generic_probe; /* likewise, 0 without generic_auth */
};

/*
 * Read the sets of a stopped child, write keys of our own into them, and let it sign with those.
 * Returns 0, or -1 with the reason why keys cannot be handled here. A machine without PAC is no
 * error: both *_auth are false.
 */
#define PROBE_REASON_SIZE 192
int probe_machine(struct machine_pac *machine, char reason[PROBE_REASON_SIZE]);

#endif
