/* SPDX-License-Identifier: ISC */
/* Between the files of this platform. */
#ifndef XEN_H
#define XEN_H

#include "hypervisor.h"
#include "ring.h"
#include "store.h"

/* -- hypervisor.c -- */

/* NULL, or what is wrong. After it the page of shared information and the grants are there. */
const char *hypervisor_init(void);
uint64_t hypervisor_parameter(uint32_t index); /* hvm/params.h */
void event_clear(uint32_t port);
/* Sleeps until one of the ports is pending, or system time reaches `until` (0: never). */
void event_wait(const uint32_t *ports, unsigned count, uint64_t until);
/* sched.h; does not come back. */
enum shutdown_reason { SHUTDOWN_POWEROFF = 0, SHUTDOWN_CRASH = 3 };
_Noreturn void hypervisor_shutdown(enum shutdown_reason reason);
/* The time since the host's start, ns, that the TSC stood for. */
uint64_t system_time(uint64_t tsc);

/* -- xenbus.c -- */

#define HVM_PARAM_STORE_PFN 1
#define HVM_PARAM_STORE_EVTCHN 2

extern struct store xenbus;
void xenbus_init(volatile struct store_ring *ring, uint32_t port);
/* Whether a call of store_poll() would do anything. */
bool xenbus_waiting(void);
uint32_t xenbus_port(void);
/* From now on who is told to end by control/shutdown ends. */
void xenbus_watch_shutdown(void);

/* -- netfront.c -- */

/* Takes memory for rings and buffers, and asks the store for the device; NULL, or why not. */
const char *netfront_init(uintptr_t *heap, uintptr_t end);
bool netfront_waiting(void);
/* Asks for an event at the next frame. */
void netfront_watch(void);
uint32_t netfront_port(void); /* 0: not yet */
/* The watch on the backend's state has fired. */
void netfront_state_changed(void);

/* -- board.c -- */

/* Sleeps until the store has news. */
void wait_for_store(void);
/* Sleeps until the network device has, or until then. */
void wait_for_device(uint64_t deadline);

#endif
