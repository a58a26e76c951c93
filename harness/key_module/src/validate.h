/* SPDX-License-Identifier: MIT */
/* Everything that can make a restore be refused, before anything is restored. */
#ifndef PAC_VALIDATE_H
#define PAC_VALIDATE_H

#include "keyfile.h"
#include "secret.h"

#define POLICY_VARIABLE "CRIU_PAC_POLICY"
#define REASON_SIZE 320

enum policy {
    POLICY_REFUSE, /* the default */
    POLICY_WARN,
};

enum verdict {
    VALID,
    REFUSED,
};

/* Read the policy from the environment. -1, with the reason, for a word it does not know. */
int read_policy(enum policy *policy, char reason[REASON_SIZE]);
/*
 * Read pac-keys.img of the present images directory into `file` and check it, the images it is
 * bound to, and this machine. REFUSED comes with a reason of one line, without a full stop.
 */
enum verdict validate_images(struct secret *file, struct keyfile *keys, char reason[REASON_SIZE]);

#endif
