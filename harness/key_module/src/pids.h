/* SPDX-License-Identifier: MIT */
/* Processes that one stage has seen. */
#ifndef PAC_PIDS_H
#define PAC_PIDS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct pids {
    pid_t *at;
    size_t count;
};

/* 0 or -ENOMEM. */
int pids_add(struct pids *pids, pid_t pid);
bool pids_have(const struct pids *pids, pid_t pid);
void pids_release(struct pids *pids);

#endif
