"""Rows and steps in random graphs: positions that are said to be apart do not change each other."""

from __future__ import annotations

import numpy as np
from draw import Draw
from outcome import WrongResult

from rnncore.errors import RnncoreError
from rnncore.graph.axes import Followed, follow, rows_meet
from rnncore.runtime.model import Model
from targets._files import BUDGET
from targets._graphs import NAMES, drawn_graph, mutate, seeds
from targets._runs import inputs_of, weights_of

__all__ = ["mutate", "run", "seeds"]


def run(data: bytes) -> int:
    """Each named size of a graph: what does not have the dimension does not change when one of its positions does,
    what keeps it apart changes there alone, and rows that are apart are the same without the others."""
    draw = Draw(data)
    graph = drawn_graph(draw, 6)
    spec = graph.spec()
    weights = None if spec is None else weights_of(spec, draw.rng())
    if weights is None:
        return 0
    model = Model(spec, weights, num_threads=1, budget=BUDGET)
    sizes = {name: draw.between(2, 4) for name in NAMES}
    given = inputs_of(spec, draw, sizes, "float32")
    before = outputs_of(model, given)
    for name in NAMES:
        found = follow(spec, name)
        along = {key: found.places[key].axis for key in given if found.has(key)}
        counts = {given[key].shape[axis] for key, axis in along.items() if given[key].ndim > axis}
        if len(counts) != 1 or min(counts) < 2:
            continue
        position = draw.below(min(counts))
        check_changes(model, found, given, along, position, before, draw.rng())
        if not rows_meet(spec, name):
            check_rest(model, found, given, along, position, before)
    return sum(array.nbytes for array in weights.values()) + 64 * sum(map(graph.elements, graph.values.values()))


def outputs_of(model, given):
    found = model.run(given)
    return found[0] if isinstance(found, tuple) else found


def check_changes(model, found: Followed, given, along, position, before, rng):
    """With other contents at one position."""
    changed = {key: _changed(given[key], axis, position, rng) for key, axis in along.items()}
    try:
        after = outputs_of(model, {**given, **changed})
    except RnncoreError:
        return  # an index beyond its axis, lengths beyond theirs
    for name, array in before.items():
        place = found.places[name]
        if place.kind in ("free", "size") and not _close(array, after[name]):
            raise WrongResult(f"{name} is said to be {place.kind} of what {sorted(along)} have at {position}")
        if place.kind == "along" and not found.meets:
            rest = [p for p in range(array.shape[place.axis]) if p != position]
            if not _close(array.take(rest, place.axis), after[name].take(rest, place.axis)):
                raise WrongResult(f"{name} changes beyond position {position} of axis {place.axis}")


def check_rest(model, found: Followed, given, along, position, before):
    """Without one position."""
    left = {
        key: np.delete(given[key], position, axis) if given[key].ndim > axis else given[key]
        for key, axis in along.items()
    }
    after = outputs_of(model, {**given, **left})
    for name, array in before.items():
        expected = np.delete(array, position, found.places[name].axis)
        if not _close(expected, after[name]):
            raise WrongResult(f"{name} is another without position {position}: {sorted(along)}")


def _changed(array, axis, position, rng):
    """The array with contents from elsewhere in it at one position."""
    if array.ndim <= axis:
        return array
    array = array.copy()
    place = (slice(None),) * axis + (position,)
    array[place] = rng.permutation(array.reshape(-1))[: array[place].size].reshape(array[place].shape)
    return array


def _close(a, b):
    if a.shape != b.shape:
        return False
    return np.allclose(a, b, 1e-3, 1e-4, equal_nan=True) if a.dtype.kind == "f" else bool((a == b).all())
