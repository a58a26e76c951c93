/* SPDX-License-Identifier: MIT */
/* threads PID [--salt FILE] [--frames]: registers, masks, keys and frames of every thread of a process tree. */
#include <stdlib.h>
#include <sys/types.h>

#include "commands.h"
#include "pac.h"
#include "procfs.h"
#include "procmem.h"
#include "trace.h"

static struct chain chain;

static void write_frames(struct json *json, struct process_memory *process,
			 const struct registers *registers, const struct pac_state *pac)
{
	size_t records = 0, plain = 0;

	process_chain(process, registers, pac, &chain);
	json_array(json, "frames");
	for (size_t i = 0; i < chain.count; i++) {
		records += !chain.frames[i].in_register;
		plain += chain.frames[i].is_return && !chain.frames[i].is_signed;
		if (chain.frames[i].is_signed)
			frame_write(json, &chain.frames[i]);
	}
	json_end_array(json);
	/* "No signed frame" says something only where frames were seen. */
	json_integer(json, "records", (int64_t)records);
	json_integer(json, "unsigned_returns", (int64_t)plain);
}

static void write_thread(struct json *json, const struct thread *thread, pid_t nspid,
			 const struct salt *salt, struct process_memory *process, bool frames)
{
	const char state[2] = { thread->state, 0 };
	struct registers registers;
	struct pac_state pac;

	trace_read_registers(thread->tid, &registers);
	trace_read_pac(thread->tid, &pac);
	json_object(json, NULL);
	json_integer(json, "tid", thread->tid);
	json_integer(json, "nstid", thread->nstid);
	json_integer(json, "nspid", nspid);
	json_string(json, "state", state);
	json_pointer(json, "pc", registers.pc);
	json_pointer(json, "lr", registers.x[LINK_REGISTER]);
	json_pointer(json, "sp", registers.sp);
	json_pointer(json, "pstate", registers.pstate);
	json_pointer(json, "fp", registers.x[FRAME_POINTER]);
	pac_write_masks(json, &pac);
	pac_write_keys(json, &pac, salt);
	if (frames) {
		write_frames(json, process, &registers, &pac);
	} else {
		json_null(json, "frames");
		json_null(json, "records");
		json_null(json, "unsigned_returns");
	}
	json_end_object(json);
}

static void write_process(struct json *json, pid_t pid, const struct salt *salt, bool frames)
{
	struct process_memory process;
	struct thread *threads;
	size_t count;

	threads = trace_stop_all(pid, &count);
	process_memory_open(&process, pid);
	for (size_t i = 0; i < count; i++)
		write_thread(json, &threads[i], task_nstid(pid, pid), salt, &process, frames);
	process_memory_close(&process);
	trace_release_all(threads, count);
}

void command_threads(struct json *json, const struct options *options)
{
	pid_t pid = (pid_t)number_of(options->words[0], "PID"), *pids;
	size_t count = process_tree(pid, &pids);
	struct salt salt;

	salt_read(&salt, options->salt);
	json_integer(json, "pid", pid);
	json_array(json, "threads");
	for (size_t i = 0; i < count; i++)
		if (task_state(pids[i], pids[i]) != 'Z')
			write_process(json, pids[i], &salt, options->frames);
	json_end_array(json);
	json_array(json, "zombies");
	for (size_t i = 0; i < count; i++)
		if (task_state(pids[i], pids[i]) == 'Z')
			json_integer(json, NULL, task_nstid(pids[i], pids[i]));
	json_end_array(json);
	free(pids);
}
