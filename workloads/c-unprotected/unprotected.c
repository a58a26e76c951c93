// SPDX-License-Identifier: MIT
// Deep in calls like c-frames, and nothing is signed: built without branch protection, and asleep
// in a system call of its own, so that no frame of a protected libc is live.
#include "raw.h"

enum { DEPTH = 400 };

__attribute__((noinline)) static long descend(int level)
{
	long below;

	if (level == 0) {
		raw_hold(TICK_NS);
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
	RAW_SAY("READY");
	for (;;) {
		bool right = descend(DEPTH) == (long)DEPTH * (DEPTH + 1) / 2;

		if (asked) {
			asked = 0;
			if (right)
				RAW_SAY("PASS 400 frames");
			else
				RAW_SAY("FAIL 400 frames");
		}
		RAW_SAY("tick");
	}
}
