/* SPDX-License-Identifier: MIT */
/* The instructions this module needs; left out where its decisions are tested on another host. */
#ifndef PAC_ARM64_H
#define PAC_ARM64_H

#include <stdbool.h>
#include <stdint.h>

/* MIDR_EL1 of the CPU we run on, or 0 where the kernel does not give it out. */
uint64_t arm64_midr(void);

#define SIGNED_COUNT 16u

/* Of the signing child, in memory it shares with us. */
struct signed_codes {
    bool sign_generic;              /* asked: pacga is an undefined instruction where there is no GA */
    uint64_t address[SIGNED_COUNT]; /* answered: what pacia1716 made of fixed pointers and modifiers */
    uint64_t generic;               /* and what pacga made of fixed data and modifier */
};

/*
 * The whole life of a child: be traced, stop, and once continued sign with the keys it was given
 * and exit. From the stop on nothing returns from a function whose return address is signed: the
 * keys are other ones by then, and libc may be built with branch protection.
 */
int arm64_stop_and_sign(void *signed_codes);

#endif
