/* SPDX-License-Identifier: MIT */
#include "pids.h"

#include <errno.h>
#include <stdlib.h>

int pids_add(struct pids *pids, pid_t pid)
{
    pid_t *at = realloc(pids->at, (pids->count + 1) * sizeof(*at));

    if (!at)
        return -ENOMEM;
    at[pids->count++] = pid;
    pids->at = at;
    return 0;
}

bool pids_have(const struct pids *pids, pid_t pid)
{
    for (size_t i = 0; i < pids->count; i++)
        if (pids->at[i] == pid)
            return true;
    return false;
}

void pids_release(struct pids *pids)
{
    free(pids->at);
    *pids = (struct pids){ 0 };
}
