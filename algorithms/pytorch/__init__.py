"""N:M sparse training for PyTorch models (extra `torch`), numerically the NumPy reference.

    from nmsat.algorithms.pytorch import sparsify
    model = sparsify(model, "bdwp", "2:8")

Importing this package needs PyTorch; nothing else in the project imports it.
"""

try:
    from nmsat.algorithms.pytorch.convert import export_masks, nm_layers, record_step, sparsify
    from nmsat.algorithms.pytorch.layers import NmConv2d, NmLinear
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("PyTorch is not installed; pip install nmsat[torch]", name="torch") from None

__all__ = ["NmConv2d", "NmLinear", "export_masks", "nm_layers", "record_step", "sparsify"]
