/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "host_criu.h"

#include <dlfcn.h>
#include <link.h>
#include <string.h>

#include "criu_abi.h"

/*
 * glibc before 2.34 keeps it in libdl. A weak reference without a library to name is found in
 * whichever CRIU has loaded, and its absence is something the module can report.
 */
PAC_WEAK extern int dladdr1(const void *address, Dl_info *info, void **extra, int flags);

unsigned int host_criu_hooks(void)
{
    const ElfW(Sym) *symbol = NULL;
    Dl_info info;

    if (!cr_plugin_ctl || !dladdr1)
        return 0;
    if (!dladdr1(cr_plugin_ctl, &info, (void **)&symbol, RTLD_DL_SYMENT) || !symbol || !info.dli_sname)
        return 0;
    if (strcmp(info.dli_sname, "cr_plugin_ctl") != 0 || symbol->st_size < sizeof(cr_plugin_ctl[0]))
        return 0;
    return (unsigned int)(symbol->st_size / sizeof(cr_plugin_ctl[0]) - 1);
}

bool host_criu_native(void)
{
    return arch_ptrace_restore != NULL;
}

bool host_criu_late_hook_taken(void)
{
    const struct criu_list_head *chain = &cr_plugin_ctl[1 + CRIU_HOOK_RESUME_DEVICES_LATE];

    return host_criu_hooks() > CRIU_HOOK_RESUME_DEVICES_LATE && chain->next && chain->next != chain;
}
