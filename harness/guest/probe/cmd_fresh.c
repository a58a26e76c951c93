/* SPDX-License-Identifier: MIT */
/* fresh [--salt FILE]: the keys an exec gets now, read from a child stopped right after its exec. */
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commands.h"
#include "fail.h"
#include "trace.h"

void command_fresh(struct json *json, const struct options *options)
{
	struct pac_state pac;
	struct salt salt;
	int status;
	pid_t child;

	salt_read(&salt, options->salt);
	child = fork();
	if (child < 0)
		fail_errno("fork");
	if (!child) {
		/* A traced exec stops with SIGTRAP before its first instruction; it never gets to run. */
		if (!ptrace(PTRACE_TRACEME, 0, NULL, NULL))
			execl("/proc/self/exe", "pacprobe", "fresh-child", (char *)NULL);
		_exit(127);
	}
	if (waitpid(child, &status, __WALL) != child)
		fail_errno("waitpid(%d)", child);
	if (!WIFSTOPPED(status))
		fail("the child ended with wait status 0x%x instead of stopping at its exec", status);
	trace_read_pac(child, &pac);
	kill(child, SIGKILL);
	waitpid(child, &status, __WALL);
	pac_write_keys(json, &pac, &salt);
	pac_write_masks(json, &pac);
}
