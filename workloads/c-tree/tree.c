// SPDX-License-Identifier: MIT
// A tree of processes, three of them in hundreds of signed frames: a parent, a forked child that
// took new keys, a child that got its own by exec; and a child that is dead and not waited for.
#include <stdlib.h>
#include <string.h>

#include "held.h"

enum { DEPTH = 200, OUT = 3 };

// One byte per round: whether it was right.
static _Noreturn void rounds(int out)
{
	for (;;) {
		char right = held(DEPTH);

		if (write(out, &right, 1) != 1)
			_exit(1);
	}
}

// The reading end of a pipe whose other end, in a new child, is OUT.
static int start(pid_t *child)
{
	int ends[2];

	if (pipe(ends) || (*child = fork()) < 0)
		exit(1);
	if (*child == 0 && dup2(ends[1], OUT) != OUT)
		_exit(1);
	if (*child == 0)
		return OUT;
	close(ends[1]);
	return ends[0];
}

static bool round_of(int child)
{
	char right = 0;

	return read(child, &right, 1) == 1 && right;
}

int main(int argc, char **argv)
{
	int forked, executed;
	pid_t child;

	if (argc > 1)
		rounds(OUT);
	begin();
	forked = start(&child);
	if (child == 0) {
		reset_keys(); // main never returns after this
		rounds(OUT);
	}
	executed = start(&child);
	if (child == 0) {
		execl("/proc/self/exe", argv[0], "leaf", NULL);
		_exit(1);
	}
	start(&child);
	if (child == 0)
		_exit(3); // stays a zombie
	if (!round_of(forked) || !round_of(executed))
		return 1;
	puts("READY");
	for (;;) {
		bool right = held(DEPTH), first = round_of(forked), second = round_of(executed);

		tick(right && first && second, 3 * DEPTH);
	}
}
