/* SPDX-License-Identifier: MIT */
/* pacprobe: one observation per call, one JSON object on stdout. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "fail.h"

static const struct {
	const char *name;
	void (*run)(struct json *json, const struct options *options);
	unsigned accepted;
	int words;
	bool words_last;
} commands[] = {
	{ "core", command_core, OPTION_DIR | OPTION_SALT, 4, true },
	{ "init", command_init, OPTION_EXITS, 0, false },
	{ "reseed", command_reseed, OPTION_HEX | OPTION_TIME | OPTION_NEW_SALT, 0, false },
	{ "sha256", command_sha256, 0, 0, false },
#ifdef __aarch64__
	/* The rest needs arm64 registers; unit tests on another host build what is above. */
	{ "machine", command_machine, 0, 0, false },
	{ "threads", command_threads, OPTION_SALT | OPTION_FRAMES, 1, false },
	{ "watch", command_watch, OPTION_TICKS | OPTION_DEADLINE | OPTION_SALT, 1, false },
	{ "newkeys", command_newkeys, OPTION_SAVE, 1, false },
	{ "loadkeys", command_loadkeys, 0, 2, false },
	{ "copykeys", command_copykeys, 0, 2, false },
	{ "fresh", command_fresh, OPTION_SALT, 0, false },
#endif
};

/* The kernel starts a core handler with nothing but stdin: a file opened next must not become stdout. */
static void fill_standard_descriptors(void)
{
	int file;

	do
		file = open("/dev/null", O_RDWR);
	while (file >= 0 && file <= STDERR_FILENO);
	if (file >= 0)
		close(file);
}

int main(int argc, char **argv)
{
	struct options options;
	struct json json;

	fill_standard_descriptors();
	if (argc > 1 && !strcmp(argv[1], "launch")) {
		json_begin(&json);
		json_object(&json, NULL);
		launch(&json, argv + 2);
		json_end_object(&json);
		json_write(&json, stdout);
		return fflush(stdout) ? 1 : 0;
	}
	if (argc > 1 && !strcmp(argv[1], "adopt"))
		return adopt(argv + 2);
	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(argv[1], commands[i].name))
			continue;
		options_read(&options, argv + 2, commands[i].accepted, commands[i].words,
			     commands[i].words_last);
		json_begin(&json);
		json_object(&json, NULL);
		commands[i].run(&json, &options);
		json_end_object(&json);
		json_write(&json, stdout);
		return fflush(stdout) ? 1 : 0;
	}
	fail("unknown subcommand %s", argc > 1 ? argv[1] : "(none)");
}
