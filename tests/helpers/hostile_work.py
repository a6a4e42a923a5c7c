"""Small files that ask for much work or memory, each with the argument what it abuses; and large honest ones.

``CASES`` maps a name to a Case: a file that must be refused with ``error`` whose message contains ``says``, or one that
must load (what it asks for then is a matter of its run, which a Budget bounds), within seconds and mebibytes beside
what it declares. Most are an op or a way to name a thing again, times the formats that have it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hostile_files import mapping, npy, safetensors_of, storage, zip_member, zip_of
from hostile_files import tensor as torch_tensor
from hostile_keras import DENSE, FIRST, functional, hdf5
from hostile_onnx import FLOAT, INT64, constant, external, graph_of, model_of, node, value
from onnx import TensorProto, helper

from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import LSTM
from rnncore.errors import FormatError, RnncoreError, SpecError, WeightError
from rnncore.formats import native


@dataclass(frozen=True)
class Case:
    """build gives the bytes, or writes more beside the file itself when it takes its directory.

    options   of rnncore.load
    either    may be refused instead of loaded, with any of our errors: what is supported changes
    folds     its run is beyond any sensible budget, where it was not folded
    declared  bytes that the file says it has, beside which memory is measured
    """

    name: str
    why: str
    build: Callable[[Path], bytes]
    suffix: str
    error: type[RnncoreError] | None = None
    says: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    either: bool = False
    folds: bool = False
    declared: int = 0


CASES: dict[str, Case] = {}


def add(name: str, why: str, build: Callable[[Path], Any], suffix: str, error=None, says: str = "", **more) -> None:
    def built(directory: Path) -> bytes:
        model = build(directory)
        return model if isinstance(model, bytes) else model.SerializeToString()

    CASES[name] = Case(name, why, built, suffix, error, says, **more)


def write(case: Case, directory: Path) -> Path:
    own = Path(directory) / case.name
    own.mkdir(exist_ok=True)
    path = own / f"model{case.suffix}"
    path.write_bytes(case.build(own))
    return path


# ---- constants whose folding would take minutes --------------------------------------------------------------------

ONE = np.float32(1)


def filled(wanted: str, *shape: int, kind=FLOAT, number=1):
    """A value of any size from a few bytes, and the constant that says so."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    fill = helper.make_node("ConstantOfShape", [f"{wanted}.shape"], [wanted],
                            value=constant("value", np.array([number], dtype)))  # fmt: skip
    return fill, constant(f"{wanted}.shape", np.array(shape, np.int64))


def folding(op: str, *values, outputs: str = "big", **attributes):
    """x -> Relu(x), beside a constant of an op on filled values and small constants."""

    def build(_: Path):
        nodes, constants, names = [], [], []
        for place, given in enumerate(values):
            names.append(f"v{place}")
            if isinstance(given, tuple):
                shape, kind, number = (*given, FLOAT, 1)[:3] if isinstance(given[0], tuple) else (given, FLOAT, 1)
                made, says = filled(f"v{place}", *shape, kind=kind, number=number)
                nodes.append(made)
                constants.append(says)
            elif given is None:
                names[-1] = ""
            else:
                constants.append(constant(f"v{place}", given))
        nodes.append(helper.make_node(op, names, outputs.split(), **attributes))
        small = helper.make_node("ReduceMax", [outputs.split()[0]], ["folded"], keepdims=0)
        cast = helper.make_node("Cast", ["folded"], ["z"], to=FLOAT)
        return model_of(
            *nodes, small, cast, node("Relu", "x"), constants=constants, outputs=[value("y", None), value("z", None)]
        )

    return build


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


WIDE = (1, 64, 1 << 17)
U8, I64, BOOL = TensorProto.UINT8, TensorProto.INT64, TensorProto.BOOL
FOLDS = {
    "maxpool_window": (folding("MaxPool", WIDE, kernel_shape=[1 << 16]), "a window of 65,536 at four million places"),
    "maxpool_places": (folding("MaxPool", WIDE, outputs="big where", kernel_shape=[1 << 15]), "the same with places"),
    "averagepool_window": (folding("AveragePool", WIDE, kernel_shape=[1 << 16]), "a mean over 65,536"),
    "averagepool_pads": (
        folding("AveragePool", (1, 1, 8), kernel_shape=[1 << 24], pads=[(1 << 24) - 1] * 2),
        "a window far beyond the image, whose padding is made first",
    ),
    "lppool_window": (folding("LpPool", WIDE, kernel_shape=[1 << 16]), "powers of 65,536"),
    "maxpool_square": (folding("MaxPool", (1, 1, 700, 700), kernel_shape=[350, 350]), "two axes of 350"),
    "lrn_size": (folding("LRN", (1, 4, 300, 300), size=(1 << 31) - 1), "a window of 2^31 - 1 channels"),
    "lrn_channels": (folding("LRN", (1, 20_000, 2), size=20_001), "a window of as many channels as there are"),
    "conv": (folding("Conv", (1, 64, 999), (64, 64, 500)), "a kernel half as long as the signal"),
    "convtranspose": (folding("ConvTranspose", (1, 64, 999), (64, 64, 500)), "the same the other way round"),
    "convinteger": (folding("ConvInteger", ((1, 64, 999), U8), ((64, 64, 500), U8)), "the same of bytes"),
    "matmul": (folding("MatMul", (4000, 4000), (4000, 4000)), "64,000,000,000 multiplications from two shapes"),
    "matmul_batch": (folding("MatMul", (500, 300, 300), (500, 300, 300)), "500 products of 300"),
    "gemm": (folding("Gemm", (4000, 4000), (4000, 4000), transA=1, transB=1), "a product of transposes"),
    "matmulinteger": (folding("MatMulInteger", ((3000, 3000), U8), ((3000, 3000), U8)), "a product of bytes"),
    "einsum": (folding("Einsum", (99,), (99,), (99,), (99,), (99,), equation="a,b,c,d,e->"), "a sum over five axes"),
    "einsum_diagonal": (folding("Einsum", (3000, 3000), (3000, 3000), equation="ij,jk->"), "a sum of a product"),
    "dft_length": (folding("DFT", (64, 8, 1), ints(1 << 24), axis=1), "eight numbers, padded to 2^24, 64 times"),
    "stft_frames": (
        folding("STFT", (1, 1 << 17, 1), ints(1), None, ints(1 << 16)), "a frame of 65,536 at each of 65,536 steps"),
    "cumsum": (folding("CumSum", (1 << 27,), ints(0)), "half a gigabyte, summed up"),
    "topk": (folding("TopK", (1 << 25,), ints(1 << 24), outputs="big where"), "the 2^24 largest of 2^25"),
    "unique": (folding("Unique", (1 << 26,)), "a sort of 2^26"),
    "nonzero": (folding("NonZero", (1 << 25,)), "the places of 2^25"),
    "resize": (
        folding("Resize", (1, 1, 9, 9), None, np.array([1, 1, 999, 999], np.float32), mode="cubic"),
        "nine pixels as nine thousand",
    ),
    "tile": (folding("Tile", (99, 99), ints(99, 99)), "a hundred megapixels from a tile"),
    "expand": (folding("Expand", ONE, ints(9999, 9999)), "one number as a hundred million"),
    "pad": (folding("Pad", (9, 9), ints(4999, 4999, 4999, 4999)), "a frame of ten thousand"),
    "range": (folding("Range", ints(0)[0], ints(1 << 27)[0], ints(1)[0]), "a list of 2^27 from three numbers"),
    "eyelike": (folding("EyeLike", (9999, 9999)), "a unit matrix of ten thousand"),
    "onehot": (folding("OneHot", ((9999,), I64), ints(9999)[0], np.array([0, 1], np.float32)), "a row of 9,999 each"),
    "gather": (folding("Gather", (9, 9999), ((9999,), I64)), "a row again and again"),
    "gathernd": (folding("GatherND", (9, 9999), ((9999, 1), I64)), "the same by GatherND"),
    "scatternd": (folding("ScatterND", (9, 9999), ((9999, 1), I64), (9999, 9999), reduction="add"), "sums into a row"),
    "trilu": (folding("Trilu", (9999, 9999)), "half of a hundred million"),
    "where": (folding("Where", ((9999, 1), BOOL), (1, 9999), (9999, 1)), "a choice that spreads"),
    "softmax": (folding("Softmax", (9999, 9999)), "a hundred million exponentials"),
    "erf": (folding("Erf", (9999, 9999)), "a function that is slow for each"),
    "layernorm": (folding("LayerNormalization", (9999, 9999), (9999,)), "a hundred million, normalized"),
    "reversesequence": (folding("ReverseSequence", (9999, 9999), ((9999,), I64)), "a row at a time in Python"),
    "attention": (
        folding("Attention", (1, 1 << 14, 8), (1, 1 << 14, 8), (1, 1 << 14, 8), q_num_heads=1, kv_num_heads=1),
        "2^28 scores by onnx.reference",
    ),
    "det": (folding("Det", (3000, 3000)), "a determinant of 3,000"),
    "dets": (folding("Det", (1 << 20, 2, 2)), "a million determinants, one by one in Python"),
    "col2im": (folding("Col2Im", (1, 9, 4), ints(1 << 14, 1 << 14), ints(3, 3)), "an image of 2^28 from 36 numbers"),
    "gridsample": (folding("GridSample", (1, 1, 9, 9), (1, 2000, 2000, 2)), "four million pixels, each in Python"),
    "roialign": (
        folding("RoiAlign", (1, 1, 999, 999), (9, 4), ((9,), I64, 0), output_height=999, output_width=999),
        "ten million samples in Python",
    ),
    "nms": (folding("NonMaxSuppression", (1, 9999, 4), (1, 1, 9999), ints(9999)), "each box with each other"),
    "melweights": (
        folding("MelWeightMatrix", ints(999)[0], ints(1 << 24)[0], ints(16_000)[0], ONE, np.float32(7999)),
        "a matrix of 999 by 8 million",
    ),
    "window": (folding("HannWindow", ints(1 << 27)[0]), "a window of 2^27"),
    "deform": (
        folding("DeformConv", (1, 1, 400, 400), (1, 1, 9, 9), (1, 162, 392, 392)), "a kernel whose taps are moved"),
    "rotary": (folding("RotaryEmbedding", (1, 99, 9999, 8), (9999, 4), (9999, 4)), "eight million, turned"),
}  # fmt: skip
for _name, (_build, _why) in FOLDS.items():
    add(
        f"fold_{_name}", f"a constant that costs minutes or gigabytes: {_why}", _build, ".onnx", either=True, folds=True
    )


def fold_many(_: Path):
    """Each small enough, together too much: a budget for each node would allow them all."""
    made, says = filled("v", 1 << 19)
    nodes = [made, *(helper.make_node("Exp", ["v"], [f"e{i}"]) for i in range(2000))]
    nodes += [helper.make_node("Add", ["x", f"e{i}"], [f"y{i}"]) for i in range(2000)]
    return model_of(
        *nodes, inputs=[value("x", ())], constants=[says], outputs=[value("y0", None), value("y1999", None)]
    )


add("fold_many", "2,000 constants of half a million each", fold_many, ".onnx")


def native_of(spec: dict[str, Any], tensors: dict[str, np.ndarray] | None = None) -> bytes:
    header: dict[str, Any] = {"__metadata__": {native.KEY: json.dumps({"format": 1, "spec": spec})}}
    data = b""
    for key, array in (tensors or {}).items():
        shape, begin = list(array.shape), len(data)
        data += array.tobytes()
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    return safetensors_of(header, data)


# ---- weights that are named again and again ------------------------------------------------------------------------

SQUARE = np.zeros((512, 512), np.float32)  # 1 MiB


def shared_products(_: Path):
    nodes = [helper.make_node("MatMul", [f"n{i - 1}" if i else "x", "w"], [f"n{i}"]) for i in range(2000)]
    return model_of(
        *nodes, inputs=[value("x", ("B", 512))], outputs=[value("n1999", None)], constants=[constant("w", SQUARE)]
    )


def scaled_products(_: Path):
    nodes = [helper.make_node("Gemm", ["x", "w"], [f"n{i}"], alpha=1.0 + i) for i in range(500)]
    outputs = [value(f"n{i}", None) for i in range(500)]
    return model_of(*nodes, inputs=[value("x", ("B", 512))], outputs=outputs, constants=[constant("w", SQUARE)])


def shared_layers(_: Path):
    weights = [constant("w", np.zeros((1, 512, 128), np.float32)), constant("r", np.zeros((1, 512, 128), np.float32))]
    nodes = []
    for i in range(500):
        nodes.append(helper.make_node("LSTM", [f"s{i - 1}" if i else "x", "w", "r"], [f"n{i}"], hidden_size=128))
        nodes.append(helper.make_node("Squeeze", [f"n{i}", "one"], [f"q{i}"]))
        nodes.append(helper.make_node("Relu", [f"q{i}"], [f"s{i}"]))
    return model_of(
        *nodes, inputs=[value("x", ("T", "B", 128))], outputs=[value("s499", None)],
        constants=[*weights, constant("one", ints(1))],
    )  # fmt: skip


def shared_in_branches(_: Path):
    def branch(op: str, i: int):
        inner = helper.make_node(op, [f"n{i - 1}" if i else "x", "w"], ["o"])
        return graph_of(inner, inputs=[], outputs=[value("o", None)], name="branch")

    nodes = [
        helper.make_node("If", ["c"], [f"n{i}"], then_branch=branch("MatMul", i), else_branch=branch("MatMul", i))
        for i in range(150)
    ]
    return model_of(
        *nodes, inputs=[value("x", ("B", 512)), value("c", (), BOOL)], outputs=[value("n149", None)],
        constants=[constant("w", SQUARE)],
    )  # fmt: skip


def shared_convolutions(_: Path):
    nodes, channel = [], np.full(64, 2, np.float32)
    for i in range(300):
        nodes.append(helper.make_node("Conv", ["x", "w"], [f"c{i}"]))
        nodes.append(helper.make_node("BatchNormalization", [f"c{i}", *["p"] * 4], [f"n{i}"]))
    return model_of(
        *nodes, inputs=[value("x", ("B", 64, "T"))], outputs=[value(f"n{i}", None) for i in range(300)],
        constants=[constant("w", np.zeros((64, 64, 64), np.float32)), constant("p", channel)],
    )  # fmt: skip


def external_again(count: int, step: int):
    def build(directory: Path):
        (directory / "w.bin").write_bytes(bytes(2 << 20))
        tensors = []
        for i in range(count):
            one = external("w.bin", offset=str(step * i), length=str(1 << 20))
            one.name, one.dims[:] = f"w{i}", [1 << 18]
            tensors.append(one)
        nodes = [helper.make_node("Add", [f"n{i - 1}" if i else "x", f"w{i}"], [f"n{i}"]) for i in range(count)]
        inputs, outputs = [value("x", ("B", 1 << 18))], [value(f"n{count - 1}", None)]
        return model_of(*nodes, inputs=inputs, outputs=outputs, constants=tensors)

    return build


def function_of(nodes: list, name: str = "f", inputs=("a",), outputs=("b",)):
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, list(inputs), list(outputs), nodes, opsets)


def called(count: int, *functions, name: str = "f", width=512):
    calls = [helper.make_node(name, [f"n{i - 1}" if i else "x"], [f"n{i}"], domain="own") for i in range(count)]
    return model_of(
        *calls, inputs=[value("x", ("B", width))], outputs=[value(f"n{count - 1}", None)], functions=functions
    )


def function_constants(_: Path):
    w = helper.make_node("Constant", [], ["w"], value=constant("w", SQUARE))
    return called(1500, function_of([w, node("MatMul", "a w", "b")]))


def function_branches(_: Path):
    def branch(name):
        graph = graph_of(
            node("MatMul", "a w", "o"), inputs=[], outputs=[value("o", None)], constants=[constant("w", SQUARE)]
        )
        graph.name = name
        return graph

    zero = helper.make_node("ReduceMax", ["a"], ["m"], keepdims=0)
    cast = helper.make_node("Cast", ["m"], ["c"], to=BOOL)
    chosen = helper.make_node("If", ["c"], ["b"], then_branch=branch("then"), else_branch=branch("else"))
    return called(60, function_of([zero, cast, chosen]))


def function_explosion(_: Path):
    """Three levels of a thousand calls, at the bottom of which there is nothing at all."""
    bottom = function_of([node("Identity", "a", "b")], "f0")
    levels = [bottom]
    for level in range(1, 4):
        calls = [
            helper.make_node(f"f{level - 1}", [f"v{i - 1}" if i else "a"], [f"v{i}" if i < 999 else "b"], domain="own")
            for i in range(1000)
        ]
        levels.append(function_of(calls, f"f{level}"))
    return called(1, *levels, name="f3", width=3)


for _name, _why, _build, _says, _declared in (
    ("products", "one matrix of 1 MiB, named by 2,000 products", shared_products, "", 1),
    ("scaled", "the same in 500 sizes: a copy each", scaled_products, "too many bytes of weights", 1),
    ("layers", "one LSTM's weights, named by 500", shared_layers, "", 1),
    ("branches", "one matrix in the branches of 150 Ifs", shared_in_branches, "", 1),
    ("convolutions", "one kernel before 300 normalizations, which would each be folded", shared_convolutions, "", 1),
    ("external", "one megabyte of a file beside, named 400 times", external_again(400, 0), "", 2),
    ("overlaps", "400 megabytes of a file of 2, a number further each time", external_again(400, 4),
     "again and again", 2),
    ("constants", "a function with a constant of 1 MiB, called 1,500 times", function_constants, "", 1),
    ("graphs", "a function with two graphs of 1 MiB each, called 60 times", function_branches, "", 2),
    ("explosion", "a thousand calls of a thousand calls of a thousand calls", function_explosion, "too many nodes", 0),
):  # fmt: skip
    add(
        f"shared_{_name}", _why, _build, ".onnx", FormatError if _says else None, _says, declared=_declared << 20,
    )  # fmt: skip


def growing_loop(count: int, depth: int = 1):
    """Carried values that hand on what the first gains: each round finds one more size that changes."""

    def body(level: int):
        names = [f"c{i}" for i in range(count)]
        nodes = [
            helper.make_node("Concat", ["c0", "c0"], ["o0"], axis=0),
            *(helper.make_node("Identity", [f"c{i - 1}"], [f"o{i}"]) for i in range(1, count)),
            helper.make_node("Identity", ["going"], ["goes"]),
        ]
        if level > 1:
            nodes.append(helper.make_node("Loop", ["i", "going", *names], [f"l{i}" for i in range(count)],
                                          body=body(level - 1)))  # fmt: skip
        return helper.make_graph(
            nodes, f"body{level}",
            [value("i", (), INT64), value("going", (), BOOL), *(value(one, None) for one in names)],
            [value("goes", (), BOOL), *(value(f"o{i}", None) for i in range(count))],
        )  # fmt: skip

    def build(_: Path):
        loop = helper.make_node("Loop", ["n", "", *["x"] * count], [f"y{i}" for i in range(count)], body=body(depth))
        return model_of(
            loop,
            inputs=[value("x", (2, 3))],
            outputs=[value(f"y{count - 1}", None)],
            constants=[constant("n", ints(3)[0])],
        )  # fmt: skip

    return build


add("loop_carried", "200 carried values, each a round behind the one before", growing_loop(200), ".onnx", either=True)
add("loop_nested", "four loops in each other, each settled in each round", growing_loop(40, 4), ".onnx", either=True)
add("loop_many", "1,000 carried values", growing_loop(1000), ".onnx", either=True)


# ---- torch, numpy --------------------------------------------------------------------------------------------------

HIDDEN = 256


def lstm_weights(layers: int, view: Callable[[int, int, tuple[int, ...]], bytes]) -> bytes:
    parts = {}
    for layer in range(layers):
        for place, (key, shape) in enumerate(
            [("weight_ih", (4 * HIDDEN, HIDDEN)), ("weight_hh", (4 * HIDDEN, HIDDEN)), ("bias_ih", (4 * HIDDEN,)),
             ("bias_hh", (4 * HIDDEN,))]
        ):  # fmt: skip
            parts[f"{key}_l{layer}"] = view(layer, place, shape)
    return mapping(**parts)


NUMEL = 4 * HIDDEN * HIDDEN * 2


def zipped(body: bytes, storages: dict[str, bytes]) -> bytes:
    """torch's archive with deflated storages."""
    members = [zip_member("a/data.pkl", b"\x80\x02" + body + b"."), zip_member("a/version", b"3\n")]
    return zip_of(*members, *(zip_member(f"a/data/{key}", data, method=8) for key, data in storages.items()))


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[1], 1) if len(shape) == 2 else (1,)


def tied(layers: int):
    def build(_: Path) -> bytes:
        body = lstm_weights(
            layers, lambda layer, place, shape: torch_tensor(storage(numel=NUMEL), 0, shape, strides_of(shape))
        )
        return zipped(body, {"0": bytes(4 * NUMEL)})

    return build


def shifted(_: Path) -> bytes:
    body = lstm_weights(
        200, lambda layer, place, shape: torch_tensor(storage(numel=NUMEL), 7 * layer + place, shape, strides_of(shape))
    )
    return zipped(body, {"0": bytes(4 * NUMEL)})


def expanded(_: Path) -> bytes:
    """Stride 0 is caught by the number of elements; here the strides are turned, so each is another layout."""
    square = storage(numel=1024 * 1024)
    parts = {f"w{i}": torch_tensor(square, i, (1000, 1000), (1, 1000) if i % 2 else (1000, 1)) for i in range(150)}
    return zipped(mapping(**parts), {"0": bytes(4 << 20)})


def halves(kind: str, count: int):
    def build(_: Path) -> bytes:
        parts, data = {}, {}
        for i in range(count):
            parts[f"w{i}"] = torch_tensor(storage(str(i), kind, 8 << 20), 0, (8 << 20,), (1,))
            data[str(i)] = bytes(16 << 20)
        return zipped(mapping(**parts), data)

    return build


def half_arrays(_: Path) -> bytes:
    one = npy(descr="'<f2'", shape=f"({8 << 20},)", data=bytes(16 << 20))
    return zip_of(*(zip_member(f"w{i}.npy", one, method=8) for i in range(3)))


add("torch_tied", "one storage for all weights of 200 layers", tied(200), ".pt", declared=4 * NUMEL)
add("torch_layers", "a stack of 1,100 layers of one storage", tied(1100), ".pt", SpecError, "layers=1100",
    declared=4 * NUMEL)  # fmt: skip
add("torch_shifted", "the same storage, a number further in each layer", shifted, ".pt", FormatError, "on storages of",
    declared=4 * NUMEL)  # fmt: skip
add("torch_turned", "views of one storage that no two layouts share", expanded, ".pt", FormatError, "on storages of",
    declared=4 << 20)  # fmt: skip
add("torch_half", "half floats of zeros, which compress well and are widened", halves("HalfStorage", 3), ".pt",
    FormatError, "too many bytes of output", declared=48 << 20)  # fmt: skip
add("torch_bfloat", "the same of bfloat16", halves("BFloat16Storage", 3), ".pt", FormatError,
    "too many bytes of output", declared=48 << 20)  # fmt: skip
add("npz_half", "the same in NumPy's format", half_arrays, ".npz", FormatError, "too many bytes of output",
    declared=48 << 20)  # fmt: skip


# ---- a Spec that is large, or says so ------------------------------------------------------------------------------


def stack(layers: int, name: str = "lstm", before: str = "x") -> dict[str, Any]:
    return {"name": name, "op": "Recurrent", "cell": LSTM(1, 1).to_json(), "input": before, "layers": layers}


def spec_of(nodes: list, outputs: list[str], inputs: list | None = None) -> dict[str, Any]:
    entries = inputs or [{"name": "x", "dtype": "float", "shape": ["B", "T", 1]}]
    return {"inputs": entries, "nodes": nodes, "outputs": outputs}


def misspelled(count: int, length: int):
    def build(_: Path) -> bytes:
        names = [f"{i:06d}".rjust(length, "a") for i in range(count)]
        nodes = [{"name": one, "op": "Relu", "inputs": ["x"]} for one in names]
        return native_of(spec_of(nodes, ["b" + names[-1][1:]]))

    return build


def absent(_: Path) -> bytes:
    nodes = [{"name": f"n{i}", "op": "Concat", "inputs": [""] * 1024, "attributes": {"axis": 0}} for i in range(300)]
    return native_of(spec_of(nodes, ["n0"]))


def nested_branches(_: Path) -> bytes:
    """Branches that each are within the bounds, and together are not."""
    inner = spec_of([{"name": f"n{i}", "op": "Relu", "inputs": ["x"]} for i in range(2000)], ["n0"])
    nodes = [
        {"name": f"if{i}", "op": "If", "inputs": ["c", "x"], "branches": [inner, inner], "captures": ["x"]}
        for i in range(30)
    ]
    return native_of(spec_of(nodes, ["if0"], [*inner["inputs"], {"name": "c", "dtype": "bool", "shape": []}]))


def folded_tables(_: Path) -> bytes:
    """Embeddings of one number each before layers of 64: tables a hundred times the size of what they are made of."""
    table, cell = {"input_size": 16_000, "output_size": 1}, LSTM(1, 64)
    nodes, tensors = [], {}
    for i in range(60):
        nodes.append(Node(f"e{i}", "Embedding", "ids", table))
        nodes.append(Recurrent(f"r{i}", cell, f"e{i}"))
    spec = Spec([Input("ids", "int64", ("B", "T"))], nodes, [node.name for node in nodes[1::2]])
    tensors = {key: np.zeros(shape, np.float32) for key, shape in spec.weight_shapes().items()}
    return native_of(spec.to_json(), tensors)


add("spec_layers", '"layers": 1000000 in 300 bytes', lambda _: native_of(spec_of([stack(10**6)], ["lstm"])),
    ".safetensors", SpecError, "layers=1000000, expected an integer from 1 to 1024")  # fmt: skip
add("spec_huge_layers", "a number of layers that no list can have",
    lambda _: native_of(spec_of([stack(1 << 62)], ["lstm"])), ".safetensors", SpecError, "layers=")  # fmt: skip
add("spec_many_stacks", "150 stacks of 1,000 layers",
    lambda _: native_of(spec_of([stack(1000, f"s{i}", f"s{i - 1}" if i else "x") for i in range(150)], ["s149"])),
    ".safetensors", SpecError, "150000 nodes and layers, expected at most 100000")  # fmt: skip
add("spec_stacks_without_weights", "20 stacks of 1,000 layers, whose weights are not there",
    lambda _: native_of(spec_of([stack(1000, f"s{i}", f"s{i - 1}" if i else "x") for i in range(20)], ["s19"])),
    ".safetensors", WeightError, "60000 missing")  # fmt: skip
add(
    "spec_branches",
    "30 Ifs with branches of 2,000 nodes",
    nested_branches,
    ".safetensors",
    SpecError,
    "nodes and layers",
)
add(
    "spec_misspelled",
    "a name that is none of 10,000",
    misspelled(10_000, 30),
    ".safetensors",
    SpecError,
    "is given by no",
)
add("spec_long_names", "names of 150 letters, nearly alike", misspelled(8000, 150), ".safetensors", SpecError,
    "is given by no")  # fmt: skip
add("spec_absent", "300 nodes of 1,024 inputs that are not there", absent, ".safetensors", SpecError, "reads ''")
add("spec_tables", "tables that folding would make a hundred times as large", folded_tables, ".safetensors",
    declared=64 << 20)  # fmt: skip


# ---- Keras ---------------------------------------------------------------------------------------------------------


def nested_calls(depth: int, times: int) -> dict[str, Any]:
    """A model that calls a model some times, which calls a model ..., down to a layer that does nothing."""
    inner: dict[str, Any] = {"class_name": "Dropout", "config": {"name": "inner", "rate": 0.5}}
    for level in range(depth):
        before, nodes = ["in", 0, 0, {}], []
        for number in range(times):
            nodes.append([before])
            before = ["inner", number, 0, {}]
        layers = [FIRST, {**inner, "name": "inner", "inbound_nodes": nodes}]
        inner = functional(layers, outputs=("inner", times - 1, 0))
        inner["config"]["name"] = "inner" if level < depth - 1 else "m"
    return inner


def wrapped(kind: str, depth: int) -> dict[str, Any]:
    """Wrappers inside wrappers; Bidirectional has two of what it wraps."""
    inner: dict[str, Any] = {"class_name": "LSTM", "config": {"name": "lstm", "units": 2, "return_sequences": True}}
    for level in range(depth):
        inner = {"class_name": kind, "config": {"name": f"w{level}", "layer": inner, "trainable": True}}
    return {"class_name": "Sequential", "config": {"name": "m", "layers": [
        {**FIRST, "config": {**FIRST["config"], "batch_input_shape": [None, None, 3]}}, inner]}}  # fmt: skip


def called_again(count: int) -> dict[str, Any]:
    config = {**DENSE, "units": 3}
    nodes, before = [], ["in", 0, 0, {}]
    for number in range(count):
        nodes.append([before])
        before = ["dense", number, 0, {}]
    layer = {"class_name": "Dense", "config": config, "name": "dense", "inbound_nodes": nodes}
    return functional([FIRST, layer], outputs=("dense", count - 1, 0))


def square_kernel(file) -> None:
    group = file["model_weights/dense/dense"]
    del group["kernel:0"], group["bias:0"]
    group["kernel:0"], group["bias:0"] = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)


for _depth, _times in ((8, 10), (4, 40), (15, 3)):
    add(f"keras_calls_{_depth}_{_times}", f"models inside models, called {_times} times each, {_depth} deep",
        lambda _, depth=_depth, times=_times: hdf5(config=nested_calls(depth, times)), ".h5", FormatError,
        "too many calls of layers")  # fmt: skip
for _kind in ("Bidirectional", "TimeDistributed"):
    add(f"keras_{_kind.lower()}", f"{_kind} of {_kind}, 15 deep",
        lambda _, kind=_kind: hdf5(config=wrapped(kind, 15)), ".h5", either=True)  # fmt: skip
add("keras_again", "one layer, called 2,000 times", lambda _: hdf5(square_kernel, called_again(2000)), ".h5")


# ---- large and honest ----------------------------------------------------------------------------------------------


def long_chain(_: Path) -> bytes:
    nodes = [
        helper.make_node("Relu" if i % 2 else "Tanh", [f"n{i - 1}" if i else "x"], [f"n{i}"]) for i in range(20_000)
    ]
    return model_of(*nodes, outputs=[value("n19999", None)])


def deep_lstm(_: Path) -> bytes:
    spec = Spec([Input("x", "float", ("B", "T", 4))], [Recurrent("lstm", LSTM(4, 4), "x", layers=64)], ["lstm"])
    tensors = {key: np.zeros(shape, np.float32) for key, shape in spec.weight_shapes().items()}
    return native_of(spec.to_json(), tensors)


def longer_chain(_: Path) -> bytes:
    """Numbers for names, so that 60,000 nodes are a file of less than a megabyte."""
    nodes = [helper.make_node("Relu", [f"{i - 1}" if i else "x"], [f"{i}"]) for i in range(60_000)]
    return model_of(*nodes, outputs=[value("59999", None)])


def longer_spec(_: Path) -> bytes:
    nodes = [{"name": f"{i}", "op": "Relu", "inputs": [f"{i - 1}" if i else "x"]} for i in range(60_000)]
    inputs = [{"name": "x", "dtype": "float", "shape": ["B", 3]}]
    return native_of({"format": 1, "inputs": inputs, "nodes": nodes, "outputs": ["59999"]})


MORE = "expected at most 20000"
add("longer_chain", "60,000 nodes", longer_chain, ".onnx", FormatError, MORE)
add("longer_spec", "60,000 nodes of a Spec", longer_spec, ".safetensors", SpecError, MORE)


def own_constants(_: Path):
    """Biases, so to say: 15,000 sums with one each."""
    constants = [constant(f"c{i}", np.full(3, i, np.float32)) for i in range(15_000)]
    nodes = [helper.make_node("Add", [f"n{i - 1}" if i else "x", f"c{i}"], [f"n{i}"]) for i in range(15_000)]
    return model_of(*nodes, outputs=[value("n14999", None)], constants=constants)


HONEST = {
    "own_constants": Case(
        "own_constants", "15,000 nodes and as many constants", lambda d: own_constants(d).SerializeToString(), ".onnx"
    ),
    "long_chain": Case("long_chain", "20,000 nodes", lambda d: long_chain(d).SerializeToString(), ".onnx"),
    "deep_lstm": Case("deep_lstm", "an LSTM of 64 layers", deep_lstm, ".safetensors"),
    "tied_layers": Case("tied_layers", "200 layers that share their weights", tied(200), ".pt", declared=4 * NUMEL),
}
"""Files that are large or odd, and right: they load, in a time that their size explains."""
