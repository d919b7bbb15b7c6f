"""Well-formed programs: what the compiler emits is, and each way not to be is found with its instruction and field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.config import TrainConfig
from nmsat.algorithms.training.recipes import recipe
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import Instruction, Opcode, Side
from nmsat.dataflow.contract.registers import Launch, Region
from nmsat.dataflow.program.activations import RowsSource
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.listing import read_listing
from nmsat.dataflow.program.order import IllFormedError
from nmsat.dataflow.program.product import Epilogue, ProductCode, Sink
from nmsat.dataflow.program.tensors import Layout
from nmsat.dataflow.program.weights import ForwardWeights
from nmsat.dataflow.program.wellformed import check_well_formed, check_words
from nmsat.sim.sat import Sat, launch, program_words
from nmsat.sim.values import State, execute
from nmsat.sim.work.training import MachineTrainer
from nmsat.tb.machine.jobs import random_job

TINY = preset("tiny")
REGIONS = Launch(tuple(Region(i << 20, 512, i != 0) for i in range(4)), 0, 0, 32)

LOADS = """
load_act log2_m_less_1=1 log2_a=1 rows=8 k=32 region=1 at=0 x_step=1
load_wgt signal=[0] log2_m_less_1=1 dense=1 log2_a=1 blocks=1 outer=32 inner=1 region=1 at=16 outer_step=1
"""
SHAPE = "n_less_1=3 log2_m_less_1=1 log2_a=1 windows=8"
ROWS = "log2_a=1 rows=8 columns=16 to_half=1 x_step=1"
PRODUCT = f"""{LOADS}
compute wait=[0] signal=[1] {SHAPE}
store wait=[1] {ROWS} region=2
"""
UPDATE = "update k=16 n=16 ff_log2_m_less_1=2 region=1 g_step=1 w_at=0 g_at=64 mask_at=96 ff_at=128"
SECOND = "load_act log2_m_less_1=1 log2_a=1 rows=8 k=32 region=1 x_step=1"


STAGED_ROWS = "load_act staged=1 log2_m_less_1=1 log2_a=1 rows=8 k=32 at=8 x_step=1"
STAGED = "stage outer=16 inner=1 outer_step=1 region=1"
"""Places 0 to 15 of the staging buffer are written, 8 to 15 are read."""


def fault(text: str, settings: Launch = REGIONS) -> tuple[str, str, int | None] | None:
    """Return opcode, field, and index of the other instruction of a program's fault; None if it is well-formed."""
    code = read_listing(f"{text}\nend\n").instructions
    try:
        check_well_formed(TINY, code, settings)
    except IllFormedError as error:
        assert f"instruction {error.fault.index} ({error.fault.opcode}), field {error.fault.field!r}" in str(error)
        return error.fault.opcode, error.fault.field, error.fault.other
    return None


def test_a_product_and_an_update_are_well_formed() -> None:
    assert fault(PRODUCT) is None
    assert fault(f"{PRODUCT}\n{UPDATE.replace('region=1', 'region=3')}") is None
    assert fault("") is None
    assert fault(f"{STAGED}\nstage outer=1 inner=3 base=16 region=1\n{STAGED_ROWS} beside=1") is None
    assert fault(f"{STAGED}\nstage outer=1 inner=3 base=15 region=1\n{STAGED_ROWS}") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # nothing was loaded, nothing computed
        (f"compute signal=[1] {SHAPE}\nstore wait=[1] {ROWS} region=2", ("COMPUTE", "wgt_base", 1)),
        (f"{LOADS}\nstore wait=[0] {ROWS} region=2", ("STORE", "capture", None)),
        ("load_act staged=1 log2_m_less_1=1 log2_a=1 rows=8 k=32 x_step=1", ("LOAD_ACT", "at", None)),
        # beside a STAGE that brings what is read
        (f"{STAGED}\nstage outer=1 inner=3 base=15 region=1\n{STAGED_ROWS} beside=1", ("LOAD_ACT", "beside", 1)),
        (PRODUCT.replace("k=32", "k=28"), ("COMPUTE", "act_base", 3)),
        (PRODUCT.replace("outer=32", "outer=31"), ("COMPUTE", "wgt_base", 3)),
        (PRODUCT.replace(SHAPE, SHAPE.replace("m_less_1=1", "m_less_1=0").replace("n_less_1=3", "n_less_1=1")), "M"),
        # sums that are not those of the command in front
        (
            f"{PRODUCT}\ncompute signal=[2] seed=1 capture=32 {SHAPE}\nstore {ROWS} capture=32 wait=[2] region=3",
            ("COMPUTE", "seed", None),
        ),
        (f"{LOADS}\ncompute wait=[0] seed=1 {SHAPE}", ("COMPUTE", "seed", None)),
        (
            f"{LOADS}\ncompute wait=[0] keep=1 {SHAPE}\ncompute {SHAPE}\ncompute seed=1 {SHAPE}",
            ("COMPUTE", "seed", None),
        ),
        (
            f"{LOADS}\ncompute wait=[0] keep=1 {SHAPE}\ncompute seed=1 n_less_1=1 log2_m_less_1=1 log2_a=1 windows=8",
            ("COMPUTE", "seed", 2),
        ),
        # a semaphore is missing
        (PRODUCT.replace("signal=[0]", "").replace("wait=[0]", ""), ("COMPUTE", "act_base", 0)),
        (PRODUCT.replace("signal=[1]", "").replace("wait=[1]", ""), ("STORE", "capture", 2)),
        (f"{PRODUCT}\n{SECOND} base=0", ("LOAD_ACT", "base", 2)),
        (f"{PRODUCT}\n{SECOND} base=63", ("LOAD_ACT", "base", 2)),
        (f"{PRODUCT}\ncompute {SHAPE}", ("COMPUTE", "capture", 3)),
        (f"{PRODUCT}\n{SECOND.replace('region=1', 'region=2')} base=64", ("LOAD_ACT", "at", 3)),
        (f"{PRODUCT.replace('region=2', 'region=1')}\n{SECOND} base=64", ("LOAD_ACT", "at", 3)),
        (
            f"{PRODUCT.replace('region=2', 'region=3 at=64')}\n{UPDATE.replace('region=1', 'region=3')}",
            ("UPDATE", "g_at", 3),
        ),
        (f"{PRODUCT}\n{UPDATE}", ("UPDATE", "w_at", 1)),
        (
            f"{PRODUCT.replace('to_half', 'watch=1 to_half')}\n{UPDATE.replace('region=1', 'region=3')}",
            ("UPDATE", "wait", 3),
        ),
        # semaphores whose order is a matter of time, or that never come
        (PRODUCT.replace("load_act", "load_act signal=[1]"), ("COMPUTE", "signal", 0)),
        (f"{PRODUCT}\nstore wait=[0] {ROWS} region=3", ("STORE", "wait", 2)),
        (PRODUCT.replace("signal=[1]", ""), ("STORE", "wait", None)),
        ("\n".join(["load_act signal=[0] rows=1 k=1 region=1"] * 256), ("LOAD_ACT", "signal", None)),
        # memory
        (PRODUCT.replace("region=2", "region=0"), ("STORE", "region", None)),
        (PRODUCT.replace("at=16", "at=481"), ("LOAD_WGT", "at", None)),
        (UPDATE.replace("w_at=0", "w_at=481"), ("UPDATE", "w_at", None)),
        (UPDATE.replace("ff_at=128", "ff_at=97"), ("UPDATE", "ff_at", None)),
        (UPDATE.replace("ff_at=128", "ff_at=64"), ("UPDATE", "ff_at", None)),
        # a second operand that the store itself, or one in front, writes
        (PRODUCT.replace("region=2", "region=2 at=1 side=2 side_region=2 side_x_step=1"), ("STORE", "side_at", None)),
        (PRODUCT.replace("region=2", "region=2 side=2 side_region=2 side_at=1 side_x_step=1"), None),
        (f"{PRODUCT}\nstore {ROWS} region=3 side=2 side_region=2 side_x_step=1", None),
        (f"{PRODUCT}\nstore {ROWS} region=3 side=2 side_region=2 side_x_step=1 beside=1", ("STORE", "beside", 3)),
        # rules
        (PRODUCT.replace("rows=8", "rows=9"), ("LOAD_ACT", "rows", None)),
        (PRODUCT.replace("columns=16", "columns=17"), ("STORE", "columns", None)),
    ],
)
def test_what_is_not_well_formed(text: str, found: object) -> None:
    expected = ("COMPUTE", "wgt_base", 3) if found == "M" else found
    assert fault(text) == expected


def test_what_nobody_stores_may_be_anything() -> None:
    assert fault(f"compute {SHAPE}") is None
    assert fault(f"{PRODUCT.replace('rows=8', 'rows=3').replace('mode', '')}") is None


def test_padding_makes_up_for_rows_that_no_load_has_written() -> None:
    """WS: array row 3 has no activations; fillers contribute nothing there, pairs of memory would."""
    act = "load_act mode=2 log2_m_less_1=1 log2_a=1 rows=8 k=12 region=1 x_step=1"
    ends = f"compute ws=1 wait=[0] signal=[1] {SHAPE} windows=4\nstore ws=1 wait=[1] {ROWS} region=2"
    ends = ends.replace(f"{SHAPE} windows=4", SHAPE.replace("windows=8", "windows=4"))
    wgt = "load_wgt signal=[0] log2_m_less_1=1 dense=1 log2_a=1 blocks=1 inner=1 region=1 outer_step=1"
    assert fault(f"{act}\n{wgt} outer=12 pad=4\n{ends}") is None
    assert fault(f"{act}\n{wgt} outer=16\n{ends}") == ("COMPUTE", "act_base", 3)


def test_regions_that_lie_over_each_other_are_one() -> None:
    apart, over = REGIONS, replace(REGIONS, regions=(*REGIONS.regions[:2], Region(1 << 20, 512, True)))
    assert fault(PRODUCT, apart) is None
    text = f"{PRODUCT}\n{SECOND} base=64"
    assert fault(text, apart) is None
    assert fault(text, over) == ("LOAD_ACT", "at", 3)
    program = replace(REGIONS, regions=(*REGIONS.regions[:2], Region(0, 512, True)))
    assert fault(PRODUCT, program) == ("STORE", "at", None)


def test_where_the_program_lies() -> None:
    assert fault(PRODUCT, replace(REGIONS, program_at=508)) == ("the program", "program_at", None)
    assert fault(PRODUCT, replace(REGIONS, regions=(None, *REGIONS.regions[1:]))) == ("the program", "program_at", None)
    closed = replace(REGIONS, regions=(*REGIONS.regions[:2], None))
    assert fault(PRODUCT, closed) == ("STORE", "region", None)


def test_words_of_memory() -> None:
    code = [instruction.encode() for instruction in read_listing(f"{PRODUCT}\nend").instructions]
    check_words(TINY, [*code, 0xFFF], REGIONS)  # nothing counts behind END
    for words, message in (
        (code[:-1], r"instruction 4 \(nothing\), field 'opcode': the program has no END"),
        ([0, *code], r"instruction 0 \(opcode 0\), field 'opcode'"),
        ([], "no END"),
    ):
        with pytest.raises(IllFormedError, match=message):
            check_words(TINY, words, REGIONS)
    with pytest.raises(IllFormedError, match=r"END.*stands in front of 1 others"):
        check_well_formed(TINY, [Instruction(Opcode.END, {})] * 2, REGIONS)


@pytest.mark.parametrize(("name", "count"), [("tiny", 12), ("small", 12)])
def test_random_programs_are_well_formed(name: str, count: int) -> None:
    config = preset(name)
    for seed in range(count):
        job = random_job(config, seed)
        settings = launch(job.image.regions, job.place)
        check_words(config, program_words(job.image.regions, settings), settings)


@pytest.mark.parametrize("network", ["digits-sat", "resnet9-small", "vgg19-small"])
def test_steps_of_networks_are_well_formed(network: str) -> None:
    digits = TrainConfig(network="digits-sat", epochs=1)
    run = digits if network == "digits-sat" else recipe(network)
    small = preset("small")
    plan = MachineTrainer(run.replace(arithmetic="contract", batch=2), small, Sat(small)).plan
    regions = plan.image().regions
    for program in plan.programs:
        check_well_formed(small, program.code.instructions, launch(regions, program.place))


def test_a_store_that_adds_what_one_in_front_has_written_waits() -> None:
    """As a residual input: the second product adds the first one's result, and must not read it too early."""
    layout, pattern = Layout(), Pattern(2, 8)
    x, y, z = (layout.rows(name, 1, 16, 32) for name in ("x", "y", "z"))
    w = layout.weights("w", 1, 32, 32, pattern, pattern, backward=False)
    out = Assembler(TINY)
    for name, target, epilogue in (("first", y, Epilogue()), ("second", z, Epilogue(kind=Side.TILE16, side=y))):
        shape = (16, 32, 32)
        assemble(
            out, ProductCode(name, *shape, RowsSource(x, 16, 32), ForwardWeights(w), Sink(target, epilogue), pattern)
        )
    code = out.finish().instructions
    settings = Launch(
        (Region(0, len(code), writable=False), Region(1 << 20, layout.beats[1], writable=True)), 0, 0, len(code)
    )
    check_well_formed(TINY, code, settings)
    early = [Instruction(i.opcode, {**i.fields, **({"beside": 1} if i["side"] else {})}) for i in code]
    with pytest.raises(IllFormedError, match="field 'beside'"):
        check_well_formed(TINY, early, settings)


def test_columns_that_are_not_stored_may_hold_pairs_of_other_groups() -> None:
    """small, seed 358: groups of 2 beside pairs of a product with groups of 8 that has left the buffers."""
    small = preset("small")
    job = random_job(small, 358)
    state = State(small, job.image.regions)
    for instruction in job.code.instructions:
        execute(instruction, state)


def test_a_program_without_one_of_its_waits_is_not_well_formed() -> None:
    """The links that the assembler makes are those that are needed."""
    job = random_job(TINY, 5)
    settings, code = launch(job.image.regions, job.place), list(job.code.instructions)
    found = 0
    for index, instruction in enumerate(code[:60]):
        if instruction["wait"]:
            less = {**instruction.fields, "wait": instruction["wait"] & instruction["wait"] - 1}
            with pytest.raises(IllFormedError):
                check_well_formed(
                    TINY, [*code[:index], Instruction(instruction.opcode, less), *code[index + 1 :]], settings
                )
            found += 1
    assert found > 5
