/* SPDX-License-Identifier: MIT */
/* What to do with images whose keys cannot simply be loaded. */
#ifndef PAC_POLICY_H
#define PAC_POLICY_H

/* Either says it; the environment wins. The file stands beside the plugin. */
#define POLICY_VARIABLE "CRIU_PAC_POLICY"
#define POLICY_FILE "pac-key-module.conf"
#define POLICY_REASON_SIZE 320

enum policy {
    POLICY_REFUSE,       /* the default: nothing is restored */
    POLICY_WARN,         /* restored all the same, without keys */
    POLICY_DISABLE_AUTH, /* unsigned images on a CPU with PAC run with authentication off; else as refuse */
};

/* -1, with the reason of one line, for a word it does not know and a file it cannot read. */
int read_policy(enum policy *policy, char reason[POLICY_REASON_SIZE]);

#endif
