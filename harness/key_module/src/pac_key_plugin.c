/* SPDX-License-Identifier: MIT */
/*
 * PAC key module: a CRIU plugin that saves the pointer authentication keys of every thread at
 * dump and loads them before the restored tasks run. For CRIU versions that do neither.
 */
#define _GNU_SOURCE
#include <stdio.h>

#include "criu_abi.h"
#include "log.h"
#include "probe.h"
#include "stages.h"

/*
 * Which CRIU this is, told by its hook table. From 4.0 on (12 hooks and more) dumping goes
 * another way, and from 4.1 on CRIU handles the leader's keys itself: not served yet.
 */
static int check_criu(void)
{
    unsigned int hooks = probe_hook_count();

    if (hooks == CRIU_HOOKS_WITH_LATE_RESUME)
        return 0;
    if (hooks == 0)
        pac_error("cannot tell which CRIU this is: it exports no plugin table (cr_plugin_ctl)");
    else if (hooks < CRIU_HOOKS_WITH_LATE_RESUME)
        pac_error("this CRIU has %u plugin hooks and lacks the late one: 3.17 or later is needed", hooks);
    else
        pac_error("this CRIU has %u plugin hooks (4.0 or later): only 3.17 to 3.19 are served", hooks);
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
    .hooks = { [CRIU_HOOK_RESUME_DEVICES_LATE] = (void *)restore_late },
};
