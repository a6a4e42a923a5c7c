"""Outputs share no memory with each other, with inputs or with what is kept; and calls that there is no memory for."""

import numpy as np
import pytest
from yardstick import within

from rnncore import Input, InputError, Model, Recurrent, Spec
from rnncore.cells import LSTM
from rnncore.kernels._graph import unalias


def random_views(rng, buffers, count):
    """Views of any layout: forwards, backwards, with steps, of one element, of none."""
    found = []
    for _ in range(count):
        whole = buffers[int(rng.integers(len(buffers)))].reshape(8, 16)
        rows, columns = (
            slice(*sorted(rng.integers(0, size + 1, 2)), int(rng.choice([1, 1, 2, 3]))) for size in whole.shape
        )
        view = whole[rows, columns]
        found.append(view[:: int(rng.choice([1, -1])), :: int(rng.choice([1, -1]))])
    return found


@pytest.mark.parametrize("seed", range(30))
def test_only_what_may_share_memory_is_copied(seed):
    rng = np.random.default_rng(seed)
    buffers = [np.arange(128, dtype=np.float32), np.frombuffer(bytes(512), np.float32), np.zeros(128, np.float32)]
    kept = [*random_views(rng, buffers, int(rng.integers(0, 4))), None]
    values = {f"y{place}": array for place, array in enumerate(random_views(rng, buffers, 12))}
    found = unalias(tuple(values), values, kept)
    held = [array for array in kept if array is not None]
    for name, array in values.items():
        np.testing.assert_array_equal(found[name], array)
        shared = any(np.may_share_memory(array, other) for other in held)
        assert (found[name] is array) is not shared
        held.append(found[name])
    for place, array in enumerate(held[len(kept) - 1 :]):
        assert not any(np.may_share_memory(array, other) for other in held[len(kept) + place :])


def test_many_outputs_take_their_number_of_time():
    """Of memory that is nobody's and of one array: each was compared with every other once."""
    arrays = [np.frombuffer(bytes(8), np.float32) for _ in range(10_000)]
    arrays += list(np.zeros((10_000, 2), np.float32))
    values = {f"y{place}": array for place, array in enumerate(arrays)}
    found = within(0.5, lambda: unalias(tuple(values), values, [*arrays[:100], None]))
    assert sum(found[name] is not array for name, array in values.items()) == 100


@pytest.mark.parametrize("state", [False, True])
def test_a_call_without_memory_for_it_says_what_it_would_take(state):
    spec = Spec([Input("x", "float", ("B", "T", 1))], [Recurrent("lstm", LSTM(1, 1024), "x")], ["lstm"])
    model = Model(spec, {name: np.zeros(shape, np.float32) for name, shape in spec.weight_shapes().items()})
    x = np.zeros((1, 1 << 28, 1), np.float32)  # which takes no memory before it is read
    with pytest.raises(InputError, match=r"268435456.* 1,099,511,627,776 bytes"):
        model(x, None) if state else model(x)
    with pytest.raises(InputError, match=r"268435456.* 1,099,511,627,776 bytes"):
        model.stream().feed(x)
