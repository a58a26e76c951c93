/* SPDX-License-Identifier: MIT */
/*
 * launch FILE PROGRAM ARGUMENTS...: starts a workload the way CRIU can restore it: leader of its own
 * session, input from /dev/null, output into FILE, and its parent (this program) gone at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "fail.h"

static _Noreturn void become(const char *output, char **argv, int report)
{
	int in = open("/dev/null", O_RDONLY);
	int out = open(output, O_WRONLY | O_CREAT | O_APPEND, 0644);
	int error;

	if (in >= 0 && out >= 0 && setsid() >= 0 && dup2(in, STDIN_FILENO) >= 0 &&
	    dup2(out, STDOUT_FILENO) >= 0 && dup2(out, STDERR_FILENO) >= 0) {
		close(in);
		close(out);
		execvp(argv[0], argv);
	}
	error = errno;
	(void)!write(report, &error, sizeof(error));
	_exit(127);
}

void launch(struct json *json, char **arguments)
{
	int report[2], error = 0;
	pid_t pid;

	if (!arguments[0] || !arguments[1])
		fail("launch needs FILE PROGRAM [ARGUMENTS...]");
	if (pipe2(report, O_CLOEXEC))
		fail_errno("pipe2");
	pid = fork();
	if (pid < 0)
		fail_errno("fork");
	if (!pid)
		become(arguments[0], arguments + 1, report[1]);
	close(report[1]);
	/* The pipe closes itself at a successful exec; otherwise it holds the error. */
	if (read(report[0], &error, sizeof(error)) == sizeof(error)) {
		errno = error;
		fail_errno("start of %s with output in %s", arguments[1], arguments[0]);
	}
	json_integer(json, "pid", pid);
}
