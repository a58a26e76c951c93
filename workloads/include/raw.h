// SPDX-License-Identifier: MIT
// The kernel's own calls, not libc's: once keys are changed no function may return that was called
// before, and a program that calls the kernel by itself is never stopped in a function of libc.
#ifndef RAW_H
#define RAW_H

#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { TICK_NS = 200 * 1000 * 1000 };

#define ALWAYS_INLINE __attribute__((always_inline)) static inline

ALWAYS_INLINE long raw_call(long number, unsigned long first, unsigned long second, unsigned long third)
{
#ifdef __aarch64__
	register long x8 __asm__("x8") = number;
	register unsigned long x0 __asm__("x0") = first;
	register unsigned long x1 __asm__("x1") = second;
	register unsigned long x2 __asm__("x2") = third;
	register unsigned long x3 __asm__("x3") = 0;
	register unsigned long x4 __asm__("x4") = 0;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return (long)x0;
#else
#error "these workloads are for arm64"
#endif
}

ALWAYS_INLINE long raw_prctl(unsigned long option, unsigned long first, unsigned long second)
{
	return raw_call(SYS_prctl, option, first, second);
}

// Sleeps that long, whatever signals come.
ALWAYS_INLINE void raw_hold(long nanoseconds)
{
	struct timespec left = { .tv_nsec = nanoseconds };

	while (raw_call(SYS_nanosleep, (unsigned long)&left, (unsigned long)&left, 0)) {
	}
}

ALWAYS_INLINE void raw_say(const char *line, unsigned long size)
{
	raw_call(SYS_write, STDOUT_FILENO, (unsigned long)line, size);
}

#define RAW_SAY(text) raw_say(text "\n", sizeof(text))

static volatile sig_atomic_t asked;

static void ask(int signal)
{
	(void)signal;
	asked = 1;
}

#endif
