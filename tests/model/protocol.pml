/*
 * The protocol by which a place is sold: hold, confirm, group commit, loss of Redis, loading under a new epoch, drain,
 * undo, audit. docs/protocol.md tells it in words and has the table of what was found; check_protocol.py runs it.
 *
 * Two API processes serve a customer each, a reconciler works beside them, and what can go wrong does so at any moment:
 * one loss (Redis forgets everything, or a replica without the last writes takes over) and one crash (of any process
 * between any two of its steps; or of a loader's connection to Postgres alone, so that its lock is gone while it goes on
 * writing to Redis). A step is what a server does in one go: a script of Redis, a transaction of Postgres.
 *
 * What must never be is one of the five variables under "Invariants". Each is set just before it is asserted to be
 * false, so that the message of the checker names it. CHECK picks one of them by number; 0, the default, is all.
 *
 * Negative controls, each of which takes a mechanism out: NO_EPOCH, NO_SECOND_GUARD, ACK_BEFORE_COMMIT,
 * DROP_BEFORE_COMMIT, COMMIT_UNLOCKED, EPOCH_AFTER_FILL, EPOCH_AFTER_SNAPSHOT, NO_STALE_LOADS, NO_AUDIT, NO_REPAIR,
 * CALLER_NAMES_SERVER. With FORGETTING_ONLY there is no failover.
 */

#define PLACES 2
#define CUSTOMERS 2
#ifndef BOOKINGS
#define BOOKINGS 2 /* booking 0 is customer 0's, the others are customer 1's, one after the other */
#endif
#define EPOCHS_MAX 7 /* one loss and one crash raise it to 4 at most; bounds what controls may do */

/* Invariants. */
#ifndef CHECK
#define CHECK 0
#endif
#define CHECKED(number) (CHECK == 0 || CHECK == number)
bit sold_twice;             /* 1: two acknowledged bookings of one place */
bit acknowledged_unwritten; /* 2: an acknowledged booking that the ledger has not got */
bit old_epoch_written;      /* 3: an entry of an old epoch becomes a row after the ledger was read for a new one */
bit sold_again;             /* 4: Redis accepts, for good, a place that the ledger had sold when Redis lost its memory */
bit stores_disagree;        /* 5: in the end, all drained: Redis has not sold what the ledger has, or the reverse */

/* Redis. A place is sold to, or held by, booking b when it says b + 1; 0 is nobody. An entry of the journal is its
   epoch; 0 is none. `epoch` is that of the state, 0 when there is none; `loading` that of a load under way; `audited`
   says on which server the state was built or last held against the ledger. */
typedef Store {
  byte epoch;
  byte loading;
  byte audited;
  byte sold[PLACES];
  byte held[PLACES];
  byte journal[BOOKINGS]
};
Store redis, replica;
byte server = 1; /* which one answers */
bit failed_over;
byte losses = 1, crashes = 1;

/* Postgres. */
byte ledger_epoch;
bit row[BOOKINGS];
byte claim[PLACES]; /* the second guard, a primary key: booking + 1 */
byte loader;        /* the advisory lock of loading: process + 1 */

/* Customers. */
byte place[BOOKINGS]; /* which place a booking is of */
bit acknowledged[BOOKINGS];
byte finished;

/* Only for the invariants. */
byte snapshot_epoch;        /* the latest epoch for which the ledger was read */
byte claim_at_loss[PLACES];

mtype = {
  START, HOLD, ADDRESS, CONFIRM, LOOK, DONE,          /* a customer's request */
  COMMIT, WRITE, ACKNOWLEDGE, DROP, UNDO,             /* settling */
  LOCK, RAISE, SNAPSHOT, BEGIN, FILL, FINISH, UNLOCK, /* loading */
  READ, REPAIR, MARK,                                 /* audit */
  IDLE                                                /* of the reconciler */
};

#define is_customer (me < CUSTOMERS)
#define unusable (redis.epoch != ledger_epoch || ledger_epoch == 0)
#if BOOKINGS == 2
#define journal_empty (redis.journal[0] == 0 && redis.journal[1] == 0)
#else
#define journal_empty (redis.journal[0] == 0 && redis.journal[1] == 0 && redis.journal[2] == 0)
#endif
#ifdef CALLER_NAMES_SERVER
#define CALL ADDRESS  /* the process puts into the command whom it believes to talk to; the command may wait */
#define CALLED srv
#else
#define CALL CONFIRM
#define CALLED server /* the script asks whom it runs on */
#endif

/* ---- steps of Redis ---- */

inline forget_event() {
  redis.epoch = 0; redis.loading = 0; redis.audited = 0;
  redis.sold[0] = 0; redis.sold[1] = 0; redis.held[0] = 0; redis.held[1] = 0
}

/* Held becomes sold, and the journal gets its entry, in one step. */
inline accept() {
  sold_again = claim_at_loss[place[b]] != 0 && redis.epoch == ledger_epoch; /* of another epoch nothing is for good */
  assert(!sold_again || !CHECKED(4));
  sold_again = 0;
  redis.held[place[b]] = 0;
  redis.sold[place[b]] = b + 1;
  redis.journal[b] = redis.epoch;
  e = redis.epoch
}

/* Frees what this booking owns, and only that; its entry goes in any case. But a place that the ledger has sold before
   stays off sale, until an audit gives it to whose it is, or frees it. */
inline undo() {
  redis.journal[b] = 0;
  if
  :: redis.epoch != 0 && redis.sold[place[b]] == b + 1 && stale -> redis.sold[place[b]] = 0
  :: else
  fi
}

/* Ledger wins, but over what is still in the journal: that is for its commit to decide. */
inline repair() {
  n = 0;
  do
  :: n < BOOKINGS ->
    if
    :: ((mask >> n) & 1) && redis.sold[place[n]] != n + 1 ->
      if
      :: redis.sold[place[n]] == 0 || redis.journal[redis.sold[place[n]] - 1] == 0 ->
        redis.sold[place[n]] = n + 1;
        redis.held[place[n]] = 0
      :: else
      fi
    :: else
    fi;
    n++
  :: else -> break
  od;
  n = 0;
  do
  :: n < PLACES ->
    if
    :: redis.sold[n] != 0 ->
      if
      :: !row[redis.sold[n] - 1] && redis.journal[redis.sold[n] - 1] == 0 -> redis.sold[n] = 0
      :: else
      fi
    :: else
    fi;
    n++
  :: else -> break
  od;
  n = 0
}

/* ---- steps of Postgres ---- */

inline read_ledger() {
  mask = 0; n = 0;
  do
  :: n < BOOKINGS -> mask = mask | (row[n] << n); n++
  :: else -> break
  od;
  n = 0
}

/* One transaction. It locks the row of the event, so that a raise of the epoch comes before all of it or behind. */
inline commit() {
  if
  :: row[b] -> pc = (is_customer -> ACKNOWLEDGE : DROP)
#if !defined(NO_EPOCH) && !defined(COMMIT_UNLOCKED)
  :: !row[b] && e != ledger_epoch -> stale = 1; pc = UNDO
#define ACCEPTABLE (e == ledger_epoch)
#else
#define ACCEPTABLE true
#endif
#ifndef NO_SECOND_GUARD
  :: !row[b] && ACCEPTABLE && claim[place[b]] != 0 -> pc = UNDO
#define UNCLAIMED (claim[place[b]] == 0)
#else
#define UNCLAIMED true
#endif
  :: !row[b] && ACCEPTABLE && UNCLAIMED ->
    old_epoch_written = e < snapshot_epoch;
    assert(!old_epoch_written || !CHECKED(3));
    old_epoch_written = 0;
    row[b] = 1;
    claim[place[b]] = b + 1;
    pc = (is_customer -> ACKNOWLEDGE : DROP)
  fi
}

/* ---- what the invariants look at ---- */

inline acknowledge() {
  acknowledged[b] = 1;
  acknowledged_unwritten = !row[b];
  assert(!acknowledged_unwritten || !CHECKED(2));
  acknowledged_unwritten = 0;
  n = 0;
  do
  :: n < BOOKINGS ->
    sold_twice = sold_twice || (n != b && acknowledged[n] && place[n] == place[b]);
    n++
  :: else -> break
  od;
  n = 0;
  assert(!sold_twice || !CHECKED(1));
  sold_twice = 0
}

inline check_agreement() {
  stores_disagree = redis.epoch != 0 && (redis.sold[0] != claim[0] || redis.sold[1] != claim[1]);
  assert(!stores_disagree || !CHECKED(5));
  stores_disagree = 0
}

/* Processes 0 and 1 serve a customer each; process 2 is the reconciler. */
proctype process(byte me) {
  mtype pc, after; /* what comes next; where to go on after a load or an audit */
  byte b, e;       /* a booking, and the epoch of its entry, or of a load or audit */
  byte srv;        /* a server, as it was named some steps ago */
  byte mask;       /* bookings of the ledger, as they were read some steps ago */
  byte tries, n;
  bit stale;       /* the commit was refused because of the epoch */
  bit audited_at_end;

  pc = (is_customer -> START : IDLE);
  do
  /* ---- a customer's request ---- */
  :: atomic { pc == START ->
      if
      :: tries == (me == 0 -> 1 : BOOKINGS - 1) -> b = 0; finished++; pc = DONE
      :: else ->
        b = me + tries;
        tries++;
        if
        :: place[b] = 0
        :: b != 0 -> place[b] = 1 /* places are alike: let booking 0 be of place 0 */
        fi;
        pc = HOLD
      fi }
  :: d_step { pc == HOLD ->
      if
      :: redis.epoch == 0 -> after = HOLD; pc = LOCK
      :: redis.epoch != 0 && redis.sold[place[b]] == 0 && redis.held[place[b]] == 0 ->
        redis.held[place[b]] = b + 1; pc = CALL
      :: else -> pc = START
      fi }
#ifdef CALLER_NAMES_SERVER
  :: d_step { pc == ADDRESS -> srv = server; pc = CONFIRM }
#endif
  :: d_step { pc == CONFIRM ->
      if
      :: redis.epoch == 0 -> srv = 0; after = CALL; pc = LOCK
      :: redis.epoch != 0 && redis.sold[place[b]] == b + 1 -> /* confirmed before, by this very customer */
        srv = 0; e = redis.journal[b];
        pc = (e != 0 -> COMMIT : LOOK)
#ifndef NO_AUDIT
      :: redis.epoch != 0 && redis.held[place[b]] == b + 1 && redis.audited != CALLED ->
        srv = server; e = redis.epoch; after = CALL; pc = READ
#define TRUSTED (redis.audited == CALLED)
#else
#define TRUSTED true
#endif
      :: redis.epoch != 0 && redis.held[place[b]] == b + 1 && TRUSTED ->
        srv = 0;
        accept();
#ifdef ACK_BEFORE_COMMIT
        acknowledge();
#endif
#ifdef DROP_BEFORE_COMMIT
        redis.journal[b] = 0;
#endif
        pc = COMMIT
      :: else -> srv = 0; pc = LOOK
      fi }
  :: d_step { pc == LOOK -> pc = (row[b] -> ACKNOWLEDGE : START) }
  :: pc == DONE -> break

  /* ---- settling: by the customer's process, and by whoever drains the journal ---- */
#ifdef COMMIT_UNLOCKED
  :: d_step { pc == COMMIT ->
      if
      :: row[b] || e == ledger_epoch -> pc = WRITE
      :: else -> stale = 1; pc = UNDO
      fi }
  :: d_step { pc == WRITE -> commit() }
#else
  :: d_step { pc == COMMIT -> commit() }
#endif
  :: d_step { pc == ACKNOWLEDGE -> acknowledge(); pc = DROP }
  :: d_step { pc == DROP ->
      redis.journal[b] = 0; b = 0; e = 0;
      if
      :: is_customer -> finished++; pc = DONE
      :: else -> pc = IDLE
      fi }
  :: d_step { pc == UNDO ->
      undo(); b = 0; e = 0;
      pc = (is_customer -> START : IDLE);
      if
      :: stale -> stale = 0; after = pc; pc = LOCK /* what refuses the epoch has a newer one: load it */
      :: else
      fi }

  /* ---- loading: by whoever needs it, then on to `after` ---- */
  :: d_step { pc == LOCK && loader == 0 ->
      if
      :: unusable ->
        loader = me + 1;
#if defined(EPOCH_AFTER_FILL) || defined(EPOCH_AFTER_SNAPSHOT)
        e = ledger_epoch + 1;
        pc = SNAPSHOT
#else
        pc = RAISE
#endif
      :: else -> pc = after; after = 0
      fi }
  :: d_step { pc == RAISE && ledger_epoch < EPOCHS_MAX ->
      ledger_epoch++; e = ledger_epoch;
#ifdef EPOCH_AFTER_SNAPSHOT
      pc = BEGIN
#else
      pc = SNAPSHOT
#endif
      }
  :: d_step { pc == SNAPSHOT ->
      read_ledger(); snapshot_epoch = e;
#ifdef EPOCH_AFTER_SNAPSHOT
      pc = RAISE
#else
      pc = BEGIN
#endif
      }
  :: d_step { pc == BEGIN ->
      if
#ifndef NO_STALE_LOADS
      :: redis.epoch >= e || redis.loading > e -> mask = 0; pc = UNLOCK
      :: redis.epoch < e && redis.loading <= e ->
#else
      :: else ->
#endif
        if
        :: redis.loading != e -> forget_event(); redis.loading = e; redis.audited = server
        :: else
        fi;
        pc = (mask != 0 -> FILL : FINISH)
      fi }
  :: d_step { pc == FILL -> /* one booking a batch, so that something may happen between two of them */
      do
      :: !((mask >> n) & 1) -> n++
      :: else -> break
      od;
      mask = mask & ~(1 << n);
      pc = (mask != 0 -> FILL : FINISH);
      if
#ifndef NO_STALE_LOADS
      :: redis.loading != e -> mask = 0; pc = UNLOCK
#endif
      :: else -> redis.sold[place[n]] = n + 1
      fi;
      n = 0 }
  :: d_step { pc == FINISH ->
      if
#ifndef NO_STALE_LOADS
      :: redis.loading == e -> redis.epoch = e; redis.loading = 0
#else
      :: redis.loading != 0 -> redis.epoch = redis.loading; redis.loading = 0
#endif
      :: else
      fi;
      pc = UNLOCK }
  :: d_step { pc == UNLOCK ->
#ifdef EPOCH_AFTER_FILL
      ledger_epoch = e;
#endif
      if
      :: loader == me + 1 -> loader = 0
      :: else
      fi;
      e = 0; pc = after; after = 0 }

  /* ---- the audit that confirms wait for after a change of server, and that the reconciler makes in rotation ---- */
  :: d_step { pc == READ ->
      if
      :: unusable -> e = 0; srv = 0; pc = LOCK
      :: else -> read_ledger(); pc = REPAIR
      fi }
  :: d_step { pc == REPAIR ->
      if
#ifndef NO_REPAIR
      :: redis.epoch == e -> repair()
#endif
      :: else
      fi;
      mask = 0; pc = MARK }
  :: d_step { pc == MARK ->
      if
      :: redis.epoch == e && server == srv -> redis.audited = srv
      :: else
      fi;
      e = 0; srv = 0; pc = after; after = 0 }

  /* ---- the reconciler ---- */
  :: atomic { pc == IDLE && !journal_empty ->
      if
      :: redis.journal[0] != 0 -> b = 0
      :: redis.journal[1] != 0 -> b = 1
#if BOOKINGS > 2
      :: redis.journal[2] != 0 -> b = 2
#endif
      fi;
      e = redis.journal[b];
      pc = COMMIT }
  :: d_step { pc == IDLE && unusable -> after = IDLE; pc = LOCK }
  :: d_step { pc == IDLE && !unusable && redis.audited != server ->
      srv = server; e = redis.epoch; after = IDLE; pc = READ }
  :: atomic { pc == IDLE && finished == CUSTOMERS && losses == 0 && journal_empty && !unusable ->
      if
      :: failed_over && !audited_at_end -> /* without a failover they must agree without an audit */
        audited_at_end = 1; srv = server; e = redis.epoch; after = IDLE; pc = READ
      :: else -> check_agreement(); pc = DONE
      fi }

  /* ---- what may happen to a process ---- */
  :: atomic { crashes > 0 && pc != START && pc != IDLE && pc != DONE ->
      crashes--;
      if
      :: loader == me + 1 -> loader = 0
      :: else
      fi;
      e = 0; srv = 0; mask = 0; stale = 0; after = 0; audited_at_end = 0;
      if
      :: !is_customer -> b = 0; pc = IDLE
      :: is_customer && pc != UNDO && after != START -> pc = CALL /* the customer asks again, another process answers */
      :: is_customer -> b = 0; finished++; pc = DONE              /* or has gone away */
      fi }
  :: d_step { crashes > 0 && loader == me + 1 && (pc == BEGIN || pc == FILL || pc == FINISH) ->
      crashes--; loader = 0 }
  od
}

inline copy(target, source) {
  target.epoch = source.epoch; target.loading = source.loading; target.audited = source.audited;
  target.sold[0] = source.sold[0]; target.sold[1] = source.sold[1];
  target.held[0] = source.held[0]; target.held[1] = source.held[1];
  target.journal[0] = source.journal[0]; target.journal[1] = source.journal[1];
#if BOOKINGS > 2
  target.journal[2] = source.journal[2];
#endif
}

inline lose() {
  losses--;
  claim_at_loss[0] = claim[0]; claim_at_loss[1] = claim[1]
}

/* What may happen to Redis: it forgets everything; or its replica ceases to follow, and later takes over. Or nothing. */
proctype fate() {
  Store nothing;
  if
  :: d_step { lose(); copy(redis, nothing) }
#ifndef FORGETTING_ONLY
  :: d_step { copy(replica, redis) };
    d_step { lose(); copy(redis, replica); copy(replica, nothing); server++; failed_over = 1 }
#endif
  :: losses--
  fi
}

init { atomic { run process(0); run process(1); run process(2); run fate() } }
