// SPDX-License-Identifier: MIT
// Hundreds of signed return addresses, all of them used on every tick: the program goes down
// DEPTH calls, waits at the bottom, and returns through all of them before it says "tick".
#include "held.h"

enum { DEPTH = 400 };

int main(void)
{
	begin();
	puts("READY");
	for (;;)
		tick(held(DEPTH), DEPTH);
}
