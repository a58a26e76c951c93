/* SPDX-License-Identifier: MIT */
/* The subcommands. Each writes its answer into `json` and ends through fail() on an error. */
#ifndef PROBE_COMMANDS_H
#define PROBE_COMMANDS_H

#include "json.h"
#include "options.h"

void command_core(struct json *json, const struct options *options);
void command_init(struct json *json, const struct options *options);
void command_reseed(struct json *json, const struct options *options);
void command_sha256(struct json *json, const struct options *options);

/* `arguments` are the words after "launch", to be passed on as they are. */
void launch(struct json *json, char **arguments);

/* Likewise the words after "adopt"; returns the exit code. */
int adopt(char **arguments);

#ifdef __aarch64__
void command_machine(struct json *json, const struct options *options);
void command_threads(struct json *json, const struct options *options);
void command_watch(struct json *json, const struct options *options);
void command_newkeys(struct json *json, const struct options *options);
void command_loadkeys(struct json *json, const struct options *options);
void command_copykeys(struct json *json, const struct options *options);
void command_fresh(struct json *json, const struct options *options);
#endif

#endif
