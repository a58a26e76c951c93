// SPDX-License-Identifier: MIT
// Pointers signed with the key DA and codes made with the key GA, kept in memory and checked on
// every tick. Nothing else is signed: built without branch protection, and asleep in a system call
// of its own, so that wrong keys show in the data alone.
#include <stdint.h>
#include <stdio.h>
#include <sys/auxv.h>

#include "raw.h"

enum { COUNT = 200, HWCAP_HAS_PACA = 1 << 30 };

static uint64_t cells[COUNT], pointers[COUNT], codes[COUNT];
static bool generic;

ALWAYS_INLINE uint64_t sign(const uint64_t *cell, uint64_t context)
{
	uint64_t pointer = (uint64_t)cell;

	__asm__(".arch_extension pauth\n\tpacda %0, %1" : "+r"(pointer) : "r"(context));
	return pointer;
}

ALWAYS_INLINE uint64_t authenticated(uint64_t pointer, uint64_t context)
{
	__asm__ volatile(".arch_extension pauth\n\tautda %0, %1" : "+r"(pointer) : "r"(context));
	return pointer;
}

ALWAYS_INLINE uint64_t code_of(uint64_t value, uint64_t context)
{
	uint64_t code;

	__asm__ volatile(".arch_extension pauth\n\tpacga %0, %1, %2" : "=r"(code) : "r"(value), "r"(context));
	return code;
}

// How many pointers carry a code: by chance that can be zero.
static int fill(void)
{
	int signed_ones = 0;

	for (uint64_t i = 0; i < COUNT; i++) {
		cells[i] = i * i;
		pointers[i] = sign(&cells[i], i);
		signed_ones += pointers[i] != (uint64_t)&cells[i];
		if (generic)
			codes[i] = code_of(cells[i], i);
	}
	return signed_ones;
}

// A broken pointer is compared, not followed.
ALWAYS_INLINE bool right(void)
{
	for (uint64_t i = 0; i < COUNT; i++) {
		if (authenticated(pointers[i], i) != (uint64_t)&cells[i])
			return false;
		if (generic && code_of(cells[i], i) != codes[i])
			return false;
	}
	return true;
}

int main(void)
{
	struct sigaction action = { .sa_handler = ask };
	bool can = getauxval(AT_HWCAP) & HWCAP_HAS_PACA;

	sigaction(SIGUSR1, &action, NULL);
	generic = getauxval(AT_HWCAP) & 1UL << 31;
	printf("READY %d signed\n", can ? fill() : 0);
	fflush(stdout);
	for (;;) {
		bool as_before = !can || right();

		if (asked) {
			asked = 0;
			if (as_before)
				RAW_SAY("PASS 200 values");
			else
				RAW_SAY("FAIL 200 values");
		}
		RAW_SAY("tick");
		raw_hold(TICK_NS);
	}
}
