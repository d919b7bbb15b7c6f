"""N:M sparse training for PyTorch models (extra `torch`), numerically the NumPy reference.

    from nmsat.algorithms.pytorch import sparsify
    model = sparsify(model, "bdwp", "2:8")

Importing this package needs PyTorch; nothing else in the project imports it.
"""

try:
    from nmsat.algorithms.pytorch.base import NmModule
    from nmsat.algorithms.pytorch.convert import bake, nm_layers, sparsify, strip, table_of
    from nmsat.algorithms.pytorch.export import export_masks, export_onnx
    from nmsat.algorithms.pytorch.layers import NmConv2d, NmLinear
    from nmsat.algorithms.pytorch.taping import record_step
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("PyTorch is not installed; pip install nmsat[torch]", name="torch") from None

__all__ = [
    "NmConv2d",
    "NmLinear",
    "NmModule",
    "bake",
    "export_masks",
    "export_onnx",
    "nm_layers",
    "record_step",
    "sparsify",
    "strip",
    "table_of",
]
