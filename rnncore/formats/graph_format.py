"""GraphFormat: a file format whose files hold the network and its weights; Listing: the content of such a file."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rnncore.formats.checkpoint import Checkpoint
from rnncore.formats.native import ModelFile

__all__ = ["GraphFormat", "ListedNode", "Listing"]


@dataclass(frozen=True)
class ListedNode:
    """One node (or layer) of a file as the file has it.

    place    its place in the file: "graph.node[17]", "config.layers[3]"
    name     its own name; may be empty
    kind     its type: "LSTM", "Bidirectional"
    reads    what it reads, by the file's names
    options  its attributes, as text
    problem  why rnncore does not run it; None where it does
    """

    place: str
    name: str
    kind: str
    reads: tuple[str, ...] = ()
    options: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Listing:
    """The content of a graph file, whether or not rnncore can run it: for ``rnncore inspect``.

    facts    what the file says of itself, in order: "opset" -> "17"
    inputs   name -> dtype and shape as text;  outputs  likewise
    problem  what keeps the file from being loaded, where it is no single node's
    """

    path: str
    format: str
    nodes: tuple[ListedNode, ...]
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class GraphFormat:
    """One format of graph files: how to recognise it by its first bytes or, in a zip archive, by its members.

    module  of rnncore.formats, imported when such a file is first met, since most need an extra. It has

            read(cursor[, archive][, sizes=][, layers=]) -> ModelFile, sizes where the format is ``sized``, layers
                                                            where it is ``layered``
            listing(cursor[, archive]) -> Listing, also of a file that read refuses with UnsupportedError

    bare    files of the format may hold weights alone: read then gives a Checkpoint, listing gives None, and the
            module has checkpoint(cursor[, archive]) -> Checkpoint, None for a file with its network
    """

    name: str
    module: str
    by_head: Callable[[bytes], bool] | None = None
    by_members: Callable[[Iterable[str]], bool] | None = None
    sized: bool = False
    layered: bool = False
    bare: bool = False

    def read(
        self, *opened: Any, sizes: Mapping[str, int] | None = None, layers: Mapping[str, Any] | None = None
    ) -> ModelFile | Checkpoint:
        """sizes: for sizes of inputs that have a name, which the graph may depend on. layers: as for rnncore.load."""
        if self.sized:
            return self._module().read(*opened, sizes=sizes)
        contents = self._module().read(*opened, **({"layers": layers} if layers else {}))
        whole = isinstance(contents, ModelFile)
        return dataclasses.replace(contents, spec=contents.spec.sized(sizes)) if sizes and whole else contents

    def checkpoint(self, *opened: Any) -> Checkpoint | None:
        return self._module().checkpoint(*opened) if self.bare else None

    def listing(self, *opened: Any) -> Listing | None:
        return self._module().listing(*opened)

    def _module(self) -> Any:
        return importlib.import_module(f"rnncore.formats.{self.module}")
