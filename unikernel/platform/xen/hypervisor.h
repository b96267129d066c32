/* SPDX-License-Identifier: ISC */
/*
 * What the drivers of this platform need of Xen: event channels and grants. The numbers
 * are those of Xen's public headers. hypervisor.c defines it for the image, and
 * platform/host/xen.c for tests, which play the backend.
 */
#ifndef HYPERVISOR_H
#define HYPERVISOR_H

#include "bytes.h"
#include "cpu.h"

/* The first that is no domain's (DOMID_FIRST_RESERVED of xen.h). */
#define DOMAIN_MAX 0x7ff0u

/* event_channel.h. 0 is no port. */
uint32_t event_open(uint16_t domain); /* unbound, for `domain` to bind; 0: it cannot be */
void event_send(uint32_t port);

/* grant_table.h: version 1, the first page. The first entries are the toolstack's. */
#define GRANTS 512u
#define GRANTS_RESERVED 8u
#define GRANT_PERMIT_ACCESS 1
#define GRANT_READONLY 4

struct grant {
	uint16_t flags, domain;
	uint32_t frame;
};

extern volatile struct grant *grant_table;

static inline void grant_access(uint32_t reference, uint16_t domain, volatile const void *page,
				uint16_t flags)
{
	volatile struct grant *grant = &grant_table[reference];

	grant->domain = domain;
	grant->frame = (uint32_t)((uintptr_t)page / PAGE);
	compiler_barrier(); /* the rest is valid before the flags say so */
	grant->flags = GRANT_PERMIT_ACCESS | flags;
}

#endif
