/* SPDX-License-Identifier: MIT */
#include "cpu_name.h"

#include <stddef.h>
#include <stdio.h>

static const struct {
    uint32_t implementer, part;
    const char *name;
} known[] = {
#define CPU(implementer, part, name) { implementer, part, name },
#include "cpu_names.inc"
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
