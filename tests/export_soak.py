"""torch's own modules through from_torch, each in a process of its own: no crash, and no error but rnncore's.

    python tests/export_soak.py [--count N] [--only TEXT] [--write]

Every entry of torch's module database, with the inputs that torch tests it with, is exported. What exports has been
compared with torch at other sizes; here also at the sizes of the database. Prints each failure, then the counts; exit
code 1 where a process died, an error was not rnncore's, or a value differed. --write puts the counts into
docs/compatibility.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import traceback
import warnings
from collections import Counter

from compatibility import table, write_section

OUTCOMES = {
    "ok": "exported, equal",
    "refused": "refused by name",
    "differs": "different",
    "foreign": "another exception",
    "crash": "process died",
}

SECONDS = 600
"""Processor time after which a case counts as hanging."""


def cases() -> list[tuple[int, str]]:
    from torch.testing._internal.common_modules import module_db

    return [(i, entry.formatted_name) for i, entry in enumerate(module_db)]


def run(numbers, results) -> None:
    """Exports the modules of the database with these numbers; puts (number, sample, outcome, text)."""
    import torch
    from torch.testing._internal.common_modules import module_db

    from rnncore.errors import RnncoreError
    from rnncore.export import from_torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for number in numbers:
        entry = module_db[number]
        samples = entry.module_inputs_func(
            entry, device="cpu", dtype=torch.float32, requires_grad=False, training=False
        )
        for i, sample in enumerate(samples):
            results.put((number, i, "begun", ""))
            outcome, text = "ok", ""
            try:
                made = sample.constructor_input
                module = entry.module_cls(*made.args, **made.kwargs).eval()
                given = sample.forward_input
                if given is None:
                    continue
                from_torch(_Called(module, given.kwargs), given.args)
            except RnncoreError as error:
                outcome, text = "refused", f"{type(error).__name__}: {error}"
                if type(error).__name__ == "VerificationError":
                    outcome = "differs"
            except Exception:
                outcome, text = "foreign", traceback.format_exc()
            results.put((number, i, outcome, text))
    results.put((None, 0, "end", ""))


def _Called(module, keywords):
    """A module with some keyword arguments given."""
    from torch import nn

    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, *args):
            return self.module(*args, **keywords)

    return Called()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1 << 30, help="modules at most")
    parser.add_argument("--only", default="", help="modules whose name has this in it")
    parser.add_argument("--verbose", action="store_true", help="print refusals too")
    parser.add_argument("--write", action="store_true", help="put the counts into docs/compatibility.md")
    options = parser.parse_args()
    chosen = [(i, name) for i, name in cases() if options.only in name][: options.count]
    names, waiting = dict(chosen), [i for i, _ in chosen]
    counts: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    while waiting:
        results = context.Queue()
        child = context.Process(target=run, args=(waiting, results))
        child.start()
        at = None
        while True:
            try:
                number, sample, outcome, text = results.get(timeout=5)
            except Exception:
                if child.is_alive():
                    continue
                counts["crash"] += 1
                print(f"CRASH {names[at[0]]} sample {at[1]}: exit code {child.exitcode}")
                waiting = [i for i in waiting if i > at[0]]
                break
            if outcome == "end":
                waiting = []
                break
            at = (number, sample)
            if outcome == "begun":
                continue
            counts[outcome] += 1
            if outcome in ("foreign", "differs") or (options.verbose and outcome != "ok"):
                print(f"{outcome} {names[number]} sample {sample}: {text}")
        child.join()
    print(", ".join(f"{key} {counts[key]}" for key in OUTCOMES))
    if options.write:
        import torch

        head = [
            f"inputs of the {len(chosen)} modules in PyTorch {torch.__version__.partition('+')[0]}'s module_db",
            "cases",
        ]
        rows = [[text, counts[key]] for key, text in OUTCOMES.items()]
        write_section("PyTorch", f"    python tests/export_soak.py --write\n\n{table(head, rows)}")
    return 1 if counts["foreign"] or counts["crash"] or counts["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
