/* SPDX-License-Identifier: MIT */
/* SHA-256 (FIPS 180-4), for what runs where no library beyond libc can be counted on. */
#ifndef PAC_SHA256_H
#define PAC_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_SIZE 32u

struct sha256 {
    uint32_t state[8];
    uint64_t length; /* bytes taken so far */
    uint8_t block[64];
};

void sha256_init(struct sha256 *hash);
void sha256_update(struct sha256 *hash, const void *data, size_t size);
/* Also wipes the state: the last block may hold key bytes. */
void sha256_final(struct sha256 *hash, uint8_t digest[SHA256_SIZE]);

#endif
