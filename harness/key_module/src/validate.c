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
#include <unistd.h>

#include "cpu_name.h"
#include "host_criu.h"
#include "images.h"
#include "log.h"
#include "probe.h"

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

    if (error == -ENOENT && image_keyfile_unfinished(dir))
        return refuse(reason, KEYFILE_TEMPORARY_NAME " is the unfinished key file of a dump that did not succeed");
    if (error == -ENOENT) {
        refuse(reason, "no " KEYFILE_NAME " in the images directory: the dump was made without this module");
        return NO_KEYFILE;
    }
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

static enum verdict check_codes(const struct keyfile_header *then, const struct machine_pac *here,
                                char reason[REASON_SIZE])
{
    char source[CPU_NAME_SIZE], target[CPU_NAME_SIZE];

    cpu_name(then->midr, source);
    cpu_name(here->midr, target);
    if (then->insn_mask != here->insn_mask || then->data_mask != here->data_mask)
        return refuse(reason,
                      "signatures lie in other pointer bits: mask %#llx in the images (%s, kernel %s), %#llx here (%s)",
                      (unsigned long long)then->insn_mask, source, then->kernel_release,
                      (unsigned long long)here->insn_mask, target);
    if (then->address_probe != here->address_probe)
        return refuse(reason,
                      "%s (kernel %s), where the images come from, signs pointers by another algorithm than this "
                      "machine (%s): the same keys give other signatures here",
                      source, then->kernel_release, target);
    if (then->flags & KEYFILE_GENERIC_AUTH && then->generic_probe != here->generic_probe)
        return refuse(reason,
                      "%s, where the images come from, computes generic codes (GA) by another algorithm than this "
                      "machine (%s), or this one computes none",
                      source, target);
    return VALID;
}

static enum verdict check_machine(const struct keyfile *keys, char reason[REASON_SIZE])
{
    const struct keyfile_header *then = &keys->header;
    bool pac = then->flags & KEYFILE_ADDRESS_AUTH;
    char why[PROBE_REASON_SIZE], source[CPU_NAME_SIZE], target[CPU_NAME_SIZE];
    struct machine_pac here;

    if (probe_machine(&here, why))
        return refuse(reason, "%s", why);
    cpu_name(then->midr, source);
    cpu_name(here.midr, target);
    if (!pac && !here.address_auth)
        return NO_PAC;
    if (pac && !here.address_auth)
        return refuse(reason,
                      "the images come from a machine with pointer authentication (%s, kernel %s) and this one "
                      "is without (%s): signed pointers cannot be used here",
                      source, then->kernel_release, target);
    if (!pac) {
        refuse(reason,
               "the images come from a machine without pointer authentication (%s, kernel %s) and this one has it "
               "(%s): their unsigned return addresses would not pass%s",
               source, then->kernel_release, target,
               here.enabled_keys ? "; the policy disable-auth lets them run without" : "");
        return here.enabled_keys ? UNSIGNED : REFUSED;
    }
    if (!here.enabled_keys && some_key_disabled(keys))
        return refuse(reason, "a thread has keys disabled and this kernel cannot set that (needs Linux 5.13)");
    return check_codes(then, &here, reason);
}

/* A hook before ours that returns anything but -ENOTSUP keeps CRIU from calling ours. */
static enum verdict check_reach(enum verdict so_far, char reason[REASON_SIZE])
{
    if (!host_criu_late_hook_taken() || access("/dev/kfd", F_OK) == 0)
        return so_far;
    return refuse(reason, "another plugin in this directory has a late hook and was loaded first; without /dev/kfd "
                          "that of amdgpu_plugin.so keeps CRIU from calling this module: give it a library "
                          "directory of its own");
}

enum verdict validate_images(struct secret *file, struct keyfile *keys, char reason[REASON_SIZE])
{
    int dir = criu_get_image_dir();
    enum verdict verdict = check_file(dir, file, keys, reason);

    if (verdict == VALID)
        verdict = check_binding(dir, keys, reason);
    if (verdict == VALID)
        verdict = check_machine(keys, reason);
    if (verdict == VALID || verdict == UNSIGNED)
        verdict = check_reach(verdict, reason);
    return verdict;
}
