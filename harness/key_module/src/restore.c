/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "stages.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "probe.h"
#include "procfs.h"
#include "regsets.h"
#include "secret.h"
#include "validate.h"

static struct {
    struct secret file;
    struct keyfile keys; /* points into file */
    bool load;           /* there are keys to load; else the late hook does nothing */
    bool failed;
    uint32_t loaded; /* threads whose keys are in place */
    pid_t *tasks;    /* seen by the late hook, all stopped until it has seen the last one */
    size_t task_count;
} restore;

int restore_init(void)
{
    char reason[REASON_SIZE];
    enum policy policy;
    enum verdict verdict;

    if (read_policy(&policy, reason)) {
        pac_error("%s; restore refused", reason);
        return -1;
    }
    verdict = validate_images(&restore.file, &restore.keys, reason);
    if (verdict == VALID) {
        restore.load = restore.keys.header.flags & KEYFILE_ADDRESS_AUTH;
        if (restore.load)
            pac_info("keys of %u threads will be loaded", restore.keys.header.thread_count);
        else
            pac_info("these images and this machine are without pointer authentication");
        return 0;
    }
    secret_release(&restore.file);
    if (policy == POLICY_WARN) {
        pac_warn("%s; going on without loading keys, as " POLICY_VARIABLE " asks for", reason);
        return 0;
    }
    pac_error("%s; restore refused", reason);
    return -1;
}

static int write_keys(pid_t tid, const struct keyfile_thread *thread)
{
    int error = regset_write(tid, REGSET_PACA_KEYS, thread->paca, KEYFILE_PACA_SIZE);

    if (!error && thread->flags & KEYFILE_HAS_PACG)
        error = regset_write(tid, REGSET_PACG_KEYS, thread->pacg, KEYFILE_PACG_SIZE);
    if (!error && thread->flags & KEYFILE_HAS_ENABLED) {
        error = regset_write(tid, REGSET_PAC_ENABLED_KEYS, &thread->enabled_keys, sizeof(thread->enabled_keys));
        /* A kernel before 5.13 has no such set, and every key enabled. */
        if (error == -EINVAL && thread->enabled_keys == KEYFILE_ENABLED_ALL)
            error = 0;
    }
    return error;
}

static int load_thread(void *context, pid_t tid, const struct thread_status *status)
{
    struct keyfile_thread thread;
    int error;

    (void)context;
    if (status->state == 'Z' || status->state == 'X')
        return 0;
    if (keyfile_find(&restore.keys, status->ns_tid, &thread)) {
        pac_error("thread %d (%u in its pid namespace) has no keys in " KEYFILE_NAME, tid, status->ns_tid);
        return -ENOENT;
    }
    error = thread.tgid == status->ns_tgid ? write_keys(tid, &thread) : -EXDEV;
    explicit_bzero(&thread, sizeof(thread));
    if (error)
        pac_error("cannot load the keys of thread %d: %s", tid, strerror(-error));
    else
        restore.loaded++;
    return error;
}

static int remember_task(pid_t pid)
{
    pid_t *tasks = realloc(restore.tasks, (restore.task_count + 1) * sizeof(*tasks));

    if (!tasks)
        return -ENOMEM;
    tasks[restore.task_count++] = pid;
    restore.tasks = tasks;
    return 0;
}

/* CRIU ignores what the hook returns, so a task that must not run is killed where it stands. */
static void kill_tasks(void)
{
    for (size_t i = 0; i < restore.task_count; i++)
        kill(restore.tasks[i], SIGKILL);
    restore.task_count = 0;
}

int restore_late(int pid)
{
    int error;

    if (!restore.load || pid <= 0)
        return -ENOTSUP;
    if (remember_task(pid)) {
        kill(pid, SIGKILL);
        error = -ENOMEM;
    } else {
        error = restore.failed ? 0 : procfs_each_thread(pid, load_thread, NULL);
    }
    if (error == -ESRCH) /* CRIU calls for helpers that have ended, too */
        error = 0;
    if (error && !restore.failed) {
        pac_error("task %d cannot run without its keys: the tasks of this restore are killed", pid);
        restore.failed = true;
    }
    if (restore.failed)
        kill_tasks();
    return -ENOTSUP;
}

void restore_exit(int ret)
{
    uint32_t wanted = restore.keys.header.thread_count;

    secret_release(&restore.file);
    free(restore.tasks);
    restore.tasks = NULL;
    if (ret || !restore.load)
        return;
    if (!restore.failed && restore.loaded == wanted) {
        pac_info("keys of %u threads loaded", restore.loaded);
        return;
    }
    if (!restore.failed)
        pac_error("keys of only %u of %u threads were loaded: does another plugin in this directory end "
                  "CRIU's late hook (amdgpu without a GPU does)?",
                  restore.loaded, wanted);
    _exit(1); /* exit() cannot return the failure */
}
