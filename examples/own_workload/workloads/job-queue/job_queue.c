// SPDX-License-Identifier: MIT
// Jobs that wait for jobs: the last one waits for the clock, and the way back goes through all of them.
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "jobs.h"

static volatile sig_atomic_t asked;

static void ask(int signal_number)
{
	(void)signal_number;
	asked = 1;
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGUSR1, ask);
	puts("READY");
	for (;;) {
		int done = work(JOBS);

		puts("tick");
		if (asked) {
			asked = 0;
			if (done == JOBS)
				puts("PASS");
			else
				printf("FAIL %d of %d jobs\n", done, JOBS);
		}
	}
}
