// SPDX-License-Identifier: MIT
// Exceptions thrown from deep in calls after a sleep there: the unwinder authenticates every return
// address on its way, half of the frames run a destructor, and a fresh exception goes on from halfway.
#include <csignal>
#include <cstdio>
#include <ctime>
#include <stdexcept>

namespace
{

constexpr int depth = 200;
// Long against what CRIU needs to stop it: met while it unwinds, it finds no code at an address that wrong
// keys have spoilt, and std::terminate ends it before any return can (with 0.2 s that was one in six).
constexpr std::time_t tick_s = 2;

volatile std::sig_atomic_t asked;
int destroyed;

struct Counted {
	~Counted()
	{
		++destroyed;
	}
};

struct Bottom : std::runtime_error {
	using std::runtime_error::runtime_error;
};

void hold()
{
	timespec left{ tick_s, 0 };

	while (nanosleep(&left, &left)) {
	}
}

int descend(int level);

// Not a tail call: every level has its own frame and its own signed LR.
[[gnu::always_inline]] inline int below(int level)
{
	int sum = descend(level - 1);

	__asm__ volatile("" : "+r"(sum));
	return sum + level;
}

[[gnu::noinline]] int descend(int level)
{
	if (level == 0) {
		hold();
		throw Bottom("bottom");
	}
	if (level == depth / 2) {
		try {
			return below(level);
		} catch (const Bottom &) {
			throw std::logic_error("halfway");
		}
	}
	if (level % 2) {
		Counted counted;

		return below(level);
	}
	return below(level);
}

bool unwound()
{
	destroyed = 0;
	try {
		descend(depth);
	} catch (const std::logic_error &error) {
		return destroyed == depth / 2;
	}
	return false;
}

} // namespace

int main()
{
	struct sigaction action = {};

	action.sa_handler = [](int) { asked = 1; };
	sigaction(SIGUSR1, &action, nullptr);
	std::setvbuf(stdout, nullptr, _IOLBF, 0);
	std::puts("READY");
	for (;;) {
		const bool right = unwound();

		if (asked) {
			asked = 0;
			std::printf("%s %d frames\n", right ? "PASS" : "FAIL", depth);
		}
		std::puts("tick");
	}
}
