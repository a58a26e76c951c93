/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "keyfile_layout.h"

#include <string.h>

size_t keyfile_size(uint32_t thread_count)
{
    return KEYFILE_HEADER_SIZE + (size_t)thread_count * KEYFILE_RECORD_SIZE + KEYFILE_TRAILER_SIZE;
}

void keyfile_checksum(const uint8_t *data, size_t size, uint8_t digest[SHA256_SIZE])
{
    struct sha256 hash;

    sha256_init(&hash);
    sha256_update(&hash, data, size);
    sha256_final(&hash, digest);
}

void keyfile_put_thread(uint8_t *record, const struct keyfile_thread *thread)
{
    memset(record, 0, KEYFILE_RECORD_SIZE);
    put32(record + AT_TID, thread->tid);
    put32(record + AT_TGID, thread->tgid);
    put32(record + AT_THREAD_FLAGS, thread->flags);
    if (thread->flags & KEYFILE_HAS_ENABLED)
        put64(record + AT_ENABLED, thread->enabled_keys);
    if (thread->flags & KEYFILE_HAS_PACA)
        memcpy(record + AT_PACA, thread->paca, KEYFILE_PACA_SIZE);
    if (thread->flags & KEYFILE_HAS_PACG)
        memcpy(record + AT_PACG, thread->pacg, KEYFILE_PACG_SIZE);
    memcpy(record + AT_CORE_HASH, thread->core_hash, SHA256_SIZE);
}

static void swap_records(uint8_t *left, uint8_t *right)
{
    uint8_t spare[KEYFILE_RECORD_SIZE];

    memcpy(spare, left, sizeof(spare));
    memcpy(left, right, sizeof(spare));
    memcpy(right, spare, sizeof(spare));
    explicit_bzero(spare, sizeof(spare));
}

static void sift_down(uint8_t *records, uint32_t root, uint32_t count)
{
    for (uint64_t child = 2 * (uint64_t)root + 1; child < count; child = 2 * (uint64_t)root + 1) {
        uint8_t *at = records + child * KEYFILE_RECORD_SIZE;
        uint8_t *top = records + (size_t)root * KEYFILE_RECORD_SIZE;

        if (child + 1 < count && get32(at) < get32(at + KEYFILE_RECORD_SIZE)) {
            at += KEYFILE_RECORD_SIZE;
            child++;
        }
        if (get32(top) >= get32(at))
            return;
        swap_records(top, at);
        root = (uint32_t)child;
    }
}

/* A heap sort in place: libc's qsort may spill keys into heap memory that nobody wipes. */
static void sort_records(uint8_t *records, uint32_t count)
{
    for (uint32_t i = count / 2; i > 0; i--)
        sift_down(records, i - 1, count);
    for (uint32_t left = count; left > 1; left--) {
        swap_records(records, records + (size_t)(left - 1) * KEYFILE_RECORD_SIZE);
        sift_down(records, 0, left - 1);
    }
}

static void seal(uint8_t *data, uint32_t thread_count)
{
    size_t body = keyfile_size(thread_count) - KEYFILE_TRAILER_SIZE;

    keyfile_checksum(data, body, data + body);
}

enum keyfile_status keyfile_finish(uint8_t *data, const struct keyfile_header *header)
{
    uint8_t *records = data + KEYFILE_HEADER_SIZE;

    sort_records(records, header->thread_count);
    for (uint32_t i = 1; i < header->thread_count; i++) {
        const uint8_t *record = records + (size_t)i * KEYFILE_RECORD_SIZE;

        if (get32(record) == get32(record - KEYFILE_RECORD_SIZE))
            return KEYFILE_BAD_RECORD;
    }
    memset(data, 0, KEYFILE_HEADER_SIZE);
    memcpy(data, keyfile_magic, sizeof(keyfile_magic));
    put32(data + AT_VERSION, KEYFILE_VERSION);
    put32(data + AT_HEADER_SIZE, KEYFILE_HEADER_SIZE);
    put32(data + AT_RECORD_SIZE, KEYFILE_RECORD_SIZE);
    put32(data + AT_THREAD_COUNT, header->thread_count);
    put32(data + AT_FLAGS, header->flags);
    put64(data + AT_DATA_MASK, header->data_mask);
    put64(data + AT_INSN_MASK, header->insn_mask);
    put64(data + AT_MIDR, header->midr);
    put64(data + AT_ADDRESS_PROBE, header->address_probe);
    put64(data + AT_GENERIC_PROBE, header->generic_probe);
    memcpy(data + AT_PSTREE_HASH, header->pstree_hash, SHA256_SIZE);
    memcpy(data + AT_RELEASE, header->kernel_release, strnlen(header->kernel_release, KEYFILE_RELEASE_SIZE - 1));
    seal(data, header->thread_count);
    return KEYFILE_OK;
}

uint8_t *keyfile_core_hash(uint8_t *data, uint32_t index, uint32_t *tid)
{
    uint8_t *record = data + KEYFILE_HEADER_SIZE + (size_t)index * KEYFILE_RECORD_SIZE;

    *tid = get32(record + AT_TID);
    return record + AT_CORE_HASH;
}

void keyfile_bind(uint8_t *data, uint32_t thread_count, const uint8_t pstree_hash[SHA256_SIZE])
{
    memcpy(data + AT_PSTREE_HASH, pstree_hash, SHA256_SIZE);
    put32(data + AT_FLAGS, get32(data + AT_FLAGS) | KEYFILE_BOUND);
    seal(data, thread_count);
}
