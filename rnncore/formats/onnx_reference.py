"""Rare ops that rnncore has no kernel for: run one by one by onnx.reference, where the extra is installed.

Only ops of ai.onnx whose results depend on nothing but their inputs, and never recurrent or control ones; the shapes
of their outputs are those of onnx.shape_inference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rnncore.formats.onnx_file import OnnxNode

if TYPE_CHECKING:
    from rnncore.formats.onnx_graph import Lowering

__all__ = ["is_rare", "lower"]


def is_rare(node: OnnxNode) -> bool:
    return False


def lower(lowering: Lowering, node: OnnxNode) -> None:
    raise NotImplementedError
