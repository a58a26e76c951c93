/* SPDX-License-Identifier: MIT */
/* The memory of a stopped process, for frames.h. */
#ifndef PROBE_PROCMEM_H
#define PROBE_PROCMEM_H

#include "frames.h"
#include "procfs.h"
#include "trace.h"

struct process_memory {
	pid_t pid;
	int file; /* /proc/PID/mem */
	struct maps maps;
	struct memory memory; /* to hand to frames.h */
};

/* The process has to be stopped by this program before anything is read. */
void process_memory_open(struct process_memory *process, pid_t pid);
void process_memory_close(struct process_memory *process);

/* The chain of a stopped thread of that process. */
void process_chain(struct process_memory *process, const struct registers *registers,
		   const struct pac_state *pac, struct chain *chain);

#endif
