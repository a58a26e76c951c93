/* SPDX-License-Identifier: MIT */
/*
 * Another CRIU plugin, for what one can do to the key module:
 * OTHER_LATE=1: its late hook returns -1, as that of amdgpu_plugin.so does in CRIU 3.17 to 3.19
 * where there is no /dev/kfd. OTHER_KILL=PID: it kills a task that is being dumped, when all are
 * stopped (in the checkpoint hook, or in exit() where CRIU has none).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char state_of(int pid)
{
    char path[64], text[256] = "", *end;
    int file;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    file = open(path, O_RDONLY);
    if (file < 0)
        return 'X';
    if (read(file, text, sizeof(text) - 1) < 0)
        text[0] = 0;
    close(file);
    end = strrchr(text, ')');
    return end ? end[2] : 'X';
}

static void kill_as_told(void)
{
    const char *pid = getenv("OTHER_KILL");

    if (!pid)
        return;
    kill(atoi(pid), SIGKILL);
    while (!strchr("ZX", state_of(atoi(pid))))
        usleep(1000);
}

static int checkpoint(int pid)
{
    (void)pid;
    kill_as_told();
    return -ENOTSUP;
}

static int late(int pid)
{
    (void)pid;
    return getenv("OTHER_LATE") ? -1 : -ENOTSUP;
}

static int start(int stage)
{
    (void)stage;
    return 0;
}

static void finish(int stage, int ret)
{
    (void)ret;
    if (stage == 0 && HOOKS < 12)
        kill_as_told();
}

struct {
    const char *name;
    int (*init)(int stage);
    void (*exit)(int stage, int ret);
    unsigned int version, hook_count;
    void *hooks[12];
} CR_PLUGIN_DESC = { "other", start, finish, 0x200, HOOKS, { [9] = late, [11] = checkpoint } };
