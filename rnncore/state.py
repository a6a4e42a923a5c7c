"""State: what a recurrent network carries from one call to the next. It belongs to the caller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from rnncore.errors import StateError

__all__ = ["State"]


class State(Mapping[str, np.ndarray]):
    """Recurrent states by name: "NODE.h" and, for an LSTM, "NODE.c".

    Each array is (layers * directions, B, size) in PyTorch's h_n order: layer 0 forward, layer 0 reverse, layer 1
    forward, ... The arrays belong to the State; the model never keeps or changes them, so a State can be copied,
    compared, pickled, and given to several calls. In a model with one recurrent node ``state.h`` and ``state.c``
    need no name.
    """

    __slots__ = ("_arrays",)

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = dict(arrays)

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> State:
        """A State that takes the dict itself: for arrays nobody else has."""
        state = cls.__new__(cls)
        state._arrays = arrays
        return state

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name; not a copy."""
        return self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        """Same names, shapes, dtypes and numbers (NaN equals NaN)."""
        if not isinstance(other, State):
            return NotImplemented
        return self._arrays.keys() == other._arrays.keys() and all(
            a.dtype == other[name].dtype and np.array_equal(a, other[name], equal_nan=True) for name, a in self.items()
        )

    __hash__ = None

    def __reduce__(self):
        return State, (self._arrays,)

    def __repr__(self) -> str:
        return f"<State: {', '.join(f'{name} {array.shape}' for name, array in self.items()) or 'empty'}>"

    @property
    def h(self) -> np.ndarray:
        """The only node's h. StateError where there are several nodes."""
        return self._only("h")

    @property
    def c(self) -> np.ndarray:
        """The only node's c. StateError where there are several nodes, or none with a c."""
        return self._only("c")

    @property
    def batch(self) -> int:
        """Number of rows; 0 for a model without recurrent nodes."""
        return next((array.shape[1] for array in self.values()), 0)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.values())

    def copy(self) -> State:
        """An independent copy."""
        return State({name: array.copy() for name, array in self.items()})

    def rows(self, index) -> State:
        """A copy of some rows of the batch: a slice, an integer array or a boolean mask."""
        return State({name: np.array(array[:, index]) for name, array in self.items()})

    def _only(self, letter: str) -> np.ndarray:
        found = [name for name in self if name.endswith("." + letter)]
        if len(found) != 1:
            raise StateError(
                f"state.{letter}: {len(found)} states of that letter, expected one; there are {list(self)}"
            )
        return self[found[0]]
