// SPDX-License-Identifier: MIT
// The main program of the workloads with threads. Before it is included, WORKERS and DEPTH are
// defined, and what leader and workers do to their own keys once all of them run:
//   ALWAYS_INLINE void prepare_leader(void);
//   ALWAYS_INLINE void prepare_worker(int index);
// A tick means that every thread has returned through all its frames since the last one.
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "held.h"

#ifndef PR_PAC_GET_ENABLED_KEYS
#define PR_PAC_GET_ENABLED_KEYS 61
#endif

struct worker {
	int index;
	atomic_long rounds;
	atomic_bool wrong;
};

static struct worker workers[WORKERS];
static atomic_bool all_running;

// Never returns: its return address was signed with the keys of before.
static void *work(void *argument)
{
	struct worker *self = argument;
	long enabled;

	self->rounds++;
	while (!all_running)
		hold(TICK_NS / 20);
	prepare_worker(self->index);
	enabled = raw_prctl(PR_PAC_GET_ENABLED_KEYS, 0, 0);
	for (;;) {
		bool same = enabled < 0 || raw_prctl(PR_PAC_GET_ENABLED_KEYS, 0, 0) == enabled;

		if (!held(DEPTH) || !same)
			self->wrong = true;
		self->rounds++;
	}
	return NULL;
}

// Waits until every worker has gone on since `before`; whether none of them had something wrong.
static bool workers_done(const long *before)
{
	bool right = true;

	for (int i = 0; i < WORKERS; i++) {
		while (workers[i].rounds == before[i])
			hold(TICK_NS / 20);
		right = right && !workers[i].wrong;
	}
	return right;
}

static void count_rounds(long *rounds)
{
	for (int i = 0; i < WORKERS; i++)
		rounds[i] = workers[i].rounds;
}

int main(void)
{
	long before[WORKERS] = { 0 };
	pthread_t thread;

	begin();
	for (int i = 0; i < WORKERS; i++) {
		workers[i].index = i;
		if (pthread_create(&thread, NULL, work, &workers[i]))
			return 1;
	}
	workers_done(before);
	count_rounds(before);
	all_running = true;
	prepare_leader();
	workers_done(before);
	puts("READY");
	for (;;) {
		bool right;

		count_rounds(before);
		right = held(DEPTH);
		right = workers_done(before) && right;
		tick(right, (WORKERS + 1) * DEPTH);
	}
}
