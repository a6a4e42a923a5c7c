"""Loops over the steps of a sequence, which tracing has written out, rolled up again.

Calls that happen more often for a longer input were made in a loop. Where the loop calls cells, each fed with its own
last state, and does nothing else from step to step, it is the same as running each cell over the whole sequence and
everything else over all steps at once: torch.fx nodes that do so take the loop's place, and cells become recurrent
nodes (vectorized.py). Any other loop becomes one node that holds its body: a Scan (scanned.py).

    leaves.py      Loop, and what the arguments of its calls are over all steps
    finding.py     the calls that repeat
    items.py       items of outer sequences that steps read, and tensors that they store items to
    replacing.py   new nodes after the loop, and those that read its results
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from rnncore.errors import UnsupportedError
from rnncore.export.torch.loops.finding import calls_of, check_alike, drop_unread, loops_of, signature
from rnncore.export.torch.loops.items import follow_stored, pull_in
from rnncore.export.torch.loops.leaves import Loop, read_arguments
from rnncore.export.torch.loops.scanned import Scanned
from rnncore.export.torch.loops.vectorized import Vectorized
from rnncore.export.torch.records import Traced

__all__ = ["roll"]


def roll(first: Traced, second: Traced) -> None:
    """Puts nodes that do not depend on the number of steps in the place of both traces' loops.

    Raises UnsupportedError with the line of a loop that cannot be rolled up.
    """
    counts = [Counter(signature(traced, node) for node in calls_of(traced)) for traced in (first, second)]
    looped = {name for name in counts[0] | counts[1] if counts[0][name] != counts[1][name]}
    if not looped:
        return
    for traced in (first, second):
        drop_unread(traced, looped)
    loops = [loops_of(traced, looped) for traced in (first, second)]
    check_alike(first, second, loops, looped)
    waiting = list(zip(*loops, strict=True))
    while waiting:
        (one, two), *rest = _read_first(first, second, *waiting.pop(0))
        waiting = rest + waiting
        later = {node for pair in waiting for loop in pair for step in loop.steps for node in step}
        for traced, loop in ((first, one), (second, two)):
            follow_stored(traced, loop)
        plans = [Vectorized(traced, loop, later) for traced, loop in ((first, one), (second, two))]
        rolled = [plan.possible() for plan in plans]
        if all(rolled):
            to_the_end = plans[0].to_the_end() & plans[1].to_the_end()
            for plan in plans:
                plan.open = to_the_end
                plan.replace()
        else:
            for traced, loop in ((first, one), (second, two)):
                Scanned(traced, loop, later).replace()


def _read_first(first: Traced, second: Traced, one: Loop, two: Loop) -> list[tuple[Loop, Loop]]:
    """A loop in both traces with its arguments read; cut in parts where it is several of the same code, one by one.

    Raises UnsupportedError for arguments that go from step to step in no known way.
    """
    refused: Any = None
    for parts in range(1, math.gcd(one.count, two.count) + 1):
        if one.count % parts or two.count % parts or min(one.count, two.count) // parts < 2:
            continue
        cut = list(zip(one.cut(parts), two.cut(parts), strict=True))
        try:
            for traced, loop in zip((first, second), cut[0], strict=True):
                pull_in(traced, loop)
                read_arguments(traced, loop)
        except UnsupportedError as error:
            refused = refused or error
        else:
            return cut
    raise refused
