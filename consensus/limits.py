"""Every bound of the protocol, in one table. All are part of it: members must use the same ones."""

MEMBERS_MAX = 256
WEIGHT_MAX = 2**32 - 1

COMMAND_BYTES_MAX = 72 * 1024  # one encoded command
KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 64 * 1024
BLOCK_BYTES_MAX = 256 * 1024  # commands of one block, encoded
BLOCK_COMMANDS_MAX = 2048
MESSAGE_BYTES_MAX = 1024 * 1024

# Inside a term a leader may run this many blocks ahead of finality; members do not vote for more.
UNFINALIZED_BLOCKS_MAX = 16
# Votes for views this far ahead of ours are kept; further ones are left to certificates (R8).
VIEWS_AHEAD_MAX = 2 * UNFINALIZED_BLOCKS_MAX
TERMS_AHEAD_MAX = 2
NULLIFICATIONS_MAX = 1024  # certificates in one message
# Nullifications that a block carries (R1): of the last terms that it skips. With 256 members in
# each, and full of commands, a proposal still fits a message.
NULLIFICATIONS_PER_BLOCK_MAX = 32

# How far a block's time may lie from a voter's clock: leases run on it (R2). Beyond the first a
# voter waits, beyond the second it refuses.
CLOCK_AHEAD_MS_MAX = 2_000
CLOCK_BEHIND_MS_MAX = 30_000

STATE_BYTES_MAX = 512 * 1024 * 1024  # of entries; all of the state is in memory
ENTRY_BYTES = 256  # what an entry counts beside its key and value
TXN_COMPARES_MAX = 128
TXN_OPS_MAX = 128  # in each branch
RANGE_KEYS_MAX = 1024  # keys that a deletion removes, a transaction reads, a lease holds
RANGE_BYTES_MAX = 1024 * 1024  # keys and values that a transaction reads

LEASES_MAX = 65_536
LEASE_TTL_MS_MIN = 5_000  # well above what two clocks may differ by
LEASE_TTL_MS_MAX = 10 * 366 * 24 * 3600 * 1000
EXPIRIES_MAX = 1024  # leases that may end in one block, and (the last one aside) their keys

FACTS_MAX = 8 * MEMBERS_MAX  # what the cluster keeps of itself in the state
SESSIONS_MAX = 65_536  # clients whose last request is remembered for exactly-once
MEMPOOL_COMMANDS_MAX = 8_192
MEMPOOL_BYTES_MAX = 16 * 1024 * 1024
MEMPOOL_COST_MIN = MEMPOOL_BYTES_MAX // MEMPOOL_COMMANDS_MAX  # what a small command counts
CLIENT_COMMANDS_MAX = 256  # waiting commands of one client

SYNC_BYTES_MAX = 512 * 1024  # blocks in one answer of catch-up
SYNC_BLOCKS_MAX = 512
EPOCHS_PER_MESSAGE_MAX = 64  # boundaries in one answer
SYNC_LINKS_MAX = 1024  # headers from the last block of an answer to the finalized one

STATE_HASHES_KEPT = 1024  # heights whose state hash can still be compared with a header's
# Multiples of this are checkpoints: some header certifies the state hash at each of them (R2).
CHECKPOINT_HEIGHTS = 1024
# A node further behind than this looks for a snapshot before it fetches blocks.
SNAPSHOT_GAP_HEIGHTS = 8192
SNAPSHOT_CHUNK_BYTES = 512 * 1024
SNAPSHOT_CHUNK_ITEMS = 2048
SNAPSHOT_CHUNKS_MAX = 65_536
SNAPSHOT_ITEM_BYTES_MAX = KEY_BYTES_MAX + VALUE_BYTES_MAX + 1024

EVIDENCE_PER_BLOCK_MAX = 8
EVIDENCE_PER_SEAT_MAX = 4  # so that one liar cannot crowd out evidence against others

# Numbers of epochs that follow a recovery (R21) begin at a multiple of this; no other epoch gets
# so far. An incarnation of the last era still fits what SQLite keeps (R20).
EPOCHS_PER_ERA = 10**8
ERAS_MAX = 64

I64_MAX = 2**63 - 1  # what SQLite keeps as an integer
U64_MAX = 2**64 - 1
