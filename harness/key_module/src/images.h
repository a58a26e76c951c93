/* SPDX-License-Identifier: MIT */
/* The images directory: digests of CRIU's images, and the key file in it. */
#ifndef PAC_IMAGES_H
#define PAC_IMAGES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "keyfile.h"
#include "secret.h"
#include "sha256.h"

#define KEYFILE_TEMPORARY_NAME "pac-keys.img.tmp"
#define PSTREE_IMAGE "pstree.img"
#define CORE_IMAGE_NAME_SIZE 32

/* "core-<tid>.img" */
void image_core_name(char name[CORE_IMAGE_NAME_SIZE], uint32_t tid);
/* Digest of a whole image. Returns 0 or -errno. */
int image_hash(int dir, const char *name, uint8_t digest[SHA256_SIZE]);
/* Write the key file, mode 0600, under a temporary name and rename it. Returns 0 or -errno. */
int image_write_keyfile(int dir, const uint8_t *data, size_t size);
/*
 * Read the key file; `size` gets its length and `mode` its permissions. Returns 0 or -errno:
 * -ENOENT when there is none, -EFBIG when it is larger than any key file.
 */
int image_read_keyfile(int dir, struct secret *into, size_t *size, mode_t *mode);
/* Make the images unusable after a failed dump: no inventory, no key file. */
void image_invalidate(int dir);

#endif
