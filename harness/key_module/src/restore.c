/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "stages.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "host_criu.h"
#include "log.h"
#include "pids.h"
#include "policy.h"
#include "procfs.h"
#include "regsets.h"
#include "secret.h"
#include "validate.h"

static struct {
    enum {
        LEAVE_ALONE, /* the late hook does nothing */
        LOAD_KEYS,
        DISABLE_AUTH,
    } action;
    struct secret file;
    struct keyfile keys; /* points into file */
    bool failed;
    uint32_t served;   /* threads that have got what they need */
    struct pids tasks; /* seen by the late hook, all stopped until it has seen the last one */
} restore;

static void announce(enum verdict verdict, const char *reason)
{
    uint32_t threads = restore.keys.header.thread_count;

    if (restore.action == LOAD_KEYS)
        pac_info("keys of %u threads will be loaded%s", threads,
                 host_criu_native() ? " over those that this CRIU restores for each leader" : "");
    else if (restore.action == DISABLE_AUTH)
        pac_warn("authentication will be disabled in %u threads: a security downgrade", threads);
    else if (verdict == NO_PAC)
        pac_info("these images and this machine are without pointer authentication");
    else if (verdict == NO_KEYFILE)
        pac_warn("%s; restored as without this module", reason);
    else
        pac_warn("%s; going on without loading keys, as the policy \"warn\" asks for", reason);
}

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
    if (verdict == VALID)
        restore.action = LOAD_KEYS;
    else if (verdict == UNSIGNED && policy == POLICY_DISABLE_AUTH)
        restore.action = DISABLE_AUTH;
    else if ((verdict == UNSIGNED || verdict == REFUSED) && policy != POLICY_WARN) {
        secret_release(&restore.file);
        pac_error("%s; restore refused", reason);
        return -1;
    }
    announce(verdict, reason);
    if (restore.action == LEAVE_ALONE)
        secret_release(&restore.file);
    return 0;
}

static int write_enabled(pid_t tid, uint64_t enabled)
{
    int error = regset_write(tid, REGSET_PAC_ENABLED_KEYS, &enabled, sizeof(enabled));

    /* A kernel before 5.13 has no such set, and every key enabled. */
    return error == -EINVAL && enabled == KEYFILE_ENABLED_ALL ? 0 : error;
}

static int write_keys(pid_t tid, const struct keyfile_thread *thread)
{
    int error = regset_write(tid, REGSET_PACA_KEYS, thread->paca, KEYFILE_PACA_SIZE);

    if (!error && thread->flags & KEYFILE_HAS_PACG)
        error = regset_write(tid, REGSET_PACG_KEYS, thread->pacg, KEYFILE_PACG_SIZE);
    if (!error && thread->flags & KEYFILE_HAS_ENABLED)
        error = write_enabled(tid, thread->enabled_keys);
    return error;
}

static int serve_thread(void *context, pid_t tid, const struct thread_status *status)
{
    struct keyfile_thread thread;
    int error;

    (void)context;
    if (status->state == 'Z' || status->state == 'X')
        return 0;
    if (keyfile_find(&restore.keys, status->ns_tid, &thread)) {
        pac_error("thread %d (%u in its pid namespace) is not in " KEYFILE_NAME, tid, status->ns_tid);
        return -ENOENT;
    }
    if (thread.tgid != status->ns_tgid)
        error = -EXDEV;
    else
        error = restore.action == DISABLE_AUTH ? write_enabled(tid, 0) : write_keys(tid, &thread);
    explicit_bzero(&thread, sizeof(thread));
    if (error)
        pac_error("cannot set the key registers of thread %d: %s", tid, strerror(-error));
    else
        restore.served++;
    return error;
}

/* CRIU ignores what the hook returns, so a task that must not run is killed where it stands. */
static void kill_tasks(void)
{
    for (size_t i = 0; i < restore.tasks.count; i++)
        kill(restore.tasks.at[i], SIGKILL);
    pids_release(&restore.tasks);
}

int restore_late(int pid)
{
    int error;

    if (restore.action == LEAVE_ALONE || pid <= 0)
        return -ENOTSUP;
    if (pids_add(&restore.tasks, pid)) {
        kill(pid, SIGKILL);
        error = -ENOMEM;
    } else {
        error = restore.failed ? 0 : procfs_each_thread(pid, serve_thread, NULL);
    }
    if (error == -ESRCH) /* CRIU calls for helpers that have ended, too */
        error = 0;
    else if (!error && !restore.failed && restore.action == DISABLE_AUTH)
        pac_warn("pointer authentication is disabled in task %d", pid);
    if (error && !restore.failed) {
        pac_error("task %d cannot run as it was: the tasks of this restore are killed", pid);
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
    pids_release(&restore.tasks);
    if (ret || restore.action == LEAVE_ALONE)
        return;
    if (!restore.failed && restore.served == wanted) {
        pac_info("%s %u threads", restore.action == LOAD_KEYS ? "keys loaded into" : "authentication disabled in",
                 wanted);
        return;
    }
    if (!restore.failed)
        pac_error("only %u of %u threads have got their keys: does another plugin in this directory end "
                  "CRIU's late hook?",
                  restore.served, wanted);
    _exit(1); /* exit() cannot return the failure */
}
