"""Calls that repeat: the loops of a trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from torch import fx

from rnncore.errors import UnsupportedError
from rnncore.export.torch.loops.leaves import Loop
from rnncore.export.torch.records import Traced

__all__ = ["calls_of", "check_alike", "drop_unread", "loops_of", "signature"]


def drop_unread(traced: Traced, looped: set) -> None:
    """Erases calls that nothing reads in any step, such as sizes that only a condition asked for."""
    calls = [node for node in calls_of(traced) if signature(traced, node) in looped]
    unread: set[fx.Node] = set()
    for node in reversed(calls):
        if unread.issuperset(node.users):
            unread.add(node)
    read = {signature(traced, node) for node in calls if node not in unread}
    for node in reversed(calls):
        if signature(traced, node) not in read:
            traced.graph.erase_node(node)


def check_alike(first: Traced, second: Traced, loops: Sequence[Sequence[Loop]], looped: set) -> None:
    """Raises where two traces repeat other calls."""
    for one, two in zip_longest(*loops):
        bodies = [
            [signature(traced, node) for node in loop.body] if loop else None
            for traced, loop in ((first, one), (second, two))
        ]
        if bodies[0] != bodies[1]:
            node = (one or two).steps[0][0]
            missing = one is None or two is None
            expected = "an example of at least two steps" if missing else "the same calls in each step"
            raise UnsupportedError(
                f"{line_of(first, second, node)}: {node.name}: a loop over a size that does not repeat the same calls, "
                f"expected {expected}"
            )
    counts = [Counter(signature(traced, node) for node in calls_of(traced)) for traced in (first, second)]
    inside = [
        Counter(signature(traced, node) for loop in own for step in loop.steps for node in step)
        for traced, own in zip((first, second), loops, strict=True)
    ]
    for name in looped:
        if counts[0][name] - inside[0][name] != counts[1][name] - inside[1][name]:
            node = next(
                node for traced in (first, second) for node in calls_of(traced) if signature(traced, node) == name
            )
            raise UnsupportedError(
                f"{line_of(first, second, node)}: {node.name}: a loop over a size that does not repeat the same calls, "
                "expected an example of at least two steps, each with the same calls"
            )


def line_of(first: Traced, second: Traced, node: fx.Node) -> str:
    return first.places.get(node) or second.places.get(node, "the module")


def calls_of(traced: Traced) -> list[fx.Node]:
    return [node for node in traced.graph.nodes if node.op in ("call_module", "call_function", "call_method")]


def signature(traced: Traced, node: fx.Node) -> tuple:
    return node.op, str(node.target), traced.stacks.get(node, ())


def loops_of(traced: Traced, looped: set) -> list[Loop]:
    """The calls made in loops, as steps of equal calls; the longest repetition is the loop.

    Calls before and after it that do not repeat, as those of a first step that does something else, stay as they are.
    """
    nodes = [node for node in calls_of(traced) if signature(traced, node) in looped]
    names = [signature(traced, node) for node in nodes]
    loops, start = [], 0
    while start < len(nodes):
        period, count = _repetition(names, start)
        if count > 1 and 2 * period * count < len(names) - start:  # what repeats here may belong to a first step
            for place in range(start + 1, start + period * count + 1):
                longer = _repetition(names, place)
                body = names[place : place + longer[0]]
                if longer[0] * longer[1] > period * count and set(names[start:place]) <= set(body):
                    start, (period, count) = place, longer
                    break
        if count > 1:
            loops.append(Loop([nodes[start + k * period : start + (k + 1) * period] for k in range(count)]))
        start += period * count
    return loops


def _repetition(names: Sequence[Any], start: int) -> tuple[int, int]:
    """(length of a step, number of steps) of the repetition from start that covers the most calls."""
    best = (1, 1)
    for period in range(1, (len(names) - start) // 2 + 1):
        if names[start] != names[start + period]:
            continue
        count = 1
        first = names[start : start + period]
        while names[start + count * period : start + (count + 1) * period] == first:
            count += 1
        if count > 1 and count * period > best[0] * best[1]:
            best = (period, count)
    return best
