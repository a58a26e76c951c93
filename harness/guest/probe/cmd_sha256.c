/* SPDX-License-Identifier: MIT */
/* sha256: the digest of stdin, for files that cross into the guest. */
#include <errno.h>
#include <stdint.h>
#include <unistd.h>

#include "commands.h"
#include "fail.h"
#include "sha256.h"

void command_sha256(struct json *json, const struct options *options)
{
	static const char digits[] = "0123456789abcdef";
	static uint8_t bytes[65536];
	uint8_t digest[SHA256_SIZE];
	char text[2 * SHA256_SIZE + 1] = "";
	struct sha256 hash;
	int64_t total = 0;
	ssize_t got;

	(void)options;
	sha256_init(&hash);
	while ((got = read(STDIN_FILENO, bytes, sizeof(bytes))) > 0) {
		sha256_update(&hash, bytes, (size_t)got);
		total += got;
	}
	if (got < 0)
		fail_errno("read(stdin)");
	sha256_final(&hash, digest);
	for (unsigned int i = 0; i < SHA256_SIZE; i++) {
		text[2 * i] = digits[digest[i] >> 4];
		text[2 * i + 1] = digits[digest[i] & 15];
	}
	json_string(json, "sha256", text);
	json_integer(json, "bytes", total);
}
