/* SPDX-License-Identifier: ISC */
/*
 * Hypercalls, and the pages that Xen shares with us.
 *
 * No interrupt is ever wanted: the guest has one thread, which sleeps in one place. It
 * polls its few event channels there (SCHEDOP_poll, until a time), and so needs neither a
 * vector nor a timer nor the local APIC. The channels are masked, which keeps Xen from
 * raising what nobody takes; a poll does not look at the mask.
 */
#include "xen.h"

/* arch-x86/cpuid.h */
#define CPUID_FIRST 0x40000000u
#define CPUID_LAST 0x40010000u
#define CPUID_STEP 0x100u
#define CPUID_SIGNATURE 0x566e6558u /* "XenV" */

/* xen.h: numbers of hypercalls */
enum { MEMORY_OP = 12, SCHED_OP = 29, EVENT_CHANNEL_OP = 32, HVM_OP = 34 };

#define DOMAIN_SELF 0x7ff0

/* memory.h */
#define XENMEM_ADD_TO_PHYSMAP 7
enum { SPACE_SHARED_INFO = 0, SPACE_GRANT_TABLE = 1 };
/* event_channel.h */
enum { EVTCHNOP_SEND = 4, EVTCHNOP_ALLOC_UNBOUND = 6 };
/* sched.h */
enum { SCHEDOP_SHUTDOWN = 2, SCHEDOP_POLL = 3 };
/* hvm/hvm_op.h */
enum { HVMOP_GET_PARAM = 1 };

/*
 * Where no memory is: a page of ours in its place would be lost, and cost Xen a large
 * page's cutting up. Linux has its shared information here as well.
 */
#define SHARED_INFO 0xfe700000ul
#define GRANT_TABLE 0xfe701000ul

#define VCPUS 32
#define EVENT_WORDS 64
#define EVENT_BITS 64u

struct vcpu_time_info {
	uint32_t version, pad;
	uint64_t tsc_timestamp, system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags, pad1[2];
};

struct shared_info {
	struct {
		uint8_t upcall_pending, pad0[7];
		uint64_t pending_selector, arch[2];
		struct vcpu_time_info time;
	} vcpu[VCPUS];
	uint64_t pending[EVENT_WORDS], mask[EVENT_WORDS];
};

_Static_assert(offsetof(struct shared_info, pending) == 2048, "xen.h");

static volatile struct shared_info *const shared = (volatile struct shared_info *)SHARED_INFO;
volatile struct grant *grant_table = (volatile struct grant *)GRANT_TABLE;

static uint8_t hypercall_page[PAGE] __attribute__((aligned(4096)));

static long hypercall(unsigned number, unsigned long operation, const void *argument)
{
	const void *entry = hypercall_page + number * 32;
	long result;

	__asm__ volatile("call *%[entry]"
			 : "=a"(result), "+D"(operation), "+S"(argument)
			 : [entry] "r"(entry)
			 : "memory", "rcx", "rdx", "r8", "r9", "r10", "r11");
	return result;
}

static void cpuid(uint32_t leaf, uint32_t *eax, uint32_t *ebx)
{
	uint32_t ecx = 0, edx;

	*eax = leaf;
	__asm__ volatile("cpuid" : "+a"(*eax), "=b"(*ebx), "+c"(ecx), "=d"(edx));
}

static bool map(uint32_t space, uintptr_t address)
{
	struct {
		uint16_t domain, size;
		uint32_t space;
		uint64_t index, frame;
	} add = { .domain = DOMAIN_SELF, .space = space, .frame = address / PAGE };

	return hypercall(MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &add) == 0;
}

const char *hypervisor_init(void)
{
	uint32_t base = CPUID_FIRST, eax, msr;

	for (;; base += CPUID_STEP) {
		if (base == CPUID_LAST)
			return "not on Xen";
		cpuid(base, &eax, &msr);
		if (msr == CPUID_SIGNATURE)
			break;
	}
	cpuid(base + 2, &eax, &msr);
	/* From long mode, by which Xen knows our layout of the shared page. */
	__asm__ volatile("wrmsr"
			 :
			 : "c"(msr), "a"((uint32_t)(uintptr_t)hypercall_page), "d"(0)
			 : "memory");
	if (!map(SPACE_SHARED_INFO, SHARED_INFO) || !map(SPACE_GRANT_TABLE, GRANT_TABLE))
		return "Xen does not map its pages";
	return NULL;
}

uint64_t hypervisor_parameter(uint32_t index)
{
	struct {
		uint16_t domain, pad;
		uint32_t index;
		uint64_t value;
	} parameter = { .domain = DOMAIN_SELF, .index = index };

	return hypercall(HVM_OP, HVMOP_GET_PARAM, &parameter) == 0 ? parameter.value : 0;
}

/* -- Event channels -- */

static void event_mask(uint32_t port)
{
	shared->mask[port / EVENT_BITS % EVENT_WORDS] |= 1ull << port % EVENT_BITS;
}

uint32_t event_open(uint16_t domain)
{
	struct {
		uint16_t domain, remote;
		uint32_t port;
	} open = { .domain = DOMAIN_SELF, .remote = domain };

	if (hypercall(EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, &open) != 0)
		return 0;
	event_mask(open.port);
	return open.port;
}

void event_send(uint32_t port)
{
	hypercall(EVENT_CHANNEL_OP, EVTCHNOP_SEND, &port);
}

/* Xen sets other bits of the word meanwhile. */
void event_clear(uint32_t port)
{
	__atomic_fetch_and(&shared->pending[port / EVENT_BITS % EVENT_WORDS],
			   ~(1ull << port % EVENT_BITS), __ATOMIC_SEQ_CST);
}

void event_wait(const uint32_t *ports, unsigned count, uint64_t until)
{
	struct {
		const uint32_t *ports;
		uint32_t count, pad;
		uint64_t until;
	} poll = { .ports = ports, .count = count, .until = until };

	hypercall(SCHED_OP, SCHEDOP_POLL, &poll);
}

void hypervisor_shutdown(enum shutdown_reason reason)
{
	uint32_t argument = reason;

	for (;;)
		hypercall(SCHED_OP, SCHEDOP_SHUTDOWN, &argument);
}

/* -- Time -- */

static uint64_t scale(uint64_t ticks, int shift, uint32_t multiplier)
{
	ticks = shift < 0 ? ticks >> -shift : ticks << shift;
	return (uint64_t)((unsigned __int128)ticks * multiplier >> 32);
}

uint64_t system_time(uint64_t tsc)
{
	volatile struct vcpu_time_info *time = &shared->vcpu[0].time;
	uint64_t ns;
	uint32_t version;

	do { /* odd: Xen is writing it */
		int64_t ticks;

		version = time->version;
		compiler_barrier();
		ticks = (int64_t)(tsc - time->tsc_timestamp);
		ns = ticks < 0 ? time->system_time - scale((uint64_t)-ticks, time->tsc_shift,
							   time->tsc_to_system_mul)
			       : time->system_time + scale((uint64_t)ticks, time->tsc_shift,
							   time->tsc_to_system_mul);
		compiler_barrier();
	} while ((version & 1) != 0 || version != time->version);
	return ns;
}
