/* SPDX-License-Identifier: ISC */
/* Between the files of this platform: the coroutine, and who brings its devices. */
#ifndef HOST_GUEST_H
#define HOST_GUEST_H

#include "host.h"

/* Gives control back to the test until it runs the guest again. */
void host_wait(uint64_t deadline);
/* Where a guest's devices hang, which end with it; NULL: of the one that runs. */
void **host_devices(struct host_guest *guest);

#endif
