// SPDX-License-Identifier: MIT
// Hundreds of signed return addresses, all of them used on every tick: the program goes down
// DEPTH calls, waits at the bottom, and returns through all of them before it says "tick".
// SIGUSR1 asks it to verify: the sum that the calls handed up has to be right.
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH = 400, TICK_NS = 200 * 1000 * 1000 };

static volatile sig_atomic_t asked;

static void ask(int signal)
{
	(void)signal;
	asked = 1;
}

static void hold(void)
{
	struct timespec left = { .tv_nsec = TICK_NS };

	while (nanosleep(&left, &left)) {
	}
}

// Not a tail call and not inlined: every level has its own frame and its own signed LR.
__attribute__((noinline)) static long descend(int level)
{
	long below;

	if (level == 0) {
		hold();
		return 0;
	}
	below = descend(level - 1);
	__asm__ volatile("" : "+r"(below));
	return below + level;
}

int main(void)
{
	struct sigaction action = { .sa_handler = ask };

	sigaction(SIGUSR1, &action, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("READY");
	for (;;) {
		long sum = descend(DEPTH);

		if (asked) {
			asked = 0;
			if (sum == (long)DEPTH * (DEPTH + 1) / 2)
				printf("PASS %d frames\n", DEPTH);
			else
				printf("FAIL sum %ld of %d frames\n", sum, DEPTH);
		}
		puts("tick");
	}
}
