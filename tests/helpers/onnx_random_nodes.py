"""Random RNN, LSTM and GRU nodes of ONNX, and ONNX Runtime's results for them."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx_recurrent import DEFAULT_ACTIVATIONS, DIRECTIONS, INPUTS, PLACES, load_node
from oracle import run_oracle
from random_networks import chance, draw

NAMES = [
    *("Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid"),
    *("Elu", "Softsign", "Softplus"),
]

THRESHOLD = 0.125

# Values for alpha and beta that are no defaults. The products of a recurrence through them do not grow.
PARAMETERS = {
    "Affine": (0.75, 0.125),
    "LeakyRelu": (0.125,),
    "ThresholdedRelu": (THRESHOLD,),
    "ScaledTanh": (0.875, 1.25),
    "HardSigmoid": (0.25, 0.375),
    "Elu": (0.75,),
}

# What may be left out: of these, ONNX Runtime and the specification have the same defaults.
SAME_DEFAULTS = ("LeakyRelu", "HardSigmoid", "Elu")

# Functions that stay within [0, 1], and within [-1, 1]. A state that is kept by a gate beyond grows from step to step:
# such gates are clipped, and the sequences short. With input_forget the gate that keeps is 1 - i.
UNIT = ("Sigmoid", "HardSigmoid")

BOUNDED = (*UNIT, "Tanh", "ScaledTanh", "Softsign")


@dataclass(frozen=True)
class Drawn:
    """A random node: its type, attributes, and float64 input arrays by name, in layout 0.

    constant: ONNX Runtime has the weights as constants, which it packs, not as inputs. batch_first: we have layout 1.
    """

    kind: str
    attributes: dict
    arrays: dict
    opset: int
    constant: bool
    batch_first: bool

    @property
    def loaded(self):
        """The node as we read it, in the layout that was drawn."""
        attributes, arrays = self.attributes, dict(self.arrays)
        if self.batch_first:
            attributes = {**attributes, "layout": 1}
            arrays |= {
                name: np.ascontiguousarray(array.swapaxes(0, 1))
                for name, array in arrays.items()
                if name in ("X", "initial_h", "initial_c")
            }
        return load_node(self.kind, attributes, arrays)


def random_activations(rng, kind, directions):
    """Attributes for the activations; no lists where every value is that of ONNX, and lists that end early."""
    if chance(rng, 0.3):
        return {}
    names, alphas, betas = [], [], []
    for place in list(range(len(DEFAULT_ACTIVATIONS[kind]))) * directions:
        gate = kind != "RNN" and place == 0
        names.append(str(rng.choice(BOUNDED if gate and chance(rng, 0.5) else NAMES)))
    takers = [name for name in names if name in PARAMETERS]
    for name in takers:
        alpha, *beta = PARAMETERS[name]
        alphas.append(alpha)
        betas += beta
    cut = 0
    while cut < len(takers) and takers[-1 - cut] in SAME_DEFAULTS:
        cut += 1
    if cut and chance(rng, 0.5):
        cut = int(rng.integers(1, cut + 1))
        alphas = alphas[: len(alphas) - cut]
        dropped = sum(len(PARAMETERS[name]) == 2 for name in takers[-cut:])
        betas = betas[: len(betas) - dropped]
    if kind != "RNN" and chance(rng, 0.2):
        names = [name.upper() if chance(rng, 0.5) else name.lower() for name in names]
    attributes = {"activations": names}
    return attributes | {
        key: values for key, values in (("activation_alpha", alphas), ("activation_beta", betas)) if values
    }


def all_within(names, group):
    """Whether all of these functions, in any case, are of the group."""
    return {name.lower() for name in names} <= {name.lower() for name in group}


def random_node(rng):
    """A node of any type with any attributes and inputs, its recurrence well conditioned."""
    kind = str(rng.choice(["RNN", "LSTM", "LSTM", "GRU", "GRU"]))
    direction = str(rng.choice(["forward", "reverse", "bidirectional", "bidirectional"]))
    directions, rows = len(DIRECTIONS[direction]), len(PLACES[kind][:4])
    inputs, hidden, batch = (int(rng.integers(1, high)) for high in (41, 41, 6))
    attributes = {"hidden_size": hidden, **random_activations(rng, kind, directions)}
    if direction != "forward" or chance(rng, 0.5):
        attributes["direction"] = direction
    if kind == "LSTM" and chance(rng, 0.5):
        attributes["input_forget"] = int(chance(rng, 0.7))
    functions = attributes.get("activations", DEFAULT_ACTIVATIONS[kind])
    gates_within = UNIT if attributes.get("input_forget") else BOUNDED
    tame = kind == "RNN" or all_within(functions[:: len(DEFAULT_ACTIVATIONS[kind])], gates_within)
    if not tame or chance(rng, 0.3):
        attributes["clip"] = float(rng.choice([0.25, 0.5, 2.0] if tame else [0.25, 0.5]))
    steps = int(rng.integers(1, 10))
    if tame and all_within(functions, BOUNDED) and chance(rng, 0.3):
        steps = int(rng.integers(20, 61))
    if kind == "GRU" and chance(rng, 0.7):
        attributes["linear_before_reset"] = int(chance(rng, 0.7))
    arrays = {
        "X": draw(rng, (steps, batch, inputs), 1.5),
        "W": draw(rng, (directions, rows * hidden, inputs), 1 / np.sqrt(inputs)),
        "R": draw(rng, (directions, rows * hidden, hidden), 1 / np.sqrt(hidden)),
    }
    if chance(rng, 0.7):
        arrays["B"] = draw(rng, (directions, 2 * rows * hidden), 0.5)
    if chance(rng, 0.5):
        lowest = int(chance(rng, 0.5))
        arrays["sequence_lens"] = rng.integers(lowest, steps + 1, batch).astype(np.int32)
    if chance(rng, 0.5):
        arrays["initial_h"] = draw(rng, (directions, batch, hidden))
    if kind == "LSTM":
        if chance(rng, 0.5):
            arrays["initial_c"] = draw(rng, (directions, batch, hidden))
        if chance(rng, 0.4):
            arrays["P"] = draw(rng, (directions, 3 * hidden), 0.5)
    opset = int(rng.choice([14, 21, 22]))
    return Drawn(kind, attributes, arrays, opset, constant=chance(rng, 0.7), batch_first=chance(rng, 0.3))


def has_one_answer(drawn):
    """Whether no unit is at the step of a ThresholdedRelu, where rounding decides between 0 and the threshold."""
    loaded = drawn.loaded
    moved = [with_threshold(loaded.spec, THRESHOLD + by) for by in (-1e-4, 0.0, 1e-4)]
    if moved[0] == moved[1]:
        return True  # there is none
    first, *others = [run_oracle(spec, loaded.weights, loaded.inputs, loaded.state) for spec in moved]
    return all(np.array_equal(first[name], other[name]) for other in others for name in first)


def with_threshold(spec, threshold):
    """The same Spec with another alpha for every ThresholdedRelu."""
    (node,) = spec.nodes
    cells = {}
    for side in ("cell", "reverse_cell"):
        cell = getattr(node, side)
        if cell is not None:
            functions = [(a.name, threshold) if a.name == "thresholded_relu" else a for a in cell.activations]
            cells[side] = cell.replace(activations=tuple(functions))
    return dataclasses.replace(spec, nodes=(dataclasses.replace(node, **cells),))


def drawn_node(seed):
    """The first node from this seed that has one answer."""
    rng = np.random.default_rng(seed)
    while True:
        drawn = random_node(rng)
        if has_one_answer(drawn):
            return drawn


def run_onnxruntime(kind, attributes, arrays, opset=22, constant=True):
    """Y, Y_h and, for an LSTM, Y_c of a model of one node in float32; W, R, B and P are constants or inputs too."""
    given = {name: np.asarray(array, np.float32 if array.dtype == "f8" else None) for name, array in arrays.items()}
    weights = [name for name in given if name in ("W", "R", "B", "P")] if constant else []
    outputs = ["Y", "Y_h", "Y_c"] if kind == "LSTM" else ["Y", "Y_h"]
    node = helper.make_node(kind, [name if name in given else "" for name in INPUTS[kind]], outputs, **attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
        if name not in weights
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(given[name], name) for name in weights]
    graph = helper.make_graph([node], "one node", inputs, results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {name: array for name, array in given.items() if name not in weights}
    return dict(zip(outputs, session.run(None, feeds), strict=True))


def to_layout_1(outputs):
    """Y (T, D, B, H) as (B, T, D, H), final states (D, B, H) as (B, D, H)."""
    return {name: np.moveaxis(y, 2, 0) if name == "Y" else y.swapaxes(0, 1) for name, y in outputs.items()}
