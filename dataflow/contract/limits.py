"""Depths, bursts and delays that circuit and simulator share: each stands here once, with its unit and why.

Limits of a configuration stand in `config`, those of an instruction's fields in `isa` and `legal`.
"""

from __future__ import annotations

from typing import Final

from nmsat.dataflow.contract.config import INTERLEAVE, MAX_GROUP
from nmsat.dataflow.contract.isa import BEAT_BYTES, Queue

# Array: cycles.

SEED_GAP: Final = 3
"""Cycles beyond R (8 N + 1) until a kept sum can seed the next command."""

SETTLE: Final = 32
"""Margin of a flush: pipeline of an element, drain delay, links of the edges."""

DRAIN_DELAY: Final = 10
"""Cycles from the first step of a tile's last slot to the first read of the drain memory."""

SEED_DELAY: Final = 4
"""Cycles from a window's token to its first seed request: column 0 sees the seed when row 0 needs it."""

ROW_DRAIN: Final = INTERLEAVE + 1
"""Cycles from a row's turn to drain (OS) until that of the row below: its 8 results, and one to hand the turn on."""

WS_SETTLE: Final = INTERLEAVE * MAX_GROUP
"""Further margin of a flush in WS: the steps of the longest window (N = M = 16)."""

TOKEN_TO_STEP: Final = 3
"""Cycles from a window's token at a row port to its first step on the row link."""

NO_STEP: Final = 255
"""Step number of a row without a window: the last of 8 bits, beyond the longest window (8 * 16 steps)."""

COMMANDS_IN_FLIGHT: Final = 8
"""Commands whose results have not all arrived. Their spacing (8 R) and latency (about 9 R + 20) need 5 at R = 1."""

# Floating-point units: registers.

MULTIPLY_STAGES: Final = 4
"""Registers of a binary32 product behind its normalised operands; 1 to 5 can be built."""

ADD_STAGES: Final = 4
"""Registers of a binary32 sum; 1 to 6 can be built."""

ROUND_STAGES: Final = 2
"""Registers of a rounding to binary16; 1 or 2 can be built."""

# Memory.

WATCHDOG_BITS: Final = 32
"""Bits of the number of cycles after which a port gives memory up."""

PORT_PLACES: Final = 2
"""Bursts of a client that a port holds in front of its choice, and beats that it holds in front of W: with two, one
passes per cycle although nobody sees in the same cycle that one leaves. Each passes a cycle later for it."""

# Loader.

LOAD_BURST: Final = 8
"""Beats after which the loader closes a burst: with 8 bursts under way more than the latency of the memory."""

LOAD_PLACES: Final = 64
"""Beats between the loader's requests and its writes, those of padding among them."""

LOAD_CHUNK: Final = 4
"""Beats of a tile row that the rows modes of a load read together, so that they are a burst. A power of two."""

LOAD_SETS: Final = 2
"""Sets of R tile rows that the rows mode holds besides the beats that leave: one is collected, one is written."""

LOAD_AHEAD: Final = 4
"""Loads whose beats have been asked for and that wait to be written."""

LOAD_OWNERS: Final = 32
"""Bursts of the loader that have been accepted and not all come: whether a STAGE or a load asked. A power of two."""

LOAD_LINK: Final = 2
"""Registers between those of the loader and the buffers of the array: one for the rows, or columns, between two
slices, one at each buffer. A load, or STAGE, is told to be done as much later."""

# Memory: beats of 64 bytes.

MAX_BURST: Final = 16
"""Beats of the longest burst that an engine asks for."""

PAGE_BITS: Final = 12
"""Address bits within a page of 4 KiB, which no burst crosses (AXI4, A3.4.1)."""

PAGE_BYTES: Final = 1 << PAGE_BITS
"""Bytes of a page; regions start at a multiple of it, so that what stays within a page of its region stays in one."""

PAGE_BEATS: Final = PAGE_BYTES // BEAT_BYTES
"""Beats of a page."""

PAGE_BEATS_BITS: Final = PAGE_BEATS.bit_length() - 1
"""Bits of an offset within a page."""

# Control.

RESET_STAGES: Final = 2
"""Registers between the one that ends a reset and what is reset: one for each engine, one for a group of the array's
rows or columns. The first cycle of a run is as much later than the one behind the write of `start`."""

FETCH_BEATS: Final = 16
"""Instructions that are asked for ahead of the one being checked."""

FETCH_BURST: Final = 8
"""Longest burst of the fetch; all but the first and the last are aligned to it."""

CHECK_CYCLES: Final = 3
"""Cycles from an instruction's arrival in the check register until it can leave."""

QUEUE_DEPTH: Final = 4
"""Instructions that wait in front of an engine."""

STARTED_DEPTH: Final = 16
"""Instructions that an engine may have started and not finished."""

READERS: Final = (Queue.STORE, None, Queue.LOAD, Queue.UPDATE)
"""Queue of each client of the read port, highest priority first; None is the fetch."""

WRITERS: Final = (Queue.STORE, Queue.UPDATE)
"""Queue of each client of the write port, highest priority first."""

# Store engine: beats.

SIDE_BEATS: Final = 32
"""Beats of the second operand that have a place; they are asked for as soon as they have one."""

WRITE_BEATS: Final = 32
"""Beats of results that wait to be written; at least twice the longest burst, so that it can wait as a whole."""

STORE_AHEAD: Final = 4
"""Stores whose bursts have all been asked for and that wait for the memory's acknowledgements."""

STORE_GAP: Final = 3
"""Cycles from the last chunk of a store until the first of the next can be packed, beyond one."""

# Update engine.

UPDATE_BEATS: Final = 32
"""Beats that the queue of a read stream holds."""

UPDATE_BURST: Final = 8
"""Beats of the longest burst of a stream; bursts end where the offset is a multiple of it."""

UPDATE_WAITING: Final = 63
"""Most bursts of results that memory has not yet acknowledged; the next one waits."""

UPDATE_READS: Final = ("weights", "momenta", "gradient", "mask")
"""Read streams of the update engine, by their numbers."""

UPDATE_WRITES: Final = ("mask", "bp", "ff", "momenta", "weights")
"""Write streams of the update engine, in the order in which they are asked."""
