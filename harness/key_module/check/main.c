/* SPDX-License-Identifier: MIT */
/*
 * check DIR: stands in CRIU's place at the start of a restore and lets the module decide about an
 * images directory on this machine. Nothing is restored. Exit code 0: it would load the keys, or
 * has none to load; 1: it refuses, with its own words.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

#include "criu_abi.h"
#include "host_criu.h"
#include "stages.h"

static int images = -1;

int criu_get_image_dir(void)
{
    return images;
}

void print_on_level(unsigned int level, const char *format, ...)
{
    va_list arguments;

    (void)level;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
}

/* There is no CRIU around this program, and no plugin ahead of the module. */
bool host_criu_native(void)
{
    return false;
}

bool host_criu_late_hook_taken(void)
{
    return false;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 64;
    images = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (images < 0) {
        perror(argv[1]);
        return 2;
    }
    return restore_init() ? 1 : 0;
}
