/* SPDX-License-Identifier: MIT */
/* What people call a CPU. */
#ifndef PAC_CPU_NAME_H
#define PAC_CPU_NAME_H

#include <stdint.h>

#define CPU_NAME_SIZE 48

/* "Neoverse V1" for its MIDR_EL1; "a CPU with MIDR 0x..." for one that is not listed. */
void cpu_name(uint64_t midr, char name[CPU_NAME_SIZE]);

#endif
