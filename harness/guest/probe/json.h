/* SPDX-License-Identifier: MIT */
/* A JSON writer into memory: nothing reaches stdout before the whole answer is known. */
#ifndef PROBE_JSON_H
#define PROBE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct json {
	char *text;
	size_t size, room;
	bool comma; /* the next item is not the first of its container */
};

void json_begin(struct json *json);

/* `key` is NULL inside arrays and for the outermost value. */
void json_object(struct json *json, const char *key);
void json_end_object(struct json *json);
void json_array(struct json *json, const char *key);
void json_end_array(struct json *json);

/* Bytes outside printable ASCII are written as \u00XX: names of tasks and files are bytes. NULL is null. */
void json_string(struct json *json, const char *key, const char *value);
void json_pointer(struct json *json, const char *key, uint64_t value); /* "0x%016x" */
void json_integer(struct json *json, const char *key, int64_t value);
void json_bool(struct json *json, const char *key, bool value);
void json_null(struct json *json, const char *key);

/* The pointer when it is known, else null. */
void json_maybe_pointer(struct json *json, const char *key, bool known, uint64_t value);

/* Writes the text and a newline; the writer stays valid. */
void json_write(const struct json *json, FILE *file);

#endif
