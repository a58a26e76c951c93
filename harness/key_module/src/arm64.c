/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "arm64.h"

#include <signal.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#define HWCAP_EMULATES_CPUID (1UL << 11) /* Documentation/arch/arm64/cpu-feature-registers.rst */

/* Fixed for ever: probes of two builds of this module have to be comparable. */
#define POINTER UINT64_C(0x0000007abcdef120) /* a user address in 39 bits, too */
#define MODIFIER UINT64_C(0x0123456789abcdef)

uint64_t arm64_midr(void)
{
    uint64_t midr = 0;

    if (getauxval(AT_HWCAP) & HWCAP_EMULATES_CPUID)
        __asm__("mrs %0, MIDR_EL1" : "=r"(midr));
    return midr;
}

/* Not libc's: the child shares its errno with us. */
static inline __attribute__((always_inline)) long system_call(long number, long first, long second)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = first;
    register long x1 __asm__("x1") = second;

    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1) : "memory");
    return x0;
}

/* As a hint, so that the plugin loads where there is no PAC: there it changes nothing. */
static inline __attribute__((always_inline)) uint64_t pacia1716(uint64_t pointer, uint64_t modifier)
{
    register uint64_t x17 __asm__("x17") = pointer;
    register uint64_t x16 __asm__("x16") = modifier;

    __asm__ volatile("hint #8" : "+r"(x17) : "r"(x16));
    return x17;
}

/* No hint: an undefined instruction without generic authentication. */
static inline __attribute__((always_inline)) uint64_t pacga(uint64_t data, uint64_t modifier)
{
    register uint64_t x0 __asm__("x0") = data;
    register uint64_t x1 __asm__("x1") = modifier;

    __asm__ volatile(".inst 0x9ac13000 /* pacga x0, x0, x1 */" : "+r"(x0) : "r"(x1));
    return x0;
}

int arm64_stop_and_sign(void *signed_codes)
{
    struct signed_codes *codes = signed_codes;
    long traced;

    system_call(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
    traced = system_call(__NR_ptrace, PTRACE_TRACEME, 0);
    if (!traced) {
        system_call(__NR_kill, system_call(__NR_getpid, 0, 0), SIGSTOP);
        for (uint64_t i = 0; i < SIGNED_COUNT; i++)
            codes->address[i] = pacia1716(POINTER + 16 * i, MODIFIER * (i + 1));
        if (codes->sign_generic)
            codes->generic = pacga(POINTER, MODIFIER);
    }
    for (;;)
        system_call(__NR_exit_group, traced != 0, 0);
}
