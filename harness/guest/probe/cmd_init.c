/* SPDX-License-Identifier: MIT */
/*
 * init [--exits FILE]: process 1 of a container. It reaps whatever ends below it, because a restored
 * task has nobody else, and appends "pid status" (the raw wait status, decimal) for each.
 * adopt FILE PROGRAM ARGUMENTS...: runs a program and ends with its exit code; what the program
 * leaves running is adopted by a process that stays, and its ends are appended to FILE likewise.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commands.h"
#include "fail.h"

static void record(int file, pid_t pid, int status)
{
	char line[48];
	int size = snprintf(line, sizeof(line), "%d %d\n", pid, status);

	/* One write of one line to an O_APPEND file. A full disk must not stop the reaping. */
	if (file >= 0)
		(void)!write(file, line, (size_t)size);
}

static void reap(int file)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		record(file, pid, status);
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

/* Keeps the exits file; tells the exit code of `program`, its first child, and outlives it. */
static _Noreturn void guard(int file, pid_t program, int report)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, 0)) > 0 || errno == EINTR) {
		if (pid != program) {
			record(file, pid, status);
			continue;
		}
		status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		(void)!write(report, &status, sizeof(status));
		close(report);
		/* Whoever waits for the end of our output must not wait for what was adopted. */
		for (int stream = 0; stream <= 2; stream++)
			dup2(file, stream);
	}
	_exit(0);
}

static _Noreturn void adopt_child(int file, char **program, int report)
{
	pid_t pid;

	setsid();
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) || (pid = fork()) < 0)
		_exit(1);
	if (pid)
		guard(file, pid, report);
	execvp(program[0], program);
	fprintf(stderr, "%s: %s\n", program[0], strerror(errno));
	_exit(127);
}

int adopt(char **arguments)
{
	int report[2], status, file;
	pid_t pid;

	if (!arguments[0] || !arguments[1])
		fail("adopt needs FILE PROGRAM [ARGUMENTS...]");
	file = open(arguments[0], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (file < 0)
		fail_errno("open(%s)", arguments[0]);
	if (pipe2(report, O_CLOEXEC) || (pid = fork()) < 0)
		fail_errno("start of %s", arguments[1]);
	if (!pid) {
		close(report[0]);
		adopt_child(file, arguments + 1, report[1]);
	}
	close(report[1]);
	if (read(report[0], &status, sizeof(status)) != sizeof(status))
		fail("the end of %s was not seen", arguments[1]);
	return status;
}
