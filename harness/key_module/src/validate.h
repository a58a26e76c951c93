/* SPDX-License-Identifier: MIT */
/* Everything that can make a restore be refused, before anything is restored. */
#ifndef PAC_VALIDATE_H
#define PAC_VALIDATE_H

#include "keyfile.h"
#include "policy.h"
#include "secret.h"

#define REASON_SIZE POLICY_REASON_SIZE

enum verdict {
    VALID,      /* keys to load, and a machine that takes them */
    NO_PAC,     /* the images and this machine are both without PAC: nothing to load */
    NO_KEYFILE, /* dumped without this module */
    UNSIGNED,   /* from a CPU without PAC, on one that has it and can disable it */
    REFUSED,
};

/*
 * Read pac-keys.img of the present images directory into `file` and check it, the images it is
 * bound to, and this machine. The last three verdicts come with a reason of one line, without a
 * full stop.
 */
enum verdict validate_images(struct secret *file, struct keyfile *keys, char reason[REASON_SIZE]);

#endif
