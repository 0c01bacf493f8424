"""Bounds of a disk, with the relations that must hold between them."""

from typing import Final

from store.limits import BLOCK, KIB, MIB, NAME_MAX, OBJECT_MAX

SLOT: Final = OBJECT_MAX  # bytes of the data file given to one object, sparse
RECORD_MAX: Final = 128 + NAME_MAX + OBJECT_MAX
FRAME_BODY_MAX: Final = OBJECT_MAX + 64 * KIB  # bytes of records in one frame
FRAME_RECORDS_MAX: Final = 512  # also bounds the buffers of one pwritev: the kernel takes 1,024

JOURNAL_MIN: Final = 32 * MIB
JOURNAL_MAX: Final = 4096 * MIB
PREWRITTEN_AT_CREATION: Final = 64 * MIB  # the rest is prewritten ahead of use, in the background
PREWRITE_STEP: Final = 16 * MIB

# Shares of the ring. A checkpoint begins at BEGIN; paced apply ends it after at most BEGIN / PACE further bytes.
CHECKPOINT_BEGIN: Final = 0.40
PACE: Final = 1.25  # old blocks applied for each new one appended
HURRY_AT: Final = 0.80  # from here on apply runs HURRY times faster
HURRY: Final = 8
REFUSE_AT: Final = 0.875  # client requests are answered BUSY; the rest is for META, CUT and carried tails
CARRY_RESERVE: Final = 32  # a carried record leaves at least one part in so many of the ring free

MERGED_MAX: Final = 256  # blocks kept as bytes in memory before they are written to a redo file (1 MiB)
CACHED_OBJECTS_MAX: Final = 4096  # clean objects whose row is remembered
CACHED_SUMS_MAX: Final = 256  # clean objects whose checksums are remembered, 8 KiB each
INDEX_CACHE: Final = 2 * MIB
APPLY_RUN_MAX: Final = 64  # blocks written by one call of the data file
REDO_KEPT: Final = 4 * MIB  # of each redo file, when nothing needs it
TABLES_PART: Final = 2 * MIB  # of a group's tables in one BASE record
IDLE_SLICE: Final = 128  # blocks applied at once when nothing else happens: below a millisecond
SCRATCH: Final = APPLY_RUN_MAX * BLOCK
LIST_MAX: Final = 1024  # rows of one LIST
COLD_READ_TRIES: Final = 3  # a read in a thread whose source moved meanwhile is planned again

SPACE_REFRESH: Final = 4 * MIB  # the file system is asked again after so many appended bytes
SPACE_RESERVE: Final = 16 * MIB  # beside one ring of unapplied data: for the index and its log

assert CHECKPOINT_BEGIN * (1 + 1 / PACE) <= HURRY_AT < REFUSE_AT
assert RECORD_MAX <= FRAME_BODY_MAX
assert FRAME_BODY_MAX * 4 <= (1 - REFUSE_AT) * JOURNAL_MIN * 8
