/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arm64.h"
#include "keyfile.h"
#include "regsets.h"

/* Of every key of the child while it signs: public, and fixed for ever like what it signs. */
#define PUBLIC_KEY_BYTE 0xa5

#define STACK_SIZE 16384u

struct tracee {
    pid_t pid;
    struct signed_codes codes;
    uint8_t stack[STACK_SIZE] __attribute__((aligned(16)));
};

static int wait_for(pid_t child, int *status)
{
    while (waitpid(child, status, __WALL) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

/*
 * A child that stops itself as our tracee. It shares our memory: to copy the page tables of CRIU and
 * to take them down again is most of what a probe costs, and a restore waits for it.
 */
static int start_tracee(struct tracee *child)
{
    int status = 0, error;

    child->pid = clone(arm64_stop_and_sign, child->stack + STACK_SIZE, CLONE_VM | SIGCHLD, &child->codes);
    error = child->pid < 0 ? -errno : wait_for(child->pid, &status);
    if (!error && !WIFSTOPPED(status))
        error = -EPERM;
    if (error)
        child->pid = 0;
    return error;
}

static void end_tracee(struct tracee *child)
{
    int status;

    if (child->pid) {
        kill(child->pid, SIGKILL);
        wait_for(child->pid, &status);
    }
}

/* Read a set and write the public key over it. */
static int try_keys(pid_t child, unsigned int type, size_t size)
{
    uint8_t keys[KEYFILE_PACA_SIZE];
    int error = regset_read(child, type, keys, size);

    explicit_bzero(keys, sizeof(keys)); /* they are CRIU's own, but keys all the same */
    memset(keys, PUBLIC_KEY_BYTE, sizeof(keys));
    return error ? error : regset_write(child, type, keys, size);
}

static int try_enabled_keys(pid_t child)
{
    uint64_t enabled;
    int error = regset_read(child, REGSET_PAC_ENABLED_KEYS, &enabled, sizeof(enabled));

    enabled = KEYFILE_ENABLED_ALL;
    return error ? error : regset_write(child, REGSET_PAC_ENABLED_KEYS, &enabled, sizeof(enabled));
}

/* The kernel answers -EINVAL for a set it does not have. */
static int optional(int error, bool *present)
{
    *present = !error;
    return error == -EINVAL ? 0 : error;
}

static int probe_sets(pid_t child, struct machine_pac *machine)
{
    uint64_t masks[2];
    int error = optional(regset_read(child, REGSET_PAC_MASK, masks, sizeof(masks)), &machine->address_auth);

    if (error || !machine->address_auth) /* offered exactly where the CPU authenticates */
        return error;
    machine->data_mask = masks[0];
    machine->insn_mask = masks[1];
    error = try_keys(child, REGSET_PACA_KEYS, KEYFILE_PACA_SIZE);
    if (!error)
        error = optional(try_keys(child, REGSET_PACG_KEYS, KEYFILE_PACG_SIZE), &machine->generic_auth);
    if (!error)
        error = optional(try_enabled_keys(child), &machine->enabled_keys);
    return error;
}

/* A few bits of each signed pointer are its code: mix enough of them that no two algorithms agree. */
static uint64_t mixed(const uint64_t *words, unsigned int count)
{
    uint64_t mix = UINT64_C(0xcbf29ce484222325);

    for (unsigned int i = 0; i < count; i++) {
        mix = (mix ^ words[i]) * UINT64_C(0x100000001b3);
        mix ^= mix >> 32;
    }
    return mix ? mix : 1; /* 0 says that there is none */
}

/* Let the child sign with the public key. Its end without a fault shows that it went to the end. */
static int probe_algorithm(struct tracee *child, struct machine_pac *machine)
{
    int status = 0, error;

    if (ptrace(PTRACE_CONT, child->pid, NULL, NULL) < 0)
        return -errno;
    error = wait_for(child->pid, &status);
    if (error)
        return error;
    if (WIFSTOPPED(status)) /* at a signal: it did not get through */
        return -EPROTO;
    child->pid = 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return -EPROTO;
    machine->address_probe = mixed(child->codes.address, SIGNED_COUNT);
    machine->generic_probe = child->codes.generic;
    return 0;
}

int probe_machine(struct machine_pac *machine, char reason[PROBE_REASON_SIZE])
{
    struct tracee child;
    int error;

    memset(machine, 0, sizeof(*machine));
    memset(&child.codes, 0, sizeof(child.codes));
    machine->midr = arm64_midr();
    error = start_tracee(&child);
    if (!error)
        error = probe_sets(child.pid, machine);
    if (!error && machine->address_auth) {
        child.codes.sign_generic = machine->generic_auth;
        error = probe_algorithm(&child, machine);
    }
    end_tracee(&child);
    if (error == -EINVAL)
        snprintf(reason, PROBE_REASON_SIZE,
                 "this CPU authenticates pointers but the kernel does not give out the keys "
                 "(needs Linux 5.1 with CONFIG_CHECKPOINT_RESTORE)");
    else if (error)
        snprintf(reason, PROBE_REASON_SIZE, "cannot try the key registers on a traced child of CRIU: %s",
                 strerror(-error));
    return error ? -1 : 0;
}
