/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "stages.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "images.h"
#include "keyfile.h"
#include "log.h"
#include "probe.h"
#include "procfs.h"
#include "regsets.h"
#include "secret.h"

struct collection {
    struct secret file; /* the key file in the making, records from KEYFILE_HEADER_SIZE on */
    uint32_t count;
    int dir;
};

static struct machine_pac machine;

int dump_init(void)
{
    char reason[PROBE_REASON_SIZE];

    if (probe_machine(&machine, reason)) {
        pac_error("%s", reason);
        return -1;
    }
    return 0;
}

static int read_keys(pid_t tid, struct keyfile_thread *thread)
{
    int error = 0;

    if (machine.address_auth) {
        error = regset_read(tid, REGSET_PACA_KEYS, thread->paca, KEYFILE_PACA_SIZE);
        thread->flags |= KEYFILE_HAS_PACA;
    }
    if (!error && machine.generic_auth) {
        error = regset_read(tid, REGSET_PACG_KEYS, thread->pacg, KEYFILE_PACG_SIZE);
        thread->flags |= KEYFILE_HAS_PACG;
    }
    if (!error && machine.enabled_keys) {
        error = regset_read(tid, REGSET_PAC_ENABLED_KEYS, &thread->enabled_keys, sizeof(thread->enabled_keys));
        thread->flags |= KEYFILE_HAS_ENABLED;
    }
    if (error)
        pac_error("cannot read the keys of thread %d: %s", tid, strerror(-error));
    return error;
}

static int hash_image(int dir, const char *name, uint8_t digest[SHA256_SIZE])
{
    int error = image_hash(dir, name, digest);

    if (error)
        pac_error("cannot read the image %s that the keys belong to: %s", name, strerror(-error));
    return error;
}

static int append_record(struct collection *collection, const struct keyfile_thread *thread)
{
    int error = collection->count < KEYFILE_MAX_THREADS
                    ? secret_reserve(&collection->file, keyfile_size(collection->count + 1))
                    : -E2BIG;

    if (error) {
        pac_error("no memory for the keys of %u threads: %s", collection->count + 1, strerror(-error));
        return error;
    }
    keyfile_put_thread(
        collection->file.data + KEYFILE_HEADER_SIZE + (size_t)collection->count * KEYFILE_RECORD_SIZE, thread);
    collection->count++;
    return 0;
}

static int collect_thread(void *context, pid_t tid, const struct thread_status *status)
{
    struct collection *collection = context;
    struct keyfile_thread thread = { .tid = status->ns_tid, .tgid = status->ns_tgid };
    char name[CORE_IMAGE_NAME_SIZE];
    int error = read_keys(tid, &thread);

    image_core_name(name, thread.tid);
    if (!error)
        error = hash_image(collection->dir, name, thread.core_hash);
    if (!error)
        error = append_record(collection, &thread);
    explicit_bzero(&thread, sizeof(thread));
    return error;
}

static void describe(struct keyfile_header *header, uint32_t thread_count)
{
    struct utsname system;

    memset(header, 0, sizeof(*header));
    header->thread_count = thread_count;
    header->flags = KEYFILE_BOUND;
    if (machine.address_auth)
        header->flags |= KEYFILE_ADDRESS_AUTH;
    if (machine.generic_auth)
        header->flags |= KEYFILE_GENERIC_AUTH;
    header->data_mask = machine.data_mask;
    header->insn_mask = machine.insn_mask;
    if (uname(&system) == 0)
        snprintf(header->kernel_release, sizeof(header->kernel_release), "%.63s", system.release);
}

static int write_keys(struct collection *collection)
{
    struct keyfile_header header;
    enum keyfile_status status;
    int error;

    describe(&header, collection->count);
    error = hash_image(collection->dir, PSTREE_IMAGE, header.pstree_hash);
    if (error)
        return error;
    status = keyfile_finish(collection->file.data, &header);
    if (status != KEYFILE_OK) {
        pac_error("two threads have one id in their pid namespace: nested pid namespaces are not served");
        return -EEXIST;
    }
    error = image_write_keyfile(collection->dir, collection->file.data, keyfile_size(collection->count));
    if (error)
        pac_error("cannot write " KEYFILE_NAME ": %s", strerror(-error));
    return error;
}

static int save_keys(struct collection *collection)
{
    int error = procfs_each_traced_thread(getpid(), collect_thread, collection);

    if (error)
        return error;
    if (collection->count == 0) {
        pac_error("no thread in /proc is traced by this CRIU: is /proc of another pid namespace?");
        return -ESRCH;
    }
    return write_keys(collection);
}

/*
 * exit() returns nothing, so the only way to fail the dump is to leave from here: with the
 * inventory gone nobody can restore the images, and what CRIU's own roll-back would undo is
 * undone by the same functions, because it comes after us. Without them (they are weak), the
 * kernel releases the tasks when their tracer ends, but a locked network stays locked.
 */
static _Noreturn void fail_dump(int dir)
{
    pac_error("the dump has failed: its images are made unusable and the tasks go on running");
    image_invalidate(dir);
    if (unsuspend_lsm)
        unsuspend_lsm();
    if (network_unlock)
        network_unlock();
    if (delete_link_remaps)
        delete_link_remaps();
    if (clean_cr_time_mounts)
        clean_cr_time_mounts();
    if (pstree_switch_state && &root_item && root_item)
        pstree_switch_state(root_item, CRIU_TASK_ALIVE);
    _exit(1);
}

void dump_exit(int ret)
{
    struct collection collection = { .dir = criu_get_image_dir() };
    int error;

    if (ret)
        return;
    error = save_keys(&collection);
    secret_release(&collection.file);
    if (error)
        fail_dump(collection.dir);
    pac_info("%s of %u threads saved in " KEYFILE_NAME, machine.address_auth ? "keys" : "absence of keys",
             collection.count);
}
