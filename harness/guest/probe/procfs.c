/* SPDX-License-Identifier: MIT */
#include "procfs.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"

/* Files of /proc have no size to ask for; NULL when the file cannot be read. */
static char *read_whole(const char *path)
{
	size_t size = 0, room = 16384;
	char *text = malloc(room);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = -1;

	if (!text)
		fail("out of memory");
	while (file >= 0 && (got = read(file, text + size, room - size - 1)) > 0) {
		size += (size_t)got;
		if (room - size < 4096 && !(text = realloc(text, room *= 2)))
			fail("out of memory");
	}
	if (file >= 0)
		close(file);
	if (got < 0) {
		free(text);
		return NULL;
	}
	text[size] = 0;
	return text;
}

bool maps_read(struct maps *maps, pid_t pid)
{
	char path[64], *line, *next;
	size_t room = 0;

	memset(maps, 0, sizeof(*maps));
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps->text = read_whole(path);
	if (!maps->text)
		return false;
	for (line = maps->text; *line; line = next) {
		struct mapping mapping = { .line = line };
		char permissions[5];

		next = line + strcspn(line, "\n");
		if (*next)
			*next++ = 0;
		/* aaaac8f60000-aaaac9230000 r-xp 00000000 00:2c 1234   /usr/bin/python3.13 */
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &mapping.start, &mapping.end,
			   permissions) != 3)
			fail("%s: cannot read the line %s", path, line);
		mapping.executable = strchr(permissions, 'x') != NULL;
		if (maps->count == room) {
			room = room * 2 + 128;
			maps->list = realloc(maps->list, room * sizeof(*maps->list));
			if (!maps->list)
				fail("out of memory");
		}
		maps->list[maps->count++] = mapping;
	}
	return true;
}

void maps_free(struct maps *maps)
{
	free(maps->text);
	free(maps->list);
	memset(maps, 0, sizeof(*maps));
}

const struct mapping *maps_find(const struct maps *maps, uint64_t address)
{
	for (size_t i = 0; i < maps->count; i++)
		if (address >= maps->list[i].start && address < maps->list[i].end)
			return &maps->list[i];
	return NULL;
}

struct ids {
	pid_t *list;
	size_t count, room;
};

static void ids_add(struct ids *ids, pid_t id)
{
	if (ids->count == ids->room) {
		ids->room = ids->room * 2 + 64;
		ids->list = realloc(ids->list, ids->room * sizeof(*ids->list));
		if (!ids->list)
			fail("out of memory");
	}
	ids->list[ids->count++] = id;
}

size_t task_list(pid_t pid, pid_t **tids)
{
	struct ids found = { 0 };
	char path[64];
	struct dirent *entry;
	DIR *directory;

	*tids = NULL;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	directory = opendir(path);
	if (!directory)
		return 0;
	while ((entry = readdir(directory))) {
		if (isdigit((unsigned char)entry->d_name[0]))
			ids_add(&found, (pid_t)strtol(entry->d_name, NULL, 10));
	}
	closedir(directory);
	*tids = found.list;
	return found.count;
}

/* /proc/PID/task/TID/children: "17 18 ", the processes that this thread started. */
static void add_children(struct ids *tree, pid_t pid, pid_t tid)
{
	char path[64], *text, *end;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, tid);
	text = read_whole(path);
	if (!text)
		return;
	for (char *next = text; *next; next = end) {
		long child = strtol(next, &end, 10);

		if (end == next)
			break;
		ids_add(tree, (pid_t)child);
	}
	free(text);
}

size_t process_tree(pid_t pid, pid_t **pids)
{
	struct ids tree = { 0 };

	ids_add(&tree, pid);
	for (size_t at = 0; at < tree.count; at++) {
		pid_t *tids;
		size_t count = task_list(tree.list[at], &tids);

		for (size_t i = 0; i < count; i++)
			add_children(&tree, tree.list[at], tids[i]);
		free(tids);
	}
	*pids = tree.list;
	return tree.count;
}

/* The text after "\nNAME:", up to the end of its line, in `value`; false when it is not there. */
static bool status_field(pid_t pid, pid_t tid, const char *name, char *value, size_t room)
{
	char path[64], *text, *found;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	text = read_whole(path);
	if (!text)
		return false;
	found = strstr(text, name);
	if (found)
		snprintf(value, room, "%.*s", (int)strcspn(found + strlen(name), "\n"),
			 found + strlen(name));
	free(text);
	return found != NULL;
}

pid_t task_nstid(pid_t pid, pid_t tid)
{
	char value[256], *last;

	if (!status_field(pid, tid, "\nNSpid:\t", value, sizeof(value)))
		return 0;
	last = strrchr(value, '\t');
	return (pid_t)strtol(last ? last + 1 : value, NULL, 10);
}

char task_state(pid_t pid, pid_t tid)
{
	char value[64];

	return status_field(pid, tid, "\nState:\t", value, sizeof(value)) ? value[0] : 0;
}
