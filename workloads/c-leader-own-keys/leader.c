// SPDX-License-Identifier: MIT
// Two threads in hundreds of signed frames; the leader takes new keys when the other runs already.
enum { WORKERS = 1, DEPTH = 200 };

#include "held.h"

ALWAYS_INLINE void prepare_leader(void)
{
	reset_keys();
}

ALWAYS_INLINE void prepare_worker(int index)
{
	(void)index;
}

#include "threads.h"
