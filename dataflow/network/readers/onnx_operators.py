"""The operators of ONNX that run on SAT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.dataflow.network.readers import onnx_attention, onnx_conv, onnx_einsum, onnx_products, onnx_recurrent
from nmsat.dataflow.network.readers.onnx_ask import MICROSOFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import NodeProto

    from nmsat.dataflow.network.layers import Layer
    from nmsat.dataflow.network.readers.onnx_state import ReaderState

PRODUCTS: Final[dict[tuple[str, str], Callable[[ReaderState, NodeProto], tuple[Layer, ...]]]] = {
    ("", "Conv"): onnx_conv.conv,
    ("", "ConvTranspose"): onnx_conv.conv_transpose,
    ("", "DeformConv"): onnx_conv.deform_conv,
    ("", "QLinearConv"): onnx_conv.quantized_conv,
    ("", "ConvInteger"): onnx_conv.integer_conv,
    ("", "Gemm"): onnx_products.read_gemm,
    ("", "MatMul"): onnx_products.read_matmul,
    ("", "QLinearMatMul"): onnx_products.quantized_matmul,
    ("", "MatMulInteger"): onnx_products.read_matmul,
    ("", "Einsum"): onnx_einsum.einsum,
    ("", "Attention"): onnx_attention.standard_attention,
    **{("", kind): onnx_recurrent.recurrent for kind in ("LSTM", "GRU", "RNN")},
    (MICROSOFT, "FusedConv"): onnx_conv.conv,
    (MICROSOFT, "FusedGemm"): onnx_products.read_gemm,
    (MICROSOFT, "FusedMatMul"): onnx_products.read_matmul,
    (MICROSOFT, "MatMulIntegerToFloat"): onnx_products.read_matmul,
    (MICROSOFT, "DynamicQuantizeMatMul"): onnx_products.read_matmul,
    (MICROSOFT, "MatMulNBits"): onnx_products.packed_matmul,
    (MICROSOFT, "Attention"): onnx_attention.fused_attention,
    (MICROSOFT, "MultiHeadAttention"): onnx_attention.multi_head_attention,
    (MICROSOFT, "GroupQueryAttention"): onnx_attention.multi_head_attention,
}
"""(domain, operator) that runs on SAT -> the function that makes its layers."""
