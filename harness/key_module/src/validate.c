/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "validate.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "images.h"
#include "log.h"
#include "probe.h"

int read_policy(enum policy *policy, char reason[REASON_SIZE])
{
    const char *word = getenv(POLICY_VARIABLE);

    *policy = POLICY_REFUSE;
    if (!word || strcmp(word, "") == 0 || strcmp(word, "refuse") == 0)
        return 0;
    if (strcmp(word, "warn") != 0) {
        snprintf(reason, REASON_SIZE, POLICY_VARIABLE " is \"%.32s\", which is neither refuse nor warn", word);
        return -1;
    }
    *policy = POLICY_WARN;
    return 0;
}

static __attribute__((format(printf, 2, 3))) enum verdict refuse(char reason[REASON_SIZE], const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(reason, REASON_SIZE, format, arguments);
    va_end(arguments);
    return REFUSED;
}

static enum verdict check_file(int dir, struct secret *file, struct keyfile *keys, char reason[REASON_SIZE])
{
    enum keyfile_status status;
    size_t size = 0;
    mode_t mode = 0;
    int error = image_read_keyfile(dir, file, &size, &mode);

    if (error == -ENOENT)
        return refuse(reason, "no " KEYFILE_NAME " in the images directory: the dump was made without this module");
    if (error)
        return refuse(reason, "cannot read " KEYFILE_NAME ": %s", strerror(-error));
    status = keyfile_parse(keys, file->data, size);
    if (status != KEYFILE_OK)
        return refuse(reason, KEYFILE_NAME " %s", keyfile_status_text(status));
    if (mode & (S_IRWXG | S_IRWXO))
        pac_warn(KEYFILE_NAME " has mode %04o: its keys are secrets, 0600 is enough", (unsigned int)mode);
    return VALID;
}

static enum verdict check_image(int dir, const char *name, const uint8_t expected[SHA256_SIZE],
                                char reason[REASON_SIZE])
{
    uint8_t digest[SHA256_SIZE];
    int error = image_hash(dir, name, digest);

    if (error)
        return refuse(reason, KEYFILE_NAME " belongs to an image %s that cannot be read: %s", name, strerror(-error));
    if (memcmp(digest, expected, sizeof(digest)) != 0)
        return refuse(reason, KEYFILE_NAME " belongs to another dump: %s is not the image it was made with", name);
    return VALID;
}

static enum verdict check_binding(int dir, const struct keyfile *keys, char reason[REASON_SIZE])
{
    enum verdict verdict = check_image(dir, PSTREE_IMAGE, keys->header.pstree_hash, reason);

    for (uint32_t i = 0; verdict == VALID && i < keys->header.thread_count; i++) {
        char name[CORE_IMAGE_NAME_SIZE];
        struct keyfile_thread thread;

        keyfile_thread_at(keys, i, &thread);
        image_core_name(name, thread.tid);
        verdict = check_image(dir, name, thread.core_hash, reason);
        explicit_bzero(&thread, sizeof(thread));
    }
    return verdict;
}

static bool some_key_disabled(const struct keyfile *keys)
{
    bool disabled = false;

    for (uint32_t i = 0; !disabled && i < keys->header.thread_count; i++) {
        struct keyfile_thread thread;

        keyfile_thread_at(keys, i, &thread);
        disabled = thread.flags & KEYFILE_HAS_ENABLED && thread.enabled_keys != KEYFILE_ENABLED_ALL;
        explicit_bzero(&thread, sizeof(thread));
    }
    return disabled;
}

static enum verdict check_machine(const struct keyfile *keys, char reason[REASON_SIZE])
{
    bool signs = keys->header.flags & KEYFILE_ADDRESS_AUTH, generic = keys->header.flags & KEYFILE_GENERIC_AUTH;
    char why[PROBE_REASON_SIZE];
    struct machine_pac here;

    if (probe_machine(&here, why))
        return refuse(reason, "%s", why);
    if (signs && !here.address_auth)
        return refuse(reason, "the images come from a machine with pointer authentication (kernel %s) "
                              "and this one is without: signed pointers cannot be used here",
                      keys->header.kernel_release);
    if (!signs && here.address_auth)
        return refuse(reason, "the images come from a machine without pointer authentication (kernel %s) "
                              "and this one has it: their unsigned return addresses would not pass",
                      keys->header.kernel_release);
    if (generic && !here.generic_auth)
        return refuse(reason, "the images hold generic keys (GA) and this machine has no use for them");
    if (keys->header.insn_mask != here.insn_mask || keys->header.data_mask != here.data_mask)
        return refuse(reason, "signatures lie in other pointer bits: mask %#llx in the images, %#llx here",
                      (unsigned long long)keys->header.insn_mask, (unsigned long long)here.insn_mask);
    if (!here.enabled_keys && some_key_disabled(keys))
        return refuse(reason, "a thread has keys disabled and this kernel cannot set that (needs Linux 5.13)");
    return VALID;
}

enum verdict validate_images(struct secret *file, struct keyfile *keys, char reason[REASON_SIZE])
{
    int dir = criu_get_image_dir();
    enum verdict verdict = check_file(dir, file, keys, reason);

    if (verdict == VALID)
        verdict = check_binding(dir, keys, reason);
    if (verdict == VALID)
        verdict = check_machine(keys, reason);
    return verdict;
}
