/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "policy.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "criu_abi.h"

PAC_WEAK extern int dladdr(const void *address, Dl_info *info); /* as dladdr1 in host_criu.c */

static bool parse_word(const char *word, enum policy *policy)
{
    static const char *const words[] = {
        [POLICY_REFUSE] = "refuse",
        [POLICY_WARN] = "warn",
        [POLICY_DISABLE_AUTH] = "disable-auth",
    };

    for (unsigned int i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(word, words[i]) == 0) {
            *policy = (enum policy)i;
            return true;
        }
    return false;
}

/* Cut blanks off both ends, in place. */
static char *stripped(char *text)
{
    char *end;

    text += strspn(text, " \t\r\n");
    end = text + strlen(text);
    while (end > text && strchr(" \t\r\n", end[-1]))
        end--;
    *end = '\0';
    return text;
}

/* "policy = warn  # why"; empty lines and comments say nothing. */
static bool parse_line(char *line, enum policy *policy)
{
    char *value;

    line[strcspn(line, "#")] = '\0';
    line = stripped(line);
    if (!*line)
        return true;
    value = strchr(line, '=');
    if (!value)
        return false;
    *value++ = '\0';
    return strcmp(stripped(line), "policy") == 0 && parse_word(stripped(value), policy);
}

static int read_file(const char *path, enum policy *policy, char reason[POLICY_REASON_SIZE])
{
    FILE *file = fopen(path, "re");
    unsigned int number = 0;
    char *line = NULL;
    size_t size = 0;
    int error = 0;

    if (!file && errno == ENOENT)
        return 0;
    if (!file) {
        snprintf(reason, POLICY_REASON_SIZE, "cannot read %.200s: %s", path, strerror(errno));
        return -1;
    }
    while (!error && getline(&line, &size, file) >= 0) {
        number++;
        if (!parse_line(line, policy)) {
            snprintf(reason, POLICY_REASON_SIZE,
                     "%.200s, line %u: neither \"policy = refuse\" nor \"policy = warn\" nor "
                     "\"policy = disable-auth\"",
                     path, number);
            error = -1;
        }
    }
    if (!error && ferror(file)) {
        snprintf(reason, POLICY_REASON_SIZE, "cannot read %.200s: %s", path, strerror(errno));
        error = -1;
    }
    free(line);
    fclose(file);
    return error;
}

static int read_file_beside_plugin(enum policy *policy, char reason[POLICY_REASON_SIZE])
{
    static const char here;
    char path[PATH_MAX];
    const char *slash;
    Dl_info info;

    if (!dladdr || !dladdr(&here, &info) || !info.dli_fname || !(slash = strrchr(info.dli_fname, '/')))
        return 0;
    snprintf(path, sizeof(path), "%.*s/" POLICY_FILE, (int)(slash - info.dli_fname), info.dli_fname);
    return read_file(path, policy, reason);
}

int read_policy(enum policy *policy, char reason[POLICY_REASON_SIZE])
{
    const char *word = getenv(POLICY_VARIABLE);

    *policy = POLICY_REFUSE;
    if (!word || !*word)
        return read_file_beside_plugin(policy, reason);
    if (parse_word(word, policy))
        return 0;
    snprintf(reason, POLICY_REASON_SIZE, POLICY_VARIABLE " is \"%.32s\", which is not refuse, warn or disable-auth",
             word);
    return -1;
}
