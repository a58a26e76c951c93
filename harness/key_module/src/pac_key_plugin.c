/* SPDX-License-Identifier: MIT */
/*
 * PAC key module: a CRIU plugin that saves the pointer authentication keys of every thread at
 * dump and loads them before the restored tasks run. For CRIU versions that do neither, and for
 * those that do it for the leader of each task only.
 */
#define _GNU_SOURCE
#include <stdio.h>

#include "criu_abi.h"
#include "host_criu.h"
#include "log.h"
#include "stages.h"

static int check_criu(void)
{
    unsigned int hooks = host_criu_hooks();

    if (hooks >= CRIU_HOOKS_WITH_LATE_RESUME)
        return 0;
    if (hooks == 0)
        pac_error("cannot tell which CRIU this is: it exports no plugin table (cr_plugin_ctl)");
    else
        pac_error("this CRIU has %u plugin hooks and lacks the late one: 3.17 or later is needed", hooks);
    return -1;
}

static int start(int stage)
{
    if (stage != CRIU_STAGE_DUMP && stage != CRIU_STAGE_RESTORE)
        return 0; /* a pre-dump saves memory only */
    if (!print_on_level || !criu_get_image_dir) {
        fputs(PAC_LOG_PREFIX "error: this program exports no CRIU plugin interface\n", stderr);
        return -1;
    }
    if (check_criu())
        return -1;
    pac_debug("%u plugin hooks, keys of leaders %s", host_criu_hooks(),
              host_criu_native() ? "handled by this CRIU" : "not handled by this CRIU");
    return stage == CRIU_STAGE_DUMP ? dump_init() : restore_init();
}

static void finish(int stage, int ret)
{
    if (stage == CRIU_STAGE_DUMP)
        dump_exit(ret);
    else if (stage == CRIU_STAGE_RESTORE)
        restore_exit(ret);
}

__attribute__((visibility("default"))) struct criu_plugin CR_PLUGIN_DESC = {
    .name = "pac-key-module",
    .init = start,
    .exit = finish,
    .version = CRIU_ABI_VERSION_0_2_0,
    .hook_count = CRIU_HOOKS_WITH_LATE_RESUME,
    .hooks = {
        [CRIU_HOOK_RESUME_DEVICES_LATE] = (void *)restore_late,
        [CRIU_HOOK_CHECKPOINT_DEVICES] = (void *)dump_checkpoint,
    },
};

/* CRIU refuses a plugin that claims more hooks than it has, before it asks init() for a reason. */
static __attribute__((constructor)) void fit_into_this_criu(void)
{
    unsigned int hooks = host_criu_hooks();

    if (hooks)
        CR_PLUGIN_DESC.hook_count = hooks < CRIU_HOOKS_ROOM ? hooks : CRIU_HOOKS_ROOM;
}
