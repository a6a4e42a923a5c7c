"""Modules of torch.nn as nodes of a Spec, by subject. Importing the package fills its registry, and that of functions.

registry.py        LAYERS by their class names, and call_module
recurrent.py       stacks and cells;  attention.py  nn.MultiheadAttention
products.py        Linear, Bilinear, Embedding;  convolution.py, pooling.py, normalization.py
pointwise.py       modules without weights
"""

from rnncore.export.torch.layers import (
    attention,
    convolution,
    normalization,
    pointwise,
    pooling,
    products,
    recurrent,
)
from rnncore.export.torch.layers.registry import call_module

__all__ = [
    "attention",
    "call_module",
    "convolution",
    "normalization",
    "pointwise",
    "pooling",
    "products",
    "recurrent",
]
