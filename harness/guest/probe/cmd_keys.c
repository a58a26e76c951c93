/* SPDX-License-Identifier: MIT */
/* newkeys, loadkeys, copykeys: give a process other keys, its own back, or another's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "commands.h"
#include "fail.h"
#include "keyfile.h"
#include "trace.h"

static void answer(struct json *json, size_t count)
{
	/* trace_write_keys has read every key back, so reaching this line is the proof. */
	json_integer(json, "threads", (int64_t)count);
	json_bool(json, "changed", true);
}

static void read_keys(pid_t tid, struct pac_state *pac)
{
	trace_read_pac(tid, pac);
	if (!pac->has_address_keys)
		fail("thread %d has no readable address keys", tid);
}

static void save(const struct thread *threads, size_t count, const char *path)
{
	struct saved_keys *list = calloc(count, sizeof(*list));
	struct pac_state pac;

	if (!list)
		fail("out of memory");
	for (size_t i = 0; i < count; i++) {
		read_keys(threads[i].tid, &pac);
		list[i].tid = threads[i].tid;
		list[i].has_address_keys = pac.has_address_keys;
		list[i].has_generic_key = pac.has_generic_key;
		memcpy(list[i].keys, pac.keys, sizeof(pac.keys));
	}
	keyfile_write(path, list, count);
	explicit_bzero(list, count * sizeof(*list));
	explicit_bzero(&pac, sizeof(pac));
	free(list);
}

void command_newkeys(struct json *json, const struct options *options)
{
	pid_t pid = (pid_t)number_of(options->words[0], "PID");
	struct pac_state pac, fresh;
	struct thread *threads;
	size_t count;

	if (!options->save)
		fail("newkeys needs --save FILE");
	if (getrandom(fresh.keys, sizeof(fresh.keys), 0) != sizeof(fresh.keys))
		fail_errno("getrandom");
	threads = trace_stop_all(pid, &count);
	/* Kept before anything changes: a process must never lose keys nobody has. */
	save(threads, count, options->save);
	for (size_t i = 0; i < count; i++) {
		/* Threads of a process start with the same keys, so they get the same new ones. */
		read_keys(threads[i].tid, &pac);
		memcpy(pac.keys, fresh.keys, PACA_BYTES);
		if (pac.has_generic_key)
			memcpy(pac.keys + PACA_BYTES, fresh.keys + PACA_BYTES, PACG_BYTES);
		trace_write_keys(threads[i].tid, &pac);
	}
	trace_release_all(threads, count);
	explicit_bzero(&pac, sizeof(pac));
	explicit_bzero(&fresh, sizeof(fresh));
	answer(json, count);
}

static const struct saved_keys *saved_for(const struct saved_keys *list, size_t count, pid_t tid)
{
	for (size_t i = 0; i < count; i++)
		if (list[i].tid == tid)
			return &list[i];
	fail("thread %d has no saved keys", tid);
}

void command_loadkeys(struct json *json, const struct options *options)
{
	pid_t pid = (pid_t)number_of(options->words[0], "PID");
	struct thread *threads;
	struct saved_keys *list;
	size_t count, saved;

	list = keyfile_read(options->words[1], &saved);
	threads = trace_stop_all(pid, &count);
	/* All or none: half a process with other keys would be a new bug. */
	for (size_t i = 0; i < count; i++)
		saved_for(list, saved, threads[i].tid);
	for (size_t i = 0; i < count; i++) {
		const struct saved_keys *own = saved_for(list, saved, threads[i].tid);
		struct pac_state pac = {
			.has_address_keys = own->has_address_keys,
			.has_generic_key = own->has_generic_key,
		};

		memcpy(pac.keys, own->keys, sizeof(pac.keys));
		trace_write_keys(threads[i].tid, &pac);
		explicit_bzero(&pac, sizeof(pac));
	}
	trace_release_all(threads, count);
	explicit_bzero(list, saved * sizeof(*list));
	free(list);
	answer(json, count);
}

void command_copykeys(struct json *json, const struct options *options)
{
	pid_t from = (pid_t)number_of(options->words[0], "SRC");
	pid_t to = (pid_t)number_of(options->words[1], "DST");
	struct pac_state pac;
	struct thread *threads;
	size_t count;
	int signal;

	if (!trace_stop(from, &signal))
		fail("thread %d is gone", from);
	read_keys(from, &pac);
	trace_release(from, signal);
	threads = trace_stop_all(to, &count);
	for (size_t i = 0; i < count; i++)
		trace_write_keys(threads[i].tid, &pac);
	trace_release_all(threads, count);
	explicit_bzero(&pac, sizeof(pac));
	answer(json, count);
}
