/* SPDX-License-Identifier: MIT */
/* Threads as /proc shows them. */
#ifndef PAC_PROCFS_H
#define PAC_PROCFS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct thread_status {
    char state;       /* 't', 'S', 'Z', ... */
    pid_t tracer;     /* TracerPid, 0 when nobody traces it */
    uint32_t ns_tgid; /* last field of NStgid: the id in the innermost pid namespace */
    uint32_t ns_tid;  /* last field of NSpid */
    bool nested;      /* it has another id in a pid namespace below ours */
};

/* Called with the id in our own pid namespace; a non-zero return ends the walk and is its result. */
typedef int (*thread_visitor)(void *context, pid_t tid, const struct thread_status *status);

/* Visit every thread of one process. -ESRCH when there is no such process (any more). */
int procfs_each_thread(pid_t pid, thread_visitor visit, void *context);
/*
 * Visit, in one pass over /proc, every thread of every process whose leader `tracer` traces,
 * if that thread is traced by it too (where ids are the same in all namespaces, a thread is taken
 * to be traced as its leader is: reading its status would tell nothing else). Processes that end
 * meanwhile are passed over.
 */
int procfs_each_traced_thread(pid_t tracer, thread_visitor visit, void *context);

#endif
