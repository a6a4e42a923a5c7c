"""Random networks from a seed, so that a failure can be repeated: the seed is the test's id.

    torch_network(seed)    a stack that torch has: its module, and the same as Spec, weights and inputs
    random_network(seed)   any graph: every option of every cell, several nodes, heads, graph-given initial states
    random_cell(rng)       one cell over its whole option space

Weights and inputs are float64 arrays whose values float32 can hold, so both dtypes run the same network.
RNNCORE_TEST_SCALE multiplies the number of seeds.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.cells import ACTIVATIONS, CELLS, GRU, LSTM, RNN, Activation
from rnncore.formats.torch.names import bind
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.graph.weights import Weights

# Alpha and beta for the activations that take them; others have none.
PARAMETERS = {
    "affine": (0.75, 0.125),
    "leaky_relu": (0.125,),
    "thresholded_relu": (0.25,),
    "scaled_tanh": (1.25, 0.75),
    "hard_sigmoid": (0.25, 0.375),
    "elu": (0.75,),
    "celu": (1.5,),
    "hard_shrink": (0.25,),
    "soft_shrink": (0.25,),
    "threshold": (0.125, -0.25),
    "squareplus": (2.0,),
}


def seeds(count):
    """Seeds 0, 1, ...: as many as asked for, times RNNCORE_TEST_SCALE."""
    return range(max(1, round(count * float(os.environ.get("RNNCORE_TEST_SCALE", "1")))))


def activation(name):
    """The function by name, with parameters that are not its defaults."""
    return Activation(name, *PARAMETERS.get(name, ()))


# A recurrence through these stays well conditioned: gates outside [0, 1] make a state grow, exp of exp overflows after
# a few steps, and a log_softmax is far from 0. test_every_activation_in_every_place has the others, over a few steps.
FOR_GATES = ["sigmoid", "hard_sigmoid", "sparse_sigmoid", "softmax"]
KINDS = ["RNN", "LSTM", "GRU"]
FOR_CANDIDATES = sorted(set(ACTIVATIONS) - {"exponential", "log_softmax"})


@dataclass(frozen=True)
class Network:
    """A Spec with weights, inputs by name, an initial state by name or None, and the dtype to run it in."""

    spec: Spec
    weights: Weights
    inputs: dict[str, np.ndarray]
    state: dict[str, np.ndarray] | None
    dtype: str
    module: Any = None

    @property
    def given(self):
        """Inputs in the dtype of the network."""
        return {name: array.astype(self.dtype) if array.dtype == "f8" else array for name, array in self.inputs.items()}

    @property
    def given_state(self):
        return None if self.state is None else {name: array.astype(self.dtype) for name, array in self.state.items()}


def chance(rng, probability):
    return bool(rng.random() < probability)


def draw(rng, shape, scale=1.0):
    """Uniform in [-scale, scale], float64 with values of float32."""
    return rng.uniform(-scale, scale, shape).astype(np.float32).astype(np.float64)


def draw_weights(spec, rng):
    """Weights large enough that every gate moves and small enough that the recurrence stays well conditioned."""
    arrays = {}
    for name, shape in spec.weight_shapes().items():
        key = name.rpartition(".")[2]
        if key.startswith(("ln_weight", "ln_cell_weight")):
            arrays[name] = 1.0 + draw(rng, shape, 0.5)
        else:
            arrays[name] = draw(rng, shape, 0.5 if len(shape) == 1 else 1.0 / np.sqrt(shape[-1]))
    return Weights(spec, {name: np.float64(np.float32(array)) for name, array in arrays.items()})


def random_cell(rng, kind=None, input_size=None, hidden_size=None):
    """One cell: any kind, any options that go together."""
    kind = kind or rng.choice(KINDS)
    sizes = (input_size or int(rng.integers(1, 41)), hidden_size or int(rng.integers(1, 41)))
    options = {"bias": chance(rng, 0.7)}
    if chance(rng, 0.5):
        names = [FOR_CANDIDATES if place in "ghn" else FOR_GATES for place in CELLS[kind].activation_places]
        options["activations"] = tuple(activation(str(rng.choice(choices))) for choices in names)
    if chance(rng, 0.3):
        options["clip"] = float(rng.choice([0.25, 0.5, 2.0]))
    if kind == "GRU":
        options["reset_after"] = chance(rng, 0.5)
    if kind == "LSTM":
        options.update(_lstm_options(rng, sizes[1], options))
    return CELLS[kind](*sizes, **options)


def _lstm_options(rng, hidden, options):
    drawn = {"coupled": rng.choice([None, None, "input", "forget"])}
    # Normalising two units makes +-1 of any difference, however small: nothing to compare in float32.
    if options["bias"] and hidden > 2 and chance(rng, 0.4):
        drawn["layer_norm"] = str(rng.choice(["tf1", "tflite"]))
        drawn["layer_norm_epsilon"] = float(rng.choice([0.0625, 0.25]))
    if drawn.get("layer_norm") != "tf1":
        drawn["peephole"] = chance(rng, 0.4)
    if chance(rng, 0.4):
        drawn["projection"] = int(rng.integers(1, hidden + 1))
        drawn["projection_bias"] = chance(rng, 0.5)
        if chance(rng, 0.5):
            drawn["proj_clip"] = 0.25
    if chance(rng, 0.3):
        drawn["cell_clip"] = 0.5
    if drawn["coupled"] != "forget" and chance(rng, 0.4):
        drawn["forget_bias"] = 1.0
    return drawn


def reverse_options(rng, cell):
    """A cell of the same sizes for the other direction, with options of its own."""
    other = random_cell(rng, cell.kind, cell.input_size, cell.hidden_size)
    if cell.kind != "LSTM":
        return other
    if not cell.projection:
        return other.replace(projection=0, projection_bias=False, proj_clip=None)
    return other.replace(projection=cell.projection)


def random_recurrent(rng, name, read, input_size, layout):
    """A Recurrent node of 1 to 3 layers; returns it with the Inputs that its initial states need."""
    cell = random_cell(rng, input_size=input_size)
    direction = str(rng.choice(["forward", "reverse", "bidirectional", "bidirectional"]))
    layers = int(rng.integers(1, 4))
    options = {"direction": direction, "layers": layers, "layout": layout}
    if direction == "bidirectional":
        merges = ["concat", "sum", "mul", "average"] + (["separate"] if layers == 1 else [])
        options["merge"] = str(rng.choice(merges))
        if chance(rng, 0.4):
            options["reverse_cell"] = reverse_options(rng, cell)
    if chance(rng, 0.2):
        options["lengths"] = None
    inputs = []
    start = rng.choice(["zero", "trained", "graph"])
    if start == "graph":
        shapes = Recurrent(name, cell, read, **options).state_shapes("B")
        inputs = [Input(f"{name}_{key}0", "float", shape) for key, shape in shapes.items()]
        options["initial"] = tuple(entry.name for entry in inputs)
    options["trained_state"] = bool(start == "trained")
    return Recurrent(name, cell, read, **options), inputs


def random_network(seed, batch=None, steps=None):
    """A whole graph: input or embedding, one or two recurrent nodes, a head; every recurrent value is an output."""
    rng = np.random.default_rng(seed)
    layout = "time_first" if chance(rng, 0.3) else "batch_first"
    axes = ("T", "B") if layout == "time_first" else ("B", "T")
    width = int(rng.integers(1, 41))
    nodes = []
    if chance(rng, 0.2):
        inputs = [Input("tokens", "int64", axes)]
        nodes.append(Node("embed", "Embedding", "tokens", {"input_size": 11, "output_size": width}))
    else:
        inputs = [Input("x", "float", (*axes, width))]
        if chance(rng, 0.2):
            bias = chance(rng, 0.5)
            nodes.append(Node("front", "Linear", "x", {"input_size": width, "output_size": width, "bias": bias}))
            nodes.append(Node("front.tanh", "Tanh", "front"))
    read = nodes[-1].name if nodes else inputs[0].name
    outputs = []
    for index in range(int(rng.integers(1, 3))):
        node, states = random_recurrent(rng, f"r{index}", read, width, layout)
        nodes.append(node)
        inputs += states
        own = Spec(inputs, nodes, [node.name + "." + node.cell.states[0]])
        outputs += [name for name in own.values if name == node.name or name.startswith(f"{node.name}.")]
        if node.merge == "separate":
            nodes.append(Node(f"both{index}", "Concat", (f"{node.name}.forward", f"{node.name}.reverse"), {"axis": 2}))
            read, width = f"both{index}", 2 * node.cell.output_size
            continue
        read, width = node.name, node.output_size
    nodes.append(Node("head", "Linear", read, {"input_size": width, "output_size": 3}))
    op = str(rng.choice(["Relu", "Tanh", "Sigmoid", "Softmax", "LogSoftmax", "LpNormalization"]))
    nodes.append(Node("end", op, "head"))
    spec = Spec(inputs, nodes, [*outputs, "end"])
    batch = int(rng.integers(0, 6)) if batch is None else batch
    steps = int(rng.integers(0, 10)) if steps is None else steps
    state = None
    if chance(rng, 0.5):
        shapes = {
            f"{node.name}.{key}": shape for node in spec.recurrent for key, shape in node.state_shapes(batch).items()
        }
        state = {name: draw(rng, shape) for name, shape in shapes.items()}
    dtype = str(rng.choice(["float32", "float64"]))
    return Network(spec, draw_weights(spec, rng), draw_inputs(spec, rng, batch, steps), state, dtype)


def draw_inputs(spec, rng, batch, steps):
    """Arrays for every input; lengths in half of the cases, anywhere from 0 to all steps."""
    sizes, inputs = {"B": batch, "T": steps}, {}
    for entry in spec.inputs:
        shape = [sizes.get(size, size) for size in entry.shape]
        if entry.name == "lengths":
            if chance(rng, 0.5):
                inputs["lengths"] = rng.integers(0, steps + 1, batch)
        elif entry.dtype == "int64":
            inputs[entry.name] = rng.integers(0, 11, shape)
        else:
            inputs[entry.name] = draw(rng, shape, 1.5)
    return inputs


def stack(cell, lengths="lengths", **options):
    """A Spec of one recurrent node "rnn" that gives all of its values."""
    node = Recurrent("rnn", cell, "x", lengths=lengths, **options)
    axes = ("T", "B") if node.layout == "time_first" else ("B", "T")
    inputs = [Input("x", "float", (*axes, cell.input_size))]
    inputs += [
        Input(name, "float", shape) for name, shape in zip(node.initial, node.state_shapes("B").values(), strict=False)
    ]
    values = Spec(inputs, [node], ["rnn.h"]).values
    return Spec(inputs, [node], [name for name in values if name.startswith("rnn")])


def torch_network(seed):
    """A stack that torch.nn.RNN, LSTM or GRU can be: its module in float64, and the same as a Network."""
    import torch

    rng = np.random.default_rng(seed)
    kind = str(rng.choice(["RNN", "LSTM", "GRU"]))
    sizes = int(rng.integers(1, 41)), int(rng.integers(1, 41))
    bias, time_first, both = chance(rng, 0.7), chance(rng, 0.5), chance(rng, 0.5)
    layers = int(rng.integers(1, 4))
    cell, options = GRU(*sizes, bias), {}
    if kind == "RNN":
        options["nonlinearity"] = str(rng.choice(["tanh", "relu"]))
        cell = RNN(*sizes, bias, (options["nonlinearity"],))
    elif kind == "LSTM":
        if sizes[1] > 1 and chance(rng, 0.4):
            options["proj_size"] = int(rng.integers(1, sizes[1]))
        cell = LSTM(*sizes, bias, projection=options.get("proj_size", 0))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = getattr(torch.nn, kind)(
            *sizes, layers, bias=bias, batch_first=not time_first, bidirectional=both, **options
        ).double()
    spec = stack(
        cell,
        layers=layers,
        direction="bidirectional" if both else "forward",
        layout="time_first" if time_first else "batch_first",
    )
    tensors = {f"rnn.{key}": tensor.detach().numpy() for key, tensor in module.named_parameters()}
    batch, steps = int(rng.integers(0, 6)), int(rng.choice([0, 1, 1, *range(2, 10)]))
    state = None
    if chance(rng, 0.5):
        state = {f"rnn.{key}": draw(rng, shape) for key, shape in spec.nodes[0].state_shapes(batch).items()}
    inputs = draw_inputs(spec, rng, batch, steps)
    dtype = str(rng.choice(["float32", "float64"]))
    return Network(spec, bind(spec, tensors).weights, inputs, state, dtype, module)
