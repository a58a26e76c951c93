/* SPDX-License-Identifier: MIT */
/* Which CRIU has loaded this module, told by what that program exports. */
#ifndef PAC_HOST_CRIU_H
#define PAC_HOST_CRIU_H

#include <stdbool.h>

/* Number of plugin hooks this CRIU knows, from the size of its exported table; 0: unknown. */
unsigned int host_criu_hooks(void);
/* Whether this CRIU saves and restores keys itself: 4.1 and later, for the leader of each task. */
bool host_criu_native(void);
/* Whether a plugin loaded before this one has a late hook: true in init() alone means "ahead". */
bool host_criu_late_hook_taken(void);

#endif
