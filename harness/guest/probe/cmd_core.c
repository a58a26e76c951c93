/* SPDX-License-Identifier: MIT */
/*
 * core --dir DIR --salt FILE %P %p %s %e: the kernel's core_pattern pipe handler. core_pattern
 * holds 127 characters at most, so DIR and FILE are short. The dying task stays in /proc until its
 * core is written or, with kernel.core_pipe_limit set, until this program ends: the answer is on
 * disk before the task is gone.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "corefile.h"
#include "fail.h"
#include "procfs.h"

struct name {
	pid_t tid, nstid;
};

/* Threads as they are numbered here and in their own namespace, while the task still exists. */
static size_t read_names(pid_t pid, struct name **names)
{
	pid_t *tids;
	size_t count = task_list(pid, &tids);

	*names = calloc(count + 1, sizeof(**names));
	if (!*names)
		fail("out of memory");
	for (size_t i = 0; i < count; i++)
		(*names)[i] = (struct name){ .tid = tids[i], .nstid = task_nstid(pid, tids[i]) };
	free(tids);
	return count;
}

/* Bits 54 to 48: above any user address that was not asked for by a hint. */
#define CODE_BITS UINT64_C(0x007f000000000000)

static void write_mapping(struct json *json, const char *key, const struct maps *maps,
			  const struct pac_state *pac, uint64_t address)
{
	/* A CPU without PAC may have been given an address that one with it has signed. */
	uint64_t mask = pac->has_mask ? pac->insn_mask : CODE_BITS;
	const struct mapping *mapping = maps_find(maps, address & ~mask);

	json_string(json, key, mapping ? mapping->line : NULL);
}

static void write_thread(struct json *json, const struct core_thread *thread, const struct name *names,
			 size_t name_count, const struct maps *maps, const struct salt *salt)
{
	pid_t tid = 0;

	for (size_t i = 0; i < name_count; i++)
		if (names[i].nstid == thread->nstid)
			tid = names[i].tid;
	json_object(json, NULL);
	if (tid)
		json_integer(json, "tid", tid);
	else
		json_null(json, "tid");
	json_integer(json, "nstid", thread->nstid);
	json_integer(json, "signal", thread->signal);
	json_pointer(json, "pc", thread->pc);
	json_pointer(json, "lr", thread->lr);
	json_pointer(json, "sp", thread->sp);
	json_pointer(json, "pstate", thread->pstate);
	pac_write_masks(json, &thread->pac);
	pac_write_keys(json, &thread->pac, salt);
	write_mapping(json, "pc_mapping", maps, &thread->pac, thread->pc);
	write_mapping(json, "lr_mapping", maps, &thread->pac, thread->lr);
	json_end_object(json);
}

/* A reader never sees half a file under its final name. */
static void save(const char *path, const void *bytes, size_t size)
{
	char temporary[512];
	int file;

	snprintf(temporary, sizeof(temporary), "%s.tmp", path);
	file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (file < 0)
		fail_errno("open(%s)", temporary);
	for (size_t done = 0; done < size;) {
		ssize_t wrote = write(file, (const char *)bytes + done, size - done);

		if (wrote < 0)
			fail_errno("write(%s)", temporary);
		done += (size_t)wrote;
	}
	close(file);
	if (rename(temporary, path))
		fail_errno("rename(%s)", path);
}

static void save_json(const char *path, struct json *json)
{
	char *text = NULL;
	size_t size = 0;
	FILE *memory = open_memstream(&text, &size);

	if (!memory)
		fail_errno("open_memstream");
	json_write(json, memory);
	fclose(memory);
	save(path, text, size);
	free(text);
}

static void write_core(struct json *json, const struct core *core, const struct maps *maps,
		       const struct name *names, size_t name_count, const struct salt *salt)
{
	json_array(json, "threads");
	for (size_t i = 0; i < core->count; i++)
		write_thread(json, &core->threads[i], names, name_count, maps, salt);
	json_end_array(json);
	if (!core->has_siginfo) {
		json_null(json, "siginfo");
		return;
	}
	json_object(json, "siginfo");
	json_integer(json, "signo", core->signo);
	json_integer(json, "code", core->code);
	json_pointer(json, "addr", core->address);
	json_end_object(json);
}

void command_core(struct json *json, const struct options *options)
{
	static char image_path[480], json_path[496];
	pid_t pid = (pid_t)number_of(options->words[0], "%P");
	pid_t nspid = (pid_t)number_of(options->words[1], "%p");
	size_t name_count;
	struct name *names;
	struct json answer;
	struct salt salt;
	struct core core;
	struct maps maps;

	if (!options->dir)
		fail("core needs --dir DIR");
	snprintf(image_path, sizeof(image_path), "%s/core.%d", options->dir, pid);
	snprintf(json_path, sizeof(json_path), "%s.json", image_path);
	fail_also_into(json_path);
	salt_read(&salt, options->salt);
	/* First, while the task waits for its core to be taken off the pipe. */
	maps_read(&maps, pid);
	name_count = read_names(pid, &names);
	core_read(&core, STDIN_FILENO);
	json_begin(&answer);
	json_object(&answer, NULL);
	json_integer(&answer, "pid", pid);
	json_integer(&answer, "nspid", nspid);
	json_integer(&answer, "signal", number_of(options->words[2], "%s"));
	json_string(&answer, "comm", options->words[3]);
	write_core(&answer, &core, &maps, names, name_count, &salt);
	json_end_object(&answer);
	save(image_path, core.image, core.size);
	save_json(json_path, &answer);
	core_free(&core);
	maps_free(&maps);
	free(names);
	json_string(json, "core", image_path);
}
