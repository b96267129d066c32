/* SPDX-License-Identifier: ISC */
/*
 * The monotonic clock, and an alarm to end a sleep.
 *
 * Time is counted by the TSC, whose rate nobody tells us. The timer of the local
 * APIC has a known rate under QEMU and KVM, 1 GHz, but is 32 bits wide and
 * needed for alarms. So the one is measured by the other on the way: the timer
 * always runs, periodically; each time it is about to be set anew, and on each
 * reading of the clock in the first milliseconds, the ticks of both since it was
 * set are compared. The longest such run so far decides the rate. No boot waits
 * for that: after 1 ms it is right to 0.02 %, after the first alarm of 200 ms (a
 * TCP time-out) to one part in a million, and it stays so.
 *
 * Changing the rate moves the base to the present, so time never jumps. The
 * product is 96 bits wide, so nothing wraps.
 */
#include "board.h"

#define LAPIC_TIMER 0x320
#define LAPIC_INITIAL 0x380
#define LAPIC_CURRENT 0x390
#define LAPIC_DIVIDE 0x3e0
#define DIVIDE_BY_1 0xb
#define PERIODIC 0x20000
#define MASKED 0x10000

#define MS 1000000ull
/* Until a run this long was seen, each reading of the clock looks at the timer. */
#define ROUGH (10 * MS)
/* Longer alarms are split: a run must fit the timer, with room to spare. */
#define ALARM_MAX (2000 * MS)
#define ALARM_MIN (20000ull)
/* After so many periods the count of them may be off by one: not worth guessing. */
#define PERIODS_MAX 64

static struct {
	uint64_t base_tsc, base_ns;
	uint64_t rate;	   /* ns for each tick of the TSC, times 2^32 */
	uint64_t measured; /* ns: the run that decided it */
	uint64_t run_tsc;  /* when the timer was set */
	uint64_t period;   /* what it was set to, ns */
	uint64_t alarm;    /* when it goes off for the first time */
	bool masked;
} clock;

static uint64_t ticks_to_ns(uint64_t ticks)
{
	return (uint64_t)((unsigned __int128)ticks * clock.rate >> 32);
}

/* How long the timer has run, in its own count; 0 if that cannot be told. */
static uint64_t run_length(uint64_t ticks)
{
	uint64_t part = clock.period - mmio_read(LAPIC + LAPIC_CURRENT);
	uint64_t about, periods;

	if (clock.measured == 0)
		return part; /* the very first run, of 4 s */
	about = ticks_to_ns(ticks);
	periods = (about - min(about, part) + clock.period / 2) / clock.period;
	return periods <= PERIODS_MAX ? periods * clock.period + part : 0;
}

static void measure(void)
{
	uint64_t tsc = read_tsc();
	uint64_t ticks = tsc - clock.run_tsc;
	uint64_t ns = run_length(ticks);

	if (ns <= clock.measured || ns >> 32 != 0 || ticks == 0)
		return;
	if (clock.measured > 0) { /* else no time was told yet: all since the entry is ours */
		clock.base_ns += ticks_to_ns(tsc - clock.base_tsc);
		clock.base_tsc = tsc;
	}
	clock.rate = (ns << 32) / ticks;
	clock.measured = ns;
}

static void set_timer(uint64_t period)
{
	clock.period = period;
	mmio_write(LAPIC + LAPIC_INITIAL, (uint32_t)period);
	clock.run_tsc = read_tsc();
}

void clock_init(void)
{
	mmio_write(LAPIC + LAPIC_DIVIDE, DIVIDE_BY_1);
	mmio_write(LAPIC + LAPIC_TIMER, PERIODIC | MASKED | VECTOR_TIMER);
	clock.masked = true;
	set_timer(UINT32_MAX);
	clock.base_tsc = entry_tsc;
}

uint64_t platform_clock_monotonic(void)
{
	if (clock.measured < ROUGH)
		measure();
	return clock.base_ns + ticks_to_ns(read_tsc() - clock.base_tsc);
}

static void set_mask(bool masked)
{
	if (masked != clock.masked)
		mmio_write(LAPIC + LAPIC_TIMER, PERIODIC | (masked ? MASKED : 0) | VECTOR_TIMER);
	clock.masked = masked;
}

void clock_set_alarm(uint64_t deadline)
{
	uint64_t now;

	if (deadline == PLATFORM_NEVER) {
		set_mask(true);
		return;
	}
	now = platform_clock_monotonic();
	/* One that goes off too early does no harm, and spares setting it at each frame. */
	if (clock.masked || clock.alarm <= now || clock.alarm > deadline) {
		uint64_t ahead = deadline > now ? deadline - now : 0;

		measure();
		ahead = max(min(ahead, ALARM_MAX), ALARM_MIN);
		set_mask(false);
		set_timer(ahead);
		clock.alarm = now + ahead;
	}
}
