/* SPDX-License-Identifier: MIT */
/* Pointer authentication state of one thread, as the kernel's regsets and core notes give it. */
#ifndef PROBE_PAC_H
#define PROBE_PAC_H

#include <stdbool.h>
#include <stdint.h>

#include "json.h"

/* Note types of include/uapi/linux/elf.h; spelled out because older headers lack the last ones. */
#define NOTE_PAC_MASK 0x406	    /* struct user_pac_mask: data_mask, insn_mask */
#define NOTE_PACA_KEYS 0x407	    /* struct user_pac_address_keys: IA, IB, DA, DB */
#define NOTE_PACG_KEYS 0x408	    /* struct user_pac_generic_keys: GA */
#define NOTE_PAC_ENABLED_KEYS 0x40a /* unsigned long: PR_PAC_AP*KEY bits */

#define KEY_BYTES 16
#define PACA_BYTES (4 * KEY_BYTES)
#define PACG_BYTES KEY_BYTES
#define SALT_BYTES 32

struct pac_state {
	bool has_mask, has_address_keys, has_generic_key, has_enabled;
	uint64_t data_mask, insn_mask;
	uint64_t enabled;
	/* IA, IB, DA, DB, GA. Secret: leaves this program only as a fingerprint. */
	uint8_t keys[PACA_BYTES + PACG_BYTES];
};

struct salt {
	bool known;
	uint8_t bytes[SALT_BYTES];
};

/* Reads exactly 32 bytes; no path gives an unknown salt, and keys are then written as null. */
void salt_read(struct salt *salt, const char *path);

/*
 * Writes "keys": {"fingerprint", "ia", "ib", "da", "db", "ga"}, each the first 16 hexadecimal
 * digits of SHA-256(salt || key bytes); null without keys or salt, "ga" null without that key.
 */
void pac_write_keys(struct json *json, const struct pac_state *pac, const struct salt *salt);

/* Writes "insn_mask", "data_mask" and "enabled_keys". */
void pac_write_masks(struct json *json, const struct pac_state *pac);

#endif
