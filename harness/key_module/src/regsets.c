/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "regsets.h"

#include <errno.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

int regset_read(pid_t tid, unsigned int type, void *into, size_t size)
{
    struct iovec part = { .iov_base = into, .iov_len = size };

    if (ptrace(PTRACE_GETREGSET, tid, (void *)(uintptr_t)type, &part) < 0)
        return -errno;
    return part.iov_len == size ? 0 : -EBADMSG;
}

int regset_write(pid_t tid, unsigned int type, const void *from, size_t size)
{
    struct iovec part = { .iov_base = (void *)(uintptr_t)from, .iov_len = size };

    if (ptrace(PTRACE_SETREGSET, tid, (void *)(uintptr_t)type, &part) < 0)
        return -errno;
    return part.iov_len == size ? 0 : -EBADMSG;
}
