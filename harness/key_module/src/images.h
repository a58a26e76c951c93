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
/* Create the key file, mode 0600, under its temporary name. Returns a descriptor or -errno. */
int image_create_keyfile(int dir);
/* Write the whole key file, over what the same descriptor got before. Returns 0 or -errno. */
int image_store_keyfile(int fd, const uint8_t *data, size_t size);
/* Give the key file its name. Returns 0 or -errno. */
int image_publish_keyfile(int dir);
/* Remove what has the temporary name. */
void image_discard_keyfile(int dir);
/* Whether a dump has left its key file unfinished. */
int image_keyfile_unfinished(int dir);
/*
 * Read the key file; `size` gets its length and `mode` its permissions. Returns 0 or -errno:
 * -ENOENT when there is none, -EFBIG when it is larger than any key file.
 */
int image_read_keyfile(int dir, struct secret *into, size_t *size, mode_t *mode);
/* Make the images unusable after a failed dump: no inventory, no key file. */
void image_invalidate(int dir);

#endif
