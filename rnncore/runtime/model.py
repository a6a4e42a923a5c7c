"""Model: a Spec and its Weights, packed for this CPU and run.

Compiling turns each node into a step: a function from the values computed so far to its own. Recurrent steps run
the compiled time loop of rnncore.kernels; the others run their op.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from rnncore.errors import InputError, SpecError, shown
from rnncore.graph.nodes import AttentionDecoder, Control, GraphNode, Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.graph.vocabulary import Vocabulary, check_vocabularies
from rnncore.graph.weights import Weights, memory_of
from rnncore.kernels import _recurrent
from rnncore.kernels._graph import OpStep, unalias, walk
from rnncore.ops import OPS, Value, blocks, numpy_dtype
from rnncore.passes import compiled
from rnncore.runtime.arguments import accept_inputs, accept_state, as_array, as_items, empty_array, without_padding
from rnncore.runtime.attention_decoder import DecoderStep
from rnncore.runtime.budget import Budget, MeteredStep, check_budget, is_settled, metered_branches, metering, most_steps
from rnncore.runtime.control_flow import ControlStep, branch_weights
from rnncore.runtime.extensions import extension
from rnncore.runtime.packing import pack
from rnncore.runtime.program import Program
from rnncore.runtime.recurrent import RecurrentStep
from rnncore.runtime.state import State, fingerprint
from rnncore.runtime.threads import check_threads, threads_of_call

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnncore.decode.generation import Generation
    from rnncore.decode.scoring import Score
    from rnncore.runtime.types import Inputs, Output, StateLike
    from rnncore.streaming.pool import StreamPool
    from rnncore.streaming.stream import Stream

__all__ = ["Model", "nothing", "op_step"]

# The default for "no state argument", so that None can mean "start from the beginning, and give me the state".
_NO_STATE: Any = type("NoState", (), {"__repr__": lambda self: "<no state>"})()

Values = dict[str, Any]

KNOWN_SIZES = 1024
"""The number of sizes of calls within its budget that a model remembers."""


class Model:
    """A network ready to run. Immutable, picklable, shared by threads.

    spec, weights   what it is (weights: a Weights, or a mapping of canonical names to arrays). Scales after a product,
                    such as a BatchNormalization, go into its weights here: ``model.spec`` is what is run. What is
                    packed for the kernels is kept once: ``model.weights`` unpacks a copy of it whenever it is read
    dtype           "float32" or "float64": every float input, weight, state and output
    num_threads     the most, from 1 to 64; None: what RNNCORE_NUM_THREADS, OMP_NUM_THREADS or the machine says.
                    It never changes a result. (float64 runs on BLAS, which has threads of its own.)
    fold_bytes      an Embedding that only feeds recurrent layers is multiplied with their input weights once, here,
                    if all such tables are not larger than this; running it then is a row gather. The bits stay the same
    vocabulary      the tokens for ids: name of an input or output -> tokens in the order of their ids
    budget          a Budget: the most that one call may do, or a piece of a stream or a generation, beyond which it
                    raises InputError; None: no limit

    Raises SpecError and WeightError where spec, weights and vocabulary do not fit.
    """

    def __init__(
        self,
        spec: Spec,
        weights: Mapping[str, np.ndarray],
        dtype: str | np.dtype = "float32",
        num_threads: int | None = None,
        fold_bytes: int = 64 << 20,
        vocabulary: Mapping[str, Iterable[str]] | None = None,
        budget: Budget | None = None,
    ):
        self._build(spec, weights, dtype, num_threads, fold_bytes, vocabulary, budget, {}, False)

    @classmethod
    def _of_branch(cls, *arguments: Any) -> Model:
        """A model inside another, by all arguments of _build."""
        made = cls.__new__(cls)
        made._build(*arguments)
        return made

    def _build(
        self,
        spec: Spec,
        weights: Mapping[str, np.ndarray],
        dtype: str | np.dtype,
        num_threads: int | None,
        fold_bytes: int,
        vocabulary: Mapping[str, Iterable[str]] | None,
        budget: Budget | None,
        packs: dict[tuple, Any],
        inside: bool,
    ) -> None:
        """packs: see stacks.pack; one for a model and the branches inside it, which are compiled with it."""
        check_budget(budget)
        if type(dtype) is int or str(dtype) not in ("float32", "float64"):
            raise SpecError(f"dtype {shown(dtype)}, expected 'float32' or 'float64'")
        if not isinstance(spec, Spec):
            raise SpecError(f"spec: {type(spec).__name__}, expected a Spec")
        self._dtype = np.dtype(dtype)
        self._vocabulary = MappingProxyType(check_vocabularies(spec, {} if vocabulary is None else vocabulary))
        self._weights = Weights(spec, weights)  # checked here, whatever it was checked against before
        spec, folded = (spec, self._weights) if inside else compiled(spec, self._weights, self._dtype.name)
        self._spec, self._weights = spec, self._weights if folded is self._weights else Weights(spec, folded)
        needed = set(spec.outputs).union(*(node.reads for node in spec.nodes))
        given = {entry.name for entry in spec.inputs}
        self._num_threads = num_threads
        threads = check_threads(num_threads)
        self._fold_bytes = fold_bytes
        self._constants = {node.name: _constant(node, self._weights, self._dtype) for node in _constants(spec)}
        self._budget = budget
        known = spec.values
        self._steps: list[Any] = [
            _compile(node, self._weights, self._dtype, needed, given, threads, known, budget, packs, fold_bytes)
            for node in spec.nodes
        ]
        embeddings = self._fold_embeddings()
        self._padded = self._padded_ids()
        self._walk, self._unread = _work(self._steps, _last_uses(spec, embeddings))
        self._direct: _recurrent.Direct | None = None
        self._settled, self._uncounted = False, self._walk
        self._affordable: set[tuple] = set()  # sizes of calls that were within the budget, where only they decide
        if self._limited:
            nodes = [node for node, step in zip(spec.nodes, self._steps, strict=True) if step is not nothing]
            parts = zip(self._walk, nodes, self._unread, strict=True)
            self._walk = [MeteredStep(step, node, dropped, self._dtype) for step, node, dropped in parts]
            self._settled = is_settled(self._walk, spec.values.values())
        if len(spec.nodes) == 1 and spec.recurrent:
            self._direct = self._steps[0].direct(spec, most_steps(budget, spec.recurrent[0], self._dtype))
        self._program = self._make_program()
        self._programs: dict[tuple, Any] = {}
        packed = [getattr(step, "packed", {}) for step in self._steps]
        self._weights = self._weights.release_packed({name: read for each in packed for name, read in each.items()})

    def _make_program(self) -> Program | None:
        """What runs calls of sizes that come again; None where contents decide what a call within the budget costs."""
        if self._limited and not self._settled:
            return None
        nodes = [node for node, step in zip(self._spec.nodes, self._steps, strict=True) if step is not nothing]
        return Program.of(self._spec, nodes, self._uncounted, self._unread, self._dtype)

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def weights(self) -> Weights:
        return self._weights

    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    @property
    def budget(self) -> Budget | None:
        return self._budget

    @property
    def _limited(self) -> bool:
        return self._budget is not None and self._budget.limits

    @property
    def vocabulary(self) -> Mapping[str, Vocabulary]:
        """The vocabularies of inputs and outputs, by name; empty where the model has none."""
        return self._vocabulary

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Name, dtype and shape of each input."""
        return self._spec.inputs

    @property
    def outputs(self) -> tuple[Input, ...]:
        """Name, dtype and shape of each output."""
        values = self._spec.values
        return tuple(Input(name, values[name].dtype, values[name].shape) for name in self._spec.outputs)

    def __reduce__(self):
        options = (self._dtype.name, self._num_threads, self._fold_bytes, dict(self._vocabulary), self._budget)
        return Model, (self._spec, dict(self._weights), *options)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{entry.name}: {entry.value}" for entry in self.inputs)
        outputs = ", ".join(f"{entry.name}: {entry.value}" for entry in self.outputs)
        return f"<Model {inputs} -> {outputs}; {self._weights.count:,} parameters, {self._dtype.name}>"

    @overload
    def __call__(
        self,
        x: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        num_threads: int | None = None,
    ) -> Output: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: StateLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        num_threads: int | None = None,
    ) -> tuple[Output, State]: ...
    def __call__(
        self, x: Any, state: Any = _NO_STATE, *, lengths: Any = None, mask: Any = None, num_threads: int | None = None
    ) -> Any:
        """Run a model with one required input.

        x        what ``model.inputs`` says, batch first: (B, T, I) for a float sequence, (B, T) for ids
        state    where to start: a State, (h, c), h, or None for the beginning. If given, the state after the last
                 valid step is returned with the output
        lengths  (B,) number of valid steps of each row; later steps are never read, and a
                 recurrent layer's output there is 0.
                 A row of length 0 keeps its state
        mask     (B, T) bool, for models with an input "mask": True where a step counts, gaps allowed
        num_threads  in place of the model's own, for this call: from 1 to 64. It never changes a result

        Returns the output (a dict by name where the model has several), or (output, state) if state was given. How
        many there are is the file's, so a type checker sees either; what ``run`` returns is always a dict.
        Raises InputError and StateError.
        """
        if self._direct is not None and lengths is None and mask is None and num_threads is None:
            found = self._direct(x) if state is _NO_STATE else self._step_directly(x, state)
            if found is not None:
                return found
        if num_threads is not None:
            with threads_of_call(num_threads):
                return self(x, state, lengths=lengths, mask=mask)
        required = [entry for entry in self.inputs if not entry.optional]
        if len(required) != 1:
            names = ", ".join(entry.name for entry in required)
            raise InputError(f"this model has {len(required)} required inputs ({names}): use run({{name: array}})")
        given = {required[0].name: x}
        if lengths is not None:
            given["lengths"] = lengths
        if mask is not None:
            given["mask"] = mask
        outputs, after = self._bound(given, state) or self._run(given, state)
        y = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return y if state is _NO_STATE else (y, after)

    def _fold_embeddings(self) -> dict[str, str]:
        """Replace each Embedding whose readers all are recurrent layers by tables of theirs, within fold_bytes.

        Returns the ids that the readers of each now read: name of the Embedding -> its input.
        """
        readers_of, outputs = self._spec.readers, set(self._spec.outputs)
        folded, left = {}, self._fold_bytes
        for place, node in enumerate(cast("tuple[Any, ...]", self._spec.nodes)):
            if node.op != "Embedding" or node.name in outputs:
                continue
            readers = tuple(dict.fromkeys(readers_of.get(node.name, ())))
            if not readers or not all(isinstance(self._steps[i], RecurrentStep) for i in readers):
                continue
            steps = [self._steps[i] for i in readers]
            size = sum(step.table_bytes(node.attributes["input_size"]) for step in steps)
            if 0 < size <= left:
                left -= size
                for step in steps:
                    step.fold(node, self._weights[f"{node.name}.weight"])
                self._steps[place] = nothing
                folded[node.name] = node.inputs[0]
        return folded

    def _padded_ids(self) -> dict[str, tuple[str, int]]:
        """Inputs of ids that only recurrent layers with one lengths input see: name -> (lengths, batch axis)."""
        nodes: tuple[Any, ...] = self._spec.nodes
        given = {entry.name for entry in self.inputs}
        readers_of, outputs = self._spec.readers, set(self._spec.outputs)
        found = {}
        for node in nodes:
            if node.op != "Embedding" or node.inputs[0] not in given:
                continue
            readers = [nodes[place] for place in readers_of.get(node.name, ())]
            alone = len(readers_of[node.inputs[0]]) == 1
            uses = {(other.lengths, other.layout) if isinstance(other, Recurrent) else None for other in readers}
            if alone and len(uses) == 1 and node.name not in outputs:
                use = uses.pop()
                if use is not None and use[0] in given:
                    found[node.inputs[0]] = (use[0], 0 if use[1] == "batch_first" else 1)
        return found

    def _step_directly(self, x: Any, state: Any) -> Any:
        """The result with the state after it by the short way of kernels, or None for what needs the long one."""
        if state is None:
            state = self.initial_state(len(x)) if isinstance(x, np.ndarray) and x.ndim else None
        found = self._direct.step(x, state.arrays) if self._direct is not None and type(state) is State else None
        return None if found is None else (found[0], State.of(found[1]))

    @overload
    def run(self, inputs: Inputs, *, num_threads: int | None = None) -> dict[str, np.ndarray]: ...
    @overload
    def run(
        self, inputs: Inputs, state: StateLike, *, num_threads: int | None = None
    ) -> tuple[dict[str, np.ndarray], State]: ...
    def run(self, inputs: Mapping[str, Any], state: Any = _NO_STATE, *, num_threads: int | None = None) -> Any:
        """Run any model: named inputs in, a dict of named outputs back; (outputs, state) if state was given.

        num_threads: as for a call of the model.
        """
        if num_threads is not None:
            with threads_of_call(num_threads):
                return self.run(inputs, state)
        outputs, after = self._bound(inputs, state) or self._run(inputs, state)
        return outputs if state is _NO_STATE else (outputs, after)

    def initial_state(self, batch: int) -> State:
        """The state that a run starts from where none is given: trained initial states, or zeros.

        A node whose initial states are values of the graph takes them only where no state is given, so start such
        a model with None.
        """
        if isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 0:
            raise InputError(f"batch={shown(batch)}, expected an integer of at least 0")
        found = {}
        for node in self._spec.stateful:
            for key, shape in node.state_shapes(batch).items():
                array = empty_array(f"batch={shown(batch)}", shape, self._dtype)
                if node.trained_state:
                    array += self._weights[f"{node.name}.initial_{key}"][:, None, :]
                found[f"{node.name}.{key}"] = array
        return State(found)

    def stream(
        self,
        batch: int = 1,
        *,
        lookahead: int | None = None,
        block: int | None = None,
        history: int | None = None,
        inputs: Inputs | None = None,
    ) -> Stream:
        """A Stream: the model over ``batch`` sequences that arrive in pieces, keeping its state from one to the next.

        lookahead  bidirectional layers read this number of later steps and give ``block`` steps at a time (the same
                   number, if not given): their outputs then are not those of the whole sequence, but do not depend on
                   how it is cut. The reverse direction begins ``lookahead`` steps after each block; outputs only
                   known at the end of the sequence, as final states of both directions, are left out
        history    causal attention looks back on this number of steps, the present one included
        inputs     the inputs without a time axis, by name: given once

        Raises UnsupportedError, naming the node that prevents it: see ``unstreamable``.
        """
        return extension("stream")(self, batch, lookahead, block, history, inputs)

    def pool(
        self,
        capacity: int,
        *,
        lookahead: int | None = None,
        block: int | None = None,
        history: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> StreamPool:
        """A StreamPool: up to ``capacity`` streams that are stepped together. Options as for ``stream``.

        clock  seconds, by which streams age
        """
        return extension("pool")(self, capacity, lookahead, block, history, clock)

    def over_time(
        self,
        carry: Mapping[str, str],
        *,
        chunk: int | None = None,
        context: int = 0,
        steps: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
        starts: Sequence[str] = (),
    ) -> Model:
        """A Model of sequences from a model of one step, which takes the states that the call before gave.

            vad = rnncore.load("vad.onnx").over_time({"state": "stateN"}, chunk=512, context=64, given={"sr": 16000})
            probabilities = vad.stream().feed(samples)      # any number of samples: one row for each 512 of them

        carry    inputs -> the outputs they are fed from, of one shape and dtype. They start from zeros
        chunk    a step takes this number of samples of a signal, and
        context  the number of samples before them (zeros before the first). None: the input gets an axis of steps
                 after its batch
        steps    the inputs that have a new value in each step; None: all that are not carried or given and have a shape
        given    arrays for inputs, with a batch of 1: where a state starts, or what never changes
        starts   the carried inputs that stay inputs, a row for each: where the states start, as an encoder left them

        Returns a Model whose outputs are those that are not carried, with an axis of steps after the batch; it gives
        what calls one by one give. States of recurrent layers over a free time, and nothing else, become these
        layers' own: the model then is as it was, without them. A batch of 1 that all states and steps have is free in
        the result where the graph keeps the rows of a larger one apart. Raises InputError for what does not fit.
        """
        return extension("over_time")(self, carry, chunk, context, steps, given, starts)

    @cached_property
    def unstreamable(self) -> str | None:
        """Why the model cannot stream, naming the node that prevents it; None where it can."""
        return extension("unstreamable")(self)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of Spec, weights and dtype, in hexadecimal digits: what saved states are bound to."""
        return fingerprint(self._spec, self._weights, self._dtype)

    def predict(
        self,
        sequences: Iterable[ArrayLike],
        batch_size: int = 256,
        progress: Callable[[int, int], None] | None = None,
        num_threads: int | None = None,
    ) -> list[Output]:
        """Run many sequences of any lengths, and return their outputs in the same order.

        sequences   one array for each, without the batch dimension: (T_i, I), or (T_i,) for ids
        batch_size  rows run together; they are chosen by length, so little is wasted
        progress    called with (sequences done, all) after each batch
        num_threads as for a call of the model

        Returns a list of arrays without the batch dimension, outputs with a time dimension cut to the sequence's
        length; of dicts where the model has several outputs. The first two dimensions of the model's input must be
        batch and time, in either order.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise InputError(f"batch_size={shown(batch_size)}, expected a positive integer")
        threads = check_threads(self._num_threads if num_threads is None else num_threads)
        entry, batch_axis = self._ragged_input()
        arrays = [as_array(f"sequence {i}", sequence) for i, sequence in enumerate(as_items("sequences", sequences))]
        for i, array in enumerate(arrays):
            if array.ndim != len(entry.shape) - 1:
                raise InputError(f"sequence {i}: shape {array.shape}, expected {len(entry.shape) - 1} dimensions")
        order = sorted(range(len(arrays)), key=lambda i: len(arrays[i]), reverse=True)
        results: list[Any] = [None] * len(arrays)
        for first in range(0, len(order), int(batch_size)):
            rows = order[first : first + int(batch_size)]
            lengths = np.array([len(arrays[i]) for i in rows], np.int64)
            with threads_of_call(threads):
                found = self._predict_batch(entry, batch_axis, [arrays[i] for i in rows], lengths)
            for i, array in zip(rows, found, strict=True):
                results[i] = array
            if progress is not None:
                progress(min(first + len(rows), len(order)), len(order))
        return results

    def generate(self, prompts: Sequence[Any] | np.ndarray, max_length: int = 100, **options: Any) -> list[Generation]:
        """Continue prompts of tokens: see rnncore.decode.generate."""
        return extension("generate")(self, prompts, max_length, **options)

    def score(self, sequences: Sequence[Any] | np.ndarray, **options: Any) -> list[Score]:
        """How probable sequences of tokens are: see rnncore.decode.score."""
        return extension("score")(self, sequences, **options)

    def _ragged_input(self) -> tuple[Input, int]:
        """The one input that predict can pad, and which of its first two dimensions is the batch."""
        required = [entry for entry in self.inputs if not entry.optional]
        named = [entry.name for entry in self.inputs]
        if len(required) != 1 or "lengths" not in named:
            raise InputError(
                f"predict needs a model with one required input and lengths; this one has {', '.join(named)}"
            )
        entry = required[0]
        (batch,) = self._spec.values["lengths"].shape
        if batch not in entry.shape[:2]:
            found = f"input {entry.name!r} is {entry.value}"
            raise InputError(f"predict needs the lengths' dimension {batch!r} first or second; {found}")
        axis = entry.shape.index(batch)
        if len(entry.shape) < 2 or not isinstance(entry.shape[1 - axis], str):
            raise InputError(f"predict needs a time dimension of free size; input {entry.name!r} is {entry.value}")
        return entry, axis

    def _predict_batch(self, entry: Input, batch_axis: int, arrays: list[np.ndarray], lengths: np.ndarray) -> list[Any]:
        longest = int(lengths.max())
        dtype = numpy_dtype(entry.dtype, self._dtype)
        width = arrays[0].shape[1:]
        padded = empty_array(f"{len(arrays)} sequences", (len(arrays), longest, *width), dtype)
        for row, array in enumerate(arrays):
            if array.shape[1:] != width:
                raise InputError(f"sequences of shape (T, {width}) and {array.shape} together, expected one width")
            if array.dtype.kind not in ("fiub" if dtype.kind == "f" else "iu"):
                raise InputError(f"{entry.name}: dtype {array.dtype}, expected {dtype}")
            padded[row, : len(array)] = array
        given = padded.swapaxes(0, 1) if batch_axis == 1 else padded
        outputs, _ = self._run({entry.name: given, "lengths": lengths}, _NO_STATE)
        values = self._spec.values
        batch, time = entry.shape[batch_axis], entry.shape[1 - batch_axis]
        found = []
        for row, length in enumerate(lengths):
            cut = {}
            for name, array in outputs.items():
                shape = list(values[name].shape)
                axis = shape.index(batch) if batch in shape else 0
                one = np.take(array, row, axis=axis)
                del shape[axis]
                cut[name] = one[tuple(slice(length if size == time else None) for size in shape)].copy()
            found.append(next(iter(cut.values())) if len(cut) == 1 else cut)
        return found

    def _bound(self, inputs: Any, state: Any) -> Any:
        """(outputs, states after) by a binding of the program, or None."""
        if self._program is None or type(inputs) is not dict:
            return None
        if state is _NO_STATE:
            return self._program.call(inputs, None, False)
        if state is not None and type(state) is not State:
            return None
        results = self._program.call(inputs, None if state is None else state.arrays, True)
        return results and (results[0], State.of(results[1]))

    def _run(self, inputs: Mapping[str, Any], state: Any) -> tuple[dict[str, np.ndarray], State]:
        values: Values = accept_inputs(self._spec, inputs, self._dtype)
        for name, (lengths, axis) in self._padded.items():
            if values[lengths] is not None:
                values[name] = without_padding(values[name], values[lengths], axis)
        after: dict[str, np.ndarray] = {}
        before = None
        if state is not None and state is not _NO_STATE:
            before = accept_state(self._spec.stateful, state, _batch_of(self._spec, values), self._dtype)
        if self._program is not None and self._repeats(values):
            results = self._program.run(values, self._constants, before, state is not _NO_STATE)
            if results is not None:
                return results[0], State.of(results[1] or {})
        if not self._limited:
            self._forward(values, before, after)
        else:
            self._forward_within(values, before, after)
        kept = [*self._constants.values()]
        kept += [values[entry.name] for entry in self._spec.inputs]
        if state is not _NO_STATE:  # else the caller never sees it
            kept += after.values()
        return unalias(self._spec.outputs, values, kept), State.of(after)

    def _repeats(self, values: Values) -> bool:
        """Whether the program may run a call: what it does is decided by its sizes, which are within the budget."""
        if any(values[lengths] is not None for lengths, _ in self._padded.values()):
            return False
        return not self._limited or _sizes_of(values) in self._affordable

    def _forward(
        self, values: Values, before: State | None, after: dict[str, np.ndarray], counted: bool = True
    ) -> None:
        """Adds what the nodes give to ``values``, which holds the inputs; drops those that are not read any more."""
        values.update(self._constants)
        with np.errstate(all="ignore"):  # NaN and overflow are results; padding may hold anything
            walk(self._walk if counted else self._uncounted, self._unread, values, before, after)

    def _forward_within(self, values: Values, before: State | None, after: dict[str, np.ndarray]) -> None:
        """The same within the budget."""
        sizes = _sizes_of(values)
        if sizes in self._affordable:
            self._forward(values, before, after, counted=False)
            return
        with metering(cast(Budget, self._budget).meter()):
            self._forward(values, before, after)
        if self._settled and len(self._affordable) < KNOWN_SIZES:
            self._affordable.add(sizes)

    def _branch(self, values: Values) -> list[np.ndarray]:
        """The outputs of a model inside another's Control node, of all its inputs, which need no check."""
        values.update(self._constants)
        walk(self._walk, self._unread, values, None, {})
        return [values[name] for name in self._spec.outputs]


_recurrent.call_direct_first(Model)


def _sizes_of(values: Values) -> tuple:
    """The shapes of a call's inputs."""
    return tuple([None if array is None else array.shape for array in values.values()])


def _batch_of(spec: Spec, values: Values) -> int:
    """The batch that a state must fit: the input's size that the states have too, else the first dimension."""
    names = [spec.values[f"{node.name}.{node.cell.states[0]}"].shape[1] for node in spec.stateful]
    for entry in spec.inputs:
        for axis, size in enumerate(entry.shape):
            if isinstance(size, str) and size in names and values[entry.name] is not None:
                return values[entry.name].shape[axis]
    first = next(entry for entry in spec.inputs if values[entry.name] is not None)
    return values[first.name].shape[0]


Step = Callable[[Values, "State | None", dict[str, np.ndarray]], None]


def _compile(
    node: GraphNode,
    weights: Weights,
    dtype: np.dtype,
    needed: set[str],
    given: set[str],
    threads: int,
    known: Mapping[str, Value],
    budget: Budget | None,
    packs: dict[tuple, Any],
    fold_bytes: int,
) -> Step:
    if isinstance(node, Recurrent):
        return RecurrentStep(node, weights, dtype, needed, given, threads, packs)
    if isinstance(node, AttentionDecoder):
        layers = pack(node, weights, dtype, packs)
        own = {key: weights[f"{node.name}.{key}"].astype(dtype, copy=False) for key in node.own_shapes()}
        return DecoderStep(node, layers, own, dtype, threads)
    if isinstance(node, Control):
        labels = [label for label, _ in node.subgraphs]
        parts = [branch_weights(node, weights, place, label) for place, label in enumerate(labels)]
        models = [
            Model._of_branch(spec, part, dtype, threads, fold_bytes, None, budget, packs, True)
            for spec, part in zip(node.branches, parts, strict=True)
        ]
        packed: dict[str, Callable[[], np.ndarray]] = {
            f"{node.name}.{label}.{key}": partial(model.weights.__getitem__, key)
            for label, model in zip(labels, models, strict=True)
            for key in model.weights.packed
        }
        branches = [model._branch for model in models]
        limited = budget is not None and budget.limits
        if limited:
            return ControlStep(node, metered_branches(node, branches), dtype, packed, None)
        return ControlStep(node, branches, dtype, packed, models)
    return nothing if node.op == "Constant" else op_step(cast(Node, node), weights, dtype, threads, known, packs)


def nothing(values: Values, before: State | None, after: dict[str, np.ndarray]) -> None:
    """The step of a node whose work is done elsewhere."""


def _constants(spec: Spec) -> list[Node]:
    return [cast(Node, node) for node in spec.nodes if node.op == "Constant"]


def _constant(node: Node, weights: Weights, dtype: np.dtype) -> np.ndarray:
    own = {key: weights[f"{node.name}.{key}"] for key in OPS["Constant"].weight_shapes(node.attributes)}
    array = OPS["Constant"].run(node.attributes, own)
    array = array.astype(numpy_dtype(node.attributes["dtype"], dtype), copy=False)
    array.flags.writeable = False
    return array


def _work(steps: list[Step], last_uses: list[tuple[str, ...]]) -> tuple[list[Step], list[tuple[str, ...]]]:
    """The steps that do something, and the values that are not read after each."""
    working: list[Step] = []
    unread: list[tuple[str, ...]] = []
    waiting: tuple[str, ...] = ()
    for step, names in zip(steps, last_uses, strict=True):
        waiting += names
        if step is not nothing:
            working.append(step)
            unread.append(waiting)
            waiting = ()
    return working, unread


def _last_uses(spec: Spec, folded: Mapping[str, str]) -> list[tuple[str, ...]]:
    """For each node the values, made by nodes, that no later one and no output reads."""
    last: dict[str, int] = {}
    for place, node in enumerate(spec.nodes):
        made = () if node.stateful or node.op == "Constant" else node.names
        last.update(dict.fromkeys(made, place))
        reads = [*node.reads, *(folded[name] for name in node.reads if name in folded)]
        last.update({name: place for name in reads if name in last})
    for name in spec.outputs:
        last.pop(name, None)
    found: list[list[str]] = [[] for _ in spec.nodes]
    for name, place in last.items():
        found[place].append(name)
    return [tuple(names) for names in found]


def op_step(
    node: Node,
    weights: Weights,
    dtype: np.dtype,
    threads: int,
    known: Mapping[str, Value] | None = None,
    packs: dict[tuple, Any] | None = None,
) -> OpStep:
    """The step of a Node; known: the Values by name, where the node reads them under these names; packs: see pack."""
    op, shapes, key = OPS[node.op], node.weight_shapes(), None
    given = {name.removeprefix(f"{node.name}."): weights[name] for name in shapes}
    if shapes and packs is not None:
        key = (node.op, repr(sorted(node.attributes.items())), *map(memory_of, given.values()))
    run, _ = packs.get(key, (None, None)) if key is not None and packs is not None else (None, None)
    if run is None:
        dtypes = op.weight_dtypes(node.attributes)
        own = {
            name: array.astype(numpy_dtype(dtypes.get(name, "float"), dtype), copy=False)
            for name, array in given.items()
        }
        values = None if known is None else [known[name] if name else None for name in node.inputs]
        run = op.compiled(node.attributes, own, threads, dtype, values)
        if key is not None and packs is not None and op.bound is None:
            packs[key] = run, given
    packed = {f"{node.name}.{key}": read for key, read in getattr(run, "packed", {}).items()}
    parted = blocks.apply if op.spreads else None
    return OpStep(run, node.inputs, node.names, f"node {node.name!r} ({node.op})", packed, parted, blocks.ELEMENTS)
