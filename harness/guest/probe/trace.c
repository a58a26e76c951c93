/* SPDX-License-Identifier: MIT */
#include "trace.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include "fail.h"
#include "procfs.h"

#define STOP_PATIENCE_MS 10000
#define EVENT_OF(status) ((status) >> 16)

int64_t monotonic_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool trace_wait(pid_t tid, int *status, int64_t until)
{
	sigset_t child;

	/* Blocked first: a change between waitpid and sigtimedwait leaves the signal pending. */
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	for (;;) {
		pid_t changed = waitpid(tid, status, __WALL | WNOHANG);
		int64_t left = until - monotonic_ms();
		struct timespec rest = { .tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000 };

		if (changed == tid)
			return true;
		if (changed < 0)
			fail_errno("waitpid(%d)", tid);
		if (left <= 0)
			return false;
		sigtimedwait(&child, NULL, &rest);
	}
}

bool trace_stop(pid_t tid, int *signal)
{
	int status;

	*signal = 0;
	if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)PTRACE_O_TRACESYSGOOD)) {
		if (errno == ESRCH)
			return false;
		fail_errno("ptrace(PTRACE_SEIZE, %d)", tid);
	}
	if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) && errno != ESRCH)
		fail_errno("ptrace(PTRACE_INTERRUPT, %d)", tid);
	if (!trace_wait(tid, &status, monotonic_ms() + STOP_PATIENCE_MS))
		fail("thread %d did not stop within %d ms, state %c", tid, STOP_PATIENCE_MS,
		     task_state(tid, tid));
	if (!WIFSTOPPED(status))
		return false;
	/* A signal was quicker than the interrupt. The thread is stopped all the same. */
	if (EVENT_OF(status) != PTRACE_EVENT_STOP)
		*signal = WSTOPSIG(status);
	return true;
}

void trace_release(pid_t tid, int signal)
{
	if (ptrace(PTRACE_DETACH, tid, NULL, (void *)(long)signal) && errno != ESRCH)
		fail_errno("ptrace(PTRACE_DETACH, %d)", tid);
}

static bool holds(const struct thread *threads, size_t count, pid_t tid)
{
	for (size_t i = 0; i < count; i++)
		if (threads[i].tid == tid)
			return true;
	return false;
}

struct thread *trace_stop_all(pid_t pid, size_t *count)
{
	struct thread *threads = NULL;
	bool grown = true;

	*count = 0;
	/* A running thread can start another; the list is complete when a round finds nobody new. */
	while (grown) {
		pid_t *tids;
		size_t listed = task_list(pid, &tids);

		grown = false;
		for (size_t i = 0; i < listed; i++) {
			struct thread thread = { .tid = tids[i] };

			if (holds(threads, *count, tids[i]))
				continue;
			thread.state = task_state(pid, tids[i]);
			thread.nstid = task_nstid(pid, tids[i]);
			/* A dead leader stays listed as long as others live, and cannot be seized. */
			if (!thread.state || strchr("ZX", thread.state))
				continue;
			if (!trace_stop(tids[i], &thread.signal))
				continue;
			threads = realloc(threads, (*count + 1) * sizeof(*threads));
			if (!threads)
				fail("out of memory");
			threads[(*count)++] = thread;
			grown = true;
		}
		free(tids);
	}
	if (!*count)
		fail("process %d has no living thread", pid);
	return threads;
}

void trace_release_all(struct thread *threads, size_t count)
{
	for (size_t i = 0; i < count; i++)
		trace_release(threads[i].tid, threads[i].signal);
	free(threads);
}
