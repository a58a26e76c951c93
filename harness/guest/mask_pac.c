/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into CRIU for the stand-in builds: hides pointer authentication from it. CRIU 4.1
 * and later ask getauxval(AT_HWCAP) for HWCAP_PACA and HWCAP_PACG before they touch any key, so
 * without those two bits they leave keys alone as older versions do. What the tasks themselves
 * see is the kernel's business and does not change.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/auxv.h>

#define PAC_BITS (1ul << 30 | 1ul << 31) /* HWCAP_PACA, HWCAP_PACG (Linux: arch/arm64 uapi hwcap.h) */

unsigned long getauxval(unsigned long type)
{
    unsigned long (*libc_getauxval)(unsigned long) =
        (unsigned long (*)(unsigned long))dlsym(RTLD_NEXT, "getauxval");
    unsigned long value = libc_getauxval(type);

    return type == AT_HWCAP ? value & ~PAC_BITS : value;
}
