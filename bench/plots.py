"""Pictures of a race: the ratio for every shape, and a roofline.

python bench/plots.py bench/results/NAME.json
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import numpy as np
from ceilings import levels

__all__ = ["draw"]

COLOURS = {1: "#2a6f97", 2: "#e07a1f"}
PEERS = {
    "torch": "#d1495b",
    "torch-compiled": "#8d5b9a",
    "onnxruntime": "#6c757d",
    "onnxruntime-bound": "#a3a9af",
    "openvino": "#3d9970",
    "keras": "#b08900",
    "tflite": "#c58fd6",
}


def draw(results: dict, beside: Path) -> list[Path]:
    """Writes NAME-ratio.png and NAME-roofline.png beside NAME.json; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    written = []
    for name, make in (("ratio", _ratios), ("roofline", _roofline)):
        figure = make(results)
        if figure is not None:
            target = beside.with_name(f"{beside.stem}-{name}.png")
            figure.savefig(target, dpi=110, bbox_inches="tight")
            written.append(target)
    return written


def _ratios(results: dict):
    """One bar for each shape and thread count: fastest peer's time over rnncore's."""
    import matplotlib.pyplot as plt

    rows = [row for row in results["races"] if row.get("ratio")]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    threads = sorted({row["threads"] for row in rows})
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.34 * len(shapes)))
    height = 0.8 / len(threads)
    for place, count in enumerate(threads):
        found = {row["shape"]: row["ratio"] for row in rows if row["threads"] == count}
        y = np.arange(len(shapes)) + (place - (len(threads) - 1) / 2) * height
        values = [found.get(shape, np.nan) for shape in shapes]
        mean = float(np.exp(np.mean(np.log(list(found.values())))))
        label = f"{count} thread{'s' * (count > 1)}, geometric mean {mean:.2f}"
        axes.barh(y, np.array(values) - 1, height * 0.92, left=1, color=COLOURS.get(count), label=label)
        for at, value in zip(y, values, strict=True):
            if np.isfinite(value):
                axes.text(max(value, 1) * 1.02, at, f"{value:.2f}", va="center", fontsize=7, color="#333333")
    axes.axvline(1, color="#333333", linewidth=1)
    axes.set_xscale("log")
    ticks = [tick for tick in (0.5, 1, 1.5, 2, 3, 5, 10, 20) if tick <= 1.3 * max(row["ratio"] for row in rows)]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(shapes)), shapes, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the fastest other engine (right of the line: rnncore is faster)")
    versions = {name: version.split("-")[0] for name, version in results["versions"].items()}
    engines = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "rnncore")
    title = textwrap.fill(f"rnncore {versions['rnncore']} beside {engines}", 100)
    axes.set_title(f"{title}\n{_machine(results)}", fontsize=9)
    axes.set_xlim(left=0.5)
    axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _roofline(results: dict):
    """GFLOP/s over flops per byte of recurrent weights, one point for each engine and shape, one thread."""
    import matplotlib.pyplot as plt

    core = results["ceilings"].get("1")
    rows = [row for row in results["races"] if row["threads"] == 1]
    if not rows or not core:
        return None
    figure, axes = plt.subplots(figsize=(9, 6))
    intensities = [_intensity(row) for row in rows]
    span = np.geomspace(min(intensities) / 1.6, max(intensities) * 1.6, 200)
    for level, rate in levels(core).items():
        roof = np.minimum(core["gflops"], span * rate)
        axes.plot(span, roof, color="#999999", linewidth=1)
        axes.text(span[0], roof[0] * 1.05, f"{level} {rate:.0f} GB/s", fontsize=8, color="#666666")
    axes.text(span[-1], core["gflops"] * 1.06, f"{core['gflops']:.0f} GFLOP/s", fontsize=8, ha="right")
    engines = [name for name in results["versions"] if name != "rnncore"]
    for engine in [*engines, "rnncore"]:
        points = [
            (_intensity(row), row["engines"][engine]["gflops"]) for row in rows
            if row["engines"].get(engine, {}).get("valid")
        ]  # fmt: skip
        ours = engine == "rnncore"
        axes.scatter(
            *np.array(points).T.reshape(2, -1), s=42 if ours else 16, color=COLOURS[1] if ours else PEERS.get(engine),
            label=engine, zorder=3 if ours else 2, marker="o" if ours else "x",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("flops per byte of recurrent weights that every step reads")
    axes.set_ylabel("GFLOP/s, one thread (all products of the call)")
    axes.set_title(f"Roofline of one core; ceilings measured in the same run\n{_machine(results)}", fontsize=9)
    axes.legend(fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _intensity(row: dict) -> float:
    sizes = row["sizes"]
    return row["flops"] / (row["weight_bytes"] * sizes["T"])


def _machine(results: dict) -> str:
    return f"{results['machine']['cpu']}, {results['date']}; float32, median"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    for picture in draw(json.loads(path.read_text()), path):
        print(picture)
