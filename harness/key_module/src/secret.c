/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "secret.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define SECRET_UNIT 65536u

int secret_reserve(struct secret *secret, size_t size)
{
    size_t capacity = secret->capacity ? secret->capacity : SECRET_UNIT;
    uint8_t *data;

    if (size <= secret->capacity)
        return 0;
    while (capacity < size)
        capacity *= 2;
    data = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return -errno;
    /*
     * The tasks to restore are forked from this process: they must not carry everybody's keys.
     * Locking is a wish (RLIMIT_MEMLOCK may forbid it), the other two always work on
     * anonymous memory.
     */
    if (madvise(data, capacity, MADV_DONTFORK) || madvise(data, capacity, MADV_DONTDUMP)) {
        int error = errno;

        munmap(data, capacity);
        return -error;
    }
    (void)!mlock(data, capacity);
    if (secret->data)
        memcpy(data, secret->data, secret->capacity);
    secret_release(secret);
    secret->data = data;
    secret->capacity = capacity;
    return 0;
}

void secret_release(struct secret *secret)
{
    if (secret->data) {
        explicit_bzero(secret->data, secret->capacity);
        munmap(secret->data, secret->capacity);
    }
    secret->data = NULL;
    secret->capacity = 0;
}
