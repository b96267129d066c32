/* SPDX-License-Identifier: ISC */
/* Xen's io/ring.h and io/netif.h, as far as frames without offloads need them. */
#ifndef NETIF_H
#define NETIF_H

#include <stdint.h>

/* Both rings have so many entries in their page. */
#define NETIF_RING 256u

struct netif_tx_request {
	uint32_t gref;
	uint16_t offset, flags, id, size;
};

struct netif_tx_response {
	uint16_t id;
	int16_t status;
};

struct netif_rx_request {
	uint16_t id, pad;
	uint32_t gref;
};

struct netif_rx_response {
	uint16_t id, offset, flags;
	int16_t status; /* the frame's size, or below 0 */
};

/* Of a response's flags: more slots belong to the frame. */
#define NETRXF_MORE_DATA 4
#define NETRXF_EXTRA_INFO 8

/*
 * The indices count up for ever. A notification is wanted when the index named after an
 * event's reaches it: we set rsp_event, the backend req_event.
 */
struct netif_header {
	uint32_t req_prod, req_event;
	uint32_t rsp_prod, rsp_event;
	uint8_t pad[48];
};

struct netif_tx_ring {
	struct netif_header header;
	union {
		struct netif_tx_request request;
		struct netif_tx_response response;
	} entry[NETIF_RING];
};

struct netif_rx_ring {
	struct netif_header header;
	union {
		struct netif_rx_request request;
		struct netif_rx_response response;
	} entry[NETIF_RING];
};

/* io/xenbus.h */
enum xenbus_state {
	STATE_INIT_WAIT = 2,
	STATE_CONNECTED = 4,
	STATE_CLOSING = 5,
};

#endif
