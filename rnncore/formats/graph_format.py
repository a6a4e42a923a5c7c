"""GraphFormat: a file format whose files hold the network and its weights."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rnncore.formats.checkpoint import Checkpoint
from rnncore.formats.native import ModelFile

if TYPE_CHECKING:
    from rnncore.formats.listing import Listing

__all__ = ["GraphFormat"]


class GraphFormat(NamedTuple):
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
