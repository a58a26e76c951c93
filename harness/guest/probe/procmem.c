/* SPDX-License-Identifier: MIT */
#include "procmem.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "fail.h"

static bool read_memory(void *context, uint64_t address, void *bytes, size_t size)
{
	const struct process_memory *process = context;

	return pread(process->file, bytes, size, (off_t)address) == (ssize_t)size;
}

static bool is_executable(void *context, uint64_t address)
{
	struct process_memory *process = context;
	const struct mapping *mapping = maps_find(&process->maps, address);

	return mapping && mapping->executable;
}

void process_memory_open(struct process_memory *process, pid_t pid)
{
	char path[64];

	process->pid = pid;
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	process->file = open(path, O_RDONLY | O_CLOEXEC);
	if (process->file < 0)
		fail_errno("open(%s)", path);
	if (!maps_read(&process->maps, pid))
		fail("/proc/%d/maps cannot be read", pid);
	process->memory = (struct memory){
		.read = read_memory,
		.executable = is_executable,
		.context = process,
	};
}

void process_memory_close(struct process_memory *process)
{
	maps_free(&process->maps);
	close(process->file);
}

void process_chain(struct process_memory *process, const struct registers *registers,
		   const struct pac_state *pac, struct chain *chain)
{
	chain_walk(chain, &process->memory, pac->has_mask ? pac->insn_mask : 0,
		   registers->x[FRAME_POINTER], registers->x[LINK_REGISTER], registers->sp);
}
