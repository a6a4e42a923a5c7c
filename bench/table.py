"""A race as a table to read.

python bench/table.py bench/results/NAME.json
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from ceilings import levels

__all__ = ["medians", "write"]

HEADS = ("threads", "shape", "rnncore us", "fastest other", "us", "ratio", "of floor", "attainable", "error")


def medians(row: dict) -> tuple[float | None, dict[str, float]]:
    """Microseconds of rnncore, if its result is valid, and of the other engines whose results are."""
    times = {name: found["microseconds"]["median"] for name, found in row["engines"].items() if found["valid"]}
    return times.pop("rnncore", None), times


def write(results: dict, beside: Path) -> Path:
    """Writes NAME.md beside NAME.json; returns its path."""
    lines = [f"# {beside.stem}", "", f"{results['machine']['cpu']}, {results['date']}; float32, median of a call.", ""]
    for cores, core in results["ceilings"].items():
        if core:
            rates = ", ".join(f"{name} {rate:g}" for name, rate in levels(core).items())
            lines += [f"{cores} busy: each core {core['gflops']:g} GFLOP/s; GB/s of reading: {rates}.", ""]
    lines += [
        "ratio: the fastest other engine's time over rnncore's; of floor: the least time that flops and bytes allow",
        "(`bench/floor.py`) over rnncore's; attainable: the ratio of an engine at the floor; error: rnncore's largest",
        "difference from float64.",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|---" * len(HEADS) + "|",
    ]
    lines += [f"| {' | '.join(cells)} |" for row in results["races"] if (cells := _cells(row))]
    lines += ["", *_means(results["races"])]
    path = beside.with_suffix(".md")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _means(rows: list[dict]) -> list[str]:
    counts = sorted({row["threads"] for row in rows})
    ratios = {count: [row["ratio"] for row in rows if row["threads"] == count and row["ratio"]] for count in counts}
    return [
        f"{count} thread{'s' * (count > 1)}: geometric mean of the ratios {statistics.geometric_mean(found):.3f}, "
        f"lowest {min(found):.3f}."
        for count, found in ratios.items()
        if found
    ]


def _cells(row: dict) -> list[str]:
    """Of a race that rnncore and another engine finished; else nothing."""
    ours, times = medians(row)
    if ours is None or not times:
        return []
    fastest = min(times, key=times.get)
    floor = [f"{row['floor'] / ours:.0%}", f"{row['attainable']:.2f}"] if row["floor"] else ["", ""]
    error = f"{row['engines']['rnncore']['error']:.0e}"
    named = [str(row["threads"]), row["shape"], f"{ours:,.1f}", fastest, f"{times[fastest]:,.1f}"]
    return [*named, f"{row['ratio']:.2f}", *floor, error]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    print(f"written: {write(json.loads(path.read_text()), path)}")
