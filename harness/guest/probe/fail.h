/* SPDX-License-Identifier: MIT */
/* The one way out on an error: {"error": "..."} on stdout, exit status 1. */
#ifndef PROBE_FAIL_H
#define PROBE_FAIL_H

/* Ends the program with a formatted message. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, followed by the name and number of errno: the message names the system call. */
_Noreturn void fail_errno(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Writes the error to this file as well: a core handler has no stdout anyone reads. */
void fail_also_into(const char *path);

#endif
