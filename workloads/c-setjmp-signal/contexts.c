// SPDX-License-Identifier: MIT
// Signed return addresses off the beaten track: a coroutine that waits deep in calls on a stack of
// its own, a signal handler that sleeps deep in calls, and a longjmp out of as many.
#include <setjmp.h>
#include <ucontext.h>

#include "held.h"

enum { DEPTH = 100 };

static jmp_buf outside;
static ucontext_t main_context, coroutine_context;
static volatile long coroutine_rounds;
static volatile bool handler_right, wrong;

static void sleep_there(void)
{
	hold(TICK_NS / 2);
}

static void jump_out(void)
{
	hold(TICK_NS / 2);
	longjmp(outside, 1);
}

static void suspend(void)
{
	swapcontext(&coroutine_context, &main_context);
}

static void coroutine(void)
{
	for (;;) {
		if (!returned_from(DEPTH, suspend))
			wrong = true;
		coroutine_rounds++;
	}
}

static void in_handler(int signal)
{
	(void)signal;
	handler_right = returned_from(DEPTH, sleep_there);
}

static void start_coroutine(void)
{
	static char stack[256 * 1024];

	getcontext(&coroutine_context);
	coroutine_context.uc_stack.ss_sp = stack;
	coroutine_context.uc_stack.ss_size = sizeof(stack);
	makecontext(&coroutine_context, coroutine, 0);
	swapcontext(&main_context, &coroutine_context);
}

__attribute__((noinline)) static bool jumped(void)
{
	if (setjmp(outside))
		return true;
	returned_from(DEPTH, jump_out);
	return false;
}

int main(void)
{
	struct sigaction action = { .sa_handler = in_handler };

	begin();
	sigaction(SIGUSR2, &action, NULL);
	start_coroutine();
	puts("READY");
	for (;;) {
		long before = coroutine_rounds;
		bool out = jumped();

		handler_right = false;
		raise(SIGUSR2);
		swapcontext(&main_context, &coroutine_context);
		tick(out && handler_right && !wrong && coroutine_rounds == before + 1, 3 * DEPTH);
	}
}
