/* SPDX-License-Identifier: MIT */
/* Command lines of the subcommands: --name VALUE in any place, the rest are words. */
#ifndef PROBE_OPTIONS_H
#define PROBE_OPTIONS_H

#include <stdbool.h>
#include <sys/types.h>

enum option {
	OPTION_SALT = 1 << 0,
	OPTION_FRAMES = 1 << 1,
	OPTION_TICKS = 1 << 2,
	OPTION_DEADLINE = 1 << 3,
	OPTION_SAVE = 1 << 4,
	OPTION_DIR = 1 << 5,
	OPTION_EXITS = 1 << 6,
	OPTION_HEX = 1 << 7,
	OPTION_TIME = 1 << 8,
	OPTION_NEW_SALT = 1 << 9,
};

struct options {
	const char *salt;  /* file of 32 random bytes */
	const char *save;  /* file that takes keys */
	const char *dir;   /* directory for cores */
	const char *exits; /* file that takes exit statuses */
	const char *hex;
	const char *new_salt; /* file that gets a salt */
	long long time;	      /* microseconds since the epoch, 0 when not given */
	bool frames;
	long ticks;
	long deadline; /* milliseconds */
	const char *words[4];
	int word_count;
};

/*
 * Reads the arguments after the subcommand. `accepted` is a set of enum option, `word_count` how
 * many words there have to be. With `words_last` the final arguments are words whatever they look
 * like: a crashed task may be called "--dir". Anything unexpected ends the program.
 */
void options_read(struct options *options, char **arguments, unsigned accepted, int word_count,
		  bool words_last);

/* A positive decimal number, or the end of the program. */
long number_of(const char *text, const char *what);

#endif
