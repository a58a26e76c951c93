/* SPDX-License-Identifier: MIT */
/* Where the fields lie; shared by keyfile_read.c and keyfile_write.c only. */
#ifndef PAC_KEYFILE_LAYOUT_H
#define PAC_KEYFILE_LAYOUT_H

#include "keyfile.h"

static const uint8_t keyfile_magic[8] = { 'C', 'R', 'P', 'A', 'C', 'K', 'E', 'Y' };

/* Byte offsets in the header ... */
enum {
    AT_VERSION = 8,
    AT_HEADER_SIZE = 12,
    AT_RECORD_SIZE = 16,
    AT_THREAD_COUNT = 20,
    AT_FLAGS = 24,
    AT_DATA_MASK = 32,
    AT_INSN_MASK = 40,
    AT_MIDR = 48,
    AT_HEADER_RESERVED = 56,
    AT_PSTREE_HASH = 64,
    AT_RELEASE = 96,
    AT_ADDRESS_PROBE = 160,
    AT_GENERIC_PROBE = 168,
    AT_RESERVED_END = 176,
};

/* ... and in a record. */
enum {
    AT_TID = 0,
    AT_TGID = 4,
    AT_THREAD_FLAGS = 8,
    AT_ENABLED = 16,
    AT_PACA = 32,
    AT_PACG = 96,
    AT_THREAD_RESERVED = 112,
    AT_CORE_HASH = 128,
};

static inline void put32(uint8_t *at, uint32_t value)
{
    for (unsigned int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static inline void put64(uint8_t *at, uint64_t value)
{
    put32(at, (uint32_t)value);
    put32(at + 4, (uint32_t)(value >> 32));
}

static inline uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t get64(const uint8_t *at)
{
    return (uint64_t)get32(at) | (uint64_t)get32(at + 4) << 32;
}

/* SHA-256 of everything before the trailer. */
void keyfile_checksum(const uint8_t *data, size_t size, uint8_t digest[SHA256_SIZE]);

#endif
