"""What all parts of the ONNX reader ask of a node: its operator, and its attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from onnx import helper

if TYPE_CHECKING:
    from onnx import NodeProto

TensorShape: TypeAlias = tuple[int, ...]

STANDARD: Final = ("", "ai.onnx")
"""Names of the default domain: the operators of the standard."""

MICROSOFT: Final = "com.microsoft"
"""Domain of the operators that ONNX Runtime fuses others into."""


def is_standard(node: NodeProto) -> bool:
    """Tell operators of the standard."""
    return node.domain in STANDARD


def operator(node: NodeProto) -> tuple[str, str]:
    """Return domain and operator of a node; '' is the default domain."""
    return "" if is_standard(node) else node.domain, node.op_type


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
