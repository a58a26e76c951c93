/* SPDX-License-Identifier: MIT */
/*
 * The C side of the key file tests.
 *   write   the golden file to standard output
 *   many N  a file of 1,000 threads collected in no order, the last N of them twice
 *   read    cases from standard input (4 bytes length, little-endian, then the file); one line
 *           per case: the status, and what a valid file holds
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keyfile.h"
#include "secret.h"

static void print_hex(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        printf("%02x", bytes[i]);
}

static void print_thread(const struct keyfile_thread *thread)
{
    uint8_t digest[SHA256_SIZE];
    struct sha256 hash;

    sha256_init(&hash);
    sha256_update(&hash, thread->paca, sizeof(thread->paca));
    sha256_update(&hash, thread->pacg, sizeof(thread->pacg));
    sha256_final(&hash, digest);
    printf(" %u:%u:%u:%llu:", thread->tid, thread->tgid, thread->flags, (unsigned long long)thread->enabled_keys);
    print_hex(thread->core_hash, SHA256_SIZE);
    putchar(':');
    print_hex(digest, sizeof(digest));
}

static void print_case(const uint8_t *data, size_t size)
{
    struct keyfile_thread thread, found;
    struct keyfile file;
    enum keyfile_status status = keyfile_parse(&file, data, size);

    printf("%d", status);
    if (status == KEYFILE_OK) {
        printf(" %u %llu %llu %llu %llu %llu %s", file.header.flags, (unsigned long long)file.header.data_mask,
               (unsigned long long)file.header.insn_mask, (unsigned long long)file.header.midr,
               (unsigned long long)file.header.address_probe, (unsigned long long)file.header.generic_probe,
               file.header.kernel_release);
        for (uint32_t i = 0; i < file.header.thread_count; i++) {
            keyfile_thread_at(&file, i, &thread);
            if (keyfile_find(&file, thread.tid, &found) || found.tgid != thread.tgid)
                abort();
            print_thread(&thread);
        }
    }
    putchar('\n');
}

static int read_cases(void)
{
    uint8_t prefix[4];

    while (fread(prefix, 1, sizeof(prefix), stdin) == sizeof(prefix)) {
        size_t size = (size_t)prefix[0] | (size_t)prefix[1] << 8 | (size_t)prefix[2] << 16;
        /* Exactly as large as the case, so that a sanitizer sees any byte read beyond it. */
        uint8_t *data = malloc(size ? size : 1);

        if (!data || fread(data, 1, size, stdin) != size)
            return 1;
        print_case(data, size);
        free(data);
    }
    return 0;
}

static int write_golden(void)
{
    static const uint32_t tids[] = { 17, 1, 40 };
    struct keyfile_header header = {
        .flags = KEYFILE_ADDRESS_AUTH | KEYFILE_GENERIC_AUTH | KEYFILE_BOUND,
        .thread_count = 3,
        .data_mask = 0x007f000000000000,
        .insn_mask = 0x007f000000000000,
        .midr = 0x411fd402,
        .address_probe = 0x0012345678123456,
        .generic_probe = 0x9abcdef000000000,
        .kernel_release = "6.1.0-test-arm64",
    };
    static uint8_t file[KEYFILE_HEADER_SIZE + 3 * KEYFILE_RECORD_SIZE + KEYFILE_TRAILER_SIZE];

    memset(header.pstree_hash, 0x11, SHA256_SIZE);
    for (uint32_t i = 0; i < 3; i++) {
        struct keyfile_thread thread = {
            .tid = tids[i],
            .tgid = tids[i] == 40 ? 40 : 1,
            .flags = KEYFILE_HAS_PACA | KEYFILE_HAS_PACG | (tids[i] == 40 ? 0 : KEYFILE_HAS_ENABLED),
            .enabled_keys = tids[i] == 17 ? 0xd : KEYFILE_ENABLED_ALL,
        };

        for (uint32_t b = 0; b < KEYFILE_PACA_SIZE; b++)
            thread.paca[b] = (uint8_t)(tids[i] * 3 + b);
        memset(thread.pacg, (int)(tids[i] + 0x80), KEYFILE_PACG_SIZE);
        memset(thread.core_hash, (int)tids[i], SHA256_SIZE);
        keyfile_put_thread(file + KEYFILE_HEADER_SIZE + i * KEYFILE_RECORD_SIZE, &thread);
    }
    if (keyfile_finish(file, &header) != KEYFILE_OK)
        return 1;
    return fwrite(file, 1, sizeof(file), stdout) == sizeof(file) ? 0 : 1;
}

static int write_many(uint32_t twice)
{
    struct keyfile_header header = { .flags = KEYFILE_BOUND, .thread_count = 1000 + twice };
    struct secret file = { 0 };
    enum keyfile_status status;

    for (uint32_t i = 0; i < header.thread_count; i++) {
        struct keyfile_thread thread = { .tid = i % 1000 * 7919 % 100003 + 1, .tgid = 1 };

        if (secret_reserve(&file, keyfile_size(i + 1)))
            return 100;
        keyfile_put_thread(file.data + KEYFILE_HEADER_SIZE + (size_t)i * KEYFILE_RECORD_SIZE, &thread);
    }
    status = keyfile_finish(file.data, &header);
    if (status == KEYFILE_OK)
        fwrite(file.data, 1, keyfile_size(header.thread_count), stdout);
    secret_release(&file);
    return status == KEYFILE_OK ? 0 : 1 + (int)status;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "many") == 0)
        return write_many((uint32_t)atoi(argv[2]));
    if (argc == 2 && strcmp(argv[1], "write") == 0)
        return write_golden();
    return argc == 2 && strcmp(argv[1], "read") == 0 ? read_cases() : 64;
}
