"""Which instructions are legal: one set of rules for the assembler, the simulator and the circuit.

The rules are written over numbers with `+ * << >> & |` and comparisons only, so the same text works on whole numbers
and on signals of Amaranth. What a rule rejects ends the run with `ErrorCode.FIELD`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.ranges import MAX_SHIFT
from nmsat.dataflow.contract.codes import group_size, kept, rectangle_rows
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.isa import HALVES, INSTRUCTIONS, LANES, ActMode, ErrorCode, Opcode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction

LEAST_TRANSPOSING: Final = HALVES // INTERLEAVE
"""Least rows of a machine that transposes: its largest tile, of 8 rows in each row of the array, is a whole beat."""

Number = Any
"""int in software, amaranth.hdl.Value in the circuit."""


def check_machine(config: SatConfig) -> None:
    """Raise ValueError unless a machine can be built around an array of this configuration (`SatConfig.planned`)."""
    if config.planned:
        raise ValueError(f"configuration {config.name!r} is planned and not built: {'; '.join(config.planned)}")


def check_transposes(config: SatConfig) -> None:
    """Raise ValueError unless the machine can read an operand transposed, whatever its size: its tiles are whole beats.

    Every training step needs it (X^T of a weight gradient), and the products of attention do.
    """
    least = LEAST_TRANSPOSING
    if config.rows < least:
        raise ValueError(
            f"configuration {config.name!r} has rows {config.rows}; to transpose, as training and random programs do, "
            f"rows has to be at least {least}: set rows={least}"
        )


def products(opcode: Opcode, f: Mapping[str, Number]) -> dict[str, Number]:
    """Return the products of fields that the rules of `opcode` need, by name (a pipeline stage of the circuit)."""
    if opcode is Opcode.LOAD_ACT:
        m_bits = f["log2_m_less_1"] + 1
        groups = (f["k"] + (group_size(f) - 1)) >> m_bits
        return {"os_elements": groups << (m_bits + f["log2_a"]), "ws_elements": f["rows"] << m_bits}
    if opcode is Opcode.LOAD_WGT:
        return {"slots": f["outer"] * f["inner"]}
    if opcode is Opcode.STAGE:
        return {"beats": f["outer"] * f["inner"]}
    if opcode is Opcode.COMPUTE:
        return {
            "elements": f["windows"] << (f["log2_m_less_1"] + 1 + f["log2_a"]),
            "pairs": f["windows"] * kept(f),
        }
    if opcode is Opcode.STORE:
        return {"blocks": (f["rows"] + (rectangle_rows(f) - 1)) >> f["log2_a"]}
    return {}


def rules(opcode: Opcode, f: Mapping[str, Number], p: Mapping[str, Number], config: SatConfig) -> dict[str, Number]:
    """Return rule -> whether it holds. f: all fields; p: what `products` gave for them."""
    of = {
        Opcode.LOAD_ACT: _load_act,
        Opcode.LOAD_WGT: _load_wgt,
        Opcode.STAGE: _stage,
        Opcode.COMPUTE: _compute,
        Opcode.STORE: _store,
        Opcode.UPDATE: _update,
    }
    found = of[opcode](f, p, config) if opcode in of else {"wait and signal are 0": (f["wait"] | f["signal"]) == 0}
    return {**found, "spare bits are 0": f["zero"] == 0}


def error_code(word: int, config: SatConfig) -> ErrorCode:
    """Return what the sequencer says to a word of 512 bits."""
    code = word & 15
    if code not in set(Opcode):
        return ErrorCode.OPCODE
    opcode = Opcode(code)
    fields = INSTRUCTIONS[opcode].unpack(word)
    legal = all(rules(opcode, fields, products(opcode, fields), config).values())
    return ErrorCode.NONE if legal else ErrorCode.FIELD


def check(instruction: Instruction, config: SatConfig) -> None:
    """Raise ValueError with the field that does not fit, or with the rules that an instruction breaks."""
    fields = instruction.values()
    found = rules(instruction.opcode, fields, products(instruction.opcode, fields), config)
    broken = [name for name, holds in found.items() if not holds]
    if broken:
        raise ValueError(f"{instruction.opcode.name} breaks: {'; '.join(broken)}. Fields: {instruction.fields!r}")


def _walk(f: Mapping[str, Number]) -> dict[str, Number]:
    """Rules of the pixels of a walk."""
    endless = f["width"] == 0
    return {
        "x0 < width (or width is 0)": endless | (f["x0"] < f["width"]),
        "y0 < height (or width is 0)": endless | (f["y0"] < f["height"]),
    }


def _load_act(f: Mapping[str, Number], p: Mapping[str, Number], config: SatConfig) -> dict[str, Number]:
    ws = f["mode"] == int(ActMode.WS_ROWS)
    room = config.act_depth * config.act_lanes
    base = f["base"] << (config.act_lanes - 1)
    end = base + p["os_elements"]
    # Columns mode writes the tile rows of whole beats only: several loads, each from a base of its own, fill a tile.
    m_bits = f["log2_m_less_1"] + 1
    written = ((f["rows"] + (HALVES - 1)) >> 5) << ((HALVES // config.rows).bit_length() - 1)
    whole_beats = (f["mode"] == int(ActMode.OS_COLUMNS)) & ((config.rows << f["log2_a"]) >= HALVES)
    part = whole_beats & (end + (written << m_bits) <= room + (1 << (m_bits + f["log2_a"])))
    return {
        "mode <= 2": f["mode"] <= int(ActMode.WS_ROWS),
        "rows >= 1": f["rows"] >= 1,
        "k >= 1": f["k"] >= 1,
        "OS: rows <= a R": ws | (f["rows"] <= (config.rows << f["log2_a"])),
        "a M <= 16 lanes": (2 << (f["log2_m_less_1"] + f["log2_a"])) <= config.act_bank,
        "WS: k <= R M": (f["mode"] != int(ActMode.WS_ROWS)) | (f["k"] <= ((2 * config.rows) << f["log2_m_less_1"])),
        "OS: base and operands within act_depth": ws | (end <= room) | part,
        "WS: base and operands within act_depth": (f["mode"] != int(ActMode.WS_ROWS))
        | (base + p["ws_elements"] <= room),
        **{f"windowed: {name}": (f["windowed"] == 0) | rule for name, rule in _walk(f).items()},
    }


def _load_wgt(f: Mapping[str, Number], p: Mapping[str, Number], config: SatConfig) -> dict[str, Number]:
    log2_b = f["log2_a"] ^ 3  # 3 - log2_a
    tile = (config.columns * INTERLEAVE) >> f["log2_a"]  # b C
    packed, dense = f["dense"] == 0, f["dense"] == 1
    sizes = []
    for other, lanes, across in ((dense, LANES, f["blocks"]), (packed, HALVES, f["inner"])):
        wide = tile >= lanes
        aligned = (f["lane"] & (tile - 1) & (lanes - 1)) == 0
        whole = (f["lane"] == 0) & (across * lanes <= tile)
        part = aligned & (f["lane"] < lanes) & (across == 1)
        sizes.append(other | (wide & whole) | ((tile < lanes) & part))
    return {
        "blocks >= 1": f["blocks"] >= 1,
        "dense: blocks is 1": packed | (f["blocks"] == 1),
        "outer >= 1": f["outer"] >= 1,
        "inner >= 1": f["inner"] >= 1,
        "lane and beats side by side within b C and the beat": sizes[0] & sizes[1],
        "packed: base and pairs within weight_depth": dense
        | (f["base"] + ((p["slots"] + f["pad"]) << log2_b) <= config.weight_depth),
        "dense: base and pairs within weight_depth": packed
        | (f["base"] + ((f["outer"] + f["pad"]) << log2_b) <= config.weight_depth),
    }


def _stage(f: Mapping[str, Number], p: Mapping[str, Number], config: SatConfig) -> dict[str, Number]:
    return {
        "outer >= 1": f["outer"] >= 1,
        "inner >= 1": f["inner"] >= 1,
        "base < stage_depth": f["base"] < config.stage_depth,
        "beats <= stage_depth": p["beats"] <= config.stage_depth,
    }


def _compute(f: Mapping[str, Number], p: Mapping[str, Number], config: SatConfig) -> dict[str, Number]:
    n = kept(f)
    log2_b = f["log2_a"] ^ 3  # 3 - log2_a
    ws = f["ws"] == 1
    os = f["ws"] == 0
    act = (f["act_base"] << (config.act_lanes - 1)) + p["elements"] <= config.act_depth * config.act_lanes
    return {
        "N <= M": n <= group_size(f),
        "windows >= 1": f["windows"] >= 1,
        "a M <= 16 lanes": (2 << (f["log2_m_less_1"] + f["log2_a"])) <= config.act_bank,
        "WS: N b <= 16": os | ((n << log2_b) <= config.weight_bank),
        "act_base and operands within act_depth": act,
        "OS: wgt_base and pairs within weight_depth": ws
        | (f["wgt_base"] + (p["pairs"] << log2_b) <= config.weight_depth),
        "WS: wgt_base and pairs within weight_depth": os
        | (f["wgt_base"] + ((n * config.rows) << log2_b) <= config.weight_depth),
        "OS: capture and results within sum_depth": ws | (f["capture"] + INTERLEAVE * config.rows <= config.sum_depth),
        "WS: capture and results within sum_depth": os | (f["capture"] + (f["windows"] << 3) <= config.sum_depth),
    }


def _store(f: Mapping[str, Number], p: Mapping[str, Number], config: SatConfig) -> dict[str, Number]:
    ws = f["ws"] == 1
    os = f["ws"] == 0
    return {
        "rows >= 1": f["rows"] >= 1,
        "columns >= 1": f["columns"] >= 1,
        "columns <= b C": f["columns"] <= ((config.columns * INTERLEAVE) >> f["log2_a"]),
        "OS: rows <= a R": ws | (f["rows"] <= (config.rows << f["log2_a"])),
        "lane is a multiple of C": (f["lane"] & (config.columns - 1)) == 0,
        "lane < 16 for binary32": (f["to_half"] == 1) | (f["lane"] < LANES),
        "OS: capture and results within sum_depth": ws | (f["capture"] + INTERLEAVE * config.rows <= config.sum_depth),
        "WS: capture and results within sum_depth": os | (f["capture"] + (p["blocks"] << 3) <= config.sum_depth),
        **_walk(f),
    }


def _update(f: Mapping[str, Number], p: Mapping[str, Number], config: SatConfig) -> dict[str, Number]:
    del p, config  # nothing here depends on the size of the machine
    return {
        "k >= 1": f["k"] >= 1,
        "n >= 1": f["n"] >= 1,
        f"shift <= {MAX_SHIFT}": f["shift"] <= MAX_SHIFT,
        "W_ff: N <= M": kept(f, "ff_") <= group_size(f, "ff_"),
        "W_bp: N <= M": kept(f, "bp_") <= group_size(f, "bp_"),
    }
