"""The sparse tensor computing engine (STCE): the array of elements with its ports, head and tail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.column_port import ColumnPort
from hw.head import Head, command_layout
from hw.links import pair_layout
from hw.row_port import RowPort
from hw.tail import Tail
from hw.uspe import Uspe
from hw.verilog import place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dataflow.config import SatConfig


class Stce(wiring.Component):
    """R x C elements, OS and WS, dense and N:M (docs/array.md).

    Members: commands: tile commands; act_load_en (one bit per row), act_load_addr, act_load_data (one beat per row):
    write ports of the activation buffers; wgt_load_en (one bit per column), wgt_load_addr, wgt_load_data (one pair per
    column): write ports of the weight buffers; out_value, out_valid (one per column, column c skewed by c): results;
    token_valid, token_compute, cause, idle: what the head does, for counters.
    Timing: docs/array.md; `sim.stce` predicts every output cycle. Numerics: docs/arithmetic.md.
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
    token_valid: Signal
    token_compute: Signal
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
                "token_valid": Out(1),
                "token_compute": Out(1),
                "cause": Out(3),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        rows = [RowPort(config) for _ in range(config.rows)]
        columns = [ColumnPort(config) for _ in range(config.columns)]
        elements = [[Uspe(config) for _ in columns] for _ in rows]
        for r, row in enumerate(rows):
            m.submodules[f"row_{r}"] = place(row, "sat_row_port", platform, parameters=config)
            for c, element in enumerate(elements[r]):
                m.submodules[f"element_{r}_{c}"] = place(element, "sat_uspe", platform, parameters=config)
        for c, column in enumerate(columns):
            m.submodules[f"column_{c}"] = place(column, "sat_column_port", platform, parameters=config)
        self._edges(m, rows, columns, platform)
        self._rows(m, rows, elements)
        self._columns(m, columns, elements)
        return m

    def _edges(self, m: Module, rows: Sequence[RowPort], columns: Sequence[ColumnPort], platform: object) -> None:
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
            self.cause.eq(head.cause),
            self.idle.eq(head.idle),
        ]
        for r, row in enumerate(rows):
            m.d.comb += [
                row.load_en.eq(self.act_load_en[r]),
                row.load_addr.eq(self.act_load_addr),
                row.load_data.eq(self.act_load_data.word_select(r, 16 * config.act_lanes)),
            ]
        for c, column in enumerate(columns):
            m.d.comb += [
                column.load_en.eq(self.wgt_load_en[c]),
                column.load_addr.eq(self.wgt_load_addr),
                column.load_data.eq(self.wgt_load_data.word_select(c, pair_layout().size)),
                self.out_value.word_select(c, 32).eq(column.out.value),
                self.out_valid[c].eq(column.out.valid),
            ]

    def _rows(self, m: Module, rows: Sequence[RowPort], elements: Sequence[Sequence[Uspe]]) -> None:
        """Links to the right, and from row port to row port."""
        for r, row in enumerate(rows):
            sliced = r in self._config.row_slices
            if r:
                above = rows[r - 1]
                m.d.comb += [
                    row.token_i.eq(self._slice(m, above.token_o, sliced)),
                    row.drain_i.eq(self._slice(m, above.drain_o, sliced)),
                ]
            act, ctl = row.act, row.ctl
            for c, element in enumerate(elements[r]):
                cut = c in self._config.column_slices
                m.d.comb += [
                    element.act_i.eq(self._slice(m, act, cut)),
                    element.ctl_i.eq(self._slice(m, ctl, cut)),
                ]
                act, ctl = element.act_o, element.ctl_o

    def _columns(self, m: Module, columns: Sequence[ColumnPort], elements: Sequence[Sequence[Uspe]]) -> None:
        """Links downwards, and from column port to column port."""
        for c, column in enumerate(columns):
            if c:
                cut = c in self._config.column_slices
                left = columns[c - 1]
                m.d.comb += [
                    column.weight_i.eq(self._slice(m, left.weight_o, cut)),
                    column.seed_i.eq(self._slice(m, left.seed_o, cut)),
                    column.keep_i.eq(self._slice(m, left.keep_o, cut)),
                ]
            wgt, total = column.wgt, column.sum_top
            for r, row in enumerate(elements):
                sliced = r in self._config.row_slices
                m.d.comb += [
                    row[c].wgt_i.eq(self._slice(m, wgt, sliced)),
                    row[c].sum_i.eq(self._slice(m, total, sliced)),
                ]
                wgt, total = row[c].wgt_o, row[c].sum_o
            m.d.comb += column.sum_bottom.eq(total)

    @staticmethod
    def _slice(m: Module, link: Value | data.View[data.StructLayout], cut: bool) -> Value:
        """Return the link, one register later where a slice stands."""
        value = Value.cast(link)
        if not cut:
            return value
        register = Signal(len(value))
        m.d.sync += register.eq(value)
        return register


