/* SPDX-License-Identifier: MIT */
/*
 * The part of CRIU's plugin interface this module uses, declared from its binary interface:
 * what CRIU 3.17.1 for arm64 reads from a plugin (offsets 0, 8, 16, 24, 28, 32 of the
 * descriptor) and what it exports in its dynamic symbol table.
 */
#ifndef PAC_CRIU_ABI_H
#define PAC_CRIU_ABI_H

#include <stddef.h>

#define PAC_WEAK __attribute__((weak))

/* CRIU loads a plugin only when this number and its hook count are at most its own. */
#define CRIU_ABI_VERSION_0_2_0 0x200u
/* 3.15 and 3.16 have 7 hooks; 3.17 to 3.19 10; 4.0 and 4.1 12; 4.2 13. */
#define CRIU_HOOKS_WITH_LATE_RESUME 10u
#define CRIU_HOOKS_WITH_CHECKPOINT 12u
#define CRIU_HOOKS_ROOM 16u

enum criu_stage {
    CRIU_STAGE_DUMP = 0,
    CRIU_STAGE_PRE_DUMP = 1,
    CRIU_STAGE_RESTORE = 2,
};

/* Called by CRIU's master for each restored task before it lets it run. */
#define CRIU_HOOK_RESUME_DEVICES_LATE 9
/* Called by CRIU's master for each task when all of them are stopped; may fail the dump. */
#define CRIU_HOOK_CHECKPOINT_DEVICES 11

enum criu_log_level {
    CRIU_LOG_ERROR = 1,
    CRIU_LOG_WARN = 2,
    CRIU_LOG_INFO = 3,
    CRIU_LOG_DEBUG = 4,
};

struct criu_plugin {
    const char *name;
    int (*init)(int stage);
    void (*exit)(int stage, int ret);
    unsigned int version;
    unsigned int hook_count;
    void *hooks[CRIU_HOOKS_ROOM]; /* CRIU reads the first hook_count */
};

/* cr_plugin_ctl: a list of the plugins, then for each hook one of those that have it. */
struct criu_list_head {
    struct criu_list_head *next, *prev;
};

/*
 * Exported by the criu program. All weak: a CRIU without one of them still loads the module,
 * which then refuses with a sentence instead of a message of the dynamic loader.
 */
PAC_WEAK extern struct criu_list_head cr_plugin_ctl[];
PAC_WEAK int criu_get_image_dir(void);
PAC_WEAK void print_on_level(unsigned int level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* From 4.1 on; its presence tells that CRIU itself restores the keys of each task's leader. */
PAC_WEAK extern char arch_ptrace_restore[];

/* What CRIU's own roll-back of a failed dump calls, in this order. */
#define CRIU_TASK_ALIVE 1
PAC_WEAK extern void *root_item;
PAC_WEAK int unsuspend_lsm(void);
PAC_WEAK void network_unlock(void);
PAC_WEAK void delete_link_remaps(void);
PAC_WEAK void clean_cr_time_mounts(void);
PAC_WEAK void pstree_switch_state(void *root, int state);

#endif
