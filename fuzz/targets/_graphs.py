"""Random graphs over all ops and cells, node by node: a node that is refused is left out, so that the rest is valid."""

from __future__ import annotations

import math
import random
from typing import Any

from draw import ODD_VALUES, Draw
from mutate import change_bytes

from rnncore.cells import GRU, LSTM, RNN
from rnncore.errors import RnncoreError
from rnncore.graph.nodes import AttentionDecoder, Control, Input, Node
from rnncore.graph.spec import Spec
from rnncore.ops import DTYPES, OPS, Value

__all__ = ["Graph", "drawn_graph", "mutate", "random_attributes", "random_operands", "seeds"]

NAMES = ("B", "T", "N")
MOST_ELEMENTS = 1 << 16  # of any one value whose size is known before the run
FLOAT, INT, BOOL = "float", "int64", "bool"

# The names that attributes choose from, of every op that has such an attribute.
CHOICES = {
    "auto_pad": ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
    "mode": ("constant", "reflect", "edge", "wrap", "nearest", "linear", "cubic", "DCR", "CRD"),
    "coordinate_transformation_mode": (
        *("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "tf_crop_and_resize"),
        "half_pixel_symmetric",
    ),
    "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
    "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
    "direction": ("forward", "reverse", "bidirectional", "LEFT", "RIGHT"),
    "reduction": ("none", "add", "mul", "max", "min"),
    "approximate": ("none", "tanh", "rational"),
    "score": ("dot", "general", "concat"),
    "score_mode": ("dot", "concat"),
    "round_mode": ("up", "down", "nearest"),
    "activation": (None, "Relu", "Tanh", "Sigmoid"),
    "empty_rows": ("zero", "uniform"),
    "equation": (
        "ij,jk->ik",
        "bij,bjk->bik",
        "ii->i",
        "...ij->...ji",
        "i,j",
        "ij->",
        "abc,cd->abd",
        "i...->...",
        "i->ii",
    ),
    "to": DTYPES,
    "dtype": DTYPES,
    "output_dtype": (None, *DTYPES),
    "type": ("Det", "GridSample", "Col2Im", "RoiAlign", "AffineGrid", "HannWindow", "CenterCropPad", "Attention"),
    "attributes": ("{}", '{"axis": 1}', '{"mode": "cubic"}', "[", '{"kernel_shape": [2, 2]}'),
    "outputs": ('[["float", ["?", "?"]]]', '[["float", [2]]]', "[]", '[["int64", ["B"]]]'),
}
CHOICES_OF = {
    ("Resize", "mode"): ("nearest", "linear", "cubic"),
    ("Upsample", "mode"): ("nearest", "linear"),
    ("Pad", "mode"): ("constant", "reflect", "edge", "wrap"),
    ("DepthToSpace", "mode"): ("DCR", "CRD"),
    ("BitShift", "direction"): ("LEFT", "RIGHT"),
}
BY_WINDOW = ("kernel_shape", "strides", "dilations")  # one number for each spatial axis
FLOATS = (
    "epsilon",
    "alpha",
    "beta",
    "gamma",
    "lambd",
    "bias",
    "cubic_coeff_a",
    "extrapolation_value",
    "clip",
    "momentum",
)
FLAGS = (
    *("keepdims", "noop_with_empty_axes", "exclusive", "reverse", "upper", "largest", "sorted", "transA", "transB"),
    *(
        "causal",
        "use_scale",
        "indices",
        "statistics",
        "inverse",
        "onesided",
        "ceil_mode",
        "count_include_pad",
        "antialias",
    ),
    *("exclude_outside", "storage_order", "select_last_index", "fmod", "allowzero", "saturate", "training_mode"),
)


def random_attributes(op: Any, draw: Draw, shape: tuple[int | str, ...]) -> dict[str, Any]:
    """Attributes for an op whose first input has this shape; odd ones now and then."""
    found = {}
    for name, default in op.attributes.items():
        if default is ... or draw.chance(3):
            found[name] = draw.pick(ODD_VALUES) if draw.chance(24) else _attribute(op.name, name, default, draw, shape)
    if not draw.chance(8):
        _make_fit(op.name, found, draw, shape)
    return found


def _attribute(op: str, name: str, default: Any, draw: Draw, shape: tuple[int | str, ...]) -> Any:
    rank = len(shape)
    windows = max(1, rank - 2) if not draw.chance(12) else draw.between(0, 5)
    if isinstance(default, bool):
        return bool(draw.below(2)) if not draw.chance(16) else draw.below(3)
    if (op, name) in CHOICES_OF:
        return draw.pick(CHOICES_OF[op, name])
    if name in CHOICES:
        return draw.pick(CHOICES[name])
    if name == "indices":
        return draw.integer() if draw.chance(3) else [draw.integer() for _ in range(draw.below(4))]
    if name in FLAGS:
        return draw.below(2) if not draw.chance(16) else draw.below(4)
    if name in FLOATS:
        return draw.pick((1.0, 0.5, 1e-5, 2, 0.0)) if not draw.chance(8) else draw.pick((-0.75, 1e30, -1))
    if name in BY_WINDOW:
        return [_window(draw) for _ in range(windows)]
    if name in ("pads", "output_padding", "output_shape"):
        count = {"pads": 2 * (rank if op == "Pad" else windows)}.get(name, windows)
        return [draw.integer() if draw.chance(16) else draw.below(3) for _ in range(count)]
    if name == "perm":
        order = list(range(rank))
        for at in range(rank - 1, 0, -1):
            other = draw.below(at + 1)
            order[at], order[other] = order[other], order[at]
        return order
    if name in ("axis", "batch_axis", "time_axis", "batch_dims", "k"):
        return draw.integer() if draw.chance(10) else draw.between(-rank, max(0, rank - 1))
    if name in ("input_size", "query_size", "memory_size", "value_size", "key_size"):
        return shape[-1] if rank and isinstance(shape[-1], int) else draw.between(1, 9)
    if name in ("group", "num_groups", "num_heads", "blocksize", "p", "num_outputs"):
        return draw.pick((1, 2, 1, 2, 3, 4, 1, draw.integer()))
    if name in ("shape", "repeats", "split", "starts", "ends", "steps", "sizes", "scales", "roi", "axes"):
        count = rank if not draw.chance(4) else draw.below(5)
        if name == "axes":
            return [draw.between(-rank, max(0, rank - 1)) for _ in range(min(count, 2))]
        if name == "scales":
            return [draw.pick((1.0, 2.0, 0.5, 1.5, 3)) if not draw.chance(12) else draw.integer() for _ in range(count)]
        return [draw.integer() if draw.chance(6) else draw.between(0, 4) for _ in range(count)]
    if name == "value":
        return draw.pick((0, 1, 1.5, True, [1.0, 2.0], "AACAPw=="))
    return draw.between(1, 9) if not draw.chance(8) else draw.integer()


def _make_fit(op: str, found: dict[str, Any], draw: Draw, shape: tuple[int | str, ...]) -> None:
    """Attributes that have to agree with each other do."""
    rank, channels = len(shape), shape[1] if len(shape) > 1 and isinstance(shape[1], int) else 1
    last = shape[-1] if shape and isinstance(shape[-1], int) else 4
    for name in ("stash_type", "storage_order", "antialias"):  # of which one value is supported
        found.pop(name, None)
    if op in ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv"):
        if "group" in found and (type(found["group"]) is not int or found["group"] < 1 or channels % found["group"]):
            found["group"] = draw.pick([size for size in range(1, channels + 1) if channels % size == 0])
        if "auto_pad" in found and found["auto_pad"] != "NOTSET":
            found.pop("pads", None)
        for name in ("input_size", "output_size"):
            found.pop(name, None)
        if op in ("Conv", "ConvTranspose") and draw.chance(3):
            found["input_size"], found["output_size"] = channels, found.get("group", 1) * draw.between(1, 3)
            found["kernel_shape"] = [_window(draw) for _ in range(max(1, rank - 2))]
    elif "Pool" in op and found.get("auto_pad", "NOTSET") != "NOTSET":
        found.pop("pads", None)
    elif op == "Slice":
        count = draw.between(1, max(1, min(rank, 3)))
        for name in ("starts", "ends", "steps", "axes"):
            found[name] = [draw.integer() if draw.chance(3) else draw.between(-3, 4) for _ in range(count)]
        found["axes"] = list(range(count)) if draw.chance(2) else None
        found["steps"] = [draw.pick((1, 2, -1, 3, -2)) for _ in range(count)] if draw.chance(2) else None
    elif op == "Split":
        found.pop("split", None)
        found["num_outputs"] = draw.between(1, 3)
    elif op == "Resize":
        found.pop("sizes" if draw.chance(2) else "scales", None)
        if "sizes" not in found and "scales" not in found:
            found["scales"] = [draw.pick((1.0, 2.0, 0.5, 1.5)) for _ in shape]
    elif op in ("DepthToSpace", "SpaceToDepth"):
        found["blocksize"] = draw.pick((2, 1, 2, 3))
    elif op == "MultiHeadAttention":
        found.update(query_size=last, num_heads=draw.between(1, 3), key_dim=draw.between(1, 4), value_size=3)
        found["key_size"] = draw.pick((None, 3))
    elif op in ("BahdanauAttention", "LuongAttention"):
        found.update(query_size=last, memory_size=draw.pick((last, 3)), attention_size=draw.between(1, 5))
        if op == "LuongAttention" and found["score"] != "concat":
            found["attention_size"], found["bias"] = None, False
    elif op == "WordAttention":
        found.update(input_size=last, attention_size=draw.between(1, 5))
    elif op == "DynamicQuantizeLSTM":
        found.pop("activations", None)
        found.update(hidden_size=3, direction=draw.pick(("forward", "reverse")))
    elif op == "EyeLike":
        found["dtype"] = draw.pick(("float", "int64", "bool"))


def _window(draw: Draw) -> int:
    return draw.integer() if draw.chance(10) else draw.between(1, 3)


def random_operands(op: Any, attributes: dict[str, Any], x: Value, draw: Draw) -> list[Value] | None:
    """Values of the other inputs; None if nothing in particular is known of the op."""
    shape, channels = x.shape, x.shape[1] if len(x.shape) > 1 else 1
    last = shape[-1] if shape else 1
    kernel = attributes.get("kernel_shape")
    kernel = tuple(kernel) if isinstance(kernel, list) else tuple(draw.between(1, 3) for _ in shape[2:])
    group = attributes.get("group") if type(attributes.get("group")) is int and attributes.get("group") > 0 else 1
    per_group = max(1, channels // group) if isinstance(channels, int) else channels
    out = group * draw.between(1, 3) if group < 64 else draw.between(1, 3)
    vector = Value(x.dtype, (channels,))
    width = draw.between(1, 9)
    memory = attributes.get("memory_size")
    memory = memory if type(memory) is int and 0 < memory < 99 else width
    scale, zero = Value(FLOAT, ()), Value("uint8", ())
    small = Value("int8", (last, width))
    batch, steps = (shape[0], shape[1]) if len(shape) > 1 else ("B", "T")
    known = {
        "Conv": [Value(x.dtype, (out, per_group, *kernel)), Value(x.dtype, (out,))],
        "ConvInteger": [Value("int8", (out, per_group, *kernel)), zero, Value("int8", ())],
        "ConvTranspose": [Value(x.dtype, (channels, draw.between(1, 3), *kernel))],
        "QLinearConv": [scale, zero, Value("int8", (out, per_group, *kernel)), scale, Value("int8", ()), scale, zero],
        "BatchNormalization": [vector] * 4,
        "InstanceNormalization": [vector] * 2,
        "GroupNormalization": [vector] * 2,
        "LayerNormalization": [Value(x.dtype, (last,))] * 2,
        "RMSNormalization": [Value(x.dtype, (last,))],
        "MatMul": [Value(x.dtype, (last, width))],
        "Gemm": [Value(x.dtype, (last, width)), Value(x.dtype, (width,))],
        "MatMulInteger": [small, zero, Value("int8", ())],
        "QLinearMatMul": [scale, zero, small, scale, Value("int8", ()), scale, zero],
        "DynamicQuantizeMatMul": [small, scale, Value("int8", ())],
        "MatMulIntegerToFloat": [small, scale, scale, zero, Value("int8", ())],
        "QuantizeLinear": [
            draw.pick((scale, Value(FLOAT, (channels,)))),
            draw.pick((zero, Value("uint8", (channels,)))),
        ],
        "DequantizeLinear": [draw.pick((scale, Value(FLOAT, (channels,))))],
        "PRelu": [draw.pick((x, Value(x.dtype, (last,)), Value(x.dtype, ())))],
        "Where": [x, x],
        "Gather": [Value(INT, tuple(draw.between(0, 3) for _ in range(draw.below(3))))],
        "GatherElements": [Value(INT, shape)],
        "GatherND": [Value(INT, (draw.between(1, 3), draw.between(1, max(1, len(shape)))))],
        "ScatterElements": [Value(INT, shape), x],
        "ScatterND": [Value(INT, (2, 1)), Value(x.dtype, (2, *shape[1:]))],
        "ReverseSequence": [Value(INT, (draw.pick(shape) if shape else 1,))],
        "OneHot": [Value(INT, ()), Value(FLOAT, (2,))],
        "Compress": [Value(BOOL, (draw.between(0, 5),))],
        "Range": [x, x],
        "BahdanauAttention": [Value(FLOAT, (batch, "N", memory)), Value(BOOL, (batch, "N"))],
        "LuongAttention": [Value(FLOAT, (batch, "N", memory)), Value(BOOL, (batch, "N"))],
        "WordAttention": [Value(BOOL, (batch, steps))],
        "KerasAttention": [Value(x.dtype, (batch, "N", last)), Value(x.dtype, (batch, "N", last))],
        "KerasAdditiveAttention": [Value(x.dtype, (batch, "N", last)), Value(x.dtype, (batch, "N", last))],
        "MultiHeadAttention": [Value(FLOAT, (batch, "N", 3)), Value(FLOAT, (batch, "N", 3)), Value(BOOL, (batch, "N"))],
        "DynamicQuantizeLSTM": [
            *(Value("int8", (1, last, 12)), Value("int8", (1, 3, 12)), Value(FLOAT, (1, 24)), Value("int32", (batch,))),
            *(Value(FLOAT, (1, batch, 3)), Value(FLOAT, (1, batch, 3)), None),
            *(Value(FLOAT, (1,)), Value("int8", (1,)), Value(FLOAT, (1,)), Value("int8", (1,))),
        ],
        "STFT": [Value(INT, ()), Value(FLOAT, (draw.between(1, 9),)), Value(INT, ())],
        "DFT": [Value(INT, ())],
        "Expand": [Value(INT, (draw.between(0, 5),))],
        "Reshape": [Value(INT, (draw.between(0, 5),))],
        "Tile": [Value(INT, (len(shape),))],
        "Pad": [Value(INT, (2 * len(shape),)), Value(x.dtype, ())],
        "Slice": [Value(INT, (draw.between(0, 2),)) for _ in range(4)],
        "TopK": [Value(INT, (1,))],
        "Resize": [Value(FLOAT, (0,)), Value(FLOAT, (len(shape),)), Value(INT, (len(shape),))],
        "Upsample": [Value(FLOAT, (len(shape),))],
        "Trilu": [Value(INT, ())],
        "CumSum": [Value("int32", ())],
    }
    if op.name in known:
        return known[op.name]
    if op.name in ("Unsqueeze", "Squeeze", "Split") or op.name.startswith("Reduce"):
        return [Value(INT, (draw.between(0, 3),))]
    return None


class Graph:
    """Inputs and nodes that were accepted so far, with what is known of their values."""

    def __init__(self, draw: Draw, prefix: str = ""):
        self.draw, self.prefix = draw, prefix
        self.inputs: list[Input] = []
        self.nodes: list[Any] = []
        self.values: dict[str, Value] = {}
        self.sizes = {name: draw.pick((2, 1, 3, 5, 0, 8, 17)) for name in NAMES}
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"{self.prefix}{self._count}"

    def add_input(self, dtype: str | None = None, shape: tuple[int | str, ...] | None = None) -> str:
        """A new input; without a shape of rank 0 to 6, or sometimes 64."""
        draw = self.draw
        if shape is None:
            rank = draw.pick((3, 4, 2, 1, 3, 5, 4, 0, 6)) if not draw.chance(20) else draw.between(0, 64)
            shape = tuple(
                draw.pick(NAMES) if draw.chance(4) else (draw.between(1, 4) if rank < 7 else 1 + draw.chance(8))
                for _ in range(rank)
            )
        dtype = dtype or (FLOAT if not draw.chance(4) else draw.pick(DTYPES))
        entry = Input(self.name(), dtype, shape)
        self.inputs.append(entry)
        self.values[entry.name] = entry.value
        return entry.name

    def spatial(self) -> str:
        """A float value (N, C, spatial sizes): one that is there, or a new one of up to 64 axes."""
        fitting = [name for name, value in self.values.items() if value.dtype == FLOAT and 3 <= len(value.shape) <= 64]
        if fitting and self.draw.chance(2):
            return self.draw.pick(fitting)
        if self.draw.chance(16):
            return self.add_input(FLOAT, (1, 1, *(1 + self.draw.chance(8) for _ in range(self.draw.between(5, 62)))))
        axes = self.draw.pick((1, 2, 1, 2, 3, 4))
        sizes = [self.draw.pick(("T", "N")) if self.draw.chance(4) else self.draw.between(1, 9) for _ in range(axes)]
        return self.add_input(FLOAT, (self.draw.pick(("B", 1, 2)), self.draw.between(1, 6), *sizes))

    def some(self, dtype: str | None = None) -> str:
        """A value that is there, of this dtype if there is one, late ones more often; or a new input."""
        fitting = [name for name, value in self.values.items() if dtype is None or value.dtype == dtype]
        if not fitting or self.draw.chance(8):
            return self.add_input(dtype)
        return fitting[-1 - self.draw.below(min(len(fitting), 4))] if self.draw.chance(2) else self.draw.pick(fitting)

    def like(self, value: Value) -> str:
        """A value of this dtype and shape, or sometimes another one."""
        if self.draw.chance(20):
            return self.some()
        for name, other in self.values.items():
            if (other.dtype, other.shape) == (value.dtype, value.shape) and self.draw.chance(2):
                return name
        return self.add_input(value.dtype, value.shape)

    def try_node(self, node: Any) -> bool:
        """Add the node, unless it is refused or its values may be large."""
        try:
            if any(name not in self.values for name in node.reads):
                return False
            found = node.infer(self.values)
            weights = sum(math.prod(shape) for shape in node.weight_shapes().values())
        except RnncoreError:
            return False
        if weights > MOST_ELEMENTS or any(self.elements(value) > MOST_ELEMENTS for value in found.values()):
            return False
        if any(name in self.values for name in found):
            return False
        self.nodes.append(node)
        self.values.update(found)
        return True

    def elements(self, value: Value) -> int:
        """How many elements a value has in the run, where that is known; sizes that are not count as 8."""
        return math.prod(size if isinstance(size, int) else self.sizes.get(size, 8) for size in value.shape)

    def add(self, op_name: str | None = None) -> bool:
        """One more node, of any op or kind: whether it was accepted."""
        draw = self.draw
        if op_name is None:
            kind = draw.below(24)
            if kind == 23:
                return self._add_recurrent()
            if kind == 22:
                return self._add_control()
            if kind == 21:
                return self._add_decoder()
        op = OPS[op_name or draw.pick(OPS_BY_NAME)]
        least, most = op.arity
        wanted = FIRST.get(op.name)
        if op.name in WINDOWED and not draw.chance(8):
            inputs = [self.spatial()]
        else:
            inputs = [self.like(wanted) if wanted else self.some(FLOAT if draw.chance(2) else None)] if most else []
        x = self.values[inputs[0]] if inputs else Value(FLOAT, ())
        try:
            attributes = random_attributes(op, draw, x.shape)
            operands = random_operands(op, attributes, x, draw)
            count = min(most, max(least, 1) + (draw.below(3) if draw.chance(2) else 0))
            if op.name in ("Conv", "ConvTranspose"):  # with weights of the node's own, or as inputs
                count = 1 if "input_size" in attributes else draw.between(2, 3)
            for place in range(1, count):
                if operands is not None and place <= len(operands):
                    inputs.append("" if operands[place - 1] is None else self.like(operands[place - 1]))
                elif place in op.optional and draw.chance(2):
                    inputs.append("")
                else:
                    inputs.append(self.like(x) if not draw.chance(4) else self.some())
            node = Node(self.name(), op.name, tuple(inputs), attributes)
        except RnncoreError:
            return False
        return self.try_node(node)

    def _add_recurrent(self) -> bool:
        from random_networks import random_recurrent

        draw = self.draw
        rank3 = [name for name, value in self.values.items() if value.dtype == FLOAT and len(value.shape) == 3]
        read = draw.pick(rank3) if rank3 else self.add_input(FLOAT, ("B", "T", draw.between(1, 9)))
        size = self.values[read].shape[2]
        if not isinstance(size, int) or not 0 < size <= 40:
            return False
        try:
            node, states = random_recurrent(
                draw.rng(), self.name(), read, size, draw.pick(("batch_first", "time_first"))
            )
        except RnncoreError:
            return False
        if node.initial:
            batch = self.values[read].shape[0 if node.layout == "batch_first" else 1]
            for entry, shape in zip(states, node.state_shapes(batch).values(), strict=True):
                self.inputs.append(Input(entry.name, FLOAT, shape))
                self.values[entry.name] = self.inputs[-1].value
        if node.lengths and "lengths" not in self.values:
            self.inputs.append(Input("lengths", INT, ("B",), optional=True))
            self.values["lengths"] = self.inputs[-1].value
        return self.try_node(node)

    def _add_decoder(self) -> bool:
        draw = self.draw
        hidden, memory = draw.between(1, 9), draw.between(1, 9)
        order = draw.pick(("before", "after"))
        x, kept = self.add_input(FLOAT, ("B", "T", 3)), self.add_input(FLOAT, ("B", "N", memory))
        try:
            cell = draw.pick((LSTM, GRU, RNN))(3 + memory, hidden)
            node = AttentionDecoder(
                self.name(), cell, x, kept, memory, draw.pick(("bahdanau", "general", "dot", "concat")),
                attention_size=draw.pick((None, 4)), order=order, layers=draw.between(1, 2),
                memory_mask=draw.pick((None, self.add_input(BOOL, ("B", "N")))),
            )  # fmt: skip
        except RnncoreError:
            return False
        return self.try_node(node)

    def _add_control(self) -> bool:
        """An If, Loop or Scan around a small graph of its own."""
        draw = self.draw
        if self.prefix.count("s") >= 2:
            return False
        state = self.some(FLOAT)
        value = self.values[state]
        try:
            if draw.chance(2):
                inner = [self._branch([value], draw.between(1, 3)) for _ in range(2)]
                branches = [Spec(g.inputs, g.nodes, [g.last(value)]) for g in inner]
                names = tuple(entry.name for entry in branches[0].inputs)
                pairs = zip(branches[0].inputs, branches[1].inputs, strict=False)
                renamed = [Input(a.name, b.dtype, b.shape) for a, b in pairs]
                branches[1] = Spec(renamed, branches[1].nodes, branches[1].outputs)
                node = Control(self.name(), "If", (self.add_input(BOOL, ()), state), branches, names[:1])
            elif draw.chance(2):
                graph = self._branch([Value(INT, ()), Value(BOOL, ()), value], draw.between(1, 3))
                names = [entry.name for entry in graph.inputs]
                body = Spec(
                    graph.inputs, graph.nodes, [names[1], graph.last(value), *graph.values][: 2 + draw.below(2)]
                )
                trip = self.add_input(INT, ())
                node = Control(self.name(), "Loop", (trip, "", state), [body])
            else:
                graph = self._branch([value, Value(FLOAT, ("N",))], draw.between(1, 3))
                body = Spec(graph.inputs, graph.nodes, [graph.last(value), *graph.values][: 1 + draw.below(2)])
                node = Control(self.name(), "Scan", (state, self.add_input(FLOAT, ("T", "N"))), [body], sequences=1)
        except RnncoreError:
            return False
        return self.try_node(node)

    def _branch(self, given: list[Value], nodes: int) -> Graph:
        """A graph with inputs of these values and ``nodes`` tries of a node, none of which adds inputs."""
        inner = Graph(self.draw, self.prefix + "s")
        inner.sizes = self.sizes
        for value in given:
            inner.add_input(value.dtype, value.shape)
        for _ in range(nodes):
            before = len(inner.inputs)
            kept = dict(inner.values)
            if not inner.add() or len(inner.inputs) > before:
                while len(inner.inputs) > before:
                    inner.inputs.pop()
                if inner.nodes and set(inner.nodes[-1].names if hasattr(inner.nodes[-1], "names") else ()) - set(kept):
                    inner.nodes.pop()
                inner.values = kept
        return inner

    def last(self, like: Value) -> str:
        """The last value that is like this one, or an input."""
        return next(
            name
            for name, value in reversed(self.values.items())
            if (value.dtype, value.shape) == (like.dtype, like.shape)
        )

    def spec(self) -> Spec | None:
        """All that was accepted; every value that nothing reads is an output."""
        if not self.nodes:
            return None
        read = {name for node in self.nodes for name in node.reads}
        optional = {entry.name for entry in self.inputs if entry.optional}
        given = {entry.name for entry in self.inputs}
        outputs = [name for name in self.values if name not in read and name not in given and name not in optional]
        return Spec(self.inputs, self.nodes, outputs or [next(iter(self.nodes)).name])


def drawn_graph(draw: Draw, most: int) -> Graph:
    """A graph of an input and up to ``most`` tries of a node."""
    graph = Graph(draw)
    graph.add_input()
    for _ in range(draw.between(1, most)):
        graph.add()
    return graph


def seeds() -> list[bytes]:
    """Choices for 64 graphs."""
    return [random.Random(seed).randbytes(600) for seed in range(64)]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Half the time new choices, else some of the given ones changed."""
    return rng.randbytes(rng.randrange(100, 1200)) if rng.random() < 0.5 else change_bytes(data, rng)


WINDOWED = (
    *(
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "LpPool",
        "GlobalMaxPool",
        "GlobalAveragePool",
        "GlobalLpPool",
    ),
    *("LRN", "InstanceNormalization", "BatchNormalization", "MeanVarianceNormalization", "Resize", "Upsample", "Pad"),
)
OPS_BY_NAME = tuple(sorted(OPS))
FIRST = {
    **dict.fromkeys(("BahdanauAttention", "LuongAttention", "WordAttention"), Value(FLOAT, ("B", "T", 4))),
    **dict.fromkeys(("MultiHeadAttention", "KerasAttention", "KerasAdditiveAttention"), Value(FLOAT, ("B", "T", 4))),
    "DepthToSpace": Value(FLOAT, ("B", 4, 2, 3)),
    "SpaceToDepth": Value(FLOAT, ("B", 2, 4, 6)),
    "GroupNormalization": Value(FLOAT, ("B", 4, "T")),
    "DynamicQuantizeLSTM": Value(FLOAT, ("T", "B", 4)),
    "EyeLike": Value(FLOAT, ("B", 3)),
    "Where": Value(BOOL, (2, 3)),
    "Embedding": Value(INT, ("B", "T")),
    "MatMulInteger": Value("uint8", ("B", 4)),
    "ConvInteger": Value("uint8", ("B", 2, 5)),
    "QLinearConv": Value("uint8", ("B", 2, 5)),
    "QLinearMatMul": Value("uint8", ("B", 4)),
    "MatMulIntegerToFloat": Value("uint8", ("B", 4)),
    "DequantizeLinear": Value("uint8", ("B", 4)),
    "OneHot": Value(INT, ("B",)),
    "Range": Value(INT, ()),
    "STFT": Value(FLOAT, ("B", 40, 1)),
    "DFT": Value(FLOAT, ("B", 16, 1)),
    "BitShift": Value("uint8", ("B", 4)),
    "BitwiseAnd": Value("int32", ("B", 4)),
    "BitwiseOr": Value("int32", ("B", 4)),
    "BitwiseXor": Value("int32", ("B", 4)),
    "BitwiseNot": Value("int32", ("B", 4)),
    "And": Value(BOOL, ("B", 4)),
    "Or": Value(BOOL, ("B", 4)),
    "Xor": Value(BOOL, ("B", 4)),
    "Not": Value(BOOL, ("B", 4)),
    "Einsum": Value(FLOAT, (3, 3)),
    "ConstantOfShape": Value(INT, (2,)),
}
"""The first input of ops that seldom take just any."""
