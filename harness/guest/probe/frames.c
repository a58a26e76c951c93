/* SPDX-License-Identifier: MIT */
#include "frames.h"

bool is_call(uint32_t instruction)
{
	return (instruction & 0xfc000000) == 0x94000000 || /* BL */
	       (instruction & 0xfffffc1f) == 0xd63f0000 || /* BLR */
	       (instruction & 0xfffff81f) == 0xd63f081f || /* BLRAAZ, BLRABZ */
	       (instruction & 0xfffff800) == 0xd73f0800;   /* BLRAA, BLRAB */
}

static void add(struct chain *chain, const struct memory *memory, uint64_t insn_mask, struct frame frame)
{
	uint32_t call;

	frame.stripped = frame.lr & ~insn_mask;
	frame.is_return = frame.stripped >= 4 && !(frame.stripped & 3) &&
			  memory->executable(memory->context, frame.stripped) &&
			  memory->read(memory->context, frame.stripped - 4, &call, sizeof(call)) &&
			  is_call(call);
	frame.is_signed = frame.is_return && (frame.lr & insn_mask);
	chain->frames[chain->count++] = frame;
}

void chain_walk(struct chain *chain, const struct memory *memory, uint64_t insn_mask, uint64_t fp,
		uint64_t lr, uint64_t sp)
{
	uint64_t record[2];
	bool readable = fp && !(fp & 7) && memory->read(memory->context, fp, record, sizeof(record));

	chain->count = 0;
	/*
	 * x30 still holds the address it was called with until the function spills it, and a copy
	 * of what [x29+8] has after that: only the first is a frame of its own.
	 */
	if (!readable || record[1] != lr) {
		add(chain, memory, insn_mask, (struct frame){ .address = sp, .lr = lr, .in_register = true });
		/* Unsigned it may as well be what the last finished call left behind. */
		if (!chain->frames[0].is_signed)
			chain->count = 0;
	}
	while (readable && chain->count < FRAMES_MAX) {
		add(chain, memory, insn_mask, (struct frame){ .address = fp, .lr = record[1] });
		/* Outer records lie higher; anything else is not a chain any more. */
		if (record[0] <= fp || (record[0] & 7))
			break;
		fp = record[0];
		readable = memory->read(memory->context, fp, record, sizeof(record));
	}
}

bool chain_holds(const struct chain *chain, const struct frame *frame)
{
	for (size_t i = 0; i < chain->count; i++)
		if (chain->frames[i].address == frame->address && chain->frames[i].lr == frame->lr &&
		    chain->frames[i].in_register == frame->in_register)
			return true;
	return false;
}

/* Whether `now` is intact above the frame: it reaches a record of `start` that lies higher. */
static bool joins_above(const struct frame *frame, const struct chain *start, const struct chain *now)
{
	for (size_t i = 0; i < now->count; i++)
		if (now->frames[i].address > frame->address && !now->frames[i].in_register &&
		    now->frames[i].is_return && chain_holds(start, &now->frames[i]))
			return true;
	return false;
}

bool frame_is_gone(const struct frame *frame, const struct chain *start, const struct chain *now,
		   uint64_t sp, const struct memory *memory)
{
	uint64_t saved;

	if (sp > frame->address)
		return true;
	/* A chain can break off early, so a frame missing from it is only gone for a second reason. */
	if (frame->in_register || chain_holds(now, frame))
		return false;
	if (memory->read(memory->context, frame->address + 8, &saved, sizeof(saved)) && saved != frame->lr)
		return true;
	return joins_above(frame, start, now);
}

void frame_write(struct json *json, const struct frame *frame)
{
	json_object(json, NULL);
	json_pointer(json, "address", frame->address);
	json_pointer(json, "lr", frame->lr);
	json_pointer(json, "stripped", frame->stripped);
	json_bool(json, "signed", frame->is_signed);
	json_end_object(json);
}
