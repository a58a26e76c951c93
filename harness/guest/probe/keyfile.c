/* SPDX-License-Identifier: MIT */
#include "keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fail.h"

void keyfile_write(const char *path, const struct saved_keys *list, size_t count)
{
	int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	size_t size = count * sizeof(*list);

	if (file < 0)
		fail_errno("open(%s)", path);
	if (write(file, list, size) != (ssize_t)size) {
		unlink(path);
		fail_errno("write(%s)", path);
	}
	close(file);
}

struct saved_keys *keyfile_read(const char *path, size_t *count)
{
	int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct saved_keys *list;
	struct stat status;

	if (file < 0 || fstat(file, &status))
		fail_errno("open(%s)", path);
	if (status.st_size <= 0 || (size_t)status.st_size % sizeof(*list))
		fail("%s is not a file of saved keys: %lld bytes", path, (long long)status.st_size);
	list = malloc((size_t)status.st_size);
	if (!list || read(file, list, (size_t)status.st_size) != status.st_size)
		fail_errno("read(%s)", path);
	close(file);
	*count = (size_t)status.st_size / sizeof(*list);
	return list;
}
