/* SPDX-License-Identifier: MIT */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* explicit_bzero */
#endif
#include "sha256.h"

#include <string.h>

#ifdef __aarch64__
#include <arm_neon.h>
#include <sys/auxv.h>
#define HWCAP_HAS_SHA2 (1UL << 6) /* Linux asm/hwcap.h */
#endif

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate_right(uint32_t value, unsigned int bits)
{
    return value >> bits | value << (32 - bits);
}

static void expand(uint32_t words[64], const uint8_t block[64])
{
    for (unsigned int i = 0; i < 16; i++)
        words[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
                   (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (unsigned int i = 16; i < 64; i++) {
        uint32_t early = words[i - 15], late = words[i - 2];
        uint32_t small0 = rotate_right(early, 7) ^ rotate_right(early, 18) ^ early >> 3;
        uint32_t small1 = rotate_right(late, 17) ^ rotate_right(late, 19) ^ late >> 10;
        words[i] = words[i - 16] + small0 + words[i - 7] + small1;
    }
}

#ifdef __aarch64__
/* With the instructions of FEAT_SHA256: tasks are stopped while their images are hashed. */
__attribute__((target("sha2"))) static void compress_by_instructions(uint32_t state[8], const uint8_t block[64])
{
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4), words[4];

    for (unsigned int i = 0; i < 4; i++)
        words[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(block + 16 * i)));
    for (unsigned int i = 0; i < 16; i++) {
        uint32x4_t *now = &words[i % 4], before = abcd;
        uint32x4_t added = vaddq_u32(*now, vld1q_u32(round_constants + 4 * i));

        if (i < 12) /* in place: the word four rounds of four later */
            *now = vsha256su1q_u32(vsha256su0q_u32(*now, words[(i + 1) % 4]), words[(i + 2) % 4],
                                   words[(i + 3) % 4]);
        abcd = vsha256hq_u32(abcd, efgh, added);
        efgh = vsha256h2q_u32(efgh, before, added);
    }
    vst1q_u32(state, vaddq_u32(vld1q_u32(state), abcd));
    vst1q_u32(state + 4, vaddq_u32(vld1q_u32(state + 4), efgh));
    explicit_bzero(words, sizeof(words));
}

static int has_instructions(void)
{
    static int has = -1;

    if (has < 0)
        has = (getauxval(AT_HWCAP) & HWCAP_HAS_SHA2) != 0;
    return has;
}
#endif

static void compress(uint32_t state[8], const uint8_t block[64])
{
    uint32_t words[64], v[8];

#ifdef __aarch64__
    if (has_instructions()) {
        compress_by_instructions(state, block);
        return;
    }
#endif

    expand(words, block);
    memcpy(v, state, sizeof(v));
    for (unsigned int i = 0; i < 64; i++) {
        uint32_t big1 = rotate_right(v[4], 6) ^ rotate_right(v[4], 11) ^ rotate_right(v[4], 25);
        uint32_t choose = (v[4] & v[5]) ^ (~v[4] & v[6]);
        uint32_t first = v[7] + big1 + choose + round_constants[i] + words[i];
        uint32_t big0 = rotate_right(v[0], 2) ^ rotate_right(v[0], 13) ^ rotate_right(v[0], 22);
        uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);

        memmove(v + 1, v, 7 * sizeof(v[0]));
        v[4] += first;
        v[0] = first + big0 + majority;
    }
    for (unsigned int i = 0; i < 8; i++)
        state[i] += v[i];
    explicit_bzero(words, sizeof(words));
    explicit_bzero(v, sizeof(v));
}

void sha256_init(struct sha256 *hash)
{
    static const uint32_t start[8] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
    };

    memcpy(hash->state, start, sizeof(start));
    hash->length = 0;
}

void sha256_update(struct sha256 *hash, const void *data, size_t size)
{
    const uint8_t *bytes = data;

    while (size > 0) {
        size_t used = hash->length % 64;
        size_t take = 64 - used < size ? 64 - used : size;

        memcpy(hash->block + used, bytes, take);
        hash->length += take;
        bytes += take;
        size -= take;
        if (used + take == 64)
            compress(hash->state, hash->block);
    }
}

void sha256_final(struct sha256 *hash, uint8_t digest[SHA256_SIZE])
{
    uint64_t bits = hash->length * 8;
    uint8_t length[8], zero = 0, one = 0x80;

    for (unsigned int i = 0; i < 8; i++)
        length[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_update(hash, &one, 1);
    while (hash->length % 64 != 56)
        sha256_update(hash, &zero, 1);
    sha256_update(hash, length, sizeof(length));
    for (unsigned int i = 0; i < SHA256_SIZE; i++)
        digest[i] = (uint8_t)(hash->state[i / 4] >> (24 - 8 * (i % 4)));
    explicit_bzero(hash, sizeof(*hash));
}
