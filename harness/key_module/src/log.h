/* SPDX-License-Identifier: MIT */
/* One line in CRIU's log per call, with the prefix people grep for. Never pass key bytes. */
#ifndef PAC_LOG_H
#define PAC_LOG_H

#include "criu_abi.h"

#define PAC_LOG_PREFIX "pac-key-module: "

#define pac_error(format, ...) \
    print_on_level(CRIU_LOG_ERROR, PAC_LOG_PREFIX "error: " format "\n", ##__VA_ARGS__)
#define pac_warn(format, ...) \
    print_on_level(CRIU_LOG_WARN, PAC_LOG_PREFIX "warning: " format "\n", ##__VA_ARGS__)
#define pac_info(format, ...) \
    print_on_level(CRIU_LOG_INFO, PAC_LOG_PREFIX format "\n", ##__VA_ARGS__)
#define pac_debug(format, ...) \
    print_on_level(CRIU_LOG_DEBUG, PAC_LOG_PREFIX format "\n", ##__VA_ARGS__)

#endif
