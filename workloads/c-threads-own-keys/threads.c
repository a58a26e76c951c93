// SPDX-License-Identifier: MIT
// Five threads in hundreds of signed frames; all but the leader have keys of their own.
enum { WORKERS = 4, DEPTH = 200 };

#include "held.h"

ALWAYS_INLINE void prepare_leader(void)
{
}

ALWAYS_INLINE void prepare_worker(int index)
{
	(void)index;
	reset_keys();
}

#include "threads.h"
