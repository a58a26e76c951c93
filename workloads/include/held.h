// SPDX-License-Identifier: MIT
// What the workloads in C have in common: hundreds of signed return addresses that are held while
// they wait, and the answer to a request to verify themselves (SIGUSR1).
#ifndef HELD_H
#define HELD_H

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { TICK_NS = 200 * 1000 * 1000 };

#define ALWAYS_INLINE __attribute__((always_inline)) static inline

static volatile sig_atomic_t asked;

static void ask(int signal)
{
	(void)signal;
	asked = 1;
}

static void begin(void)
{
	struct sigaction action = { .sa_handler = ask };

	sigaction(SIGUSR1, &action, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
}

static void hold(long nanoseconds)
{
	struct timespec left = { .tv_nsec = nanoseconds };

	while (nanosleep(&left, &left)) {
	}
}

// Not a tail call and not inlined: every level has its own frame and its own signed LR.
__attribute__((noinline)) static long descend(int level)
{
	long below;

	if (level == 0) {
		hold(TICK_NS);
		return 0;
	}
	below = descend(level - 1);
	__asm__ volatile("" : "+r"(below));
	return below + level;
}

// Goes down that many calls, waits at the bottom, returns through all of them: was the sum that
// they handed up right?
static bool held(int depth)
{
	return descend(depth) == (long)depth * (depth + 1) / 2;
}

static void tick(bool right, int depth)
{
	if (asked) {
		asked = 0;
		printf("%s %d frames\n", right ? "PASS" : "FAIL", depth);
	}
	puts("tick");
}

// The kernel's own call, not libc's: once keys are changed no function may return that was
// called before.
ALWAYS_INLINE long raw_prctl(long option, unsigned long first, unsigned long second)
{
#ifdef __aarch64__
	register long x8 __asm__("x8") = SYS_prctl;
	register long x0 __asm__("x0") = option;
	register unsigned long x1 __asm__("x1") = first;
	register unsigned long x2 __asm__("x2") = second;
	register unsigned long x3 __asm__("x3") = 0;
	register unsigned long x4 __asm__("x4") = 0;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
#else
#error "these workloads are for arm64"
#endif
}

// New random keys for the calling thread alone. Without PAC there is nothing to do.
ALWAYS_INLINE void reset_keys(void)
{
	raw_prctl(PR_PAC_RESET_KEYS, 0, 0);
}

#endif
