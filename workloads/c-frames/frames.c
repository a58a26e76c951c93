// SPDX-License-Identifier: MIT
// Hundreds of signed return addresses, all of them used on every tick.
#include "frames.h"
