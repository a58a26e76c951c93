/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "probe.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "criu_abi.h"
#include "keyfile.h"
#include "regsets.h"

/*
 * glibc before 2.34 keeps it in libdl. A weak reference without a library to name is found in
 * whichever CRIU has loaded, and its absence is something the module can report.
 */
PAC_WEAK extern int dladdr1(const void *address, Dl_info *info, void **extra, int flags);

unsigned int probe_hook_count(void)
{
    const ElfW(Sym) *symbol = NULL;
    Dl_info info;

    if (!cr_plugin_ctl || !dladdr1)
        return 0;
    if (!dladdr1(cr_plugin_ctl, &info, (void **)&symbol, RTLD_DL_SYMENT) || !symbol || !info.dli_sname)
        return 0;
    if (strcmp(info.dli_sname, "cr_plugin_ctl") != 0 || symbol->st_size < CRIU_LIST_HEAD_SIZE)
        return 0;
    return (unsigned int)(symbol->st_size / CRIU_LIST_HEAD_SIZE - 1);
}

/* Fork a child that stops itself as our tracee. Returns its pid or -errno. */
static pid_t start_tracee(void)
{
    int status;
    pid_t child = fork();

    if (child < 0)
        return -errno;
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0)
            kill(getpid(), SIGSTOP);
        _exit(1);
    }
    while (waitpid(child, &status, __WALL) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFSTOPPED(status) ? child : -EPERM;
}

static void end_tracee(pid_t child)
{
    kill(child, SIGKILL);
    while (waitpid(child, NULL, __WALL) < 0 && errno == EINTR)
        ;
}

/* Read a set and write the same bytes back. */
static int round_trip(pid_t child, unsigned int type, uint8_t *bytes, size_t size)
{
    int error = regset_read(child, type, bytes, size);

    return error ? error : regset_write(child, type, bytes, size);
}

static int probe_sets(pid_t child, struct machine_pac *machine)
{
    uint8_t keys[KEYFILE_PACA_SIZE];
    uint64_t masks[2];
    int error = regset_read(child, REGSET_PAC_MASK, masks, sizeof(masks));

    if (error == -EINVAL) /* the kernel offers this set exactly where the CPU authenticates */
        return 0;
    if (!error)
        error = round_trip(child, REGSET_PACA_KEYS, keys, KEYFILE_PACA_SIZE);
    if (error) {
        explicit_bzero(keys, sizeof(keys));
        return error;
    }
    machine->address_auth = true;
    machine->data_mask = masks[0];
    machine->insn_mask = masks[1];
    error = round_trip(child, REGSET_PACG_KEYS, keys, KEYFILE_PACG_SIZE);
    machine->generic_auth = !error;
    if (!error || error == -EINVAL) {
        error = round_trip(child, REGSET_PAC_ENABLED_KEYS, keys, sizeof(uint64_t));
        machine->enabled_keys = !error;
    }
    explicit_bzero(keys, sizeof(keys));
    return error == -EINVAL ? 0 : error;
}

int probe_machine(struct machine_pac *machine, char reason[PROBE_REASON_SIZE])
{
    pid_t child = start_tracee();
    int error;

    memset(machine, 0, sizeof(*machine));
    if (child < 0) {
        snprintf(reason, PROBE_REASON_SIZE, "cannot trace a child of CRIU to try the key registers: %s",
                 strerror(-child));
        return -1;
    }
    error = probe_sets(child, machine);
    end_tracee(child);
    if (error == -EINVAL)
        snprintf(reason, PROBE_REASON_SIZE,
                 "this CPU authenticates pointers but the kernel does not give out the keys "
                 "(needs Linux 5.1 with CONFIG_CHECKPOINT_RESTORE)");
    else if (error)
        snprintf(reason, PROBE_REASON_SIZE, "cannot read or write the key registers of a traced child: %s",
                 strerror(-error));
    return error ? -1 : 0;
}
