"""Quantized weights of PyTorch's, as quantize_dynamic's state dicts hold them -> the weights of the float modules.

    Linear      NAME._packed_params._packed_params      (weight, bias), or a packed object of them
    Embedding   NAME._packed_params._packed_weight      weight
    LSTM, GRU   NAME._all_weight_values.N.param         a packed object for each layer and direction
    cells       NAME._packed_weight_ih, _packed_weight_hh   packed objects of weight and bias
    others      NAME.weight, a quantized tensor

A packed object is an object of PyTorch's C++ classes, which a file holds as its name and state: it is read as data,
nothing is built or called. Weights are scale (q - zero_point), the float32 numbers that PyTorch's dequantize gives.

Its kernels quantize a layer's input too, with one scale for all of a call; here nothing is rounded. Static
quantization, whose modules round their outputs by NAME.scale and NAME.zero_point, is refused: what surrounds them is
then part of the arithmetic.

Source: torch/ao/nn/quantized/modules/linear.py, embedding_ops.py, dynamic/modules/rnn.py and
aten/src/ATen/native/quantized/cpu/qlinear_unpack.cpp, RNN.cpp of PyTorch 2.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from rnncore.errors import UnsupportedError, WeightError
from rnncore.formats.checkpoint import QUANTIZED, Checkpoint
from rnncore.formats.torch.pickle_reader import Foreign, Pairs
from rnncore.graph.nodes import Recurrent
from rnncore.graph.spec import Spec

__all__ = ["SCHEMES", "STORED", "dequantize", "packed", "unpack"]

STORED = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
SCHEMES = ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
           "per_channel_affine_float_qparams")  # fmt: skip

_CLASSES = "__torch__.torch.classes."
LINEAR, CELL = f"{_CLASSES}quantized.LinearPackedParamsBase", f"{_CLASSES}rnn.CellParamsBase"
_CELL_KINDS = ("quantized_dynamic", "quantized_fp16")


def dequantize(stored: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, axis: int | None) -> np.ndarray:
    """scale (stored - zero_point) in float32, with scale and zero_point along an axis of ``stored``, or numbers."""
    shape = [1] * stored.ndim
    if axis is not None:
        shape[axis] = -1
    wide = stored.astype(np.float32)
    wide -= zero_point.astype(np.float32).reshape(shape if axis is not None else ())
    wide *= scale.astype(np.float32).reshape(shape if axis is not None else ())
    return wide


def packed(foreign: Foreign) -> Pairs | None:
    """The named parts of a packed object, of Linear (weight, bias) or of one layer and direction; None for others.

    Raises ValueError for one whose state is not what PyTorch writes.
    """
    states = foreign.attributes or []
    state = states[0] if len(states) == 1 else None
    if foreign.kind.name == "ScriptObject" and foreign.kind.module in ("torch", "torch._C"):
        if type(state) is not tuple or len(state) != 2 or type(state[1]) is not str:
            return None
        state, kind = state
    else:
        kind = f"{foreign.kind.module}.{foreign.kind.name}"
    if kind == LINEAR:
        return _linear(state)
    return _cell(state) if kind == CELL else None


def _linear(state: object) -> Pairs:
    if type(state) is not tuple or len(state) != 2:
        raise ValueError("packed weights of other state than (weight, bias)")
    weight, bias = state
    return Pairs(["weight", weight] + ([] if bias is None else ["bias", bias]))


def _cell(state: object) -> Pairs:
    """A CellParamsBase: (kind, biases, doubles, whether the range is reduced, packed weights)."""
    fields: tuple[Any, ...] = state if type(state) is tuple and len(state) == 5 else (None,) * 5
    kind, _, _, _, weights = fields
    sound = type(weights) is list and len(weights) == 2 and all(type(weight) is Foreign for weight in weights)
    if kind not in _CELL_KINDS or not sound:
        raise ValueError(f"packed weights of a recurrent layer, expected {' or '.join(_CELL_KINDS)} with two of them")
    parts = Pairs()
    for key, pairs in zip(("ih", "hh"), map(packed, weights), strict=True):
        if pairs is None:
            raise ValueError("packed weights of a recurrent layer that are not those of a product")
        for at in range(0, len(pairs), 2):
            parts += [f"{pairs[at]}_{key}", pairs[at + 1]]
    return parts


# --- names ----------------------------------------------------------------------------------------------------------

_LINEAR = re.compile(r"(?P<module>(?:.*?\.)?)_packed_params(?:\._packed_params)?\.(?P<part>0|1|weight|bias)")
_EMBEDDING = re.compile(r"(?P<module>(?:.*?\.)?)_packed_params\._packed_weight")
_CELL = re.compile(r"(?P<module>(?:.*?\.)?)_packed_weight_(?P<product>ih|hh)\.(?P<part>weight|bias)")
_STACK = re.compile(r"(?P<module>(?:.*?\.)?)_all_weight_values\.(?P<place>\d{1,4})\.param\.(?P<part>\w+_[ih]h)")
_LEAVES = {"0": "weight", "1": "bias", "weight": "weight", "bias": "bias"}


def unpack(checkpoint: Checkpoint, spec: Spec | None = None) -> tuple[dict[str, np.ndarray], dict[str, str], str]:
    """The tensors under the names of the float modules; name -> its name in the file; a note of what was quantized.

    spec  decides whether a stack's weights are two layers or two directions, where they do not say it themselves

    UnsupportedError for static quantization, WeightError for weights that contradict each other.
    """
    tensors = checkpoint.tensors
    quantized = {name for name in tensors if checkpoint.source_dtypes.get(name) in STORED}
    renamed = _renamed(tensors, checkpoint.metadata, spec)
    if not quantized and not renamed:
        return dict(tensors), {}, ""
    modules = {renamed.get(name, name).rpartition(".")[0] for name in (*quantized, *renamed)}
    dropped = _observed(modules, checkpoint)
    plain: dict[str, np.ndarray] = {}
    replaced = set(renamed.values())
    for name, array in tensors.items():
        new = renamed.get(name, name)
        if name in dropped or (name not in renamed and name in replaced and "bias" in name):
            continue  # a cell's own bias is what it was made with: the kernels read that of the packed weights
        if new in plain:
            raise WeightError(f"{name}: packed weights of {new}, of which there is another tensor")
        plain[new] = array
    note = ", ".join(renamed.get(name, name) for name in tensors if name in quantized)
    return plain, {new: old for old, new in renamed.items()}, f"{QUANTIZED}{note}" if note else ""


def _renamed(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], spec: Spec | None) -> dict[str, str]:
    """Name of a packed weight -> its name in the float module."""
    names: dict[str, str] = {}
    stacks: dict[str, dict[int, list[tuple[str, str]]]] = {}
    for name in tensors:
        if "_packed" not in name and "_all_weight_values" not in name:
            continue
        if match := _LINEAR.fullmatch(name):
            names[name] = match["module"] + _LEAVES[match["part"]]
        elif match := _EMBEDDING.fullmatch(name):
            names[name] = match["module"] + "weight"
        elif match := _CELL.fullmatch(name):
            names[name] = f"{match['module']}{match['part']}_{match['product']}"
        elif match := _STACK.fullmatch(name):
            stacks.setdefault(match["module"], {}).setdefault(int(match["place"]), []).append((name, match["part"]))
    for module, places in stacks.items():
        directions = _directions(module, places, tensors, metadata, spec)
        for place, parts in places.items():
            suffix = f"_l{place // directions}{'_reverse' if place % directions else ''}"
            names.update({name: f"{module}{part}{suffix}" for name, part in parts})
    return names


def _directions(
    module: str,
    places: Mapping[int, list[tuple[str, str]]],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    spec: Spec | None,
) -> int:
    """1 or 2: by what the module says, by the sizes of its weights, or by the Spec."""
    said = {"True": 2, "False": 1}.get(metadata.get(f"{module}bidirectional", ""))
    if said:
        return said
    weights: dict[str, dict[Any, Any]] = {part: {} for part in ("weight_ih", "weight_hh")}
    for place, parts in places.items():
        for name, part in parts:
            if part in weights and tensors[name].ndim == 2:
                weights[part][place] = tensors[name].shape[1]
    inputs, units = weights["weight_ih"], weights["weight_hh"].get(0)
    if sorted(inputs) != list(range(len(places))) or units is None:
        raise WeightError(f"{module}_all_weight_values: packed weights of places {sorted(places)}, expected all from 0")
    if len(inputs) == 1 or inputs[1] != inputs[0]:
        return 1
    if inputs[0] != units or (len(inputs) > 2 and inputs[2] == 2 * units):
        return 2
    if len(inputs) > 2:
        return 1
    nodes = [cast(Recurrent, node) for node in (spec.nodes if spec else ()) if _could_be(node, units)]
    wanted = {len(node.directions) for node in nodes}
    if len(wanted) != 1:
        raise WeightError(
            f"{module}_all_weight_values: two layers or two directions of {units} units with {units} inputs, the file "
            "does not say: give a spec with one of them, or save the whole module"
        )
    return wanted.pop()


def _could_be(node: object, units: int) -> bool:
    if not isinstance(node, Recurrent) or node.layers * len(node.directions) != 2:
        return False
    return node.cell.input_size == node.cell.hidden_size == units


def _observed(modules: set[str], checkpoint: Checkpoint) -> set[str]:
    """The scale and zero_point that modules of dynamic quantization have without using; refuses those that are used."""
    names = set()
    for module in modules:
        for leaf, unused in (("scale", 1.0), ("zero_point", 0)):
            name = f"{module}.{leaf}" if module else leaf
            array, text = checkpoint.tensors.get(name), checkpoint.metadata.get(name)
            if array is None and text is None:
                continue
            if (array is not None and not (array.size == 1 and array.item() == unused)) or (
                array is None and text not in ("1.0", "1", "0")
            ):
                shown = array.tolist() if array is not None and array.size == 1 else text
                raise UnsupportedError(
                    f"{name}: {shown}, so the outputs of {module or 'the module'} are quantized too (static "
                    "quantization), which is not read: expected the float module's state_dict, or an ONNX file"
                )
            if array is not None:
                names.add(name)
    return names
