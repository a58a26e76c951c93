/* SPDX-License-Identifier: MIT */
#include "pac.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <unistd.h>

#include "fail.h"
#include "sha256.h"

#define FINGERPRINT_BYTES 8

void salt_read(struct salt *salt, const char *path)
{
	uint8_t more;
	int file;

	salt->known = false;
	if (!path)
		return;
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		fail_errno("open(%s)", path);
	if (read(file, salt->bytes, SALT_BYTES) != SALT_BYTES || read(file, &more, 1) != 0)
		fail("%s does not hold exactly %d bytes of salt", path, SALT_BYTES);
	close(file);
	salt->known = true;
}

static void write_fingerprint(struct json *json, const char *name, const struct salt *salt,
			      const uint8_t *key, size_t size)
{
	static const char digits[] = "0123456789abcdef";
	uint8_t digest[SHA256_SIZE];
	char text[2 * FINGERPRINT_BYTES + 1];
	struct sha256 hash;

	sha256_init(&hash);
	sha256_update(&hash, salt->bytes, SALT_BYTES);
	sha256_update(&hash, key, size);
	sha256_final(&hash, digest);
	for (int i = 0; i < FINGERPRINT_BYTES; i++) {
		text[2 * i] = digits[digest[i] >> 4];
		text[2 * i + 1] = digits[digest[i] & 15];
	}
	text[2 * FINGERPRINT_BYTES] = 0;
	json_string(json, name, text);
}

void pac_write_keys(struct json *json, const struct pac_state *pac, const struct salt *salt)
{
	static const char *const names[] = { "ia", "ib", "da", "db" };
	size_t size = pac->has_generic_key ? PACA_BYTES + PACG_BYTES : PACA_BYTES;

	if (!pac->has_address_keys || !salt->known) {
		json_null(json, "keys");
		return;
	}
	json_object(json, "keys");
	write_fingerprint(json, "fingerprint", salt, pac->keys, size);
	for (int i = 0; i < 4; i++)
		write_fingerprint(json, names[i], salt, pac->keys + i * KEY_BYTES, KEY_BYTES);
	if (pac->has_generic_key)
		write_fingerprint(json, "ga", salt, pac->keys + PACA_BYTES, KEY_BYTES);
	else
		json_null(json, "ga");
	json_end_object(json);
}

void pac_write_masks(struct json *json, const struct pac_state *pac)
{
	json_maybe_pointer(json, "insn_mask", pac->has_mask, pac->insn_mask);
	json_maybe_pointer(json, "data_mask", pac->has_mask, pac->data_mask);
	json_maybe_pointer(json, "enabled_keys", pac->has_enabled, pac->enabled);
}
