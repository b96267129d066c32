/* SPDX-License-Identifier: ISC */
/* Numbers of Virtual I/O Device (VIRTIO) 1.2: MMIO registers and split rings. */
#ifndef VIRTIO_H
#define VIRTIO_H

#include <stdint.h>

/* 4.2.2, offsets of registers */
enum {
	REG_MAGIC = 0x00,
	REG_VERSION = 0x04,
	REG_DEVICE_ID = 0x08,
	REG_DEVICE_FEATURES = 0x10,
	REG_DEVICE_FEATURES_SELECT = 0x14,
	REG_DRIVER_FEATURES = 0x20,
	REG_DRIVER_FEATURES_SELECT = 0x24,
	REG_QUEUE_SELECT = 0x30,
	REG_QUEUE_SIZE_MAX = 0x34,
	REG_QUEUE_SIZE = 0x38,
	REG_QUEUE_READY = 0x44,
	REG_QUEUE_NOTIFY = 0x50,
	REG_INTERRUPT_STATUS = 0x60,
	REG_INTERRUPT_ACK = 0x64,
	REG_STATUS = 0x70,
	REG_QUEUE_DESCRIPTORS = 0x80,
	REG_QUEUE_DRIVER = 0x90,
	REG_QUEUE_DEVICE = 0xa0,
	REG_CONFIG = 0x100
};

#define VIRTIO_MAGIC 0x74726976 /* "virt" */
#define VIRTIO_MODERN 2
#define VIRTIO_NET 1

/* 2.1, device status */
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, FAILED = 128 };

/* 5.1.3 and 6, features by bit */
#define FEATURE_MAC (1u << 5)
#define FEATURE_MTU (1u << 3)
#define FEATURE_VERSION_1 (1u << 0) /* bit 32: of the second word */

/* 2.7, split rings */
struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};

#define DESCRIPTOR_WRITE 2 /* by the device */
#define AVAILABLE_NO_INTERRUPT 1
#define USED_NO_NOTIFY 1

struct used_element {
	uint32_t id, length;
};

#endif
