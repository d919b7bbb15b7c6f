"""N:M sparse training for PyTorch models (extra `torch`), numerically the NumPy reference.

    from nmsat.algorithms.pytorch import sparsify
    model = sparsify(model, "bdwp", "2:8")

Importing this package needs PyTorch; nothing else in the project imports it.
"""

from nmsat.algorithms.pytorch.convert import export_masks, nm_layers, record_step, sparsify
from nmsat.algorithms.pytorch.layers import NmConv2d, NmLinear

__all__ = ["NmConv2d", "NmLinear", "export_masks", "nm_layers", "record_step", "sparsify"]
