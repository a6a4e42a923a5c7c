"""torch's own modules through from_torch, in a process that may die: no crash, and no error but rnncore's.

    python tests/tools/export_soak.py [--count N] [--only TEXT] [--verbose] [--write]

Every entry of torch's module database is exported with the inputs that torch tests it with, then the modules and
expressions of export_models.py. What exports has been compared with torch at other sizes; the module's own checkpoint
has to fit the exported Spec too. Prints each failure, then the counts; exit code 1 where a process died, an error was
not rnncore's, or a value differed. --write puts the counts into docs/compatibility.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import traceback
import warnings
from collections import Counter

import _helpers  # noqa: F401
from compatibility import table, write_section

OUTCOMES = {
    "ok": "exported, equal",
    "refused": "refused by name",
    "differs": "different",
    "foreign": "another exception",
    "crash": "process died",
}


def cases() -> list[tuple[int, str]]:
    import export_models
    from torch.testing._internal.common_modules import module_db

    names = [*(entry.formatted_name for entry in module_db), *export_models.MODELS, *_expressions()]
    return list(enumerate(names))


def _expressions() -> list[str]:
    import export_models

    return [part for line in export_models.EXPRESSIONS for part in export_models.single(line)]


def _samples(number: int):
    """(module, arguments) of a case: several for one of the database."""
    import export_models
    import torch
    from torch.testing._internal.common_modules import module_db

    own = number - len(module_db)
    if own >= len(export_models.MODELS):
        yield export_models.of_expression(_expressions()[own - len(export_models.MODELS)])
    elif own >= 0:
        torch.manual_seed(0)
        yield list(export_models.MODELS.values())[own]()
    else:
        entry = module_db[number]
        for sample in entry.module_inputs_func(
            entry, device="cpu", dtype=torch.float32, requires_grad=False, training=False
        ):
            made, given = sample.constructor_input, sample.forward_input
            if given is not None:
                yield _Called(entry.module_cls(*made.args, **made.kwargs), given.kwargs), given.args


def run(numbers, results) -> None:
    """Exports the cases with these numbers; puts (number, sample, outcome, text)."""
    import torch

    from rnncore.errors import RnncoreError
    from rnncore.export import from_torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for number in numbers:
        for i, (module, arguments) in enumerate(_samples(number)):
            results.put((number, i, "begun", ""))
            outcome, text = "ok", ""
            try:
                exported = from_torch(module.eval(), arguments)
                text = next((note for note in exported.notes if note.startswith("weights of a checkpoint")), "")
                outcome = "differs" if text else "ok"
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

        version = torch.__version__.partition("+")[0]
        head = [f"inputs of {len(chosen)} modules: PyTorch {version}'s module_db, and our own", "cases"]
        rows = [[text, counts[key]] for key, text in OUTCOMES.items()]
        write_section("PyTorch", f"    python tests/tools/export_soak.py --write\n\n{table(head, rows)}")
    return 1 if counts["foreign"] or counts["crash"] or counts["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
