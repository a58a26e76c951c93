/* SPDX-License-Identifier: MIT */
/*
 * init [--exits FILE]: process 1 of a container. It reaps whatever ends below it, because a restored
 * task has nobody else, and appends "pid status" (the raw wait status, decimal) for each.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commands.h"
#include "fail.h"

static void reap(int file)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		char line[48];
		int size = snprintf(line, sizeof(line), "%d %d\n", pid, status);

		/* One write of one line to an O_APPEND file. A full disk must not stop the reaping. */
		if (file >= 0 && write(file, line, (size_t)size) != size)
			continue;
	}
}

void command_init(struct json *json, const struct options *options)
{
	sigset_t wanted;
	int signal, file = -1;

	if (options->exits) {
		file = open(options->exits, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		if (file < 0)
			fail_errno("open(%s)", options->exits);
	}
	/* Blocked signals reach even process 1, which ignores the default actions of others. */
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGCHLD);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	do {
		reap(file);
		signal = sigwaitinfo(&wanted, NULL);
	} while (signal == SIGCHLD || (signal < 0 && errno == EINTR));
	reap(file);
	json_integer(json, "signal", signal);
}
