"""Modules drawn at random, with decisions on sizes, odd names of arguments and loops: refused, or equal to torch.

Loops go over ranges, halves, splits and lists of other loops, collect in lists and in tensors, and keep what they
return whole or in part; between them stand functions, numbers made of sizes, and changes in place.

    python tests/tools/export_draws.py [--count 5000] [--seed 0]

Each module is exported at one size and run at ten others, in processes of their own, since a crash ends the process.
Prints each failure with the module's text, then how many were exported and refused; exit code 1 after a failure.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import random
import sys
import traceback
import warnings
from collections import Counter

import numpy as np
import torch
from torch import nn

import rnncore
from rnncore.errors import RnncoreError
from rnncore.export import from_torch
from rnncore.formats.verification import TOLERANCES

WIDTH = 4
LENGTHS = ("n_frames", "lengths", "valid", "num", "t_in", "sizes")
"""What an argument with the rows' lengths may be called."""


class Draw:
    """The text of one module, drawn with a seed, and the sizes that it is exported and run at."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.counted = self.random.choice(LENGTHS) if self.random.random() < 0.3 else None
        self.lines: list[str] = []
        self._body()
        arguments = f"x, {self.counted}" if self.counted else "x"
        self.text = f"def forward(self, {arguments}):\n" + "".join(f"    {line}\n" for line in self.lines)
        self.size = self._size(4, 9)
        self.others = [(1, 1), (1, self.size[1]), *(self._size(6, 26) for _ in range(8))]

    def _size(self, rows: int, steps: int) -> tuple[int, int]:
        return self.random.randint(1, rows), self.random.randint(2, steps)

    def _body(self) -> None:
        pick = self.random.choice
        self.lines.append("y = x * 1.5")
        if self.counted and self.random.random() < 0.8:
            self._pack()
        for _ in range(self.random.randint(1, 3)):
            pick((
                self._branch, self._branch, self._slice, self._loop, self._loop, self._loop, self._number, self._layer,
                self._in_place, self._function,
            ))()  # fmt: skip
        self.lines.append(f"return {self._result()}")

    def _count(self, name: str = "y") -> str:
        """A number that sizes decide."""
        pick, k = self.random.choice, self.random.choice((1, 2, 3, 5, 9, 12))
        one = pick(
            (f"{name}.size(1)", f"{name}.shape[1]", f"len({name}[0])", f"int({name}.size(1))", f"{name}.size(-2)")
        )
        return pick((one, one, one, f"({one} - 1)", f"{one} // 2", f"min({one}, {k})", f"max({one}, {k})", "x.size(0)"))

    def _condition(self) -> str:
        pick, k = self.random.choice, self.random.choice((1, 2, 3, 4, 6, 8, 10, 15, 20))
        return pick((
            f"{self._count()} {pick(('>', '<', '==', '>=', '!='))} {k}", f"{self._count()} % 2", "x.size(0) == 1",
            f"{k} < {self._count()} < {k + 9}", "x.size(0) == y.size(1)", f"not {self._count()} > {k}",
        ))  # fmt: skip

    def _branch(self) -> None:
        pick, k = self.random.choice, self.random.choice((1, 2, 3, 5))
        bodies = (
            "y = -y",
            f"y = y[:, -{k}:]",
            f"y = y[:, :{k}]",
            "y = self.layer(y)",
            "pass",
            "y = y + 1",
            "y = y.tanh()",
        )
        self.lines.append(f"if {self._condition()}:")
        self.lines.append(f"    {pick(bodies)}")
        if self.random.random() < 0.5:
            self.lines += ["else:", f"    {pick(bodies)}"]

    def _slice(self) -> None:
        pick, k = self.random.choice, self.random.choice((1, 2, 3, 5))
        self.lines.append(
            pick(
                (
                    f"y = y[:, -{k}:]",
                    f"y = y[:, :{k}]",
                    f"y = y[:, {k}:]",
                    f"y = y[:, :{self._count()}]",
                    "y = y[:, ::2]",
                )
            )
        )

    def _number(self) -> None:
        pick = self.random.choice
        self.lines.append(
            pick((
                f"y = y[:, :int({self._count()} * {pick((0.3, 0.5, 0.75))}) + 1]",
                f"y = y[:, :math.{pick(('ceil', 'floor'))}({self._count()} / {pick((2, 3))}) + 1]",
                f"y = y * math.{pick(('sqrt', 'log'))}({self._count()} + 1) - {self._count()} ** 0.5",
                f"y = y + torch.linspace(0, {pick((1, 2))}, y.size(1))[:, None]",
                f"y = y / {self._count()}", f"y = y * {self._count()}", f"y = y + float({self._count()})",
                f"y = y + torch.arange({self._count()} * 1.0).sum()",
                f"y = torch.zeros(y.size(0), {self._count()}, 4) + y.mean()",
            ))
        )  # fmt: skip

    def _layer(self) -> None:
        self.lines.append(
            self.random.choice(("y = self.gru(y)[0]", "y = self.layer(y)", "y = self.both(y)[0][:, :, :4]"))
        )

    def _in_place(self) -> None:
        pick, k = self.random.choice, self.random.choice((0, 1, 2))
        self.lines += pick((
            [f"y[:, {k}] = 0.5"], ["y *= 0.5"], ["y = y.clamp_(-1, 1)"], [f"y[:, {k}:] = y[:, {k}:] * 2"],
            ["for t in range(1, y.size(1)):", "    y[:, t] = y[:, t] + 0.5 * y[:, t - 1]"],
            ["out = torch.zeros(y.size(0), y.size(1) + 1, 4)", "for t in range(y.size(1)):",
             "    out[:, t + 1] = torch.tanh(out[:, t] + y[:, t])", f"y = out[:, {k}:]"],
        ))  # fmt: skip

    def _function(self) -> None:
        pick, k = self.random.choice, self.random.choice((1, 2, 3))
        self.lines.append(
            pick((
                f"y = y.unfold(1, {k}, {pick((1, 2))}).mean(-1)", "y = torch.logcumsumexp(y, 1)",
                f"y = torch.fmod(y, 0.{k})", "y = torch.nan_to_num(torch.log(y), nan=0.5, neginf=-1.0)",
                "y = torch.cummax(y, 1)[0]", f"y = torch.cat([y, torch.diff(y, dim=1)], 1)[:, {k}:]",
                "y = torch.stft(y.reshape(y.size(0), -1), 6, 2, return_complex=True).abs().transpose(1, 2)",
                "y = self.encoder(y, src_key_padding_mask=torch.arange(y.size(1))[None].expand(y.size(0), -1) > 2)",
            ))
        )  # fmt: skip

    def _steps(self, count: str) -> tuple[str, str]:
        """What a loop goes over, and the items (B, 4) that it has."""
        return self.random.choice((
            (f"range({count})", "y[:, t]"), (f"range({count})", "y[:, t]"),
            (f"range(1, {count})", "y[:, t] - y[:, t - 1]"), (f"range(1, {count})", "y[:, t]"),
            (f"range({count} - 1, -1, -1)", "y[:, t]"), ("y.unbind(1)", "t"), (f"range(0, {count}, 2)", "y[:, t]"),
            ("y.split(1, dim=1)", "t.squeeze(1)"), ("y.chunk(y.size(1), 1)", "t[:, 0]"),
            ("[self.layer(y[:, u]) for u in range(y.size(1))]", "t"), ("y.transpose(0, 1)", "t"),
        ))  # fmt: skip

    def _loop(self) -> None:
        pick, chance = self.random.choice, self.random.random
        count = self._count()
        over, step = self._steps(count)
        counted = over.startswith("range")
        update = pick((
            "h = self.cell({})", "h = self.cell({})", "h = torch.tanh(h + {})", "h = 0.5 * h + {}",
            "h, c = self.pair({})",
        ))  # fmt: skip
        given = f"{step}, (h, c)" if "pair" in update else f"{step}, h" if "cell" in update else step
        start = pick(("torch.zeros(y.size(0), 4)", "torch.zeros(y.size(0), 4)", "y[:, 0]", "y.new_zeros(y.size(0), 4)"))
        stores = counted and chance() < 0.3
        self.lines += [f"h, out, total = {start}, [], {pick(('0', 'None'))}", "c = torch.zeros_like(h)"]
        if stores:
            first, kind = pick((("y.size(0), y.size(1)", ":, t"), ("y.size(1), y.size(0)", "t")))
            self.lines.append(f"held = torch.{pick(('zeros', 'ones', 'FloatTensor'))}({first}, 4)")
            self.lines.append("held.zero_()")
        self.lines += [f"for t in {over}:", f"    {update.format(given)}"]
        if chance() < 0.2 and counted:
            self.lines += [f"    if t {pick(('==', '<', '!='))} {pick(('0', '1', '3', 'y.size(1) - 1'))}:"]
            self.lines += ["        h = h * 2"]
        if chance() < 0.2:
            self.lines += ["    if random.random() < 0:", "        h = -h"]
        self.lines += ["    total = h if total is None else total + h", "    out.append(h)"]
        if stores:
            self.lines += [f"    held[{kind}] = h", "y = held" + (".transpose(0, 1)" if kind == "t" else "")]
            return
        whole = pick((
            "torch.stack(out, 1)", "torch.stack(out, 1)", "torch.stack(out[1:], 1)", "torch.stack(out[::-1], 1)",
            "torch.cat([o.unsqueeze(1) for o in out], 1)", "torch.stack([y[:, 0], *out], 1)",
            "torch.stack(out).permute(1, 0, 2)",
        ))  # fmt: skip
        self.lines.append(pick((f"y = {whole}", f"y = {whole}", f"y = {whole}", "y = y + h[:, None]",
                                "y = y + total[:, None]", "y = y - out[0][:, None]")))  # fmt: skip

    def _pack(self) -> None:
        name = self.counted
        self.lines += self.random.choice((
            [
                f"p = nn.utils.rnn.pack_padded_sequence(y, {name}, batch_first=True, enforce_sorted=False)",
                "y = nn.utils.rnn.pad_packed_sequence(self.gru(p)[0], batch_first=True)[0]",
            ],
            [f"y = y * (torch.arange(y.size(1))[None] < {name}[:, None]).unsqueeze(2)"],
            [f"y = y + y[torch.arange(y.size(0)), {name} - 1].unsqueeze(1)"],
            [f"y = y.sum(1, keepdim=True) / {name}.view(-1, 1, 1) + y"],
        ))  # fmt: skip

    def _result(self) -> str:
        return self.random.choice(("y", "y", "y.mean(1)", "y[:, -1]", "y.sum(1) / y.size(1)", "y.amax(1)", "y[:, -1:]"))

    def module(self) -> nn.Module:
        space: dict = {"torch": torch, "nn": nn, "math": math, "random": random}
        exec(compile(self.text, "<drawn>", "exec"), space)

        class Drawn(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
                self.both = nn.LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=True)
                self.cell, self.pair = nn.GRUCell(WIDTH, WIDTH), nn.LSTMCell(WIDTH, WIDTH)
                layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True)
                self.encoder = nn.TransformerEncoder(layer, 1)
                self.layer = nn.Linear(WIDTH, WIDTH)

            forward = space["forward"]

        torch.manual_seed(1)
        return Drawn().eval()

    def arguments(self, size: tuple[int, int]) -> list[torch.Tensor]:
        rows, steps = size
        x = torch.from_numpy(
            np.random.default_rng(rows * 100 + steps).standard_normal((rows, steps, WIDTH)).astype("f")
        )
        if not self.counted:
            return [x]
        longest = steps if self.random.random() < 0.7 else max(1, steps - 1)
        return [x, torch.tensor([longest, *(self.random.randint(1, longest) for _ in range(rows - 1))])]


def failure(seed: int) -> tuple[str, str]:
    """("ok" or "refused", ""), or ("wrong", how) for the module drawn with a seed."""
    draw = Draw(seed)
    module = draw.module()
    with torch.no_grad():
        example = draw.arguments(draw.size)
        try:
            module(*example)
        except Exception:
            return "refused", "by torch"
        try:
            model = rnncore.Model(*from_torch(module, tuple(example)))
        except RnncoreError as error:
            return "refused", str(error)
        except Exception:
            return "wrong", f"{draw.text}at {draw.size}: {traceback.format_exc()}"
        for size in draw.others:
            given = draw.arguments(size)
            try:
                expected = module(*given).numpy()
            except Exception:
                continue
            names = ("x", draw.counted)
            arrays = {name: tensor.numpy() for name, tensor in zip(names, given, strict=False)}
            try:
                found = model.run({entry.name: arrays[entry.name] for entry in model.inputs if entry.name in arrays})
            except RnncoreError:
                continue
            (found,) = found.values()
            scale = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0)))
            same = found.shape == expected.shape and np.allclose(
                found, expected, rtol=0, atol=TOLERANCES["float32"] * scale, equal_nan=True
            )
            if not same:
                return "wrong", f"{draw.text}exported at {draw.size}, at {size}: {found.shape}, torch {expected.shape}"
    return "ok", ""


def _worker(seeds, results) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for seed in seeds:
        results.put((seed, "begun", ""))
        results.put((seed, *failure(seed)))
    results.put((None, "end", ""))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print refusals too")
    options = parser.parse_args()
    waiting = list(range(options.seed, options.seed + options.count))
    counts: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    while waiting:
        results = context.Queue()
        child = context.Process(target=_worker, args=(waiting, results))
        child.start()
        at = None
        while True:
            try:
                seed, outcome, text = results.get(timeout=5)
            except Exception:
                if child.is_alive():
                    continue
                counts["crash"] += 1
                print(f"CRASH seed {at}: exit code {child.exitcode}\n{Draw(at).text}")
                waiting = [one for one in waiting if one > at]
                break
            if outcome == "end":
                waiting = []
                break
            at = seed
            if outcome != "begun":
                counts[outcome] += 1
            if outcome == "wrong" or (options.verbose and outcome == "refused"):
                print(f"{outcome} seed {seed}: {text}", flush=True)
        child.join()
    print(", ".join(f"{key} {counts[key]}" for key in ("ok", "refused", "wrong", "crash")))
    return 1 if counts["wrong"] or counts["crash"] else 0


if __name__ == "__main__":
    sys.exit(main())
