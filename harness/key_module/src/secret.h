/* SPDX-License-Identifier: MIT */
/* Memory for keys: no copy in forked children or core dumps, wiped before it is given back. */
#ifndef PAC_SECRET_H
#define PAC_SECRET_H

#include <stddef.h>
#include <stdint.h>

struct secret {
    uint8_t *data;
    size_t capacity; /* bytes, zero when nothing is allocated */
};

/* Make room for at least `size` bytes, keeping what is there. Returns 0 or -errno. */
int secret_reserve(struct secret *secret, size_t size);
/* Wipe and release; harmless when empty. */
void secret_release(struct secret *secret);

#endif
