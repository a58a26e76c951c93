// SPDX-License-Identifier: MIT
// What the workloads in C have in common: hundreds of signed return addresses that are held while
// they wait, and the answer to a request to verify themselves (SIGUSR1).
#ifndef HELD_H
#define HELD_H

#include <stdio.h>

#include "raw.h"

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

static void wait_a_tick(void)
{
	hold(TICK_NS);
}

// Not a tail call and not inlined: every level has its own frame and its own signed LR.
__attribute__((noinline)) static long descend(int level, void (*bottom)(void))
{
	long below;

	if (level == 0) {
		bottom();
		return 0;
	}
	below = descend(level - 1, bottom);
	__asm__ volatile("" : "+r"(below));
	return below + level;
}

// Goes down that many calls, calls `bottom` there, returns through all of them: was the sum that
// they handed up right?
ALWAYS_INLINE bool returned_from(int depth, void (*bottom)(void))
{
	return descend(depth, bottom) == (long)depth * (depth + 1) / 2;
}

ALWAYS_INLINE bool held(int depth)
{
	return returned_from(depth, wait_a_tick);
}

static void tick(bool right, int depth)
{
	if (asked) {
		asked = 0;
		printf("%s %d frames\n", right ? "PASS" : "FAIL", depth);
	}
	puts("tick");
}

// New random keys for the calling thread alone. Without PAC there is nothing to do.
ALWAYS_INLINE void reset_keys(void)
{
	raw_prctl(PR_PAC_RESET_KEYS, 0, 0);
}

#endif
