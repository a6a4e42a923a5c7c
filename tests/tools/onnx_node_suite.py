"""Every node test that the onnx package has, through rnncore.load: right, or refused with a reason that is listed.

    python tests/tools/onnx_node_suite.py [--only TEXT] [--write]

A case is loaded from the bytes of its model and run with its own inputs. Where the tests pass as inputs what real
models have as constants (the weights of recurrent layers, axes, shapes), it is run once more with these. Prints
what is wrong, then the counts; exit code 1 where a value is wrong, a process died, an error was not rnncore's, or a
refusal has no reason in onnx_backend.REFUSED. --write puts the table into docs/compatibility.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import sys
import traceback
import warnings
from collections import Counter

import _helpers  # noqa: F401
import numpy as np
from compatibility import table, write_section
from onnx import TensorProto, numpy_helper
from onnx_backend import AS_ONNX_RUNTIME, cases, constant_inputs, is_bfloat16, load, refusal, run, with_constants

CHUNK = 700
"""Cases that one process runs."""

SECONDS = 120
"""Time after which a case counts as hanging."""

OUTCOMES = {
    "ok": "equal",
    "constants": "equal, with weights, axes and shapes as constants",
    "bfloat16": "equal to bfloat16's precision: computed in float32",
    "runtime": "equal to ONNX Runtime, which differs from the specification",
    "refused": "refused by name",
    "wrong": "wrong",
    "foreign": "another exception",
    "crash": "process died or hung",
}
FAULTS = ("wrong", "foreign", "crash")


def outcome_of(case) -> tuple[str, str]:
    """What becomes of a case, and a text: the refusal's, or what is wrong."""
    from rnncore.errors import RnncoreError

    try:
        wrong = mismatch(case, case.model, {})
        outcome = "ok"
    except RnncoreError as refused:
        names = constant_inputs(case.model)
        if not names:
            return "refused", f"{type(refused).__name__}: {refused}"
        try:
            wrong = mismatch(case, case.model, set(names))
            outcome = "constants"
        except RnncoreError as error:
            return "refused", f"{type(error).__name__}: {error}"
    if wrong and case.name in AS_ONNX_RUNTIME:
        return "runtime", ""
    if wrong:
        return "wrong", wrong
    return ("bfloat16" if is_bfloat16(case) else outcome), ""


def mismatch(case, proto, constant) -> str:
    """How the outputs differ from the expected ones, "" where they do not. constant: inputs made constants."""
    names = [entry.name for entry in proto.graph.input]
    for inputs, outputs in case.data_sets:
        given = dict(zip(names, inputs, strict=False))
        own = {name: given.pop(name) for name in list(given) if name in constant}
        model = load(with_constants(proto, own) if own else proto)
        for place, (found, expected) in enumerate(zip(run(model, proto, given), outputs, strict=True)):
            wrong = _difference(found, expected, case)
            if wrong:
                return f"output {place}: {wrong}"
    return ""


def _difference(found, expected, case) -> str:
    expected = numpy_helper.to_array(expected) if isinstance(expected, TensorProto) else np.asarray(expected)
    loose = is_bfloat16(case)
    if found.shape != expected.shape or (found.dtype != expected.dtype and not loose):
        return f"{found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}"
    rtol, atol = max(case.rtol, 1e-2 if loose else 1e-3), max(case.atol, 1e-2 if loose else 1e-7)
    wide = (array.astype(np.float64) if array.dtype.kind not in "biuc" else array for array in (found, expected))
    found, expected = wide
    if not np.allclose(found, expected, rtol=rtol, atol=atol, equal_nan=True):
        return f"largest difference {np.nanmax(np.abs(found.astype(np.float64) - expected.astype(np.float64)))}"
    return ""


def work(names, results) -> None:
    warnings.simplefilter("ignore")
    known = cases()
    for name in names:
        results.put((name, "begun", ""))
        try:
            results.put((name, *outcome_of(known[name])))
        except Exception:
            results.put((name, "foreign", traceback.format_exc()))
    results.put((None, "end", ""))


def _next(results, child):
    """What a process says next; None where it died or hangs."""
    for _ in range(SECONDS):
        try:
            return results.get(timeout=1)
        except queue.Empty:
            if not child.is_alive():
                break
    try:
        return results.get(timeout=1)
    except queue.Empty:
        return None


def results_of(names):
    """(name, outcome, text) of each, by processes that may die."""
    context, waiting = multiprocessing.get_context("spawn"), list(names)
    while waiting:
        some, results, at = waiting[:CHUNK], context.Queue(), None
        child = context.Process(target=work, args=(some, results))
        child.start()
        while True:
            found = _next(results, child)
            if found is None:
                child.kill()
                at = at or some[0]
                yield at, "crash", f"exit code {child.exitcode}, or no answer within {SECONDS} s"
                waiting = waiting[waiting.index(at) + 1 :]
                break
            name, outcome, text = found
            if outcome == "end":
                waiting = waiting[len(some) :]
                break
            at = name
            if outcome != "begun":
                yield name, outcome, text
        child.join()


def main() -> int:
    import onnx

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--verbose", action="store_true", help="print refusals too")
    parser.add_argument("--write", action="store_true", help="put the table into docs/compatibility.md")
    options = parser.parse_args()
    names = [name for name in cases() if options.only in name]
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    unlisted = 0
    for name, outcome, text in results_of(names):
        counts[outcome] += 1
        if outcome == "refused":
            reason = refusal(name)
            reasons[reason or "no reason listed"] += 1
            unlisted += reason is None
        if outcome in FAULTS or (outcome == "refused" and (options.verbose or refusal(name) is None)):
            print(f"{outcome} {name}: {text}", flush=True)
    rows = [[text, counts[outcome]] for outcome, text in OUTCOMES.items()]
    rows.append(["all", len(names)])
    found = table([f"node tests of onnx {onnx.__version__}", "cases"], rows)
    why = table(
        ["refused, and why", "cases"], [[reason, count] for reason, count in reasons.most_common()] or [["", 0]]
    )
    print(found, why, sep="\n\n")
    if options.write:
        write_section("ONNX", f"    python tests/tools/onnx_node_suite.py --write\n\n{found}\n\n{why}")
    return 1 if unlisted or any(counts[outcome] for outcome in FAULTS) else 0


if __name__ == "__main__":
    sys.exit(main())
