/* SPDX-License-Identifier: MIT */
/*
 * Frame records of the arm64 procedure call standard: x29 points at {caller's x29, saved LR}.
 * Portable on purpose: memory comes through a callback, so the rules are tested on any machine.
 */
#ifndef PROBE_FRAMES_H
#define PROBE_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "json.h"

#define FRAMES_MAX 4096

struct memory {
	bool (*read)(void *context, uint64_t address, void *bytes, size_t size);
	bool (*executable)(void *context, uint64_t address);
	void *context;
};

struct frame {
	uint64_t address;  /* of the frame record; SP for an LR that is still in its register */
	uint64_t lr;	   /* as saved */
	uint64_t stripped; /* without the bits of insn_mask */
	bool in_register;
	bool is_return;	/* stripped lies in an executable mapping right after a call */
	bool is_signed; /* a return address with bits inside insn_mask */
};

struct chain {
	size_t count;
	struct frame frames[FRAMES_MAX]; /* innermost first */
};

/* Whether the chain has a frame with the same place and the same return address. */
bool chain_holds(const struct chain *chain, const struct frame *frame);

/* Whether the instruction is BL, BLR, BLRAAZ, BLRABZ, BLRAA or BLRAB. */
bool is_call(uint32_t instruction);

/* Walks from the given registers outwards until the chain ends, stops growing, or is full. */
void chain_walk(struct chain *chain, const struct memory *memory, uint64_t insn_mask, uint64_t fp,
		uint64_t lr, uint64_t sp);

/*
 * Whether a frame of the chain `start` has been returned through, seen from a later stop with
 * stack pointer `sp` and chain `now`. A frame that was left and entered again with the same
 * values looks untouched, so the answer errs towards "no".
 */
bool frame_is_gone(const struct frame *frame, const struct chain *start, const struct chain *now,
		   uint64_t sp, const struct memory *memory);

/* Writes {"address", "lr", "stripped", "signed"}. */
void frame_write(struct json *json, const struct frame *frame);

#endif
