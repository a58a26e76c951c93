/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "procfs.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_SIZE 64

/* The id of a directory entry such as "1234", or 0 for any other name. */
static pid_t entry_id(const struct dirent *entry)
{
    char *end;
    long id = strtol(entry->d_name, &end, 10);

    return *end == '\0' && id > 0 && id <= INT32_MAX ? (pid_t)id : 0;
}

static bool starts(const char *line, const char *field)
{
    return strncmp(line, field, strlen(field)) == 0;
}

/* "NSpid:\t4021\t17" -> 17 */
static uint32_t last_number(const char *line)
{
    const char *last = strrchr(line, '\t');

    return last ? (uint32_t)strtoul(last, NULL, 10) : 0;
}

static void read_field(struct thread_status *status, const char *line)
{
    if (starts(line, "State:\t"))
        status->state = line[strlen("State:\t")];
    else if (starts(line, "TracerPid:\t"))
        status->tracer = (pid_t)last_number(line);
    else if (starts(line, "NStgid:\t") || starts(line, "Tgid:\t"))
        status->ns_tgid = last_number(line);
    else if (starts(line, "NSpid:\t")) {
        status->ns_tid = last_number(line);
        status->nested = strchr(line + strlen("NSpid:\t"), '\t') != NULL;
    } else if (starts(line, "Pid:\t"))
        status->ns_tid = last_number(line); /* comes first and serves kernels without pid namespaces */
}

/*
 * Line by line: Groups, which stands before NSpid, can be hundreds of kilobytes long. With
 * `wanted` not zero, reading ends early for a thread that another process traces.
 */
static int read_status(const char *path, pid_t wanted, struct thread_status *status)
{
    char *line = NULL;
    size_t size = 0;
    bool ours = true;
    FILE *file = fopen(path, "re");

    if (!file)
        return errno == ENOENT ? -ESRCH : -errno;
    memset(status, 0, sizeof(*status));
    while (ours && getline(&line, &size, file) > 0) {
        read_field(status, line);
        ours = !wanted || !starts(line, "TracerPid:") || status->tracer == wanted;
    }
    fclose(file);
    free(line);
    return ours && (!status->state || !status->ns_tid || !status->ns_tgid) ? -ESRCH : 0;
}

/* With `leader` not NULL its threads are told from it, else from their own status. */
static int each_thread(pid_t pid, pid_t wanted, const struct thread_status *leader, thread_visitor visit,
                       void *context)
{
    char path[PATH_SIZE];
    struct thread_status status;
    struct dirent *entry;
    int result = 0;
    DIR *tasks;

    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    tasks = opendir(path);
    if (!tasks)
        return errno == ENOENT ? -ESRCH : -errno;
    while (!result && (entry = readdir(tasks))) {
        pid_t tid = entry_id(entry);

        if (!tid)
            continue;
        if (leader) {
            status = *leader;
            status.ns_tid = (uint32_t)tid;
        } else {
            snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
            result = read_status(path, wanted, &status);
        }
        if (result == -ESRCH)
            result = 0;
        else if (!result && (!wanted || status.tracer == wanted))
            result = visit(context, tid, &status);
    }
    closedir(tasks);
    return result;
}

int procfs_each_thread(pid_t pid, thread_visitor visit, void *context)
{
    return each_thread(pid, 0, NULL, visit, context);
}

int procfs_each_traced_thread(pid_t tracer, thread_visitor visit, void *context)
{
    char path[PATH_SIZE];
    struct thread_status status;
    struct dirent *entry;
    int result = 0;
    DIR *processes = opendir("/proc");

    if (!processes)
        return -errno;
    while (!result && (entry = readdir(processes))) {
        pid_t pid = entry_id(entry);

        if (!pid)
            continue;
        snprintf(path, sizeof(path), "/proc/%d/status", pid);
        if (read_status(path, tracer, &status) || status.tracer != tracer)
            continue;
        result = each_thread(pid, tracer, status.nested ? NULL : &status, visit, context);
        if (result == -ESRCH)
            result = 0;
    }
    closedir(processes);
    return result;
}
