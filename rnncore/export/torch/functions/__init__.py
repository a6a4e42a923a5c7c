"""Functions, methods and operators of torch as nodes of a Spec, by subject. Importing the package fills its registry.

registry.py     FUNCTIONS by their names in torch, and call_function
common.py       parts that functions of several subjects are made of
arithmetic.py   element by element;  activations.py  activations, softmax, distances
products.py     matrix products, embeddings, attention
shapes.py       views, permutations, repetition, padding;  joining.py  joining and splitting
reductions.py   reductions, sorting, running sums
creation.py     new tensors;  indexing.py  reading and storing;  packing.py  packed sequences
"""

from rnncore.export.torch.functions import (
    activations,
    arithmetic,
    creation,
    indexing,
    joining,
    packing,
    products,
    reductions,
    shapes,
)
from rnncore.export.torch.functions.registry import call_function

__all__ = [
    "activations",
    "arithmetic",
    "call_function",
    "creation",
    "indexing",
    "joining",
    "packing",
    "products",
    "reductions",
    "shapes",
]
