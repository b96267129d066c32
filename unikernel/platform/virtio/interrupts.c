/* SPDX-License-Identifier: ISC */
/* The two interrupt controllers. */
#include "board.h"

#define LAPIC_SPURIOUS 0xf0
#define LAPIC_ENABLE 0x100

#define IOAPIC 0xfec00000ul
#define IOAPIC_SELECT 0x00
#define IOAPIC_WINDOW 0x10
#define IOAPIC_REDIRECTION 0x10
#define IOAPIC_LINES 24

void device_interrupt(void), timer_interrupt(void), spurious_interrupt(void);

void interrupts_init(void)
{
	traps_handle(VECTOR_TIMER, timer_interrupt);
	traps_handle(VECTOR_DEVICE, device_interrupt);
	traps_handle(VECTOR_SPURIOUS, spurious_interrupt);
	mmio_write(LAPIC + LAPIC_SPURIOUS, LAPIC_ENABLE | VECTOR_SPURIOUS);
}

/* Edge-triggered: the line rises when the device has news that nobody acknowledged. */
void interrupts_route(unsigned line)
{
	if (line >= IOAPIC_LINES)
		return;
	mmio_write(IOAPIC + IOAPIC_SELECT, IOAPIC_REDIRECTION + 2 * line + 1);
	mmio_write(IOAPIC + IOAPIC_WINDOW, 0); /* to processor 0 */
	mmio_write(IOAPIC + IOAPIC_SELECT, IOAPIC_REDIRECTION + 2 * line);
	mmio_write(IOAPIC + IOAPIC_WINDOW, VECTOR_DEVICE);
}
