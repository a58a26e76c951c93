/* SPDX-License-Identifier: MIT */
/*
 * watch PID --ticks N --deadline MS: which signed frames of one thread are really returned through
 * in N whole rounds from output to output.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commands.h"
#include "fail.h"
#include "pac.h"
#include "procmem.h"
#include "trace.h"

#define SYSCALL_STOP (SIGTRAP | 0x80) /* PTRACE_O_TRACESYSGOOD */

/* struct ptrace_syscall_info of linux/ptrace.h, as far as an entry fills it. */
struct syscall_entry {
	uint8_t op; /* 1: entry, 2: exit */
	uint8_t padding[3];
	uint32_t arch;
	uint64_t pc, sp, number, arguments[6];
};

#define GET_SYSCALL_INFO 0x420e
#define SYSCALL_ENTRY 1

enum ending { AT_TICKS, AT_DEADLINE, AT_EXIT };

static const char *const ending_names[] = { "ticks", "deadline", "exited" };

struct watch {
	pid_t pid;
	long ticks;
	int64_t until;
	struct process_memory process;
	struct pac_state pac;
	struct chain start, now; /* start: of the first stop, and of every sleep since */
	bool gone[FRAMES_MAX];
	int64_t stops, writes;
};

static struct watch watch;

static bool is_sleep(uint64_t number)
{
	return number == SYS_nanosleep || number == SYS_clock_nanosleep || number == SYS_pselect6 ||
	       number == SYS_ppoll;
}

static bool is_output(const struct syscall_entry *entry)
{
	return entry->arguments[0] == STDOUT_FILENO &&
	       (entry->number == SYS_write || entry->number == SYS_pwrite64 || entry->number == SYS_writev);
}

static void compare(void)
{
	struct registers registers;

	trace_read_registers(watch.pid, &registers);
	process_chain(&watch.process, &registers, &watch.pac, &watch.now);
	for (size_t i = 0; i < watch.start.count; i++)
		if (watch.start.frames[i].is_signed && !watch.gone[i])
			watch.gone[i] = frame_is_gone(&watch.start.frames[i], &watch.start, &watch.now,
						      registers.sp, &watch.process.memory);
	watch.stops++;
}

/* A thread may be met anywhere in its round, and only where it sleeps is it as deep as it goes. */
static void remember(void)
{
	for (size_t i = 0; i < watch.now.count && watch.start.count < FRAMES_MAX; i++)
		if (!chain_holds(&watch.start, &watch.now.frames[i]))
			watch.start.frames[watch.start.count++] = watch.now.frames[i];
}

/* Looks at a stop on the way into or out of the kernel; true when enough was seen. */
static bool at_syscall(void)
{
	struct syscall_entry entry;

	if (ptrace(GET_SYSCALL_INFO, watch.pid, (void *)sizeof(entry), &entry) < 0)
		fail_errno("ptrace(PTRACE_GET_SYSCALL_INFO, %d)", watch.pid);
	if (entry.op != SYSCALL_ENTRY)
		return false;
	compare();
	watch.writes += is_output(&entry);
	if (!is_sleep(entry.number))
		return false;
	/* The first output ends the round in which the thread was met. */
	if (watch.writes > watch.ticks)
		return true;
	remember();
	return false;
}

static bool is_stop_signal(int signal)
{
	return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

/* Lets the thread go on to its next stop; a thread stopped by its user stays stopped. */
static void resume(int status, int signal)
{
	bool stopped = status >> 16 == PTRACE_EVENT_STOP && is_stop_signal(WSTOPSIG(status));

	if (ptrace(stopped ? PTRACE_LISTEN : PTRACE_SYSCALL, watch.pid, NULL, (void *)(long)signal))
		fail_errno("ptrace(PTRACE_SYSCALL, %d)", watch.pid);
}

/* Follows the thread until it has ticked enough, the time is over, or it ends. */
static enum ending follow(int signal)
{
	int status = 0;

	for (;;) {
		resume(status, signal);
		signal = 0;
		if (!trace_wait(watch.pid, &status, watch.until))
			return AT_DEADLINE;
		if (!WIFSTOPPED(status))
			return AT_EXIT;
		if (WSTOPSIG(status) == SYSCALL_STOP) {
			if (at_syscall())
				return AT_TICKS;
		} else if (status >> 16 == 0) {
			signal = WSTOPSIG(status);
		}
	}
}

/* Stops a thread that runs or sleeps under PTRACE_SYSCALL, to be able to let it go. */
static enum ending release_running(void)
{
	int status, signal = 0;

	if (ptrace(PTRACE_INTERRUPT, watch.pid, NULL, NULL) && errno != ESRCH)
		fail_errno("ptrace(PTRACE_INTERRUPT, %d)", watch.pid);
	if (!trace_wait(watch.pid, &status, monotonic_ms() + 10000))
		fail("thread %d did not stop at the deadline", watch.pid);
	if (!WIFSTOPPED(status))
		return AT_EXIT;
	if (status >> 16 == 0 && WSTOPSIG(status) != SYSCALL_STOP)
		signal = WSTOPSIG(status);
	trace_release(watch.pid, signal);
	return AT_DEADLINE;
}

static void write_frames(struct json *json, const char *name, bool only_gone)
{
	json_array(json, name);
	for (size_t i = 0; i < watch.start.count; i++)
		if (watch.start.frames[i].is_signed && (watch.gone[i] || !only_gone))
			frame_write(json, &watch.start.frames[i]);
	json_end_array(json);
}

void command_watch(struct json *json, const struct options *options)
{
	struct registers registers;
	enum ending ending;
	struct salt salt;
	int signal;

	watch.pid = (pid_t)number_of(options->words[0], "PID");
	watch.ticks = options->ticks;
	if (!options->ticks || !options->deadline)
		fail("watch needs --ticks and --deadline");
	watch.until = monotonic_ms() + options->deadline;
	salt_read(&salt, options->salt);
	if (!trace_stop(watch.pid, &signal))
		fail("thread %d is gone", watch.pid);
	process_memory_open(&watch.process, watch.pid);
	trace_read_pac(watch.pid, &watch.pac);
	trace_read_registers(watch.pid, &registers);
	process_chain(&watch.process, &registers, &watch.pac, &watch.start);
	ending = follow(signal);
	if (ending == AT_TICKS)
		trace_release(watch.pid, 0);
	if (ending == AT_DEADLINE)
		ending = release_running();
	json_integer(json, "pid", watch.pid);
	write_frames(json, "start", false);
	write_frames(json, "returned", true);
	json_integer(json, "stops", watch.stops);
	json_integer(json, "writes", watch.writes);
	json_string(json, "ended", ending_names[ending]);
	pac_write_masks(json, &watch.pac);
	pac_write_keys(json, &watch.pac, &salt);
	process_memory_close(&watch.process);
}
