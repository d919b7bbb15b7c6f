"""The benches of the rooms in Amaranth's own simulator, a little of each: no build, so faults planted in a room are
seen in seconds (`make mutate`), and a second simulator has seen the circuit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import preset
from nmsat.hw.update.pregen import Pregen
from nmsat.hw.update.transpose import Transposer
from nmsat.hw.update.update import Updater
from nmsat.tb.array import products
from tests.array import test_compute, test_stce, test_uspe
from tests.array.uspe_sequences import random_words
from tests.benches import in_amaranth, run
from tests.control import test_sequencer
from tests.load import test_loader
from tests.memory import test_ports
from tests.store import test_epilogue, test_store
from tests.update import test_sore, test_update, test_wuve

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.long

UPDATE = "nmsat.tb.update.bench_"


def element() -> None:
    config = test_uspe.configuration(2, 4)
    sequence = random_words(config, 600, seed=1)
    test_uspe._check(config, sequence, test_uspe._outputs(test_uspe.Uspe(config), sequence))


def array() -> None:
    config = test_stce.TINY.replace(rows=2, columns=2)
    with in_amaranth(products):
        test_stce.check(config, test_stce.jobs(config, [None, Pattern(2, 4)], seed=1, top=9))


ROOMS: dict[str, tuple[Any, Callable[[], object]]] = {
    "sore": (test_sore, lambda: test_sore.check_rtl(1, 1, 4, seed=1)),
    "sore, pairs": (test_sore, lambda: test_sore.check_rtl(1, 2, 4, seed=1)),
    "wuve": (test_wuve, lambda: test_wuve.check_rtl(1, 60, 4, (4, 4, 2), seed=1)),
    "transposer": (test_sore, lambda: run(Transposer(4), UPDATE + "transpose", {"lanes": 4, "jobs": 16}, 1)),
    "pregen": (test_sore, lambda: run(Pregen(2), UPDATE + "pregen", {"lanes": 2, "jobs": 8, "k": 12, "n": 5}, 1)),
    "update": (
        test_update,
        lambda: run(Updater(preset("tiny")), UPDATE + "update", {"instructions": 3, "k": 12, "n": 20}, 1),
    ),
    "epilogue": (test_epilogue, lambda: test_epilogue.check_rtl(1, 40, (4, 2), seed=1)),
    "store": (test_store, lambda: test_store.check(2, 2, 10, seed=1)),
    "load": (test_loader, lambda: test_loader.check_rtl(test_loader.sized(4, 2, 1), 12, seed=1)),
    "load, pairs": (test_loader, lambda: test_loader.check_rtl(test_loader.sized(4, 2, 2), 12, seed=1)),
    "element": (test_uspe, element),
    "array": (test_stce, array),
    "compute": (test_compute, lambda: test_compute.check(test_compute.TINY.replace(rows=2, columns=2), 1, 12, 1)),
    "sequencer": (test_sequencer, lambda: test_sequencer.check_rtl(12, seed=1)),
    "read port": (test_ports, lambda: test_ports.check_rtl(12, 80, seed=1, write=False)),
    "write port": (test_ports, lambda: test_ports.check_rtl(12, 80, seed=1, write=True)),
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_in_amaranths_simulator(room: str) -> None:
    module, check = ROOMS[room]
    with in_amaranth(module):
        check()
