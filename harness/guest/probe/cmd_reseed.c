/* SPDX-License-Identifier: MIT */
/*
 * reseed [--hex HEX] [--time MICROSECONDS] [--new-salt FILE]: entropy from stdin or the command line into
 * the kernel, then a forced reseed; with --time the clock is set, with --new-salt FILE gets 32 random bytes.
 * Clones of one machine wake up with one random state; equal keys in two of them prove nothing.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "commands.h"
#include "fail.h"

#define ENTROPY_MAX 4096

static size_t from_hex(const char *text, uint8_t *bytes)
{
	size_t size = strlen(text) / 2;

	if (strlen(text) % 2 || size > ENTROPY_MAX)
		fail("--hex needs an even number of digits, at most %d", 2 * ENTROPY_MAX);
	for (size_t i = 0; i < size; i++) {
		const char pair[3] = { text[2 * i], text[2 * i + 1], 0 };

		if (!isxdigit((unsigned char)pair[0]) || !isxdigit((unsigned char)pair[1]))
			fail("--hex has something other than digits: %s", pair);
		bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
	}
	return size;
}

static size_t from_stdin(uint8_t *bytes)
{
	size_t size = 0;
	ssize_t got;

	while ((got = read(STDIN_FILENO, bytes + size, ENTROPY_MAX - size)) > 0)
		size += (size_t)got;
	if (got < 0)
		fail_errno("read(stdin)");
	return size;
}

static void set_clock(long long microseconds)
{
	const struct timespec now = {
		.tv_sec = (time_t)(microseconds / 1000000),
		.tv_nsec = (long)(microseconds % 1000000) * 1000,
	};

	if (clock_settime(CLOCK_REALTIME, &now))
		fail_errno("clock_settime");
}

static void new_salt(const char *path)
{
	uint8_t salt[32];
	int file;

	if (getrandom(salt, sizeof(salt), 0) != sizeof(salt))
		fail_errno("getrandom");
	file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (file < 0 || write(file, salt, sizeof(salt)) != sizeof(salt))
		fail_errno("salt in %s", path);
	close(file);
}

void command_reseed(struct json *json, const struct options *options)
{
	static union {
		struct rand_pool_info pool;
		uint8_t room[sizeof(struct rand_pool_info) + ENTROPY_MAX];
	} seed;
	uint8_t *bytes = seed.room + sizeof(seed.pool);
	size_t size = options->hex ? from_hex(options->hex, bytes) : from_stdin(bytes);
	int file = open("/dev/urandom", O_RDWR | O_CLOEXEC);

	if (!size)
		fail("no entropy was given");
	if (file < 0)
		fail_errno("open(/dev/urandom)");
	seed.pool.buf_size = (int)size;
	seed.pool.entropy_count = (int)size * 8;
	if (ioctl(file, RNDADDENTROPY, &seed))
		fail_errno("ioctl(RNDADDENTROPY)");
	if (ioctl(file, RNDRESEEDCRNG))
		fail_errno("ioctl(RNDRESEEDCRNG)");
	if (options->time)
		set_clock(options->time);
	if (options->new_salt)
		new_salt(options->new_salt);
	json_integer(json, "bytes", (int64_t)size);
}
