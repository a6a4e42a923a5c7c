"""Every entry of the compiled modules, called with arguments that are wrong in one place: an exception, never a crash.

A table lists the entries with arguments that are right; what Python can reach and is not listed fails. Each array is
replaced by those of every rank from 0 to 64, other dtypes, orders and sizes, each number by others, each index by one
that points past the end.
"""

import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest

from rnncore import kernels
from rnncore.cells import CELLS
from rnncore.kernels import (
    _activations,
    _blas_loop,
    _convolution,
    _graph,
    _linear,
    _normalization,
    _packing,
    _pool,
    _pooling,
    _program,
    _quantized,
    _recurrent,
    _runtime,
)
from rnncore.runtime.packing import _options

F = np.float32


def ones(*shape, dtype=F):
    return np.ones(shape, dtype)


def cell(kind="LSTM", **options):
    return CELLS[kind](input_size=3, hidden_size=5, **options)


def weights_of(cell, dtype=F):
    return {name: ones(*shape, dtype=dtype) for name, shape in cell.weight_shapes().items()}


def packed_cell(kind="LSTM", **options):
    made = cell(kind, **options)
    return _packing.PackedCell(kind, _options(made), weights_of(made))


def stack(kind="LSTM", directions=1):
    return _recurrent.Stack([[packed_cell(kind) for _ in range(directions)]], False)


def states(rows=1, batch=2):
    return ones(rows, batch, 5), ones(rows, batch, 5)


def blas_cell(dtype=np.float64):
    made = cell()
    return _blas_loop.BlasCell("LSTM", _options(made), weights_of(made, dtype), dtype == np.float64)


def slots(capacity=4):
    found = _pool.Slots(capacity)
    return found, np.array([found.open(), found.open()])


def direct_slots():
    found, handles = slots()
    made = _pool.DirectSlots(stack(), *states(batch=4), ones(4, dtype=bool), found, 3, 1)
    return made, handles


def direct_stream():
    return _pool.DirectStream(stack(), *states(), ones(2, dtype=bool), _pool.Owner(), 3, 1)


def order():
    return np.array([1, 0]), np.array([4, 2]), np.array([[0, 1, 2, 3], [0, 3, 1, 2]])


def table():
    return _recurrent.Table(stack(), ones(7, 3))


def geometry(shape):
    return (1,), (shape[2],)


def stack_run():
    return (
        *(ones(2, 4, 3), ones(2, 4, 5), "set", "set", False, False, *order()),
        *(states(), states(), 1, None),
    )


def blas_run():
    h = ones(2, 5, dtype=np.float64)
    return (
        *(ones(2, 4, 3, dtype=np.float64), ones(2, 4, 5, dtype=np.float64), 0, "set", False, False, False, *order()),
        *((h, h.copy()), (h.copy(), h.copy())),
    )


class Called:
    """A class whose instances are called; call_direct_first changes it."""

    _direct = None

    def __call__(self, x):
        return x


def lstm_of_integers():
    """Arguments of DynamicLSTM."""
    zero = np.zeros((1, 1), np.int8)
    w, r = ones(1, 3, 20, dtype=np.int8), ones(1, 5, 20, dtype=np.int8)
    return (w, ones(1, 20), zero, r, ones(1, 1), zero, ones(1, 20), ones(1, 15), 1.0, False, (False,), 1)


def byte_matrix():
    return ones(3, 5, dtype=np.int8), ones(5, dtype=np.int8), 1


POOLING = ((6,), (6,), (3,), (1,), (1,), (1,), True, None)
OPTIONS = _options(cell())

# entry -> (what is called, its arguments), each made anew. An array in ``strict`` has one rank, dtype and shape.
ENTRIES = {
    "_convolution.Convolution": lambda: (
        _convolution.Convolution,
        (ones(4, 2, 3), ones(4), 2, (1,), (1,), geometry, False, 1),
    ),
    "_convolution.Convolution()": lambda: (
        _convolution.Convolution(ones(4, 2, 3), ones(4), 2, (1,), (1,), geometry, False, 1),
        (ones(2, 4, 6),),
    ),
    "_convolution.Convolution.unpack": lambda: (
        _convolution.Convolution(ones(4, 2, 3), None, 2, (1,), (1,), geometry, False, 1).unpack,
        (),
    ),
    "_blas_loop.BlasCell": lambda: (_blas_loop.BlasCell, ("LSTM", OPTIONS, weights_of(cell()), False)),
    "_blas_loop.BlasCell.run": lambda: (blas_cell().run, blas_run()),
    "_activations.activate": lambda: (_activations.activate, ("tanh", 0.0, 0.0, ones(2, 5))),
    "_blas_loop.check_cell": lambda: (_blas_loop.check_cell, ("LSTM", OPTIONS, weights_of(cell()), F)),
    "_graph.OpStep": lambda: (_graph.OpStep, (len, ("x",), ("y",), "n", {})),
    "_graph.OpStep()": lambda: (_graph.OpStep(np.abs, ("x",), ("y",), "n", {}), ({"x": ones(2)}, None, None)),
    "_graph.unalias": lambda: (_graph.unalias, (("x",), {"x": ones(2)}, [None])),
    "_graph.walk": lambda: (_graph.walk, ([], [], {"x": ones(2)}, None, None)),
    "_recurrent.Direct": lambda: (_recurrent.Direct, (stack(), "set", 3, 5, ("h", "c"), 1)),
    "_recurrent.Direct()": lambda: (_recurrent.Direct(stack(), "set", 3, 5, ("h", "c"), 1), (ones(2, 4, 3),)),
    "_recurrent.Direct.step": lambda: (
        _recurrent.Direct(stack(), "set", 3, 5, ("h", "c"), 1).step,
        (ones(2, 4, 3), dict(zip("hc", states(), strict=True))),
    ),
    "_linear.Matrix": lambda: (_linear.Matrix, (ones(5, 3), ones(5), 1)),
    "_linear.Matrix()": lambda: (_linear.Matrix(ones(5, 3), ones(5), 1), (ones(2, 3),)),
    "_linear.Matrix.unpack": lambda: (_linear.Matrix(ones(5, 3), ones(5), 1).unpack, ()),
    "_packing.PackedCell": lambda: (_packing.PackedCell, ("LSTM", OPTIONS, weights_of(cell()))),
    "_packing.PackedCell.unpack": lambda: (packed_cell().unpack, ("weight_ih",)),
    "_recurrent.Stack": lambda: (_recurrent.Stack, ([[packed_cell()]], False)),
    "_recurrent.Stack.run": lambda: (stack().run, stack_run()),
    "_recurrent.Table": lambda: (_recurrent.Table, (stack(), ones(7, 3))),
    "_runtime.ask_threads": lambda: (_runtime.ask_threads, (0,)),
    "_recurrent.call_direct_first": lambda: (_recurrent.call_direct_first, (Called,)),
    "_runtime.choose_isa": lambda: (_runtime.choose_isa, (_runtime.current_isa(),)),
    "_runtime.current_isa": lambda: (_runtime.current_isa, ()),
    "_packing.is_fused": lambda: (_packing.is_fused, ("LSTM", OPTIONS)),
    "_activations.rational": lambda: (_activations.rational, ("tanh", ones(2, 3))),
    "_recurrent.table_bytes": lambda: (_recurrent.table_bytes, (stack(), 7)),
    "_runtime.usable_isas": lambda: (_runtime.usable_isas, ()),
    "_normalization.normalize": lambda: (
        _normalization.normalize,
        (ones(4, 6), 6, 1, 1, True, 1e-5, ones(6), ones(6), True),
    ),
    "_pool.DirectSlots": lambda: (
        _pool.DirectSlots,
        (stack(), *states(batch=4), ones(4, dtype=bool), _pool.Slots(4), 3, 1),
    ),
    "_pool.DirectSlots.step_arrays": lambda: (
        (made := direct_slots())[0].step_arrays,
        (ones(2, 4, 3), made[1], np.array([4, 1]), ones(2, 4, 5), 0.0),
    ),
    "_pool.DirectSlots.step_by_id": lambda: (
        (made := direct_slots())[0].step_by_id,
        ({"a": ones(4, 3), "b": ones(3)}, dict(zip("ab", made[1].tolist(), strict=True)), 0.0),
    ),
    "_pool.DirectStream": lambda: (
        _pool.DirectStream,
        (stack(), *states(), ones(2, dtype=bool), _pool.Owner(), 3, 1),
    ),
    "_pool.DirectStream.feed": lambda: (direct_stream().feed, (ones(2, 4, 3), ones(2, 4, 5), True)),
    "_pool.Owner": lambda: (_pool.Owner, ()),
    "_pool.Owner.release": lambda: (_pool.Owner().release, ()),
    "_pool.Owner.take": lambda: (_pool.Owner().take, ()),
    "_pool.Slots": lambda: (_pool.Slots, (4,)),
    "_pool.Slots.close": lambda: ((made := slots())[0].close, (int(made[1][0]),)),
    "_pool.Slots.open": lambda: (_pool.Slots(1).open, ()),
    "_pool.Slots.slot": lambda: ((made := slots())[0].slot, (int(made[1][0]),)),
    "_pool.Slots.slots_of": lambda: ((made := slots())[0].slots_of, (made[1],)),
    "_pool.rows_of": lambda: (_pool.rows_of, (ones(2, 4, 3), np.array([4, 1]), [False, True])),
    "_pool.pad_batch": lambda: (
        _pool.pad_batch,
        ({"a": ones(4, 3), "b": ones(3)}, np.dtype(F), (3,), True),
    ),
    "_pooling.Pooling": lambda: (_pooling.Pooling, POOLING),
    "_pooling.Pooling()": lambda: (_pooling.Pooling(*POOLING), (ones(2, 3, 6),)),
    "_quantized.ByteMatrix": lambda: (_quantized.ByteMatrix, byte_matrix()),
    "_quantized.ByteMatrix()": lambda: (
        _quantized.ByteMatrix(*byte_matrix()),
        (ones(4, 3, dtype=np.uint8), ones(4, 1, dtype=np.uint8)),
    ),
    "_quantized.DynamicLSTM": lambda: (_quantized.DynamicLSTM, lstm_of_integers()),
    "_quantized.DynamicLSTM()": lambda: (
        _quantized.DynamicLSTM(*lstm_of_integers()),
        (ones(4, 2, 3), np.array([4, 1]), ones(1, 2, 5), ones(1, 2, 5)),
    ),
    "_quantized.quantize": lambda: (_quantized.quantize, (ones(4, 3),)),
}

# Entries whose arrays have one dtype and shape: place of the argument -> axes whose size may be another. Those of
# Direct and the streams answer None to what is not plain.
STRICT = {
    "_convolution.Convolution": {1: ()},
    "_convolution.Convolution()": {0: (0, 2)},
    "_blas_loop.BlasCell.run": {0: (), 1: (2,), 7: (), 8: (), 9: (), 10: (), 11: ()},
    "_activations.activate": {3: (0, 1)},
    "_recurrent.Direct()": {0: (0, 1)},
    "_recurrent.Direct.step": {0: (1,)},
    "_linear.Matrix": {1: ()},
    "_linear.Matrix()": {0: (0,)},
    "_recurrent.Stack.run": {0: (), 1: (), 6: (), 7: (), 8: (), 9: (), 10: ()},
    "_recurrent.Table": {1: (0,)},
    "_normalization.normalize": {6: (), 7: ()},
    "_pool.DirectSlots": {1: (), 2: (), 3: ()},
    "_pool.DirectSlots.step_arrays": {0: (), 1: (), 2: (), 3: ()},
    "_pool.DirectStream": {1: (), 2: (), 3: ()},
    "_pool.DirectStream.feed": {0: (1,), 1: ()},
    "_pool.Slots.slots_of": {0: (0,)},
    "_pool.rows_of": {1: ()},
    "_pooling.Pooling()": {0: (0, 1)},
    "_quantized.ByteMatrix": {0: (0,)},
    "_quantized.ByteMatrix()": {0: ()},
    "_quantized.DynamicLSTM": {0: (1,), 3: (), 6: (), 7: ()},
    "_quantized.DynamicLSTM()": {0: (0,), 2: (), 3: ()},
}
CONVERTED = {"_convolution.Convolution", "_linear.Matrix", "_recurrent.Table"}
"""Entries that take other dtypes of numbers, and any order of bytes and elements, and make float32 of them."""

COPIED = {
    *(*CONVERTED, "_convolution.Convolution()", "_linear.Matrix()", "_pooling.Pooling()"),
    *("_quantized.ByteMatrix", "_quantized.ByteMatrix()", "_quantized.DynamicLSTM", "_quantized.DynamicLSTM()"),
}
"""Entries that copy what is not dense."""


def hostile_numbers(right):
    yield from (-1, -(1 << 31), 1 << 31, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 63), 10**400, 0, 1.5, "x", None, [])


def hostile_arrays(right):
    """Arrays that have another rank, dtype or order than ``right``, but few numbers."""
    for rank in range(65):
        if rank != right.ndim:
            yield f"rank {rank}", ones(*[1] * rank, dtype=right.dtype)
    for dtype in ("f2", "f4", "f8", "i1", "i4", "i8", "u8", "c8", "?", "O", "S4", "M8[s]", right.dtype.newbyteorder()):
        if np.dtype(dtype) != right.dtype:
            yield f"dtype {dtype}", np.zeros(right.shape, dtype)
    yield "unaligned", np.frombuffer(bytes(right.nbytes + 1), np.uint8)[1:].view(right.dtype).reshape(right.shape)
    yield "record", np.zeros(right.shape, [("a", right.dtype)])


def hostile_sizes(right, free):
    for axis in range(right.ndim):
        for size in (0, right.shape[axis] - 1, right.shape[axis] + 1, 2 * right.shape[axis]):
            if axis not in free and size != right.shape[axis]:
                yield ones(*right.shape[:axis], size, *right.shape[axis + 1 :], dtype=right.dtype)


def hostile(value):
    """Stand-ins for one argument of any kind."""
    if isinstance(value, np.ndarray):
        yield from (array for _, array in hostile_arrays(value))
        yield from hostile_sizes(value, ())
        yield from (None, "x", 3, [1.0], value[..., ::-1] if value.ndim else value, np.ma.masked_array(value))
        yield np.broadcast_to(value.dtype.type(1), (1 << 40, *value.shape[1:])) if value.ndim else value
    elif isinstance(value, (bool, int, float)):
        yield from hostile_numbers(value)
    elif isinstance(value, (tuple, list)):
        yield from ((), (*value, *value), None, 5, type(value)([None] * len(value)))
        for place, item in enumerate(value):
            for other in hostile(item):
                yield type(value)([*value[:place], other, *value[place + 1 :]])
    elif isinstance(value, dict):
        yield from ({}, None, [], dict.fromkeys(value), {**value, "unknown": 1})
        for key, item in value.items():
            yield {other: found for other, found in value.items() if other != key}
            for other in hostile(item):
                yield {**value, key: other}
    elif isinstance(value, str):
        yield from ("", "x", "\ud800", None, 3)
    else:
        yield from (None, 3, "x", object())


def refused(entry, call, arguments):
    """Whether an exception, or None for an answer, came of it."""
    try:
        found = call(*arguments)
    except Exception as error:
        assert not isinstance(error, (SystemError, AssertionError)), f"{entry}: {error!r}"
        return True
    return found is None and entry not in RUNS


RUNS = {"_blas_loop.BlasCell.run", "_recurrent.Stack.run", "_activations.activate"}
"""Entries that return nothing."""


def reached(name):
    """Names of all that Python can call in a compiled module: functions, classes, their methods and calls."""
    module = importlib.import_module(f"rnncore.kernels.{name}")
    for key, value in vars(module).items():
        if key.startswith("_") or not callable(value) or getattr(value, "__module__", None) != module.__name__:
            continue
        yield f"{name}.{key}"
        for method, found in vars(value).items() if inspect.isclass(value) else ():
            if method == "__call__":
                yield f"{name}.{key}()"
            elif not method.startswith("_") and callable(found):
                yield f"{name}.{key}.{method}"


def test_the_table_names_every_entry():
    folder = Path(kernels.__file__).parent
    modules = sorted(path.stem for path in folder.glob("*.pyx"))
    # made by no caller but their own module
    private = {"_convolution.ConvolutionPlan", "_convolution.Layout", "_blas.products", "_graph.Spans"}
    # made of Operands by runtime/program.py alone: tests/runtime/test_program.py gives them wrong ones
    bound = {"_convolution.Convolution.bind", "_linear.Matrix.bind"}
    found = {entry for name in modules for entry in reached(name)} - private - bound
    bound_classes = {name for name in found if is_bound(name)}
    assert found - bound_classes == set(ENTRIES)


def is_bound(entry):
    """Whether it is a class of bound programs, or a method of one."""
    module, name, *_ = entry.removesuffix("()").split(".")
    kind = getattr(importlib.import_module(f"rnncore.kernels.{module}"), name)
    return module == "_program" or (inspect.isclass(kind) and issubclass(kind, _program.Instruction))


@pytest.mark.parametrize("entry", ENTRIES)
def test_right_arguments_are_taken(entry):
    call, arguments = ENTRIES[entry]()
    found = call(*arguments)
    assert found is not None or entry in RUNS or entry.split(".")[-1] in (
        *("release", "close", "walk", "check_cell", "choose_isa", "call_direct_first"), "OpStep()"
    )  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_wrong_argument_is_no_crash(entry):
    """Each argument, and what is in it, by each stand-in: any exception, or an answer, and the process goes on."""
    _, arguments = ENTRIES[entry]()
    before = _runtime.current_isa()
    for place, argument in enumerate(arguments):
        for other in hostile(argument):
            call, given = ENTRIES[entry]()
            refused(entry, call, (*given[:place], other, *given[place + 1 :]))
            _runtime.ask_threads(0)
            assert _runtime.current_isa() == before


@pytest.mark.parametrize("entry", STRICT)
def test_a_wrong_array_is_refused(entry):
    for place, free in STRICT[entry].items():
        argument = ENTRIES[entry]()[1][place]
        if isinstance(argument, tuple):  # of arrays, each in turn
            for at, right in enumerate(argument):
                arrays = [None, 3, *(array for _, array in hostile_arrays(right)), *hostile_sizes(right, free)]
                check_each(entry, place, [(*argument[:at], array, *argument[at + 1 :]) for array in arrays])
            check_each(entry, place, [argument[:1], (*argument, argument[0])])
            continue
        right = argument
        wrong = dict(hostile_arrays(right))
        if entry in CONVERTED:
            wrong = {what: array for what, array in wrong.items() if array.ndim != right.ndim}
        if entry in COPIED:
            for what in ("unaligned", f"dtype {right.dtype.newbyteorder()}"):
                wrong.pop(what, None)
        if entry == "_linear.Matrix()":
            wrong = {what: array for what, array in wrong.items() if what == "rank 0" or array.shape[-1] != 3}
        if entry in ("_convolution.Convolution", "_linear.Matrix") and place == 1:
            wrong = {what: array for what, array in wrong.items() if array.shape != right.shape}
        if entry == "_normalization.normalize":
            wrong = {what: array for what, array in wrong.items() if array.size != right.size or array.dtype != F}
        if entry == "_activations.activate":
            wrong.pop("dtype f8")
        check_each(entry, place, [*wrong.values(), *hostile_sizes(right, free)])


def check_each(entry, place, wrong):
    """Every one of these, in place of an argument, is refused."""
    for argument in wrong:
        call, given = ENTRIES[entry]()
        assert refused(entry, call, (*given[:place], argument, *given[place + 1 :])), f"argument {place}: {argument!r}"


INDICES = {
    "order": ("_recurrent.Stack.run", 6, lambda a, at, value: a.__setitem__(at, value), (-1, 2, 1 << 62)),
    "lengths": ("_recurrent.Stack.run", 7, lambda a, at, value: a.__setitem__(at, value), (-1, 5, 1 << 62)),
    "steps": ("_recurrent.Stack.run", 8, lambda a, at, value: a.__setitem__((at, at), value), (-1, 4, 1 << 62)),
    "order in float64": ("_blas_loop.BlasCell.run", 7, lambda a, at, value: a.__setitem__(at, value), (-1, 2)),
    "lengths in float64": ("_blas_loop.BlasCell.run", 8, lambda a, at, value: a.__setitem__(at, value), (-1, 5)),
    "steps in float64": ("_blas_loop.BlasCell.run", 9, lambda a, at, value: a.__setitem__((at, at), value), (-1, 4)),
    "handles": ("_pool.DirectSlots.step_arrays", 1, lambda a, at, value: a.__setitem__(at, value), (-1, 0, 1 << 62)),
    "lengths of a pool": ("_pool.DirectSlots.step_arrays", 2, lambda a, at, value: a.__setitem__(at, value), (-1, 5)),
    "counts": ("_pool.rows_of", 1, lambda a, at, value: a.__setitem__(at, value), (-1, 5, 1 << 62)),
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_past_the_end_is_refused(name):
    entry, place, put, values = INDICES[name]
    for at in (0, 1):
        for value in values:
            call, arguments = ENTRIES[entry]()
            put(arguments[place], at, value)
            assert refused(entry, call, arguments), (at, value)


def test_ids_outside_of_a_table_are_refused():
    made = stack()
    products = _recurrent.Table(made, ones(7, 3))
    run = stack_run()
    for ids in (np.array([[0, 1, 2, 7]] * 2), np.array([[0, 1, 2, -1]] * 2), ones(2, 4), np.zeros((2, 4, 1), int)):
        with pytest.raises(ValueError, match="ids"):
            made.run(ids, *run[1:-1], products)
    with pytest.raises(ValueError, match="another stack"):
        stack().run(np.zeros((2, 4), int), *run[1:-1], products)
    made.run(np.full((2, 4), 6), *run[1:-1], products)


def test_sizes_of_layers_agree():
    other = CELLS["LSTM"](input_size=4, hidden_size=5)
    fourth = _packing.PackedCell("LSTM", _options(other), weights_of(other))
    gru = packed_cell("GRU")
    for layers in ([[packed_cell()], [fourth]], [[packed_cell(), fourth]], [[packed_cell()], [gru]], [[]]):
        with pytest.raises((ValueError, IndexError)):
            _recurrent.Stack(layers, False).run(*stack_run())
