/* SPDX-License-Identifier: MIT */
/*
 * pac-keys.img, format version 2: a header, one record per thread, a SHA-256 of all that.
 * docs/reference/key-file-format.md is the description; harness/key_module/keyfile.py the other reader.
 */
#ifndef PAC_KEYFILE_H
#define PAC_KEYFILE_H

#include <stddef.h>
#include <stdint.h>

#include "sha256.h"

#define KEYFILE_NAME "pac-keys.img"
#define KEYFILE_VERSION 2u
#define KEYFILE_HEADER_SIZE 192u
#define KEYFILE_RECORD_SIZE 160u
#define KEYFILE_TRAILER_SIZE SHA256_SIZE
#define KEYFILE_MAX_THREADS 4194304u /* the kernel's limit on process ids */
#define KEYFILE_RELEASE_SIZE 64u
#define KEYFILE_MAX_SIZE                                                    \
    ((uint64_t)KEYFILE_HEADER_SIZE + KEYFILE_TRAILER_SIZE +                 \
     (uint64_t)KEYFILE_MAX_THREADS * KEYFILE_RECORD_SIZE)

#define KEYFILE_PACA_SIZE 64u /* IA, IB, DA, DB, as NT_ARM_PACA_KEYS has them */
#define KEYFILE_PACG_SIZE 16u /* GA, as NT_ARM_PACG_KEYS has it */
#define KEYFILE_ENABLED_ALL 0xfu

/* Header flags. A file with neither of the first two says: this machine had no PAC. */
#define KEYFILE_ADDRESS_AUTH 1u
#define KEYFILE_GENERIC_AUTH 2u
#define KEYFILE_BOUND 4u

/* Thread flags: which of the fields were read. */
#define KEYFILE_HAS_PACA 1u
#define KEYFILE_HAS_PACG 2u
#define KEYFILE_HAS_ENABLED 4u

enum keyfile_status {
    KEYFILE_OK,
    KEYFILE_TRUNCATED,
    KEYFILE_BAD_MAGIC,
    KEYFILE_BAD_VERSION,
    KEYFILE_BAD_LAYOUT,
    KEYFILE_TRAILING_BYTES,
    KEYFILE_BAD_CHECKSUM,
    KEYFILE_BAD_HEADER,
    KEYFILE_UNBOUND,
    KEYFILE_BAD_RECORD,
};

struct keyfile_header {
    uint32_t flags;
    uint32_t thread_count;
    uint64_t data_mask; /* PAC bits of a data pointer, from NT_ARM_PAC_MASK */
    uint64_t insn_mask; /* PAC bits of a code pointer */
    uint64_t midr;      /* MIDR_EL1 of the CPU, 0 where it cannot be read */
    /* What a fixed key makes of a fixed pointer and modifier: equal exactly where codes are. */
    uint64_t address_probe; /* pacia1716; 0 without address authentication */
    uint64_t generic_probe; /* pacga; 0 without generic authentication */
    uint8_t pstree_hash[SHA256_SIZE];
    char kernel_release[KEYFILE_RELEASE_SIZE];
};

/* Holds keys: wipe with explicit_bzero after use. */
struct keyfile_thread {
    uint32_t tid;  /* in the innermost pid namespace: the number in core-<tid>.img */
    uint32_t tgid; /* likewise, of the thread group */
    uint32_t flags;
    uint64_t enabled_keys; /* PR_PAC_AP*KEY bits, from NT_ARM_PAC_ENABLED_KEYS */
    uint8_t paca[KEYFILE_PACA_SIZE];
    uint8_t pacg[KEYFILE_PACG_SIZE];
    uint8_t core_hash[SHA256_SIZE];
};

/* A validated file; points into the caller's buffer. */
struct keyfile {
    const uint8_t *data;
    struct keyfile_header header;
};

/* Bytes of a file with that many threads. */
size_t keyfile_size(uint32_t thread_count);
/* Encode one record; `record` has KEYFILE_RECORD_SIZE bytes. */
void keyfile_put_thread(uint8_t *record, const struct keyfile_thread *thread);
/*
 * Finish a file whose records lie unsorted at data + KEYFILE_HEADER_SIZE: sorts them by tid,
 * writes header and checksum. KEYFILE_BAD_RECORD: two threads have one tid.
 */
enum keyfile_status keyfile_finish(uint8_t *data, const struct keyfile_header *header);
/*
 * Where the digest of the core image goes in record `index` of a finished file that is not bound
 * yet; its thread id in `tid`. To be followed by keyfile_bind.
 */
uint8_t *keyfile_core_hash(uint8_t *data, uint32_t index, uint32_t *tid);
/* Bind a finished file to its images and renew the checksum. */
void keyfile_bind(uint8_t *data, uint32_t thread_count, const uint8_t pstree_hash[SHA256_SIZE]);

/* Check everything that can be checked without the images. */
enum keyfile_status keyfile_parse(struct keyfile *file, const uint8_t *data, size_t size);
/* Decode record `index` of a validated file. */
void keyfile_thread_at(const struct keyfile *file, uint32_t index, struct keyfile_thread *thread);
/* Decode the record of `tid`; returns 0, or -1 when the file has none. */
int keyfile_find(const struct keyfile *file, uint32_t tid, struct keyfile_thread *thread);
/* A sentence part for a log line: "is truncated". */
const char *keyfile_status_text(enum keyfile_status status);

#endif
