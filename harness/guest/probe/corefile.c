/* SPDX-License-Identifier: MIT */
#include "corefile.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"

#define NOTES_LIMIT (64UL << 20) /* thousands of threads; the memory of the task is never read */

/* struct elf_prstatus of arm64: pr_cursig, pr_pid, then pr_reg = x0..x30, sp, pc, pstate. */
#define PRSTATUS_BYTES 392
#define PRSTATUS_SIGNAL 12
#define PRSTATUS_PID 32
#define PRSTATUS_LR (112 + 30 * 8)
#define PRSTATUS_SP (112 + 31 * 8)
#define PRSTATUS_PC (112 + 32 * 8)
#define PRSTATUS_PSTATE (112 + 33 * 8)

/* siginfo_t: si_signo, si_errno, si_code, padding, si_addr. */
#define SIGINFO_CODE 8
#define SIGINFO_ADDRESS 16

static uint64_t word_at(const uint8_t *bytes, size_t offset)
{
	uint64_t word;

	memcpy(&word, bytes + offset, sizeof(word));
	return word;
}

static int integer_at(const uint8_t *bytes, size_t offset)
{
	int32_t integer;

	memcpy(&integer, bytes + offset, sizeof(integer));
	return integer;
}

static void take(int stream, uint64_t *position, void *bytes, size_t size)
{
	uint8_t *next = bytes;

	for (size_t done = 0; done < size;) {
		ssize_t got = read(stream, next + done, size - done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			fail_errno("read(core)");
		if (!got)
			fail("the core ends at byte %llu inside its headers or notes",
			     (unsigned long long)(*position + done));
		done += (size_t)got;
	}
	*position += size;
}

static void skip_to(int stream, uint64_t *position, uint64_t target)
{
	uint8_t unused[4096];

	if (target < *position)
		fail("the core's segments are out of order");
	while (*position < target) {
		uint64_t left = target - *position;

		take(stream, position, unused, left < sizeof(unused) ? (size_t)left : sizeof(unused));
	}
}

static void add_thread(struct core *core, const uint8_t *status)
{
	struct core_thread *thread;

	core->threads = realloc(core->threads, (core->count + 1) * sizeof(*core->threads));
	if (!core->threads)
		fail("out of memory");
	thread = &core->threads[core->count++];
	memset(thread, 0, sizeof(*thread));
	thread->nstid = integer_at(status, PRSTATUS_PID);
	thread->signal = integer_at(status, PRSTATUS_SIGNAL) & 0xffff; /* a short */
	thread->lr = word_at(status, PRSTATUS_LR);
	thread->sp = word_at(status, PRSTATUS_SP);
	thread->pc = word_at(status, PRSTATUS_PC);
	thread->pstate = word_at(status, PRSTATUS_PSTATE);
}

static void expect(uint32_t type, size_t size, size_t wanted)
{
	if (size != wanted)
		fail("note 0x%x of the core has %zu bytes, not %zu", type, size, wanted);
}

/* Notes that follow a thread's NT_PRSTATUS are that thread's. Keys are blanked where they stand. */
static void take_thread_note(struct core_thread *thread, uint32_t type, uint8_t *bytes, size_t size)
{
	struct pac_state *pac = &thread->pac;

	switch (type) {
	case NOTE_PAC_MASK:
		expect(type, size, 16);
		pac->has_mask = true;
		pac->data_mask = word_at(bytes, 0);
		pac->insn_mask = word_at(bytes, 8);
		break;
	case NOTE_PACA_KEYS:
		expect(type, size, PACA_BYTES);
		pac->has_address_keys = true;
		memcpy(pac->keys, bytes, PACA_BYTES);
		explicit_bzero(bytes, size);
		break;
	case NOTE_PACG_KEYS:
		expect(type, size, PACG_BYTES);
		pac->has_generic_key = true;
		memcpy(pac->keys + PACA_BYTES, bytes, PACG_BYTES);
		explicit_bzero(bytes, size);
		break;
	case NOTE_PAC_ENABLED_KEYS:
		expect(type, size, 8);
		pac->has_enabled = true;
		pac->enabled = word_at(bytes, 0);
		break;
	}
}

static void take_note(struct core *core, const char *name, uint32_t type, uint8_t *bytes, size_t size)
{
	if (!strcmp(name, "CORE") && type == NT_PRSTATUS) {
		expect(type, size, PRSTATUS_BYTES);
		add_thread(core, bytes);
	} else if (!strcmp(name, "CORE") && type == NT_SIGINFO && size >= SIGINFO_ADDRESS + 8) {
		core->has_siginfo = true;
		core->signo = integer_at(bytes, 0);
		core->code = integer_at(bytes, SIGINFO_CODE);
		core->address = word_at(bytes, SIGINFO_ADDRESS);
	} else if (type == NOTE_PACA_KEYS || type == NOTE_PACG_KEYS || !strcmp(name, "LINUX")) {
		if (!core->count)
			fail("note 0x%x of the core comes before any thread", type);
		take_thread_note(&core->threads[core->count - 1], type, bytes, size);
	}
}

static void take_notes(struct core *core, uint8_t *notes, size_t size)
{
	size_t at = 0;

	while (at < size) {
		Elf64_Nhdr header;
		char name[16] = "";
		size_t name_at = at + sizeof(header), bytes_at;

		if (size - at < sizeof(header))
			fail("the core has %zu stray bytes after its last note", size - at);
		memcpy(&header, notes + at, sizeof(header));
		bytes_at = name_at + ((size_t)header.n_namesz + 3) / 4 * 4;
		at = bytes_at + ((size_t)header.n_descsz + 3) / 4 * 4;
		if (at > size)
			fail("note 0x%x of the core is larger than its segment", header.n_type);
		memcpy(name, notes + name_at,
		       header.n_namesz < sizeof(name) - 1 ? header.n_namesz : sizeof(name) - 1);
		take_note(core, name, header.n_type, notes + bytes_at, header.n_descsz);
	}
}

static void check_header(const Elf64_Ehdr *header)
{
	if (memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_ident[EI_CLASS] != ELFCLASS64 ||
	    header->e_ident[EI_DATA] != ELFDATA2LSB || header->e_type != ET_CORE)
		fail("the stream is not a 64-bit little-endian ELF core");
	if (header->e_machine != EM_AARCH64)
		fail("the core is of machine %u, not of aarch64", header->e_machine);
	/* PN_XNUM cores keep the real count behind the memory of the task. */
	if (!header->e_phnum || header->e_phnum == PN_XNUM || header->e_phentsize != sizeof(Elf64_Phdr))
		fail("the core has a program header table of %u entries of %u bytes", header->e_phnum,
		     header->e_phentsize);
}

void core_read(struct core *core, int stream)
{
	uint64_t position = 0;
	Elf64_Ehdr header;
	Elf64_Phdr *all;
	size_t kept = 0, notes = 0;

	memset(core, 0, sizeof(*core));
	take(stream, &position, &header, sizeof(header));
	check_header(&header);
	all = calloc(header.e_phnum, sizeof(*all));
	skip_to(stream, &position, header.e_phoff);
	if (!all)
		fail("out of memory");
	take(stream, &position, all, header.e_phnum * sizeof(*all));
	for (size_t i = 0; i < header.e_phnum; i++) {
		if (all[i].p_type != PT_NOTE)
			continue;
		if (all[i].p_filesz > NOTES_LIMIT || (notes += all[i].p_filesz) > NOTES_LIMIT)
			fail("the core has more than %lu bytes of notes", NOTES_LIMIT);
		all[kept++] = all[i];
	}
	core->size = sizeof(header) + kept * sizeof(*all) + notes;
	core->image = calloc(1, core->size);
	if (!core->image)
		fail("out of memory");
	notes = sizeof(header) + kept * sizeof(*all);
	for (size_t i = 0; i < kept; i++) {
		skip_to(stream, &position, all[i].p_offset);
		take(stream, &position, core->image + notes, all[i].p_filesz);
		take_notes(core, core->image + notes, all[i].p_filesz);
		all[i].p_offset = notes;
		notes += all[i].p_filesz;
	}
	if (!core->count)
		fail("the core has no thread");
	header.e_phoff = sizeof(header);
	header.e_phnum = (Elf64_Half)kept;
	header.e_shoff = 0;
	header.e_shnum = header.e_shstrndx = header.e_shentsize = 0;
	memcpy(core->image, &header, sizeof(header));
	memcpy(core->image + sizeof(header), all, kept * sizeof(*all));
	free(all);
}

void core_free(struct core *core)
{
	explicit_bzero(core->threads, core->count * sizeof(*core->threads));
	free(core->threads);
	free(core->image);
	memset(core, 0, sizeof(*core));
}
