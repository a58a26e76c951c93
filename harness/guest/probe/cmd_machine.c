/* SPDX-License-Identifier: MIT */
/* machine: what this CPU and kernel offer of pointer authentication, observed from user mode. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ptrace.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commands.h"
#include "fail.h"
#include "trace.h"

#define CPUID_BIT (1UL << 11) /* the kernel answers reads of ID registers from user mode */
#define PACA_BIT (1UL << 30)
#define PACG_BIT (1UL << 31)

/* Arm ARM: ID_AA64ISAR1_EL1.APA is [7:4], .API [11:8]; ID_AA64ISAR2_EL1.APA3 is [15:12]. */
#define FIELD(value, shift) ((int)((value) >> (shift) & 15))
/* 0b0100 and above: FEAT_FPAC, a failed authentication faults by itself. */
#define FIRST_FPAC_VALUE 4

#define READ_ID(name)                                           \
	({                                                      \
		uint64_t value_;                                \
		__asm__ volatile("mrs %0, " name : "=r"(value_)); \
		value_;                                         \
	})

/* PACIASP is hint #25, a no-op without PAC: it assembles and runs on every CPU. */
static uint64_t signed_with_sp(uint64_t lr)
{
	__asm__ volatile("mov x30, %0\n\thint #25\n\tmov %0, x30" : "+r"(lr) : : "x30");
	return lr;
}

/* One pointer can get a PAC of zero by chance; of sixteen, one shows a difference. */
static bool signing_works(void)
{
	uint64_t base = (uint64_t)(uintptr_t)&command_machine;

	for (uint64_t i = 0; i < 16; i++)
		if (signed_with_sp(base + 4 * i) != base + 4 * i)
			return true;
	return false;
}

static void read_own_pac(struct pac_state *pac)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		fail_errno("fork");
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	if (waitpid(child, &status, __WALL) != child)
		fail_errno("waitpid(%d)", child);
	if (!WIFSTOPPED(status))
		fail("the child ended with wait status 0x%x instead of stopping", status);
	trace_read_pac(child, pac);
	kill(child, SIGKILL);
	waitpid(child, &status, __WALL);
}

static const char *algorithm_of(int apa, int api, int apa3)
{
	if (apa)
		return "qarma5";
	if (apa3)
		return "qarma3";
	return api ? "impdef" : "none";
}

static void write_id_registers(struct json *json, bool readable)
{
	int apa, api, apa3;
	uint64_t first, second;

	if (!readable) {
		static const char *const names[] = { "apa", "api", "apa3", "algorithm", "fpac", "midr" };

		for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
			json_null(json, names[i]);
		return;
	}
	first = READ_ID("S3_0_C0_C6_1");
	second = READ_ID("S3_0_C0_C6_2");
	apa = FIELD(first, 4);
	api = FIELD(first, 8);
	apa3 = FIELD(second, 12);
	json_integer(json, "apa", apa);
	json_integer(json, "api", api);
	json_integer(json, "apa3", apa3);
	json_string(json, "algorithm", algorithm_of(apa, api, apa3));
	json_bool(json, "fpac",
		  apa >= FIRST_FPAC_VALUE || api >= FIRST_FPAC_VALUE || apa3 >= FIRST_FPAC_VALUE);
	json_pointer(json, "midr", READ_ID("MIDR_EL1"));
}

void command_machine(struct json *json, const struct options *options)
{
	unsigned long hwcap = getauxval(AT_HWCAP);
	struct utsname name;
	struct pac_state pac;

	(void)options;
	if (uname(&name))
		fail_errno("uname");
	read_own_pac(&pac);
	json_pointer(json, "hwcap", hwcap);
	json_pointer(json, "hwcap2", getauxval(AT_HWCAP2));
	json_bool(json, "paca", hwcap & PACA_BIT);
	json_bool(json, "pacg", hwcap & PACG_BIT);
	write_id_registers(json, hwcap & CPUID_BIT);
	json_integer(json, "page_size", sysconf(_SC_PAGESIZE));
	pac_write_masks(json, &pac);
	json_bool(json, "keys_readable", pac.has_address_keys);
	json_bool(json, "signed_lr", signing_works());
	json_string(json, "release", name.release);
	explicit_bzero(&pac, sizeof(pac));
}
