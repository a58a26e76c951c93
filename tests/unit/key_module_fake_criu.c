/* SPDX-License-Identifier: MIT */
/*
 * Stands where CRIU stands: exports what the plugin imports, stops a real process with real
 * threads by ptrace, and calls the plugin in CRIU 3.17's order. Only the register sets are
 * played (regsets.c is left out): FAKE_PAC=1 gives the machine PAC, FAKE_NO_MASK=1 takes the
 * enabled-keys set away, FAKE_FAIL=read|write lets the real tasks' sets fail.
 *   fake validate DIR     init of the restore stage only
 *   fake cycle DIR        dump, then restore into the same stopped tasks
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

#include "regsets.h"

#ifndef FAKE_HOOKS
#define FAKE_HOOKS 10
#endif

struct criu_plugin {
    const char *name;
    int (*init)(int stage);
    void (*exit)(int stage, int ret);
    unsigned int version, hook_count;
    void *hooks[10];
};
extern struct criu_plugin CR_PLUGIN_DESC;

char cr_plugin_ctl[16 + 16 * FAKE_HOOKS];
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
    said(type == REGSET_PACA_KEYS ? "paca" : type == REGSET_PACG_KEYS ? "pacg" : "enabled", (int)size);
    return 0;
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

/* A process of three threads, every one of them stopped and traced, its images "written". */
static pid_t stopped_process(void)
{
    char path[64], name[64], byte;
    int ready[2], status;
    struct dirent *entry;
    pthread_t thread;
    pid_t child;
    DIR *tasks;

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
    snprintf(path, sizeof(path), "/proc/%d/task", child);
    tasks = opendir(path);
    while (tasks && (entry = readdir(tasks))) {
        pid_t tid = atoi(entry->d_name);

        if (!tid)
            continue;
        if (ptrace(PTRACE_SEIZE, tid, 0, 0) || ptrace(PTRACE_INTERRUPT, tid, 0, 0))
            _exit(errno == EPERM ? 77 : 74);
        waitpid(tid, &status, __WALL);
        snprintf(name, sizeof(name), "core-%d.img", tid);
        put_image(name);
    }
    closedir(tasks);
    put_image("pstree.img");
    put_image("inventory.img");
    return child;
}

static int cycle(void)
{
    int (*late)(int) = (int (*)(int))CR_PLUGIN_DESC.hooks[9];
    int status;

    task = stopped_process();
    setvbuf(stdout, NULL, _IOLBF, 0);

    printf("init %d\n", CR_PLUGIN_DESC.init(0));
    real_tasks = 1;
    CR_PLUGIN_DESC.exit(0, 0);
    real_tasks = 0;
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
    if (argc != 3 || (dir = open(argv[2], O_RDONLY | O_DIRECTORY)) < 0)
        return 64;
    if (strcmp(argv[1], "cycle") == 0)
        return cycle();
    return CR_PLUGIN_DESC.init(2) ? 1 : 0;
}
