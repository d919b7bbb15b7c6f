"""The sparse tensor computing engine (STCE): the array of elements with its ports, head and tail."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.array.column_port import ColumnPort
from nmsat.hw.array.head import Head, command_layout
from nmsat.hw.array.load_link import LoadLink, load_groups
from nmsat.hw.array.row_port import RowPort
from nmsat.hw.array.tail import Tail
from nmsat.hw.array.uspe import Uspe
from nmsat.hw.parts.links import pair_layout, sum_layout, token_layout, weight_layout
from nmsat.hw.parts.verilog import place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.config import SatConfig


class ArrayRow(wiring.Component):
    """One row of the array: its port and its elements. All rows of an array are this one module.

    Members; vertical links stand side by side, column 0 at bit 0:

    load_en : In(1), a word is written to the activation buffer.
    load_addr : In(range(act_depth)), where.
    load_data : In(16 * act_lanes), the word, binary16 each, lane 0 at bit 0.
    token_i : In(`token_layout`), window from the row above or the head.
    token_o : Out(`token_layout`), the same for the row below.
    drain_i : In(1), OS: it is this row's turn to drain.
    drain_o : Out(1), OS: it is the turn of the row below.
    ended : Out(1), a tile has ended in this row.
    wgt_i : In(22 * C), widened weights (`weight_layout`) from above.
    wgt_o : Out(22 * C), the same downwards.
    sum_i : In(33 * C), seeds and results (`sum_layout`) from above.
    sum_o : Out(33 * C), results, and what came from above.

    Timing: `RowPort`, `Uspe`; a column slice adds one cycle to what moves right.
    Numerics: `Uspe`.
    """

    load_en: Signal
    load_addr: Signal
    load_data: Signal
    token_i: data.View[data.StructLayout]
    token_o: data.View[data.StructLayout]
    drain_i: Signal
    drain_o: Signal
    ended: Signal
    wgt_i: Signal
    wgt_o: Signal
    sum_i: Signal
    sum_o: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        wgt, total = weight_layout().size * config.columns, sum_layout().size * config.columns
        super().__init__(
            {
                "load_en": In(1),
                "load_addr": In(range(config.act_depth)),
                "load_data": In(16 * config.act_lanes),
                "token_i": In(token_layout()),
                "token_o": Out(token_layout()),
                "drain_i": In(1),
                "drain_o": Out(1),
                "ended": Out(1),
                "wgt_i": In(wgt),
                "wgt_o": Out(wgt),
                "sum_i": In(total),
                "sum_o": Out(total),
            }
        )

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        port = RowPort(config)
        m.submodules.port = place(port, "sat_row_port", platform, parameters=config)
        m.d.comb += [
            port.load_en.eq(self.load_en),
            port.load_addr.eq(self.load_addr),
            port.load_data.eq(self.load_data),
            port.token_i.eq(self.token_i),
            port.drain_i.eq(self.drain_i),
            self.token_o.eq(port.token_o),
            self.drain_o.eq(port.drain_o),
            self.ended.eq(port.ended),
        ]
        act, ctl = port.act, port.ctl
        for c in range(config.columns):
            element = Uspe(config)
            m.submodules[f"element_{c}"] = place(element, "sat_uspe", platform, parameters=config)
            cut = c in config.column_slices
            m.d.comb += [
                element.act_i.eq(_slice(m, act, cut)),
                element.ctl_i.eq(_slice(m, ctl, cut)),
                element.wgt_i.eq(self.wgt_i.word_select(c, weight_layout().size)),
                element.sum_i.eq(self.sum_i.word_select(c, sum_layout().size)),
                self.wgt_o.word_select(c, weight_layout().size).eq(element.wgt_o),
                self.sum_o.word_select(c, sum_layout().size).eq(element.sum_o),
            ]
            act, ctl = element.act_o, element.ctl_o
        return m


class Stce(wiring.Component):
    """R x C elements, OS and WS, dense and N:M (docs/machine/array.md).

    Members:

    commands : In(stream of `command_layout`), tile commands.
    act_load_en : In(R), a word of this row's activation buffer is written.
    act_load_addr : In(range(act_depth)), where, the same for all rows.
    act_load_data : In(16 * act_lanes * R), words of binary16, row 0 at bit 0.
    wgt_load_en : In(C), a pair of this column's weight buffer is written.
    wgt_load_addr : In(range(weight_depth)), where, the same for all columns.
    wgt_load_data : In(21 * C), pairs (`pair_layout`), column 0 at bit 0.
    out_value : Out(32 * C), results, binary32, column 0 at bit 0; column c is c cycles behind column 0, and slices.
    out_valid : Out(C), this column has one.
    ended : Out(1), the last result of a command passes the output of column 0, be it kept or not.
    token_valid : Out(1), a window starts.
    token_compute : Out(1), beside `token_valid`: it computes; otherwise it only loads.
    token_n_less_1 : Out(4), beside `token_valid`: its N, less 1.
    cause : Out(3), why no window starts in this cycle (`dataflow.contract.registers.Wait`).
    idle : Out(1), no command is in progress.

    Timing: docs/machine/array.md; `sim.array.stce` predicts every output cycle. What stands at a load port is in its
    buffer `LOAD_LINK` cycles later than if it stood at the buffer.
    Numerics: docs/arithmetic.md.
    """

    commands: stream.Interface
    act_load_en: Signal
    act_load_addr: Signal
    act_load_data: Signal
    wgt_load_en: Signal
    wgt_load_addr: Signal
    wgt_load_data: Signal
    out_value: Signal
    out_valid: Signal
    ended: Signal
    token_valid: Signal
    token_compute: Signal
    token_n_less_1: Signal
    cause: Signal
    idle: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        super().__init__(
            {
                "commands": In(stream.Signature(command_layout())),
                "act_load_en": In(config.rows),
                "act_load_addr": In(range(config.act_depth)),
                "act_load_data": In(16 * config.act_lanes * config.rows),
                "wgt_load_en": In(config.columns),
                "wgt_load_addr": In(range(config.weight_depth)),
                "wgt_load_data": In(pair_layout().size * config.columns),
                "out_value": Out(32 * config.columns),
                "out_valid": Out(config.columns),
                "ended": Out(1),
                "token_valid": Out(1),
                "token_compute": Out(1),
                "token_n_less_1": Out(4),
                "cause": Out(3),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        rows = [ArrayRow(config) for _ in range(config.rows)]
        columns = [ColumnPort(config) for _ in range(config.columns)]
        for r, row in enumerate(rows):
            inner = DomainRenamer(_domain("act", r, config.row_slices))
            m.submodules[f"row_{r}"] = inner(place(row, "sat_row", platform, parameters=config))
        for c, column in enumerate(columns):
            inner = DomainRenamer(_domain("wgt", c, config.column_slices))
            m.submodules[f"column_{c}"] = inner(place(column, "sat_column_port", platform, parameters=config))
        self._edges(m, rows, columns, platform)
        self._rows(m, rows, columns)
        self._columns(m, columns)
        return m

    def _edges(self, m: Module, rows: Sequence[ArrayRow], columns: Sequence[ColumnPort], platform: object) -> None:
        """Head, tail, load ports and results."""
        config = self._config
        head, tail = Head(config), Tail(config)
        m.submodules.head = place(head, "sat_head", platform, parameters=config)
        m.submodules.tail = place(tail, "sat_tail", platform, parameters=config)
        wiring.connect(m, wiring.flipped(self.commands), head.commands)
        m.d.comb += [
            rows[0].token_i.eq(head.token),
            rows[0].drain_i.eq(rows[0].ended),
            columns[0].weight_i.eq(head.weight),
            columns[0].seed_i.eq(head.seed),
            columns[0].keep_i.eq(tail.control),
            tail.begins.eq(head.begins),
            tail.count.eq(head.begin_count),
            tail.keep.eq(head.begin_keep),
            head.tail_ready.eq(tail.ready),
            tail.arrives.eq(columns[0].sum_bottom.valid),
            self.token_valid.eq(head.token.valid),
            self.token_compute.eq(head.token.compute),
            self.token_n_less_1.eq(head.token.n_less_1),
            self.ended.eq(tail.ended),
            self.cause.eq(head.cause),
            self.idle.eq(head.idle),
        ]
        for c, column in enumerate(columns):
            m.d.comb += [
                self.out_value.word_select(c, 32).eq(column.out.value),
                self.out_valid[c].eq(column.out.valid),
            ]
        self._loads(m, "act", rows, config.row_slices, platform)
        self._loads(m, "wgt", columns, config.column_slices, platform)

    def _loads(self, m: Module, kind: str, ports: Sequence[Any], slices: Sequence[int], platform: object) -> None:
        """Lead what is written, and the reset, to the ports through registers for those between two slices."""
        enable, address, words = (getattr(self, f"{kind}_load_{name}") for name in ("en", "addr", "data"))
        width, depth = len(words) // len(ports), 1 << len(address)
        for number, group in enumerate(load_groups(len(ports), slices)):
            link = LoadLink(depth, width, len(group))
            name = f"sat_{kind}_link_{len(group)}"
            m.submodules[f"{kind}_link_{number}"] = place(link, name, platform, parameters=(depth, width, len(group)))
            domain = _domain(kind, group.start, slices)
            m.domains += ClockDomain(domain, local=True)
            m.d.comb += [
                ClockSignal(domain).eq(ClockSignal()),
                ResetSignal(domain).eq(link.held),
                link.en_i.eq(enable[group.start : group.stop]),
                link.addr_i.eq(address),
                link.data_i.eq(words[width * group.start : width * group.stop]),
            ]
            for at, port in enumerate(ports[group.start : group.stop]):
                m.d.comb += [
                    port.load_en.eq(link.en_o[at]),
                    port.load_addr.eq(link.addr_o),
                    port.load_data.eq(link.data_o.word_select(at, width)),
                ]

    def _rows(self, m: Module, rows: Sequence[ArrayRow], columns: Sequence[ColumnPort]) -> None:
        """Links downwards: windows, turns to drain, weights, sums."""
        wgt = Cat(Value.cast(column.wgt) for column in columns)
        total = Cat(Value.cast(column.sum_top) for column in columns)
        for r, row in enumerate(rows):
            sliced = r in self._config.row_slices
            if r:
                above = rows[r - 1]
                m.d.comb += [
                    row.token_i.eq(_slice(m, above.token_o, sliced)),
                    row.drain_i.eq(_slice(m, above.drain_o, sliced)),
                ]
            m.d.comb += [row.wgt_i.eq(_slice(m, wgt, sliced)), row.sum_i.eq(_slice(m, total, sliced))]
            wgt, total = row.wgt_o, row.sum_o
        m.d.comb += Cat(Value.cast(column.sum_bottom) for column in columns).eq(total)

    def _columns(self, m: Module, columns: Sequence[ColumnPort]) -> None:
        """Links from column port to column port."""
        for c, (left, column) in enumerate(pairwise(columns), start=1):
            cut = c in self._config.column_slices
            m.d.comb += [
                column.weight_i.eq(_slice(m, left.weight_o, cut)),
                column.seed_i.eq(_slice(m, left.seed_o, cut)),
                column.keep_i.eq(_slice(m, left.keep_o, cut)),
            ]


def _domain(kind: str, at: int, slices: Sequence[int]) -> str:
    """Return the name of the clock domain, with a reset of its own, of a row or column."""
    return f"{kind}_{sum(place <= at for place in slices)}"


def _slice(m: Module, link: Value | data.View[data.StructLayout], cut: bool) -> Value:
    """Return the link, one register later where a slice stands."""
    value = Value.cast(link)
    if not cut:
        return value
    register = Signal(len(value))
    m.d.sync += register.eq(value)
    return register
