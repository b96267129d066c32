/*
 * The hand-over of live TCP connections from Synjitsu to a guest: the protocol, and nothing else.
 *
 * This is its specification, and spin (https://spinroot.com) proves it by visiting every state that
 * it can come to, with any side dying at any step. docs/handoff.md tells the story; the code is
 * src/jitsu/core/handoff.py, synjitsu.py and connection.py on the host's side, and
 * unikernel/apps/handover.c on the guest's. `make test` does all that follows (tests/docs):
 *
 *     spin -a handoff.pml && gcc -DSAFETY -o pan pan.c && ./pan -m1000000       what never happens
 *     spin -a -DFAIR handoff.pml && gcc -DNFAIR=4 -o pan pan.c && ./pan -a -f   what always does
 *     spin -a -DPROMPT ...                                                      ... without delay
 *     spin -a -DBREAK_COMMIT_IN_PIECES ...          a broken protocol, of which spin must complain
 *     spin -t -p handoff.pml                        how it came to that, step by step
 *
 * How to read it: `atomic { guard -> effect }` is one indivisible step, which may be taken whenever
 * its guard holds; of all that may be taken, by any process, any one comes next. An `if` of which
 * several guards hold takes any of them. An `inline` is a part of a step.
 *
 * What is left out, and why that is safe. Windows, options, DNS, UDP: they change nothing in who owns
 * what. Half-open connections that time out after 15 s: who takes longer is reset, and has lost
 * nothing. Cookies, which only a flood brings about: of such a client nothing is kept until it has
 * acknowledged one, and if the guest has taken over by then, it resets it. An idle guest's end and an operator's stop: a fence before the first makes sure that
 * no connection is open, the second is wanted. The counting of connections by nftables, but for the
 * time that it takes (FROZEN). Servers that speak first: a guest speaks only of what it owns.
 */

#ifndef CLIENTS
#define CLIENTS 1       /* or 2; each with one connection */
#endif
#ifndef LAST
#define LAST 3          /* segments of a client's request: 1 .. LAST; the last one carries FIN */
#endif
#ifndef BOOTS
#define BOOTS 3         /* then the service stays FAILED */
#endif
#ifndef LIVES
#define LIVES 2         /* of the daemon: it dies LIVES - 1 times */
#endif

/*
 * Three worlds.
 *
 * The first, for what must never happen, is as bad as can be: its link may lose, double, delay for
 * ever and reorder at will, and nobody need go on. In a FAIR world, for what must happen in the end,
 * who can go on for ever goes on some day, and all that goes wrong is finite. In a PROMPT one
 * nothing goes wrong, and clients say everything once: if all are served there, nobody ever waits
 * for a retransmission on account of a hand-over.
 */
#if defined(FAIR)
byte losses = 1, repeats = 1;
#define MAY_LOSE        (losses > 0)
#define LOSE            losses--
#define MAY_REPEAT      (repeats > 0)
#define REPEAT          repeats--
#elif defined(PROMPT)
#define MAY_LOSE        false
#define LOSE            skip
#define MAY_REPEAT      false
#define REPEAT          skip
#else
#define MAY_LOSE        true
#define LOSE            skip
#define MAY_REPEAT      true
#define REPEAT          skip
#define WORST
#endif

/*
 * The claims: what never happens. (What always does, formulas say: see the end.) These flags are
 * never set; each gives an assertion its name, by which spin tells which one does not hold.
 */
bool two_own, nobody_owns, byte_lost, byte_doubled, innocent_reset, spoke_after_commit,
     stale_guest, impossible;

#define claim(name, holds)      assert((holds) || name)

/* -- Who there is ------------------------------------------------------------------------------- */

#define NONE 0
mtype = { SYN, ACK, DATA, RST };                        /* a client's segments */
mtype = { SYN_RECEIVED, ESTABLISHED };                  /* a connection, at the server's end */
mtype = { SYN_SENT, OPEN, SERVED, REFUSED, GIVEN_UP };  /* a client; NONE before */

/*
 * A connection as Synjitsu, the store or a guest has it. Each has an initial sequence number of its
 * own, even if its client is the same (RFC 6528): a client that has been answered with one believes
 * in that connection, and what it sends fits no other. Its own number is 0, so `rcv` is the segment
 * that is expected next, and all before it have been acknowledged.
 */
typedef Connection {
	mtype state;
	bool believed;
	byte rcv;
	byte rx         /* the segments that are kept for the application, or that it has read: 1 .. rx */
};

Connection at_synjitsu[CLIENTS];
Connection in_store[CLIENTS];   /* /conduit/<service>/tcpv4/<i> and rx/<j> below it */
Connection at_guest[CLIENTS];   /* what the guest has imported, or has opened itself */

typedef Client {
	mtype state;
	byte una;       /* the first segment that is not acknowledged to it */
	bool bereft;    /* who owned its connection has died: it may be reset, and must be */
	bool read;      /* an application has been given what it said before the hand-over */
	byte said       /* in a PROMPT world: the last that it has sent */
};

Client client[CLIENTS];

/*
 * The daemon, which is Synjitsu, the store, and who boots guests; its every step is one turn of its
 * event loop.
 *
 *     ASLEEP      nobody has asked
 *     PROXYING    a guest boots; Synjitsu answers
 *     FROZEN      the guest is prepared; the last connections are being counted, nothing is taken
 *     COMMITTED   the guest owns all connections, and imports them
 *     AWAKE       it has them all
 *     FAILED      it was given up; clients are refused
 *     DOWN        there is no daemon
 */
mtype = { ASLEEP, PROXYING, FROZEN, COMMITTED, AWAKE, FAILED, DOWN };
mtype phase = ASLEEP;
byte lives = LIVES;

/*
 * The guest of the latest boot, number `epoch`. It `runs` as long as its link is on the bridge; what
 * has lost its link may go on for a while, until the daemon knows, but nobody hears it any more but
 * the store. It is silent until it has read "committed".
 */
byte epoch;
bool runs;
mtype = { BOOTING, PREPARED, IMPORTING, SERVING };
mtype stage = BOOTING;
byte imported;                  /* connections that it has imported */
#define IS_SILENT (stage == BOOTING || stage == PREPARED)

/*
 * The store, whose content outlives the daemon: /conduit/<service>/handoff/<domain>, "proxying" or
 * "committed". All of it may be read by one domain, the guest of the latest boot, which may write one
 * word there. Nobody else may do either, nor can anybody without a daemon.
 */
bool committed;
byte domain;                    /* whose epoch may use it; 0: nobody's */
#ifndef BREAK_NO_EPOCH
#define MAY_USE_STORE(who)      (phase != DOWN && domain == who)
#else
#define MAY_USE_STORE(who)      (phase != DOWN && domain != 0)
#endif

/* The bridge's forwarding entry for the service's address. */
mtype = { TO_SYNJITSU, TO_GUEST };
mtype entry = TO_SYNJITSU;

/*
 * Frames at Synjitsu's port, not yet read; frames that it holds for the guest. A queue for each
 * client, so that in a FAIR world none keeps another waiting for ever.
 */
typedef Queue { chan frames = [1] of { mtype, byte } };         /* which segment */
Queue port[CLIENTS], held[CLIENTS];

byte i, j, kind, seq;           /* scratch, 0 between steps */

/* -- Who owns what ------------------------------------------------------------------------------ */

#define HAS(it)                 (it.state != NONE)
#define SYNJITSU_HAS(n)         HAS(at_synjitsu[n])
/* From the commit on the guest owns what is in the store, before it has read it. */
#define IS_GIVEN(n)             (runs && committed && HAS(in_store[n]))
#define GUEST_HAS(n)            (runs && (IS_GIVEN(n) || HAS(at_guest[n])))

#define TRUSTS(n)               (client[n].state == OPEN && !client[n].bereft)
#define IS_OWNED(n)             (at_synjitsu[n].believed || (IS_GIVEN(n) && in_store[n].believed) || \
				 (runs && at_guest[n].believed))
#define COVERS(it, n)        (!it.believed || (it.rcv >= client[n].una && \
						       it.rx == it.rcv - 1))
#define IS_COVERED(n)           (COVERS(at_synjitsu[n], n) && COVERS(at_guest[n], n) && \
				 (!IS_GIVEN(n) || COVERS(in_store[n], n)))

inline forget(it)
{
	it.state = NONE; it.believed = false; it.rcv = 0; it.rx = 0
}

inline copy(to, from)
{
	to.state = from.state; to.believed = from.believed;
	to.rcv = from.rcv; to.rx = from.rx
}

/* A connection dies with its owner. */
inline perish(it, n)
{
	if
	:: it.believed -> client[n].bereft = true
	:: else
	fi;
	forget(it)
}

/* -- What a client hears ------------------------------------------------------------------------ */

/*
 * Answers are heard at once, or never: what one that is late could do, a client can that is late to
 * act on it, and what was said once is said again to who asks again.
 */
inline say_syn_ack(it, n)
{
	if
	:: client[n].state == SYN_SENT ->
		client[n].state = OPEN; client[n].una = 1; it.believed = true
	:: client[n].state == SYN_SENT && MAY_LOSE -> LOSE
	:: client[n].state != SYN_SENT
	fi
}

#define IS_NEWS(it, n)       (client[n].state == OPEN && it.believed && \
				 client[n].una < it.rcv)

inline say_ack(it, n)
{
	if
	:: IS_NEWS(it, n) -> client[n].una = it.rcv
	:: IS_NEWS(it, n) && MAY_LOSE -> LOSE
	:: !IS_NEWS(it, n)
	fi
}

/* A RST fits the segment that it answers, so the client that has sent that believes it. */
inline say_rst(n)
{
	claim(innocent_reset, !TRUSTS(n));
	claim(innocent_reset, client[n].state != SYN_SENT || phase == FAILED);
	if
	:: client[n].state == OPEN || client[n].state == SYN_SENT ->
		client[n].state = REFUSED
	:: (client[n].state == OPEN || client[n].state == SYN_SENT) && MAY_LOSE -> LOSE
	:: client[n].state != OPEN && client[n].state != SYN_SENT
	fi
}

/*
 * One segment, at whoever answers: the passive half of TCP, as Synjitsu and the guest have it.
 */
inline takes(it, n, what, number)
{
	if
	:: what == SYN && it.state == NONE ->
		it.state = SYN_RECEIVED; it.rcv = 1;
#ifdef BREAK_NUMBER_USED_AGAIN
		it.believed = (client[n].state == OPEN);
#endif
		say_syn_ack(it, n)
	:: what == SYN && it.state == SYN_RECEIVED ->
		say_syn_ack(it, n)
	:: what == SYN && it.state == ESTABLISHED ->
		say_ack(it, n)               /* a challenge (RFC 5961) */
	:: what == RST && (it.believed || it.state != ESTABLISHED) ->
		forget(it)
	:: what == RST && !(it.believed || it.state != ESTABLISHED) ->
		claim(impossible, false)        /* who is not believed in is not acknowledged */
	:: (what == ACK || what == DATA) && it.believed ->
		it.state = ESTABLISHED;
		if
		:: what == DATA && number == it.rcv -> it.rcv++; it.rx++
		:: else                         /* it is known already, or not its turn */
		fi;
		say_ack(it, n)
	:: (what == ACK || what == DATA) && !it.believed ->
		say_rst(n)                      /* it belongs to no connection that is known here */
	fi
}

/* -- The guest, seen from the network ----------------------------------------------------------- */

inline guest_takes(n, what, number)
{
	if
	:: runs && !IS_SILENT -> takes(at_guest[n], n, what, number)
	:: !runs || IS_SILENT
	fi
}

/* The guest dies, or loses its link. Its connections die with it. */
inline guest_dies()
{
	i = 0;
	do
	:: i < CLIENTS ->
		if
		:: IS_GIVEN(i) && in_store[i].believed -> client[i].bereft = true
		:: else
		fi;
		perish(at_guest[i], i);
		i++
	:: i == CLIENTS -> break
	od;
	i = 0;
	runs = false
}

/* -- Summoning ---------------------------------------------------------------------------------- */

inline clear_store()
{
	i = 0;
	do
	:: i < CLIENTS -> forget(in_store[i]); i++
	:: i == CLIENTS -> break
	od;
	i = 0
}

/* In one transaction the store is the new domain's, and nothing of the one before is left in it. */
inline boot()
{
	epoch++;
	domain = epoch;
#ifndef BREAK_NOTHING_CLEARED
	committed = false;
	clear_store();
#endif
	runs = true; stage = BOOTING; imported = 0;
	phase = PROXYING
}

/* The service is given up. Who waits is told. */
inline fail()
{
	phase = FAILED;
	i = 0;
	do
	:: i < CLIENTS ->
		if
		:: SYNJITSU_HAS(i) -> perish(at_synjitsu[i], i); say_rst(i)
		:: else
		fi;
		i++
	:: i == CLIENTS -> break
	od;
	i = 0
}

inline wake()
{
	if
	:: phase == ASLEEP && epoch < BOOTS -> boot()
	:: phase == ASLEEP && epoch == BOOTS -> fail()
	:: phase != ASLEEP
	fi
}

/* -- Synjitsu ----------------------------------------------------------------------------------- */

/* Hold a frame for the guest. Where there is no room it is lost. */
inline hold(n, what, number)
{
	if
#ifndef BREAK_NOTHING_HELD
	:: nfull(held[n].frames) -> held[n].frames!what, number
#else
	:: nfull(held[n].frames)
#endif
	:: full(held[n].frames)
	fi
}

/* Give the guest what was held, on its own link. */
inline give_held()
{
	i = 0;
	do
	:: i < CLIENTS ->
		do
		:: nempty(held[i].frames) -> held[i].frames?kind, seq; guest_takes(i, kind, seq)
		:: empty(held[i].frames) -> break
		od;
		i++
	:: i == CLIENTS -> break
	od;
	i = 0; kind = 0; seq = 0
}

/* Answer for a service that sleeps or boots. */
inline answer(n, what, number)
{
	claim(spoke_after_commit, !GUEST_HAS(n));
	if
	:: what == SYN || SYNJITSU_HAS(n) ->
		takes(at_synjitsu[n], n, what, number);
		wake()
	:: what == RST && !SYNJITSU_HAS(n)
#ifndef BREAK_SILENT_ABOUT_THE_DEAD
	:: (what == ACK || what == DATA) && !SYNJITSU_HAS(n) -> say_rst(n)
	/* Or it is passed to the guest that boots, should it be its, which is silent as yet. */
	:: (what == ACK || what == DATA) && !SYNJITSU_HAS(n) && phase == PROXYING
#else
	:: (what == ACK || what == DATA) && !SYNJITSU_HAS(n)
#endif
	fi
}

/* Take a frame for the service. */
inline synjitsu_takes(n, what, number)
{
	if
	:: phase == ASLEEP || phase == PROXYING ->
		answer(n, what, number)
	:: phase == FROZEN ->
#ifndef BREAK_ACKNOWLEDGES_WHEN_FROZEN
		hold(n, what, number)
#else
		answer(n, what, number)
#endif
	:: phase == COMMITTED ->
#if defined(BREAK_GIVEN_TOO_SOON)
		guest_takes(n, what, number)
#elif defined(BREAK_NOT_SILENT)
		answer(n, what, number)
#else
		hold(n, what, number)
#endif
	:: phase == AWAKE && entry == TO_SYNJITSU && runs ->
		guest_takes(n, what, number)            /* on its own link: the entry is being moved */
	:: phase == AWAKE && entry == TO_GUEST && runs ->
#ifndef BREAK_STRAGGLERS_DROPPED
		guest_takes(n, what, number)            /* it was queued here when the entry moved */
#else
		skip
#endif
	:: phase == AWAKE && !runs ->
		hold(n, what, number)                   /* the guest has died; we shall soon know */
	:: phase == FAILED && what != RST ->
		say_rst(n)
	:: phase == FAILED && what == RST
	fi
}

/* -- The two phases ----------------------------------------------------------------------------- */

inline write_connections()
{
	i = 0;
	do
	:: i < CLIENTS -> copy(in_store[i], at_synjitsu[i]); i++
	:: i == CLIENTS -> break
	od;
	i = 0
}

/* The guest's first word, "prepared". It counts once, and only in its own epoch. */
inline hears_prepared(who)
{
	if
	:: phase == PROXYING ->
		claim(stale_guest, who == epoch);
		phase = FROZEN;
#if defined(BREAK_ACKNOWLEDGES_WHEN_FROZEN) || defined(BREAK_GUEST_DOES_NOT_WAIT)
		write_connections()
#endif
	:: phase != PROXYING
	fi
}

/*
 * The commit: all connections, their bytes, and the word "committed", in one transaction of the
 * store. Synjitsu knows nothing of them any more. If the guest has died meanwhile, unnoticed, they
 * die in that instant.
 */
inline commit()
{
#if !defined(BREAK_ACKNOWLEDGES_WHEN_FROZEN) && !defined(BREAK_NOTHING_WRITTEN)
	write_connections();
#endif
#ifdef BREAK_BYTES_FORGOTTEN
	in_store[0].rx = 0;
#endif
	committed = true;
	phase = COMMITTED;
	i = 0;
	do
	:: i < CLIENTS ->
#ifndef BREAK_NOT_SILENT
		forget(at_synjitsu[i]);
#endif
		if
		:: !runs && in_store[i].believed -> client[i].bereft = true
		:: else
		fi;
		i++
	:: i == CLIENTS -> break
	od;
	i = 0
}

/* The guest's last word, "imported". The store is cleared, and the guest gets what was held. */
inline hears_imported()
{
	if
	:: phase == COMMITTED -> phase = AWAKE; clear_store(); give_held()
	:: phase != COMMITTED
	fi
}

/* One connection goes to the guest, and what was acknowledged to its application. */
inline import(n)
{
	if
	:: runs && HAS(in_store[n]) ->
		copy(at_guest[n], in_store[n]);
		if
		:: at_guest[n].believed ->
			claim(byte_lost, at_guest[n].rx == at_guest[n].rcv - 1);
			claim(byte_doubled, !client[n].read);
			client[n].read = true
		:: else
		fi
	:: !runs || !HAS(in_store[n])
	fi
}

/* -- Processes: the guest ----------------------------------------------------------------------- */

#define CAN_SERVE(n)    (runs && stage == SERVING && client[n].state == OPEN && \
			 at_guest[n].believed && at_guest[n].rx == LAST)

/* The application has read all that a client has to say, and answers until that has heard it. */
inline serve(n)
{
	if
	:: client[n].una = LAST + 1; client[n].state = SERVED
	:: MAY_LOSE -> LOSE
	fi
}

proctype guest()
{
end:	do
	/* Its network, its store and its server are up. */
	:: atomic { epoch > 0 && stage == BOOTING && MAY_USE_STORE(epoch) ->
		stage = PREPARED;
		hears_prepared(epoch)
	   }
	/* It waits, with a watch on the word. */
#ifndef BREAK_GUEST_DOES_NOT_WAIT
	:: atomic { stage == PREPARED && MAY_USE_STORE(epoch) && committed -> stage = IMPORTING }
#else
	:: atomic { stage == PREPARED && MAY_USE_STORE(epoch) -> stage = IMPORTING }
#endif
	:: atomic { stage == IMPORTING && MAY_USE_STORE(epoch) && imported < CLIENTS ->
		import(imported);
		imported++
	   }
	:: atomic { stage == IMPORTING && MAY_USE_STORE(epoch) && imported == CLIENTS ->
		stage = SERVING;
		hears_imported()
	   }
	:: atomic { CAN_SERVE(0) -> serve(0) }
#if CLIENTS > 1
	:: atomic { CAN_SERVE(1) -> serve(1) }
#endif
	od
}

/*
 * A guest of an earlier epoch, that was taken for dead, or is only slow to die. It tries what the
 * guest of now may do; the store refuses.
 */
proctype stale()
{
end:	do
	:: atomic { epoch > 1 && MAY_USE_STORE(epoch - 1) -> hears_prepared(epoch - 1) }
	:: atomic { epoch > 1 && MAY_USE_STORE(epoch - 1) && committed -> claim(stale_guest, false) }
	od
}

/* -- Processes: the daemon ---------------------------------------------------------------------- */

/* Synjitsu reads its port. */
proctype synjitsu(byte from)
{
end:	do
	:: atomic { phase != DOWN && nempty(port[from].frames) ->
		port[from].frames?kind, seq;
		synjitsu_takes(from, kind, seq);
		kind = 0; seq = 0
	   }
	od
}

/* Every connection is known to those who count them: now they can be handed over. */
proctype committer()
{
end:	do
#ifndef BREAK_COMMIT_IN_PIECES
	:: atomic { phase == FROZEN -> commit() }
#else
	:: atomic { phase == FROZEN -> committed = true; phase = COMMITTED }
	:: atomic { phase == COMMITTED && SYNJITSU_HAS(0) ->
		copy(in_store[0], at_synjitsu[0]); forget(at_synjitsu[0])
	   }
#endif
	od
}

/* The entry follows the owner. */
proctype mover()
{
end:	do
	:: atomic { phase == AWAKE && runs && entry == TO_SYNJITSU -> entry = TO_GUEST }
#ifdef BREAK_MOVED_TOO_SOON
	:: atomic { stage != BOOTING && runs && entry == TO_SYNJITSU -> entry = TO_GUEST }
#endif
	od
}

/* What was held for a guest that is gone is looked at anew: a SYN is answered, or refused. */
inline look_again_at_held()
{
	j = 0;
	do
	:: j < CLIENTS ->
		do
		:: nempty(held[j].frames) -> held[j].frames?kind, seq; synjitsu_takes(j, kind, seq)
		:: empty(held[j].frames) -> break
		od;
		j++
	:: j == CLIENTS -> break
	od;
	j = 0; kind = 0; seq = 0
}

#define IS_BOOTING      (phase == PROXYING || phase == FROZEN || phase == COMMITTED)

/* The daemon notices that the guest is gone, and its address is Synjitsu's again. */
proctype backend()
{
end:	do
	:: atomic { phase != DOWN && domain != 0 && !runs ->
		domain = 0;
#ifndef BREAK_ENTRY_LEFT
		entry = TO_SYNJITSU;
#endif
		if
		:: IS_BOOTING && epoch < BOOTS -> boot()
		:: IS_BOOTING -> fail(); look_again_at_held()
		:: phase == AWAKE -> phase = ASLEEP; look_again_at_held()
		:: phase == FAILED -> look_again_at_held()
		fi
	   }
	/* A guest that was given up is killed; then the service may be summoned again. */
	:: atomic { phase == FAILED && runs -> guest_dies() }
	:: atomic { phase == FAILED && domain == 0 && epoch < BOOTS -> phase = ASLEEP }
	od
}

/* The daemon's heir ends the guests that it finds, clears the store, and takes the address. */
proctype heir()
{
end:	do
	:: atomic { phase == DOWN ->
#ifndef BREAK_GUESTS_SPARED
		guest_dies();
#endif
		domain = 0; committed = false; clear_store();
		entry = TO_SYNJITSU;
		phase = ASLEEP
	   }
	od
}

/* -- Processes: the clients, and the link ------------------------------------------------------- */

/* The bridge brings a frame to whom the entry says; if that one is gone, to everybody: Synjitsu. */
inline forward(n, what, number)
{
	if
	:: entry == TO_GUEST && runs -> guest_takes(n, what, number)
	:: entry == TO_GUEST && !runs && phase != DOWN ->
#ifndef BREAK_ENTRY_LEFT
		port[n].frames!what, number
#else
		skip
#endif
	:: entry == TO_SYNJITSU && phase != DOWN -> port[n].frames!what, number
	:: !(entry == TO_GUEST && runs) && phase == DOWN        /* nobody reads */
	fi
}

/* What a client says when its time has come: what is not acknowledged. */
#ifndef PROMPT
#define HAS_TO_SAY(n)   CAN_GIVE_UP(n)
#define SAID_ALREADY    skip
#else
#define HAS_TO_SAY(n)   (client[n].state == OPEN && client[n].said < client[n].una && \
			 client[n].una <= LAST)
#define SAID_ALREADY    client[me].said = client[me].una
#endif
#define CAN_GIVE_UP(n)  (client[n].state == SYN_SENT || client[n].state == OPEN)
#define IS_AROUND(n)    (client[n].state == OPEN || client[n].state == GIVEN_UP)

/*
 * A client's frames, and what the link makes of them: what was sent once may arrive at any later
 * time, any number of times, or never, so the link needs no memory. The window has room for all that
 * a client has to say. Of what arrives when a client is content, or was reset, there is no claim.
 */
proctype sender(byte me)
{
end:	do
	:: atomic { client[me].state == NONE && nfull(port[me].frames) ->
		client[me].state = SYN_SENT;
		forward(me, SYN, 0)
	   }
	:: atomic { HAS_TO_SAY(me) && nfull(port[me].frames) ->
		SAID_ALREADY;
		if
		:: client[me].state == SYN_SENT -> kind = SYN
		:: client[me].state == OPEN && client[me].una <= LAST ->
			kind = DATA; seq = client[me].una
		:: client[me].state == OPEN && client[me].una > LAST ->
			kind = ACK                      /* it makes sure that somebody is there */
		fi;
		forward(me, kind, seq);
		kind = 0; seq = 0
	   }
	/* Something of the past arrives, or something before its turn. */
	:: atomic { IS_AROUND(me) && MAY_REPEAT && nfull(port[me].frames) ->
		REPEAT;
		if
		:: kind = SYN
		:: client[me].state == OPEN -> kind = ACK
		:: client[me].state == OPEN ->
			kind = DATA; seq = 1;
			do
			:: seq < LAST -> seq++
			:: break
			od
		:: client[me].state == GIVEN_UP -> kind = RST
		fi;
		forward(me, kind, seq);
		kind = 0; seq = 0
	   }
	od
}

/* -- Processes: what goes wrong ----------------------------------------------------------------- */

/* With the daemon goes all that it knows, but for the store. Its guest runs on. */
inline daemon_dies()
{
	phase = DOWN;
	i = 0;
	do
	:: i < CLIENTS ->
		perish(at_synjitsu[i], i);
		do
		:: nempty(port[i].frames) -> port[i].frames?_, _
		:: nempty(held[i].frames) -> held[i].frames?_, _
		:: empty(port[i].frames) && empty(held[i].frames) -> break
		od;
		i++
	:: i == CLIENTS -> break
	od;
	i = 0
}

proctype fate()
{
	do
	:: atomic { phase == ASLEEP && epoch < BOOTS -> boot() }        /* a DNS query */
#ifndef PROMPT
	:: atomic { runs -> guest_dies() }
	:: atomic { phase != DOWN && lives > 1 -> lives--; daemon_dies() }
	/* A boot takes too long. What is committed is the guest's, as long as it lives. */
#ifndef BREAK_REFUSED_TOO_SOON
	:: atomic { (phase == PROXYING || phase == FROZEN) && runs -> fail() }
#else
	:: atomic { (phase == PROXYING || phase == COMMITTED) && runs -> fail() }
#endif
	:: atomic { CAN_GIVE_UP(0) -> client[0].state = GIVEN_UP }
#if CLIENTS > 1
	:: atomic { CAN_GIVE_UP(1) -> client[1].state = GIVEN_UP }
#endif
#endif
	:: break                                                        /* it has had its fill */
	od
}

/* -- What never happens ------------------------------------------------------------------------- */

proctype judge(byte whose)
{
end:	do
	:: SYNJITSU_HAS(whose) && GUEST_HAS(whose) -> claim(two_own, false)
	:: TRUSTS(whose) && !IS_OWNED(whose) -> claim(nobody_owns, false)
	:: TRUSTS(whose) && !IS_COVERED(whose) -> claim(byte_lost, false)
	od
}

#ifdef WORST
#define JUDGE(n)        run judge(n)
#else
#define JUDGE(n)        skip
#endif

init {
	atomic {
		run guest();
#ifdef WORST
		run stale();
#endif
		run committer(); run mover(); run backend(); run heir();
		do
		:: i < CLIENTS -> run sender(i); run synjitsu(i); JUDGE(i); i++
		:: i == CLIENTS -> break
		od;
		i = 0;
		run fate()
	}
}

/* -- What always happens in the end ------------------------------------------------------------- */

#define IS_AT_REST(n)   (client[n].state == SERVED || client[n].state == REFUSED || \
			 client[n].state == GIVEN_UP)

#ifdef FAIR
/* Every client is served, or told that it will not be: never silence for ever. */
ltl told { <> (IS_AT_REST(0) && IS_AT_REST(CLIENTS - 1)) }
#endif

#ifdef PROMPT
/* Where nothing is lost nothing need be said twice. */
ltl prompt { <> (client[0].state == SERVED && client[CLIENTS - 1].state == SERVED) }
#endif
