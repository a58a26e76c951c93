/* SPDX-License-Identifier: MIT */
#include "options.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "fail.h"

static const struct {
	const char *name;
	enum option option;
} known[] = {
	{ "--salt", OPTION_SALT }, { "--frames", OPTION_FRAMES }, { "--ticks", OPTION_TICKS },
	{ "--deadline", OPTION_DEADLINE }, { "--save", OPTION_SAVE }, { "--dir", OPTION_DIR },
	{ "--exits", OPTION_EXITS }, { "--hex", OPTION_HEX },
	{ "--time", OPTION_TIME }, { "--new-salt", OPTION_NEW_SALT },
};

long number_of(const char *text, const char *what)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value <= 0 || value > INT_MAX)
		fail("%s is not a positive number: %s", what, text);
	return value;
}

static void take(struct options *options, enum option option, const char *value)
{
	char *end;

	switch (option) {
	case OPTION_SALT:
		options->salt = value;
		break;
	case OPTION_SAVE:
		options->save = value;
		break;
	case OPTION_DIR:
		options->dir = value;
		break;
	case OPTION_EXITS:
		options->exits = value;
		break;
	case OPTION_HEX:
		options->hex = value;
		break;
	case OPTION_TICKS:
		options->ticks = number_of(value, "--ticks");
		break;
	case OPTION_DEADLINE:
		options->deadline = number_of(value, "--deadline");
		break;
	case OPTION_TIME:
		errno = 0;
		options->time = strtoll(value, &end, 10);
		if (errno || *end || options->time <= 0)
			fail("--time is not a number of microseconds: %s", value);
		break;
	case OPTION_NEW_SALT:
		options->new_salt = value;
		break;
	case OPTION_FRAMES:
		options->frames = true;
		break;
	}
}

static enum option option_named(const char *name, unsigned accepted)
{
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(name, known[i].name) && (accepted & known[i].option))
			return known[i].option;
	fail("unknown option %s", name);
}

void options_read(struct options *options, char **arguments, unsigned accepted, int word_count,
		  bool words_last)
{
	int count = 0;

	memset(options, 0, sizeof(*options));
	while (arguments[count])
		count++;
	for (int i = 0; i < count; i++) {
		bool forced = words_last && i >= count - word_count;

		if (forced || strncmp(arguments[i], "--", 2)) {
			if (options->word_count == word_count)
				fail("unexpected argument %s", arguments[i]);
			options->words[options->word_count++] = arguments[i];
			continue;
		}
		enum option option = option_named(arguments[i], accepted);

		if (option == OPTION_FRAMES) {
			take(options, option, NULL);
			continue;
		}
		if (i + 1 == count)
			fail("%s needs a value", arguments[i]);
		take(options, option, arguments[i + 1]);
		i++;
	}
	if (options->word_count != word_count)
		fail("%d arguments expected, %d given", word_count, options->word_count);
}
