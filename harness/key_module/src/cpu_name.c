/* SPDX-License-Identifier: MIT */
#include "cpu_name.h"

#include <stddef.h>
#include <stdio.h>

/* Implementer and part number: bits 31..24 and 15..4 (Arm ARM, MIDR_EL1; Linux asm/cputype.h). */
static const struct {
    uint32_t implementer, part;
    const char *name;
} known[] = {
    { 0x00, 0x051, "QEMU max" },     { 0x41, 0xd03, "Cortex-A53" },  { 0x41, 0xd05, "Cortex-A55" },
    { 0x41, 0xd07, "Cortex-A57" },   { 0x41, 0xd08, "Cortex-A72" },  { 0x41, 0xd0b, "Cortex-A76" },
    { 0x41, 0xd0c, "Neoverse N1" },  { 0x41, 0xd40, "Neoverse V1" }, { 0x41, 0xd41, "Cortex-A78" },
    { 0x41, 0xd44, "Cortex-X1" },    { 0x41, 0xd47, "Cortex-A710" }, { 0x41, 0xd48, "Cortex-X2" },
    { 0x41, 0xd49, "Neoverse N2" },  { 0x41, 0xd4d, "Cortex-A715" }, { 0x41, 0xd4f, "Neoverse V2" },
    { 0x41, 0xd83, "Neoverse V3AE" }, { 0x41, 0xd84, "Neoverse V3" }, { 0x41, 0xd8e, "Neoverse N3" },
    { 0x46, 0x001, "A64FX" },        { 0xc0, 0xac3, "AmpereOne" },   { 0xc0, 0xac4, "AmpereOne A" },
};

void cpu_name(uint64_t midr, char name[CPU_NAME_SIZE])
{
    for (size_t i = 0; midr && i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].implementer == (midr >> 24 & 0xff) && known[i].part == (midr >> 4 & 0xfff)) {
            snprintf(name, CPU_NAME_SIZE, "%s", known[i].name);
            return;
        }
    if (midr)
        snprintf(name, CPU_NAME_SIZE, "a CPU with MIDR %#llx", (unsigned long long)midr);
    else
        snprintf(name, CPU_NAME_SIZE, "a CPU of unknown model");
}
