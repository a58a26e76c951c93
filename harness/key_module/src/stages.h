/* SPDX-License-Identifier: MIT */
/* What the module does at each of CRIU's calls; pac_key_plugin.c wires these to the descriptor. */
#ifndef PAC_STAGES_H
#define PAC_STAGES_H

/* Before any task is stopped: -1 fails the dump, tasks untouched. */
int dump_init(void);
/*
 * From 4.0 on, once per task, when all of them are stopped and no image is written. Returns
 * -ENOTSUP (the chain goes on), or another negative number to fail the dump CRIU's own way.
 */
int dump_checkpoint(int pid);
/*
 * All images are written and every task is still stopped. Does not return when the keys could
 * not be saved.
 */
void dump_exit(int ret);

/* Before anything is restored: -1 refuses the restore. */
int restore_init(void);
/* Every thread of every task is stopped at its rt_sigreturn. Always -ENOTSUP: the chain goes on. */
int restore_late(int pid);
/* The tasks run already. Does not return when their keys are not all loaded. */
void restore_exit(int ret);

#endif
