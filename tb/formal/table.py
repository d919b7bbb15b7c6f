"""All proofs, in the order in which they are reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.tb.formal import lite, narrow, ports, queues, requests, semaphores, sequencer, sore

if TYPE_CHECKING:
    from nmsat.tb.formal.proof import Proof

PROOFS: Final[dict[str, Proof]] = {
    proof.name: proof
    for module in (queues, ports, narrow, requests, lite, semaphores, sequencer, sore)
    for proof in module.PROOFS
}
"""Name -> proof."""
