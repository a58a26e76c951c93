// SPDX-License-Identifier: MIT
#include "jobs.h"

#include <unistd.h>

__attribute__((noinline)) int work(int jobs)
{
	int done = 0;

	if (jobs)
		done = work(jobs - 1) + 1;
	else
		usleep(250000);
	__asm__ volatile("" : "+r"(done)); // else the compiler would make a loop of it
	return done;
}
