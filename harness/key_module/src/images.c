/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "images.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_UNIT 16384

void image_core_name(char name[CORE_IMAGE_NAME_SIZE], uint32_t tid)
{
    snprintf(name, CORE_IMAGE_NAME_SIZE, "core-%u.img", tid);
}

static ssize_t read_some(int fd, void *into, size_t size)
{
    ssize_t got;

    do
        got = read(fd, into, size);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

int image_hash(int dir, const char *name, uint8_t digest[SHA256_SIZE])
{
    uint8_t unit[READ_UNIT];
    struct sha256 hash;
    ssize_t got;
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    sha256_init(&hash);
    while ((got = read_some(fd, unit, sizeof(unit))) > 0)
        sha256_update(&hash, unit, (size_t)got);
    close(fd);
    if (got < 0)
        return (int)got;
    sha256_final(&hash, digest);
    return 0;
}

int image_create_keyfile(int dir)
{
    int fd;

    /* A leftover of a killed dump; O_EXCL then makes sure that nobody else's file is written to. */
    image_discard_keyfile(dir);
    fd = openat(dir, KEYFILE_TEMPORARY_NAME, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    if (fchmod(fd, 0600)) {
        int error = errno;

        close(fd);
        image_discard_keyfile(dir);
        return -error;
    }
    return fd;
}

int image_store_keyfile(int fd, const uint8_t *data, size_t size)
{
    size_t done = 0;

    /* No fsync: CRIU syncs none of the images this file is bound to, and the tasks are frozen. */
    while (done < size) {
        ssize_t put = pwrite(fd, data + done, size - done, (off_t)done);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        done += (size_t)put;
    }
    return 0;
}

int image_publish_keyfile(int dir)
{
    return renameat(dir, KEYFILE_TEMPORARY_NAME, dir, KEYFILE_NAME) ? -errno : 0;
}

void image_discard_keyfile(int dir)
{
    unlinkat(dir, KEYFILE_TEMPORARY_NAME, 0);
}

int image_keyfile_unfinished(int dir)
{
    return faccessat(dir, KEYFILE_TEMPORARY_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int read_whole(int fd, struct secret *into, size_t size)
{
    size_t have = 0;
    int error = secret_reserve(into, size + 1);

    if (error)
        return error;
    while (have < size) {
        ssize_t got = read_some(fd, into->data + have, size - have);

        if (got <= 0)
            return got < 0 ? (int)got : -EIO; /* it shrank while it was read */
        have += (size_t)got;
    }
    return 0;
}

int image_read_keyfile(int dir, struct secret *into, size_t *size, mode_t *mode)
{
    struct stat status;
    int error = 0;
    /* O_NONBLOCK: a FIFO of that name must be refused, not waited for. */
    int fd = openat(dir, KEYFILE_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    if (fstat(fd, &status))
        error = -errno;
    else if (!S_ISREG(status.st_mode))
        error = -EINVAL;
    else if ((uint64_t)status.st_size > KEYFILE_MAX_SIZE)
        error = -EFBIG;
    if (!error) {
        *size = (size_t)status.st_size;
        *mode = status.st_mode & 07777;
        error = read_whole(fd, into, *size);
    }
    close(fd);
    return error;
}

void image_invalidate(int dir)
{
    unlinkat(dir, "inventory.img", 0);
    image_discard_keyfile(dir);
    unlinkat(dir, KEYFILE_NAME, 0);
}
