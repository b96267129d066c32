/* SPDX-License-Identifier: ISC */
/* Xen's ring to its store, as io/xs_wire.h has it, and what a platform with one gives. */
#ifndef RING_H
#define RING_H

#include <stdint.h>

#define STORE_RING_SIZE 1024

/* Indices count up for ever; the place is the remainder. Ours are req_prod and rsp_cons. */
struct store_ring {
	uint8_t req[STORE_RING_SIZE], rsp[STORE_RING_SIZE];
	uint32_t req_cons, req_prod;
	uint32_t rsp_cons, rsp_prod;
};

/* Each platform that is linked with ring.c defines these. */
volatile struct store_ring *platform_store_ring(void);
/* Tells the host that indices have moved. It tells us by ending platform_yield(). */
void platform_store_notify(void);

#endif
