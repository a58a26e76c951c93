/* SPDX-License-Identifier: MIT */
#include "fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

static const char *second_path;

void fail_also_into(const char *path)
{
	second_path = path;
}

static _Noreturn void leave(const char *message)
{
	struct json json;

	json_begin(&json);
	json_object(&json, NULL);
	json_string(&json, "error", message);
	json_end_object(&json);
	/* Not json_save: that one fails through here. */
	if (second_path) {
		FILE *file = fopen(second_path, "w");

		if (file) {
			json_write(&json, file);
			fclose(file);
		}
	}
	json_write(&json, stdout);
	fflush(stdout);
	exit(1);
}

_Noreturn void fail(const char *format, ...)
{
	char message[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	leave(message);
}

_Noreturn void fail_errno(const char *format, ...)
{
	int error = errno;
	char message[512];
	va_list arguments;
	int used;

	va_start(arguments, format);
	used = vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	if (used >= 0 && (size_t)used < sizeof(message))
		snprintf(message + used, sizeof(message) - (size_t)used, ": %s (errno %d)", strerror(error),
			 error);
	leave(message);
}
