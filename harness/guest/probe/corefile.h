/* SPDX-License-Identifier: MIT */
/* The notes of an arm64 ELF core, taken from a stream, with the keys blanked. */
#ifndef PROBE_COREFILE_H
#define PROBE_COREFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "pac.h"

struct core_thread {
	pid_t nstid; /* the kernel numbers threads as the dying task's own pid namespace does */
	int signal;
	uint64_t pc, lr, sp, pstate;
	struct pac_state pac;
};

struct core {
	uint8_t *image; /* a small core: headers of the notes, the notes, no key bytes */
	size_t size;
	struct core_thread *threads; /* the one that died first */
	size_t count;
	bool has_siginfo;
	int signo, code;
	uint64_t address;
};

/*
 * Reads the stream up to the end of its last note segment and no further. Ends the program on
 * anything that is not an arm64 core or has a note that does not fit its segment.
 */
void core_read(struct core *core, int stream);

/* Overwrites the keys and gives the memory back. */
void core_free(struct core *core);

#endif
