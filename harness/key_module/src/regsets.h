/* SPDX-License-Identifier: MIT */
/* Register sets of a stopped tracee (Linux: Documentation/arch/arm64/pointer-authentication.rst). */
#ifndef PAC_REGSETS_H
#define PAC_REGSETS_H

#include <stddef.h>
#include <sys/types.h>

/* Numbers from the kernel's elf.h; older libc headers lack some. */
#define REGSET_PAC_MASK 0x406u         /* 16 bytes: data mask, instruction mask */
#define REGSET_PACA_KEYS 0x407u        /* 64 bytes: IA, IB, DA, DB */
#define REGSET_PACG_KEYS 0x408u        /* 16 bytes: GA */
#define REGSET_PAC_ENABLED_KEYS 0x40au /* 8 bytes, Linux 5.13 and later */

/* Read exactly `size` bytes. 0 or -errno; -EINVAL: this machine or kernel has no such set. */
int regset_read(pid_t tid, unsigned int type, void *into, size_t size);
/* Write exactly `size` bytes. 0 or -errno. */
int regset_write(pid_t tid, unsigned int type, const void *from, size_t size);

#endif
