/* SPDX-License-Identifier: MIT */
/* What /proc tells about a process: its threads, mappings, memory, and numbers inside its namespace. */
#ifndef PROBE_PROCFS_H
#define PROBE_PROCFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct mapping {
	uint64_t start, end;
	bool executable;
	const char *line; /* the line of /proc/PID/maps, without its newline */
};

struct maps {
	char *text;
	struct mapping *list;
	size_t count;
};

/* Reads /proc/PID/maps; false when the process is gone. maps_free works on a zeroed or read value. */
bool maps_read(struct maps *maps, pid_t pid);
void maps_free(struct maps *maps);

/* The mapping that holds the address, or NULL. */
const struct mapping *maps_find(const struct maps *maps, uint64_t address);

/* Thread ids of a process in an array to free(); the count is 0 when the process is gone. */
size_t task_list(pid_t pid, pid_t **tids);

/* A process and all its living descendants, parents first, in an array to free(). */
size_t process_tree(pid_t pid, pid_t **pids);

/* The thread's number in its own pid namespace (last field of NSpid); 0 when it is gone. */
pid_t task_nstid(pid_t pid, pid_t tid);

/* The state letter of /proc/PID/task/TID/status; 0 when the thread is gone. */
char task_state(pid_t pid, pid_t tid);

#endif
