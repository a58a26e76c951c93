/* SPDX-License-Identifier: MIT */
/* What the module does at each of CRIU's calls; pac_key_plugin.c wires these to the descriptor. */
#ifndef PAC_STAGES_H
#define PAC_STAGES_H

/* Before any task is stopped: -1 fails the dump, tasks untouched. */
int dump_init(void);
/*
 * In 3.17 to 3.19: all images are written, every task is still stopped, the roll-back of a
 * failed dump is still ahead. Does not return when the keys could not be saved.
 */
void dump_exit(int ret);

/* Before anything is restored: -1 refuses the restore. */
int restore_init(void);
/* Every thread of every task is stopped at its rt_sigreturn. Always -ENOTSUP: the chain goes on. */
int restore_late(int pid);
/* The tasks run already. Does not return when their keys are not all loaded. */
void restore_exit(int ret);

#endif
