/* SPDX-License-Identifier: MIT */
/*
 * Stopping threads and reading or writing their registers. Threads are seized, so that a stop
 * leaves no signal behind, a sleep goes on after it, and a task that was stopped stays stopped.
 * If this program dies half-way the kernel lets every seized thread go.
 */
#ifndef PROBE_TRACE_H
#define PROBE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "pac.h"

struct registers {
	uint64_t x[31], sp, pc, pstate;
};

#define FRAME_POINTER 29
#define LINK_REGISTER 30

struct thread {
	pid_t tid, nstid;
	char state; /* as /proc had it before the stop */
	int signal; /* caught on its way to the thread, handed on at the release */
};

/* Seizes and interrupts one thread; false when it is gone. */
bool trace_stop(pid_t tid, int *signal);
void trace_release(pid_t tid, int signal);

/* Stops every thread, also those born meanwhile; an array to hand to trace_release_all. */
struct thread *trace_stop_all(pid_t pid, size_t *count);
void trace_release_all(struct thread *threads, size_t count);

/* Waits until the monotonic time `until` (milliseconds) for a change of the thread; false when none came. */
bool trace_wait(pid_t tid, int *status, int64_t until);
int64_t monotonic_ms(void);

void trace_read_registers(pid_t tid, struct registers *registers);

/* What the kernel does not offer (EINVAL, ENODEV) is marked as absent. */
void trace_read_pac(pid_t tid, struct pac_state *pac);

/* Sets the keys `pac` has and reads them back: the kernel has to give what it was given. */
void trace_write_keys(pid_t tid, const struct pac_state *pac);

#endif
