/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "stages.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "images.h"
#include "keyfile.h"
#include "log.h"
#include "pids.h"
#include "probe.h"
#include "procfs.h"
#include "regsets.h"
#include "secret.h"

static struct machine_pac machine;

static struct {
    bool collected;
    struct secret file; /* the key file in the making, records from KEYFILE_HEADER_SIZE on */
    uint32_t count;     /* threads */
    struct pids tasks;
    int fd; /* of the temporary key file, once collected */
} dump;

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

static int append_record(const struct keyfile_thread *thread)
{
    int error = dump.count < KEYFILE_MAX_THREADS ? secret_reserve(&dump.file, keyfile_size(dump.count + 1))
                                                 : -E2BIG;

    if (error) {
        pac_error("no memory for the keys of %u threads: %s", dump.count + 1, strerror(-error));
        return error;
    }
    keyfile_put_thread(dump.file.data + KEYFILE_HEADER_SIZE + (size_t)dump.count * KEYFILE_RECORD_SIZE, thread);
    dump.count++;
    return 0;
}

static int collect_thread(void *context, pid_t tid, const struct thread_status *status)
{
    struct keyfile_thread thread = { .tid = status->ns_tid, .tgid = status->ns_tgid };
    int error = read_keys(tid, &thread);

    (void)context;
    if (!error)
        error = append_record(&thread);
    explicit_bzero(&thread, sizeof(thread));
    if (!error && status->ns_tid == status->ns_tgid)
        error = pids_add(&dump.tasks, tid);
    return error;
}

static void describe(struct keyfile_header *header)
{
    struct utsname system;

    memset(header, 0, sizeof(*header));
    header->thread_count = dump.count;
    if (machine.address_auth)
        header->flags |= KEYFILE_ADDRESS_AUTH;
    if (machine.generic_auth)
        header->flags |= KEYFILE_GENERIC_AUTH;
    header->data_mask = machine.data_mask;
    header->insn_mask = machine.insn_mask;
    header->midr = machine.midr;
    header->address_probe = machine.address_probe;
    header->generic_probe = machine.generic_probe;
    if (uname(&system) == 0)
        snprintf(header->kernel_release, sizeof(header->kernel_release), "%.63s", system.release);
}

static int store(int error)
{
    if (!error)
        error = image_store_keyfile(dump.fd, dump.file.data, keyfile_size(dump.count));
    if (error)
        pac_error("cannot write " KEYFILE_NAME ": %s", strerror(-error));
    return error;
}

/*
 * The keys of all threads, in one pass over /proc, and the file they go to: not bound to images
 * yet, under its temporary name, with its final size.
 */
static int collect(void)
{
    struct keyfile_header header;
    int error = procfs_each_traced_thread(getpid(), collect_thread, NULL);

    if (error)
        return error;
    if (dump.count == 0) {
        pac_error("no thread in /proc is traced by this CRIU: is /proc of another pid namespace?");
        return -ESRCH;
    }
    describe(&header);
    if (keyfile_finish(dump.file.data, &header) != KEYFILE_OK) {
        pac_error("two threads have one id in their pid namespace: nested pid namespaces are not served");
        return -EEXIST;
    }
    dump.fd = image_create_keyfile(criu_get_image_dir());
    if (store(dump.fd < 0 ? dump.fd : 0))
        return -EIO;
    dump.collected = true;
    return 0;
}

static int hash_image(int dir, const char *name, uint8_t digest[SHA256_SIZE])
{
    int error = image_hash(dir, name, digest);

    if (error)
        pac_error("cannot read the image %s that the keys belong to: %s", name, strerror(-error));
    return error;
}

/* Tie the collected keys to the images that are there now. */
static int bind_and_publish(int dir)
{
    uint8_t pstree_hash[SHA256_SIZE];
    int error = hash_image(dir, PSTREE_IMAGE, pstree_hash);

    for (uint32_t i = 0; !error && i < dump.count; i++) {
        char name[CORE_IMAGE_NAME_SIZE];
        uint32_t tid;
        uint8_t *digest = keyfile_core_hash(dump.file.data, i, &tid);

        image_core_name(name, tid);
        error = hash_image(dir, name, digest);
    }
    if (error)
        return error;
    keyfile_bind(dump.file.data, dump.count, pstree_hash);
    error = store(0);
    if (!error && (error = image_publish_keyfile(dir)))
        pac_error("cannot give " KEYFILE_NAME " its name: %s", strerror(-error));
    return error;
}

/* Forget the keys; the file stays as it is. */
static void release(void)
{
    if (dump.collected)
        close(dump.fd);
    secret_release(&dump.file);
    pids_release(&dump.tasks);
    dump.collected = false;
    dump.count = 0;
}

/*
 * exit() returns nothing, so the only way to fail the dump is to leave from here: with the
 * inventory gone nobody can restore the images, and what CRIU's own roll-back would undo is
 * undone by the same functions; a second call of theirs finds nothing left to do. Without them
 * (they are weak), the kernel releases the tasks when their tracer ends, but a locked network
 * stays locked.
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

int dump_checkpoint(int pid)
{
    if (!dump.collected && collect())
        return -EIO;
    if (pids_have(&dump.tasks, pid))
        return -ENOTSUP;
    pac_error("task %d is to be dumped and was not found traced in /proc: is /proc mounted with hidepid?", pid);
    return -ESRCH;
}

void dump_exit(int ret)
{
    int dir = criu_get_image_dir(), error;

    if (ret) {
        if (dump.collected)
            image_discard_keyfile(dir);
        release();
        return;
    }
    error = dump.collected ? 0 : collect();
    if (!error)
        error = bind_and_publish(dir);
    if (!error)
        pac_info("%s of %u threads saved in " KEYFILE_NAME, machine.address_auth ? "keys" : "absence of keys",
                 dump.count);
    release();
    if (error)
        fail_dump(dir);
}
