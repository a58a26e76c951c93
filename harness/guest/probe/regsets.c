/* SPDX-License-Identifier: MIT */
/* The arm64 register sets behind trace.h (include/uapi/asm/ptrace.h). */
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "fail.h"
#include "trace.h"

/* True when the whole set was read; false when this kernel or CPU does not have it. */
static bool read_set(pid_t tid, unsigned type, void *set, size_t size)
{
	struct iovec part = { .iov_base = set, .iov_len = size };

	if (!ptrace(PTRACE_GETREGSET, tid, (void *)(uintptr_t)type, &part)) {
		if (part.iov_len != size)
			fail("regset 0x%x of thread %d has %zu bytes, not %zu", type, tid, part.iov_len,
			     size);
		return true;
	}
	if (errno == EINVAL || errno == ENODEV)
		return false;
	fail_errno("ptrace(PTRACE_GETREGSET, %d, 0x%x)", tid, type);
}

void trace_read_registers(pid_t tid, struct registers *registers)
{
	if (!read_set(tid, NT_PRSTATUS, registers, sizeof(*registers)))
		fail_errno("ptrace(PTRACE_GETREGSET, %d, NT_PRSTATUS)", tid);
}

void trace_read_pac(pid_t tid, struct pac_state *pac)
{
	uint64_t masks[2] = { 0, 0 };

	memset(pac, 0, sizeof(*pac));
	pac->has_mask = read_set(tid, NOTE_PAC_MASK, masks, sizeof(masks));
	pac->data_mask = masks[0];
	pac->insn_mask = masks[1];
	pac->has_address_keys = read_set(tid, NOTE_PACA_KEYS, pac->keys, PACA_BYTES);
	pac->has_generic_key = read_set(tid, NOTE_PACG_KEYS, pac->keys + PACA_BYTES, PACG_BYTES);
	pac->has_enabled = read_set(tid, NOTE_PAC_ENABLED_KEYS, &pac->enabled, sizeof(pac->enabled));
}

static void write_set(pid_t tid, unsigned type, const void *set, size_t size)
{
	struct iovec part = { .iov_base = (void *)set, .iov_len = size };

	if (ptrace(PTRACE_SETREGSET, tid, (void *)(uintptr_t)type, &part))
		fail_errno("ptrace(PTRACE_SETREGSET, %d, 0x%x)", tid, type);
}

void trace_write_keys(pid_t tid, const struct pac_state *pac)
{
	struct pac_state now;

	if (pac->has_address_keys)
		write_set(tid, NOTE_PACA_KEYS, pac->keys, PACA_BYTES);
	if (pac->has_generic_key)
		write_set(tid, NOTE_PACG_KEYS, pac->keys + PACA_BYTES, PACG_BYTES);
	trace_read_pac(tid, &now);
	if (now.has_address_keys != pac->has_address_keys || now.has_generic_key != pac->has_generic_key ||
	    memcmp(now.keys, pac->keys, sizeof(now.keys)))
		fail("thread %d does not have the keys it was given", tid);
	explicit_bzero(&now, sizeof(now));
}
