/* SPDX-License-Identifier: ISC */
/*
 * Splicing: the kernel's part of src/jitsu/core/splice.py.
 *
 * Synjitsu has completed the handshake with the client before there was a guest, with a sequence
 * number of its own; the guest has then chosen another. Once their difference, `delta`, is known,
 * two programs on the guest's tap make up for it in every segment of the flow:
 *
 *     from the guest   seq += delta
 *     to the guest     ack -= delta
 *
 * Nothing else differs: the client's numbers are the client's on either side, no window is scaled,
 * and without SACK and timestamps no option holds a number. Until delta is known the guest is not
 * heard, but for packet sockets, which see what it sends before these programs do; what they send
 * to it, these see.
 *
 * A flow that is over is only marked: user space takes out what is marked and was not used for a
 * while, so that the last segments of a connection, which may come twice, are still understood.
 *
 * Who forges a segment with the client's address ends none, unless the guest would believe it, too
 * (RFC 5961): a client's FIN counts when the guest has acknowledged it, and its RST if it is where
 * the guest has acknowledged all, until the guest goes on speaking. A SYN of the client changes
 * nothing: it is the guest's own, with a number that is not of this connection, by which the next
 * begins, and the flow is the guest's. Until then what comes is translated: the SYN has nothing to
 * shift, and a guest that still has the connection answers with an ACK of it.
 *
 * Not done: TCP behind extension headers of IPv6, or behind a tag of a VLAN. It is not shifted,
 * so that the receiver ignores it.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

/* Of linux/bpf.h and linux/pkt_cls.h: they are part of the kernel's contract with every program. */
enum { MAP_TYPE_HASH = 1, MAP_NO_PREALLOC = 1 };
enum { VERDICT_GO_ON = -1, VERDICT_DROP = 2 };

struct skb; /* never looked into: everything is read from the frame itself */
static void *(*const map_lookup)(const void *map, const void *key) = (void *)1;
static long (*const map_delete)(const void *map, const void *key) = (void *)3;
static u64 (*const now_ns)(void) = (void *)5;
static long (*const store)(struct skb *, u32 at, const void *from, u32 size, u64 flags) = (void *)9;
static long (*const fix_checksum)(struct skb *, u32 at, u64 old, u64 new, u64 flags) = (void *)11;
static long (*const load)(const struct skb *, u32 at, void *to, u32 size) = (void *)26;

#define SWAP16(x) __builtin_bswap16(x)
#define SWAP32(x) __builtin_bswap32(x)
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the image beside this runs on little-endian machines only"
#endif

enum { ETHERTYPE_AT = 12, ETHERNET_BYTES = 14, IPV6_BYTES = 40 };
enum { ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_IPV6 = 0x86dd, PROTOCOL_TCP = 6 };
enum { FIN = 0x01, SYN = 0x02, RST = 0x04, ACK = 0x10 };

/* As in host/splice.py. Bytes as on the wire; an IPv4 address as ::ffff:a.b.c.d (RFC 4291). */
struct flow {
	u32 client[4], guest[4];
	u16 client_port, guest_port;
};

struct shift {
	u64 seen;      /* when a segment last came, on the monotonic clock */
	u32 delta;     /* our initial sequence number less the guest's */
	u32 isn;       /* the guest's */
	u32 acked;     /* what the guest has last acknowledged */
	u32 closed;    /* and will have, once it has got the client's FIN */
	u8 is_known;   /* delta is */
	u8 client_end; /* FIN and RST of the client's that count */
	u8 guest_end;  /* and of the guest's */
	u8 closes;     /* the client has sent FIN */
	u8 unused[4];
};

struct map {
	u32 type, key_bytes, value_bytes, entries, flags;
};

/* As many as Synjitsu can have at a hand-over; later connections are the guest's own. */
struct map SEC("maps") flows = {
	MAP_TYPE_HASH, sizeof(struct flow), sizeof(struct shift), 8192, MAP_NO_PREALLOC,
};

struct tcp {
	u16 source_port, destination_port;
	u32 seq, ack;
	u8 words, flags;
	u16 window, checksum, urgent;
};

struct ipv4 {
	u8 version_and_words, traffic_class;
	u16 length, identification, fragment;
	u8 ttl, protocol;
	u16 checksum;
	u32 source, destination;
};

struct ipv6 {
	u32 version_class_and_label;
	u16 length;
	u8 next, hops;
	u32 source[4], destination[4];
};

#define OFFSET(member) (__builtin_offsetof(struct tcp, member))

INLINE void copy(u32 *to, const u32 *from)
{
	to[0] = from[0], to[1] = from[1], to[2] = from[2], to[3] = from[3];
}

/*
 * Return where the TCP header of a frame is, whose it is, and how many bytes follow it; 0 if there
 * is none to be found.
 */
INLINE u32 find(struct skb *skb, u32 to_guest, struct flow *flow, struct tcp *tcp, u32 *length)
{
	u32 at, *source = to_guest ? flow->client : flow->guest;
	u32 *destination = to_guest ? flow->guest : flow->client;
	u16 ethertype;

	if (load(skb, ETHERTYPE_AT, &ethertype, sizeof ethertype))
		return 0;
	if (ethertype == SWAP16(ETHERTYPE_IPV4)) {
		struct ipv4 ip;
		if (load(skb, ETHERNET_BYTES, &ip, sizeof ip) || ip.protocol != PROTOCOL_TCP)
			return 0;
		if (ip.fragment & SWAP16(0x1fff))
			return 0; /* a later part: it has no TCP header */
		source[0] = source[1] = destination[0] = destination[1] = 0;
		source[2] = destination[2] = SWAP32(0xffff);
		source[3] = ip.source;
		destination[3] = ip.destination;
		at = ETHERNET_BYTES + (ip.version_and_words & 0xf) * 4;
		*length = ETHERNET_BYTES + SWAP16(ip.length) - at;
	} else if (ethertype == SWAP16(ETHERTYPE_IPV6)) {
		struct ipv6 ip;
		if (load(skb, ETHERNET_BYTES, &ip, sizeof ip) || ip.next != PROTOCOL_TCP)
			return 0;
		copy(source, ip.source);
		copy(destination, ip.destination);
		at = ETHERNET_BYTES + IPV6_BYTES;
		*length = SWAP16(ip.length);
	} else {
		return 0;
	}
	if (load(skb, at, tcp, sizeof *tcp))
		return 0;
	*length -= (tcp->words >> 4) * 4;
	flow->client_port = to_guest ? tcp->source_port : tcp->destination_port;
	flow->guest_port = to_guest ? tcp->destination_port : tcp->source_port;
	return at;
}

/* Keep in mind how far the connection has come, by what the client says, or who claims to be it. */
INLINE void follow_client(struct shift *shift, const struct tcp *tcp, u32 length)
{
	if (tcp->flags & FIN) {
		shift->closed = SWAP32(tcp->seq) + length + 1;
		shift->closes = 1;
	}
	if (tcp->flags & RST && SWAP32(tcp->seq) == shift->acked)
		shift->client_end |= RST;
}

/* And by what the guest says. */
INLINE void follow_guest(struct shift *shift, const struct tcp *tcp)
{
	shift->guest_end |= tcp->flags & (FIN | RST);
	if (tcp->flags & RST)
		return;
	/* It lives. If it has sent RST before, to one that has forged a part of its handshake. */
	shift->client_end &= ~RST;
	shift->guest_end &= ~RST;
	if (!(tcp->flags & ACK))
		return;
	shift->acked = SWAP32(tcp->ack);
	if (shift->closes && shift->acked == shift->closed)
		shift->client_end |= FIN;
}

INLINE int replace(struct skb *skb, u32 at, u32 member, u32 old, u32 new)
{
	/* First the checksum: it knows whether the sender has left it to the hardware. */
	if (fix_checksum(skb, at + OFFSET(checksum), old, new, sizeof new) ||
	    store(skb, at + member, &new, sizeof new, 0))
		return VERDICT_DROP; /* no memory; TCP sends it again */
	return VERDICT_GO_ON;
}

INLINE int translate(struct skb *skb, u32 to_guest)
{
	struct flow flow;
	struct tcp tcp;
	struct shift *shift;
	u32 length, at = find(skb, to_guest, &flow, &tcp, &length);

	if (!at)
		return VERDICT_GO_ON;
	shift = map_lookup(&flows, &flow);
	if (!shift)
		return VERDICT_GO_ON;
	if (!shift->is_known) /* only Synjitsu's own SYN passes */
		return to_guest && !(tcp.flags & ACK) ? VERDICT_GO_ON : VERDICT_DROP;
	if (!to_guest && tcp.flags & SYN && SWAP32(tcp.seq) != shift->isn) {
		map_delete(&flows, &flow); /* the client uses its port again */
		return VERDICT_GO_ON;
	}
	/*
	 * Both ends have said all. What a guest resets then is an ACK of the client's that has come
	 * late, by way of Synjitsu: the client need not know. (An RST with ACK refuses a SYN.)
	 */
	if (!to_guest && (tcp.flags & (RST | ACK)) == RST && shift->client_end & shift->guest_end & FIN)
		return VERDICT_DROP;
	shift->seen = now_ns();
	if (!to_guest) {
		follow_guest(shift, &tcp);
		return replace(skb, at, OFFSET(seq), tcp.seq, SWAP32(SWAP32(tcp.seq) + shift->delta));
	}
	follow_client(shift, &tcp, length);
	if (!(tcp.flags & ACK))
		return VERDICT_GO_ON;
	return replace(skb, at, OFFSET(ack), tcp.ack, SWAP32(SWAP32(tcp.ack) - shift->delta));
}

int SEC("from_guest") guest_sends(struct skb *skb)
{
	return translate(skb, 0);
}

int SEC("to_guest") guest_gets(struct skb *skb)
{
	return translate(skb, 1);
}

/* What we call is open to every licence. */
const char SEC("license") licence[] = "ISC";
