"""What `nmsat compare` knows by name; imports next to nothing, as the command line needs it for its help."""

from __future__ import annotations

from typing import Final

GEARS: Final = ("quick", "exact", "rtl")
"""Models of nmsat itself."""

PACKAGES: Final = {"scalesim": "SCALE-Sim", "zigzag": "ZigZag"}
"""Simulators of others, by the package that must be importable -> name for people."""

MODELS: Final = (*GEARS, *PACKAGES)
"""What layers can be run through."""

REFERENCE: Final = MODELS[0]
"""The model that the others are compared with, which always runs."""

LIMITS: Final = {"exact": 500_000, "rtl": 20_000, "scalesim": 200_000, "zigzag": 1 << 40}
"""Model -> the longest product that it is given, in cycles: about a minute of each. Those of the gears are cycles of
the quick gear, those of SCALE-Sim its formula's; ZigZag simulates no cycles."""

SMALL: Final = 64
"""Elements of the largest array whose Verilog is compiled without being asked for: others take long."""

UPDATE: Final = "update"
"""Stage of the programs that multiply no matrices."""

STAGES: Final = ("ff", "bp", "wu", UPDATE)
"""What of a step can be compared: products by `algorithms.core.tape.Stage`, and updates."""

COMPONENTS: Final = {
    "multiply": "kept multiply-adds / elements: no model is quicker",
    "edges": "steps in which places of the array multiply nothing: part tiles, groups that are filled up",
    "feed": "operands enter: a group of M activations for N multiply-adds (what N:M costs), weights into elements",
    "fill and drain": "the array fills, or results leave, and nothing else goes on in it",
    "memory": "the array has no work: loads, stores, instructions, stalls, before the first and after the last tile",
    "update": "weight update, pruning and packing",
}
"""What a cycle is spent on, in every model -> what that is."""

LACKS: Final = {
    "scalesim": {
        "edges": "its tiles are R x C results; an element of SAT keeps 8",
        "feed": "it drops activations of pruned weights before they enter, the same in all columns: no index logic",
        "fill and drain": "it fills and drains the array for every fold; SAT drains beside the next tile",
        "memory": "it fills its buffers ahead, each by an interface of full width; no latency, instructions, indices",
        "update": "it has no weight update and no pruning",
    },
    "zigzag": {
        "edges": "its tiles are R x C results; an element of SAT keeps 8",
        "feed": "it has no link along a row or a column and no index logic: it is given the kept rows of W",
        "fill and drain": "it neither fills nor drains the array",
        "memory": "the best order of its loops; no latency, bursts, instructions, indices",
        "update": "it has no weight update and no pruning",
    },
}
"""Simulator of others -> component -> what it does otherwise than the machine."""
