/* SPDX-License-Identifier: MIT */
/* Keys of a process kept aside for the positive control. The file holds secrets: mode 0600. */
#ifndef PROBE_KEYFILE_H
#define PROBE_KEYFILE_H

#include <stdint.h>

#include "pac.h"

struct saved_keys {
	int32_t tid;
	uint8_t has_address_keys, has_generic_key, unused[2];
	uint8_t keys[PACA_BYTES + PACG_BYTES];
};

/* Creates the file, which must not exist. */
void keyfile_write(const char *path, const struct saved_keys *list, size_t count);

/* Returns the records in an array to free(). */
struct saved_keys *keyfile_read(const char *path, size_t *count);

#endif
