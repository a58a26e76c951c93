/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "keyfile_layout.h"

#include <stdbool.h>
#include <string.h>

static bool all_zero(const uint8_t *at, size_t size)
{
    uint8_t seen = 0;

    for (size_t i = 0; i < size; i++)
        seen |= at[i];
    return seen == 0;
}

static void read_header(struct keyfile_header *header, const uint8_t *data)
{
    header->flags = get32(data + AT_FLAGS);
    header->thread_count = get32(data + AT_THREAD_COUNT);
    header->data_mask = get64(data + AT_DATA_MASK);
    header->insn_mask = get64(data + AT_INSN_MASK);
    header->midr = get64(data + AT_MIDR);
    header->address_probe = get64(data + AT_ADDRESS_PROBE);
    header->generic_probe = get64(data + AT_GENERIC_PROBE);
    memcpy(header->pstree_hash, data + AT_PSTREE_HASH, SHA256_SIZE);
    memcpy(header->kernel_release, data + AT_RELEASE, KEYFILE_RELEASE_SIZE);
}

static bool header_is_sane(const struct keyfile_header *header, const uint8_t *data)
{
    bool pac = header->flags & KEYFILE_ADDRESS_AUTH;

    if (header->flags & ~(KEYFILE_ADDRESS_AUTH | KEYFILE_GENERIC_AUTH | KEYFILE_BOUND))
        return false;
    if (pac != (header->insn_mask != 0) || pac != (header->data_mask != 0) || pac != (header->address_probe != 0))
        return false;
    if (!(header->flags & KEYFILE_GENERIC_AUTH) && header->generic_probe)
        return false;
    if (header->kernel_release[KEYFILE_RELEASE_SIZE - 1] != '\0')
        return false;
    return all_zero(data + AT_FLAGS + 4, AT_DATA_MASK - AT_FLAGS - 4) &&
           all_zero(data + AT_HEADER_RESERVED, AT_PSTREE_HASH - AT_HEADER_RESERVED) &&
           all_zero(data + AT_RESERVED_END, KEYFILE_HEADER_SIZE - AT_RESERVED_END);
}

static bool record_is_sane(const uint8_t *record, uint32_t machine, uint32_t previous_tid)
{
    uint32_t flags = get32(record + AT_THREAD_FLAGS), tgid = get32(record + AT_TGID);

    if (get32(record + AT_TID) <= previous_tid || get32(record + AT_TID) > KEYFILE_MAX_THREADS)
        return false;
    if (tgid == 0 || tgid > KEYFILE_MAX_THREADS)
        return false;
    if (flags & ~(KEYFILE_HAS_PACA | KEYFILE_HAS_PACG | KEYFILE_HAS_ENABLED))
        return false;
    if (!(flags & KEYFILE_HAS_PACA) != !(machine & KEYFILE_ADDRESS_AUTH) ||
        !(flags & KEYFILE_HAS_PACG) != !(machine & KEYFILE_GENERIC_AUTH))
        return false;
    if ((flags & KEYFILE_HAS_ENABLED) && !(flags & KEYFILE_HAS_PACA))
        return false;
    if (get64(record + AT_ENABLED) > (flags & KEYFILE_HAS_ENABLED ? KEYFILE_ENABLED_ALL : 0))
        return false;
    if (!(flags & KEYFILE_HAS_PACA) && !all_zero(record + AT_PACA, KEYFILE_PACA_SIZE))
        return false;
    if (!(flags & KEYFILE_HAS_PACG) && !all_zero(record + AT_PACG, KEYFILE_PACG_SIZE))
        return false;
    return all_zero(record + AT_THREAD_FLAGS + 4, 4) && all_zero(record + AT_ENABLED + 8, 8) &&
           all_zero(record + AT_THREAD_RESERVED, AT_CORE_HASH - AT_THREAD_RESERVED);
}

/* Length and layout: after this, every offset is inside the buffer. */
static enum keyfile_status check_layout(const uint8_t *data, size_t size)
{
    uint32_t count;

    if (size >= sizeof(keyfile_magic) && memcmp(data, keyfile_magic, sizeof(keyfile_magic)) != 0)
        return KEYFILE_BAD_MAGIC;
    if (size < AT_HEADER_SIZE)
        return KEYFILE_TRUNCATED;
    if (get32(data + AT_VERSION) != KEYFILE_VERSION)
        return KEYFILE_BAD_VERSION;
    if (size < KEYFILE_HEADER_SIZE)
        return KEYFILE_TRUNCATED;
    count = get32(data + AT_THREAD_COUNT);
    if (get32(data + AT_HEADER_SIZE) != KEYFILE_HEADER_SIZE ||
        get32(data + AT_RECORD_SIZE) != KEYFILE_RECORD_SIZE || count == 0 || count > KEYFILE_MAX_THREADS)
        return KEYFILE_BAD_LAYOUT;
    if (size < keyfile_size(count))
        return KEYFILE_TRUNCATED;
    return size > keyfile_size(count) ? KEYFILE_TRAILING_BYTES : KEYFILE_OK;
}

enum keyfile_status keyfile_parse(struct keyfile *file, const uint8_t *data, size_t size)
{
    enum keyfile_status status = check_layout(data, size);
    uint8_t digest[SHA256_SIZE];
    uint32_t previous = 0;

    if (status != KEYFILE_OK)
        return status;
    keyfile_checksum(data, size - KEYFILE_TRAILER_SIZE, digest);
    if (memcmp(digest, data + size - KEYFILE_TRAILER_SIZE, sizeof(digest)) != 0)
        return KEYFILE_BAD_CHECKSUM;
    file->data = data;
    read_header(&file->header, data);
    if (!header_is_sane(&file->header, data))
        return KEYFILE_BAD_HEADER;
    if (!(file->header.flags & KEYFILE_BOUND))
        return KEYFILE_UNBOUND;
    for (uint32_t i = 0; i < file->header.thread_count; i++) {
        const uint8_t *record = data + KEYFILE_HEADER_SIZE + (size_t)i * KEYFILE_RECORD_SIZE;

        if (!record_is_sane(record, file->header.flags, previous))
            return KEYFILE_BAD_RECORD;
        previous = get32(record + AT_TID);
    }
    return KEYFILE_OK;
}

void keyfile_thread_at(const struct keyfile *file, uint32_t index, struct keyfile_thread *thread)
{
    const uint8_t *record = file->data + KEYFILE_HEADER_SIZE + (size_t)index * KEYFILE_RECORD_SIZE;

    thread->tid = get32(record + AT_TID);
    thread->tgid = get32(record + AT_TGID);
    thread->flags = get32(record + AT_THREAD_FLAGS);
    thread->enabled_keys = get64(record + AT_ENABLED);
    memcpy(thread->paca, record + AT_PACA, KEYFILE_PACA_SIZE);
    memcpy(thread->pacg, record + AT_PACG, KEYFILE_PACG_SIZE);
    memcpy(thread->core_hash, record + AT_CORE_HASH, SHA256_SIZE);
}

int keyfile_find(const struct keyfile *file, uint32_t tid, struct keyfile_thread *thread)
{
    uint32_t low = 0, high = file->header.thread_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const uint8_t *record = file->data + KEYFILE_HEADER_SIZE + (size_t)middle * KEYFILE_RECORD_SIZE;

        if (get32(record + AT_TID) == tid) {
            keyfile_thread_at(file, middle, thread);
            return 0;
        }
        if (get32(record + AT_TID) < tid)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

const char *keyfile_status_text(enum keyfile_status status)
{
    static const char *const texts[] = {
        [KEYFILE_OK] = "is whole",
        [KEYFILE_TRUNCATED] = "is truncated",
        [KEYFILE_BAD_MAGIC] = "is not a PAC key file",
        [KEYFILE_BAD_VERSION] = "has a format version this module does not know",
        [KEYFILE_BAD_LAYOUT] = "is damaged: impossible sizes in its header",
        [KEYFILE_TRAILING_BYTES] = "is damaged: bytes after its end",
        [KEYFILE_BAD_CHECKSUM] = "is damaged: wrong checksum",
        [KEYFILE_BAD_HEADER] = "is damaged: impossible header",
        [KEYFILE_UNBOUND] = "was left unfinished by its dump: it is not bound to the images",
        [KEYFILE_BAD_RECORD] = "is damaged: impossible thread record",
    };

    return texts[status];
}
