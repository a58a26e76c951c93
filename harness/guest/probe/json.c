/* SPDX-License-Identifier: MIT */
#include "json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void put(struct json *json, const char *text)
{
	size_t size = strlen(text);

	if (json->size + size > json->room) {
		size_t room = (json->size + size) * 2 + 1024;
		char *larger = realloc(json->text, room);

		/* fail() itself writes JSON, so there is nothing better to do here. */
		if (!larger)
			abort();
		json->text = larger;
		json->room = room;
	}
	memcpy(json->text + json->size, text, size);
	json->size += size;
}

static void put_quoted(struct json *json, const char *text)
{
	put(json, "\"");
	for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
		char word[8];

		if (*c == '"' || *c == '\\')
			snprintf(word, sizeof(word), "\\%c", *c);
		else if (*c < 0x20 || *c > 0x7e)
			snprintf(word, sizeof(word), "\\u%04x", *c);
		else
			snprintf(word, sizeof(word), "%c", *c);
		put(json, word);
	}
	put(json, "\"");
}

static void start_item(struct json *json, const char *key)
{
	if (json->comma)
		put(json, ",");
	json->comma = true;
	if (key) {
		put_quoted(json, key);
		put(json, ":");
	}
}

static void open_container(struct json *json, const char *key, const char *mark)
{
	start_item(json, key);
	put(json, mark);
	json->comma = false;
}

static void close_container(struct json *json, const char *mark)
{
	put(json, mark);
	json->comma = true;
}

void json_begin(struct json *json)
{
	memset(json, 0, sizeof(*json));
}

void json_object(struct json *json, const char *key)
{
	open_container(json, key, "{");
}

void json_end_object(struct json *json)
{
	close_container(json, "}");
}

void json_array(struct json *json, const char *key)
{
	open_container(json, key, "[");
}

void json_end_array(struct json *json)
{
	close_container(json, "]");
}

void json_string(struct json *json, const char *key, const char *value)
{
	start_item(json, key);
	if (value)
		put_quoted(json, value);
	else
		put(json, "null");
}

void json_pointer(struct json *json, const char *key, uint64_t value)
{
	char word[32];

	snprintf(word, sizeof(word), "\"0x%016" PRIx64 "\"", value);
	start_item(json, key);
	put(json, word);
}

void json_integer(struct json *json, const char *key, int64_t value)
{
	char word[32];

	snprintf(word, sizeof(word), "%" PRId64, value);
	start_item(json, key);
	put(json, word);
}

void json_bool(struct json *json, const char *key, bool value)
{
	start_item(json, key);
	put(json, value ? "true" : "false");
}

void json_null(struct json *json, const char *key)
{
	start_item(json, key);
	put(json, "null");
}

void json_maybe_pointer(struct json *json, const char *key, bool known, uint64_t value)
{
	if (known)
		json_pointer(json, key, value);
	else
		json_null(json, key);
}

void json_write(const struct json *json, FILE *file)
{
	fwrite(json->text, 1, json->size, file);
	fputc('\n', file);
}
