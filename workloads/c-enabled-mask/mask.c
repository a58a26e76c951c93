// SPDX-License-Identifier: MIT
// Three threads in hundreds of frames; in one of them the key IA is disabled, so that its return
// addresses are not signed and would not pass if the key were enabled again.
enum { WORKERS = 2, DEPTH = 200 };

#include <sys/auxv.h>

#include "held.h"

#ifndef PR_PAC_SET_ENABLED_KEYS
#define PR_PAC_SET_ENABLED_KEYS 60
#endif

ALWAYS_INLINE void prepare_leader(void)
{
}

ALWAYS_INLINE void prepare_worker(int index)
{
	if (index != 0 || !(getauxval(AT_HWCAP) & 1UL << 30))
		return;
	if (raw_prctl(PR_PAC_SET_ENABLED_KEYS, PR_PAC_APIAKEY, 0)) {
		puts("this kernel cannot disable a key (PR_PAC_SET_ENABLED_KEYS: Linux 5.13)");
		_exit(1);
	}
}

#include "threads.h"
