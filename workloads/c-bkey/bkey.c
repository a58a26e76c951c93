// SPDX-License-Identifier: MIT
// The same as c-frames, signed with the key IB, as nothing of a distribution is (workload.toml).
#include "frames.h"
