// SPDX-License-Identifier: MIT
// The main program of the workloads that are one thread deep in calls: it goes down DEPTH calls,
// waits at the bottom, and returns through all of them before it says "tick".
#include "held.h"

enum { DEPTH = 400 };

int main(void)
{
	begin();
	puts("READY");
	for (;;)
		tick(held(DEPTH), DEPTH);
}
