/* SPDX-License-Identifier: MIT */
/*
 * Stands where CRIU stands: exports what the plugin imports, stops a real process with real
 * threads by ptrace, and calls the plugin in CRIU's order: 3.17's, or with 12 hooks and more 4.0's.
 * Only the machine is played (regsets.c and arm64.c are left out):
 *   FAKE_PAC=1               it has PAC        FAKE_NO_MASK=1      and no enabled-keys set
 *   FAKE_ALGORITHM=N         and other codes   FAKE_SIGN=crash     and signing is a fault
 *   FAKE_MIDR=0xN            its CPU           FAKE_FAIL=read|write  the real tasks' sets fail
 *   FAKE_MOVED=1             it gets PAC after the dump
 * and CRIU itself:
 *   FAKE_RET=N               it fails the dump for reasons of its own
 *   FAKE_AHEAD=1             a plugin loaded before has a late hook
 *   FAKE_STRANGER=1          a task that is not traced is to be dumped, too
 *   FAKE_SHADOWED=1          a plugin loaded before ends the chain of the checkpoint hook
 * Commands:
 *   fake try DIR             exit code 77 where a child cannot be traced
 *   fake validate DIR        init of the restore stage only
 *   fake cycle DIR           dump, then restore into the same stopped tasks
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arm64.h"
#include "regsets.h"

#ifndef FAKE_HOOKS
#define FAKE_HOOKS 10
#endif

struct criu_plugin {
    const char *name;
    int (*init)(int stage);
    void (*exit)(int stage, int ret);
    unsigned int version, hook_count;
    void *hooks[16];
};
extern struct criu_plugin CR_PLUGIN_DESC;

struct list {
    struct list *next, *prev;
} cr_plugin_ctl[1 + FAKE_HOOKS];
#ifdef FAKE_NATIVE
int arch_ptrace_restore(void)
{
    return 0;
}
#endif
static int dir, real_tasks;
static pid_t task;
static int a_tree;
void *root_item = &a_tree;

int criu_get_image_dir(void)
{
    return dir;
}

void print_on_level(unsigned int level, const char *format, ...)
{
    va_list arguments;

    (void)level;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
}

static void said(const char *what, int number)
{
    printf("%s %d\n", what, number);
    fflush(stdout);
}

int unsuspend_lsm(void)
{
    said("unsuspend_lsm", 0);
    return 0;
}

void network_unlock(void)
{
    said("network_unlock", 0);
}

void delete_link_remaps(void)
{
    said("delete_link_remaps", 0);
}

void clean_cr_time_mounts(void)
{
    said("clean_cr_time_mounts", 0);
}

void pstree_switch_state(void *root, int state)
{
    said("pstree_switch_state", root == &a_tree ? state : -1);
    said("task alive", kill(task, 0) == 0);
}

static int offered(unsigned int type, const char *operation)
{
    const char *fail = getenv("FAKE_FAIL");

    if (!getenv("FAKE_PAC") || (type == REGSET_PAC_ENABLED_KEYS && getenv("FAKE_NO_MASK")))
        return -EINVAL;
    return real_tasks && fail && strcmp(fail, operation) == 0 ? -EIO : 0;
}

int regset_read(pid_t tid, unsigned int type, void *into, size_t size)
{
    int error = offered(type, "read");

    if (error)
        return error;
    memset(into, type == REGSET_PAC_MASK ? 0x7f : type == REGSET_PAC_ENABLED_KEYS ? 0 : tid, size);
    if (type == REGSET_PAC_ENABLED_KEYS)
        *(uint8_t *)into = 0xf;
    return 0;
}

int regset_write(pid_t tid, unsigned int type, const void *from, size_t size)
{
    const uint8_t *bytes = from;
    int error = offered(type, "write");

    if (error || !real_tasks)
        return error;
    for (size_t i = 0; i < size; i++)
        if (type != REGSET_PAC_ENABLED_KEYS && bytes[i] != (uint8_t)tid)
            said("WRONG KEY", tid);
    if (type == REGSET_PAC_ENABLED_KEYS)
        printf("enabled %zu to %u\n", size, bytes[0]);
    else
        said(type == REGSET_PACA_KEYS ? "paca" : "pacg", (int)size);
    return 0;
}

uint64_t arm64_midr(void)
{
    const char *midr = getenv("FAKE_MIDR");

    return midr ? strtoull(midr, NULL, 0) : 0;
}

int arm64_stop_and_sign(void *signed_codes)
{
    struct signed_codes *codes = signed_codes;
    const char *algorithm = getenv("FAKE_ALGORITHM");

    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
        _exit(1);
    kill(getpid(), SIGSTOP);
    if (getenv("FAKE_SIGN"))
        raise(SIGILL);
    for (unsigned int i = 0; i < SIGNED_COUNT; i++)
        codes->address[i] = i + (algorithm ? strtoull(algorithm, NULL, 0) : 0);
    codes->generic = codes->sign_generic ? 4711 : 0;
    _exit(0);
}

static void *wait_forever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void put_image(const char *name)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || write(fd, name, strlen(name)) < 0 || close(fd))
        _exit(70);
}

static pid_t each_thread_of(pid_t process, void (*visit)(pid_t tid))
{
    char path[64];
    struct dirent *entry;
    DIR *tasks;

    snprintf(path, sizeof(path), "/proc/%d/task", process);
    tasks = opendir(path);
    while (tasks && (entry = readdir(tasks)))
        if (atoi(entry->d_name))
            visit(atoi(entry->d_name));
    closedir(tasks);
    return process;
}

static void stop_thread(pid_t tid)
{
    int status;

    if (ptrace(PTRACE_SEIZE, tid, 0, 0) || ptrace(PTRACE_INTERRUPT, tid, 0, 0))
        _exit(errno == EPERM ? 77 : 74);
    waitpid(tid, &status, __WALL);
}

/* A process of three threads, every one of them stopped and traced. */
static pid_t stopped_process(void)
{
    pthread_t thread;
    pid_t child;
    int ready[2];
    char byte;

    if (pipe(ready) || (child = fork()) < 0)
        _exit(71);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (pthread_create(&thread, NULL, wait_forever, NULL) || pthread_create(&thread, NULL, wait_forever, NULL))
            _exit(72);
        if (write(ready[1], "r", 1) == 1)
            wait_forever(NULL);
    }
    if (read(ready[0], &byte, 1) != 1)
        _exit(73);
    return each_thread_of(child, stop_thread);
}

static void put_core(pid_t tid)
{
    char name[64];

    snprintf(name, sizeof(name), "core-%d.img", tid);
    put_image(name);
}

static int fake_ret(void)
{
    return getenv("FAKE_RET") ? atoi(getenv("FAKE_RET")) : 0;
}

/* Returns what CRIU's dump ends in before exit(). */
static int checkpoint_devices(void)
{
    int (*checkpoint)(int) = (int (*)(int))CR_PLUGIN_DESC.hooks[11];
    int error;

    if (FAKE_HOOKS < 12 || getenv("FAKE_SHADOWED"))
        return fake_ret();
    error = checkpoint(task);
    if (error == -ENOTSUP && getenv("FAKE_STRANGER"))
        error = checkpoint(getpid());
    return error == -ENOTSUP ? fake_ret() : error;
}

static int dump(void)
{
    int error = CR_PLUGIN_DESC.init(0);

    printf("init %d\n", error);
    if (error)
        return error;
    real_tasks = 1;
    error = checkpoint_devices();
    if (!error) {
        each_thread_of(task, put_core);
        put_image("pstree.img");
        put_image("inventory.img");
    }
    CR_PLUGIN_DESC.exit(0, error);
    real_tasks = 0;
    return error;
}

static int cycle(void)
{
    int (*late)(int) = (int (*)(int))CR_PLUGIN_DESC.hooks[9];
    int status;

    task = stopped_process();
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (dump())
        return 2;
    if (getenv("FAKE_MOVED"))
        setenv("FAKE_PAC", "1", 1);
    printf("init %d\n", CR_PLUGIN_DESC.init(2));
    real_tasks = 1;
    printf("late %d\n", late(task) == -ENOTSUP);
    printf("late %d\n", late(2147483647) == -ENOTSUP); /* ended meanwhile */
    /* The leader's end is reported after that of its last thread. */
    for (pid_t ended = 0; getenv("FAKE_FAIL") && (ended = waitpid(-1, &status, __WALL)) > 0;)
        if (ended == task)
            said("killed", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    fflush(stdout);
    CR_PLUGIN_DESC.exit(2, 0);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 3 || (dir = open(argv[2], O_RDONLY | O_DIRECTORY)) < 0)
        return 64;
    if (CR_PLUGIN_DESC.hook_count > FAKE_HOOKS) /* CRIU refuses such a plugin */
        return 65;
    if (getenv("FAKE_AHEAD"))
        cr_plugin_ctl[10].next = cr_plugin_ctl[10].prev = &cr_plugin_ctl[0];
    if (strcmp(argv[1], "cycle") == 0)
        return cycle();
    if (strcmp(argv[1], "try") == 0)
        return stopped_process() > 0 ? 0 : 1;
    return CR_PLUGIN_DESC.init(2) ? 1 : 0;
}
