"""Break the cells and kernels on purpose, one line at a time, and see whether the tests notice.

``python tests/tools/mutations.py [--jobs N] [NAME ...]``, or ``make mutations``, takes each entry of MUTATIONS (all, or
those named), copies the tree, replaces one piece of text, builds again where the file is compiled, and runs the quick
tests until one fails: those that should notice first, then the rest of QUICK. One line for each mutation says which
test noticed, or SURVIVED.

A failing test proves something only if it passes without the mutation. So the unmutated copy runs first; tests that
fail there are named, left out of what follows, and make the exit code 1: with them out, the list proves less.

The exit code is 0 only where the unmutated copy passes and a failing test noticed every mutation. Import errors,
compile errors, crashes and time limits are reported as what they are: the change did not go unseen, but no test judged
its results. They do not fail the check. Anything else that keeps the tests from running does.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import _helpers  # noqa: F401
from paths import ROOT

QUICK = (
    "test_engine.py",
    "test_exactness.py",
    "test_engine_torch.py",
    "test_masks.py",
    "test_activations.py",
    "test_gate_arrays.py",
    "test_torch_names.py",
    "test_oracle.py",
    "test_attention.py",
    "test_decoder.py",
    "test_layers.py",
    "test_folding.py",
    "test_engine_keras.py",
    "test_engine_onnxruntime.py",
    "test_native_driver.py",
    "test_pool.py",
    "test_ops_convolution.py",
)
COMPILED = (".pyx", ".pxd", ".h", ".c")
LIMIT = 2400


class Mutation(NamedTuple):
    """old occurs exactly once in file; first: the test files that should notice, without "test_" and ".py"."""

    name: str
    file: str
    old: str
    new: str
    why: str
    first: str = "engine"


BODY = "rnncore/kernels/recurrent/body.h"
UNITS = "rnncore/kernels/recurrent/units_body.h"
PIPELINED = "rnncore/kernels/recurrent/pipelined_body.h"
CELL = "rnncore/kernels/cell_body.h"
SEQUENCES = "rnncore/kernels/_sequences.pxd"
LOOP = "rnncore/kernels/_loop.pyx"
SCHEDULE = "rnncore/kernels/_schedule.pyx"
PACKING = "rnncore/kernels/_packing.pyx"
CALLS = "rnncore/kernels/_recurrent.pyx"
POOL = "rnncore/kernels/_pool.pyx"
CONVOLUTION = "rnncore/kernels/convolution/body.h"
INTEGERS = "rnncore/kernels/quantized/body.h"
INTEGER_LSTM = "rnncore/kernels/quantized/lstm_body.h"
LSTM = "rnncore/cells/lstm.py"
GRU = "rnncore/cells/gru.py"
GATES = "rnncore/conventions/gates.py"
RECURRENT = "rnncore/runtime/recurrent.py"
ATTENTION = "rnncore/ops/attention.py"

MUTATIONS = [
    # --- compiled -----------------------------------------------------------------------------------------------------
    Mutation(
        "forget-bias-sign",
        CELL,
        "z[i] += (REAL)cell->forget_bias;",
        "z[i] -= (REAL)cell->forget_bias;",
        "forget_bias is added",
    ),
    Mutation(
        "peephole-of-old-cell",
        UNITS,
        "if (peephole[i]) zo[i] += load(peephole[i]) * cell[i];",
        "if (peephole[i]) zo[i] += load(peephole[i]) * load(at[i].c + at[i].panel * W);",
        "the output gate looks at the new c",
    ),
    Mutation(
        "coupled-gate-swapped",
        CELL,
        "c[k] = f[k] * c[k] + (1 - f[k]) * g[k];",
        "c[k] = (1 - f[k]) * c[k] + f[k] * g[k];",
        "i = 1 - f, not the other way round",
    ),
    Mutation(
        "reverse-from-the-end",
        SEQUENCES,
        "step = (batch.lengths[row] if batch.lengths != NULL else batch.T) - 1 - step",
        "step = batch.T - 1 - step",
        "the reverse direction begins at the last valid step, not in the padding",
    ),
    Mutation(
        "save-states-one-row-late",
        LOOP,
        "save_states(run, n_next, n, h)",
        "save_states(run, n_next + 1, n, h)",
        "every row that ends keeps its final state",
    ),
    Mutation(
        "load-states-unsorted",
        LOOP,
        "source = state_row(run, row)",
        "source = row",
        "initial states follow their rows into sorted order",
    ),
    Mutation(
        "outputs-unsorted",
        LOOP,
        "source = run.y_order[row] if run.y_order != NULL else row",
        "source = row",
        "outputs go back to the caller's rows",
    ),
    Mutation(
        "packed-exp-coefficient",
        UNITS,
        "1.66665316e-1f",
        "1.66765316e-1f",
        "a wrong digit in the packed kernels' exponential",
        "native_driver engine exactness",
    ),
    Mutation(
        "scalar-exp-coefficient",
        "rnncore/kernels/activations.h",
        "0.16666666722192652",
        "0.16667666722192652",
        "a wrong digit in the exponential of the activations",
        "activations",
    ),
    Mutation(
        "clip-after-activation",
        CELL,
        "NAME(clip)(cell->hidden_size, z, cell->clip);\n    NAME(act)(&cell->act[0], cell->hidden_size, z);",
        "NAME(act)(&cell->act[0], cell->hidden_size, z);\n    NAME(clip)(cell->hidden_size, z, cell->clip);",
        "clip limits the pre-activation",
    ),
    Mutation(
        "average-without-half",
        SEQUENCES,
        "(y[i] + h[i]) * <real> 0.5",
        "y[i] + h[i]",
        "an average is half the sum",
    ),
    Mutation(
        "gru-update-swapped",
        CELL,
        "h[k] = (1 - u[k]) * g[k] + u[k] * h[k];",
        "h[k] = u[k] * g[k] + (1 - u[k]) * h[k];",
        "u keeps the old state",
    ),
    Mutation(
        "fused-gru-update-swapped",
        UNITS,
        "((d - splat(1.0f)) * N + old * D)",
        "((d - splat(1.0f)) * old + N * D)",
        "u keeps the old output, 1 - u takes the new one",
    ),
    Mutation(
        "fused-coupled-sides-swapped",
        UNITS,
        "if (point->coupled == COUPLED_INPUT) {",
        "if (point->coupled == COUPLED_FORGET) {",
        "which gate is derived from the other",
    ),
    Mutation(
        "fused-reset-forgotten",
        BODY,
        "old / d[0]);",
        "old);",
        "the candidate's product takes r * h, not h",
    ),
    Mutation(
        "links-not-added",
        BODY,
        "acc[r][v] += sum[r][v];",
        "acc[r][v] += splat(0.0f);",
        "beyond LINK columns the sum has several parts",
        "native_driver engine",
    ),
    Mutation(
        "folded-row-off-by-one",
        LOOP,
        "run.ids[run.offsets[row]] * stride",
        "max(run.ids[run.offsets[row]] - 1, 0) * stride",
        "an id is its row of the table",
        "folding",
    ),
    Mutation(
        "layer-follows-too-closely",
        LOOP,
        "rnncore_publish(run.done, t + 1)",
        "rnncore_publish(run.done, t + 2)",
        "a layer reads what the layer before has written",
        "exactness",
    ),
    Mutation(
        "layers-share-a-buffer",
        SCHEDULE,
        "<float*> (front.between + (layer - 1) * front.between_size) if layer > 0 else NULL",
        "<float*> front.between if layer > 0 else NULL",
        "each layer reads the outputs of the one before",
        "exactness",
    ),
    Mutation(
        "pipelined-chain-forgotten",
        PIPELINED,
        "s % LINK == 0 ? (vf){} : load(unfinished + r * W)",
        "(vf){}",
        "a chain goes on where the visit before left it",
        "exactness",
    ),
    Mutation(
        "pipelined-links-not-added",
        PIPELINED,
        "s > LINK ? (vf)(side[r] + load(z + r * stride)) : side[r]",
        "side[r]",
        "sums beyond a link are of several chains",
        "exactness",
    ),
    Mutation(
        "pipelined-inputs-of-the-chunk-before",
        LOOP,
        "float* x = run.x_pipelined + start // rows % 2 * rows * plan.w_ih.K",
        "float* x = run.x_pipelined",
        "threads still read the chunk before",
        "exactness",
    ),
    Mutation(
        "separate-vectors-as-if-joined",
        PIPELINED,
        "if (is_separate(pipelined)) {",
        "if (0) {",
        "input weights beyond a size are packed vector by vector",
        "native_driver exactness",
    ),
    Mutation(
        "inputs-packed-askew",
        PIPELINED,
        "(places){2, 3, 6, 7}",
        "(places){3, 2, 6, 7}",
        "each row's input is packed in its own place",
        "native_driver exactness",
    ),
    Mutation(
        "short-call-forgets-names",
        CALLS,
        "if PyTuple_GET_SIZE(arguments) == 1 and (named == NULL or PyDict_Size(<object> named) == 0):",
        "if PyTuple_GET_SIZE(arguments) == 1:",
        "lengths and masks given by name count",
        "model",
    ),
    Mutation(
        "plain-step-for-clipped",
        PACKING,
        "plain = cell.clip == INFINITY and",
        "plain =",
        "plain steps know no clip",
        "exactness engine",
    ),
    Mutation(
        "groups-of-many-overlap",
        BODY,
        "panel = first + many * MANY + (j - many) * SOME;",
        "panel = first + many + (j - many) * SOME;",
        "groups are stored one after the other",
        "native_driver exactness",
    ),
    Mutation(
        "compiled-leaky-slope",
        "rnncore/kernels/activations_body.h",
        "EACH(v < 0 ? a * v : v);",
        "EACH(v < 0 ? b * v : v);",
        "the slope is alpha",
        "activations",
    ),
    Mutation(
        "layer-norm-epsilon",
        CELL,
        "sqrt(square / (double)n + epsilon)",
        "(sqrt(square / (double)n) + epsilon)",
        "epsilon is inside the root",
    ),
    Mutation(
        "projection-clip-first-row",
        "rnncore/kernels/_blas_loop.pyx",
        "clip_f64(n * P, h, cell.proj_clip)",
        "clip_f64(P, h, cell.proj_clip)",
        "every row's projection is limited",
    ),
    Mutation(
        "slots-of-unsorted-rows",
        POOL,
        "sorted_slots[at] = i, lengths[i], slots[i]",
        "sorted_slots[at] = i, lengths[i], slots[at]",
        "streams whose chunks are sorted by length keep their slots",
        "pool",
    ),
    Mutation(
        "stale-handle-accepted",
        POOL,
        "rnncore_read(&self.generation[slot]) != handle >> 32",
        "not rnncore_read(&self.generation[slot]) & 1",
        "a handle that outlived its stream fits nothing",
        "pool",
    ),
    Mutation(
        "convolution-chain-lost",
        CONVOLUTION,
        "if (z) sum += load(z + (r * V + v) * W);",
        "if (z) sum += splat(0.0f);",
        "beyond LINK terms the sum has several parts",
        "ops_convolution",
    ),
    Mutation(
        "convolution-last-tile-late",
        CONVOLUTION,
        "? at : P - vectors * W;",
        "? at : P - vectors * W - 1;",
        "the last tile ends where the outputs end",
        "ops_convolution",
    ),
    Mutation(
        "convolution-rows-bias-of-first-panel",
        CONVOLUTION,
        "acc[r][p] = load(bias + p * W);",
        "acc[r][p] = load(bias);",
        "every panel of outputs has its own bias",
        "ops_convolution",
    ),
    Mutation(
        "convolution-pads-late",
        "rnncore/kernels/_convolution.pyx",
        "end = phases - self.pads[last]",
        "end = phases - self.pads[last] + 1",
        "the image begins after its padding",
        "ops_convolution",
    ),
    # --- Python -------------------------------------------------------------------------------------------------------
    Mutation(
        "step-peephole-sign",
        LSTM,
        "v = v + peephole[letter] * cell_state",
        "v = v - peephole[letter] * cell_state",
        "peepholes are added",
    ),
    Mutation(
        "step-peephole-of-old-cell",
        LSTM,
        'gate("o", new_c)',
        'gate("o", c)',
        "the output gate looks at the new c",
    ),
    Mutation(
        "step-clip-after-forget-bias",
        LSTM,
        'v = clip_to(v + bias[letter], self.clip)\n            if letter == "f":\n'
        "                v = v + self.forget_bias",
        'v = v + bias[letter]\n            if letter == "f":\n                v = v + self.forget_bias\n'
        "            v = clip_to(v, self.clip)",
        "forget_bias is not limited",
    ),
    Mutation("step-coupled-gate", LSTM, "i = 1.0 - f", "i = f", "the coupled gate is what is left"),
    Mutation(
        "step-gru-update-swapped",
        GRU,
        "((1.0 - z) * n + z * h,)",
        "(z * n + (1.0 - z) * h,)",
        "z keeps the old state",
    ),
    Mutation(
        "step-gru-bias-outside-reset",
        GRU,
        "r * (h @ r_n.T + b_hn)",
        "r * (h @ r_n.T) + b_hn",
        "with reset after, bias_hn is inside the reset's product",
    ),
    Mutation(
        "step-rnn-clip-after-activation",
        "rnncore/cells/rnn.py",
        "self.activations[0](clip_to(products(w, x, h), self.clip))",
        "clip_to(self.activations[0](products(w, x, h)), self.clip)",
        "clip limits the pre-activation",
    ),
    Mutation(
        "step-rnn-without-bias",
        "rnncore/cells/base.py",
        'return z + w["bias"] if "bias" in w else z',
        "return z",
        "the bias is added",
    ),
    Mutation(
        "leaky-slope-sign",
        "rnncore/cells/activations.py",
        "np.where(x >= 0, x, a * x)",
        "np.where(x >= 0, x, -a * x)",
        "the slope below zero is alpha",
        "activations",
    ),
    Mutation(
        "hard-sigmoid-slope",
        "rnncore/cells/activations.py",
        '("hard_sigmoid", 1.0 / 6.0, 0.5)',
        '("hard_sigmoid", 0.2, 0.5)',
        "Keras 3 and PyTorch mean a sixth",
        "activations engine_keras",
    ),
    Mutation(
        "onnx-gate-order",
        GATES,
        '"LSTM": "iofg"',
        '"LSTM": "ifog"',
        "ONNX keeps o before f",
        "gate_arrays engine_onnxruntime",
    ),
    Mutation("tf1-gate-order", GATES, '"LSTM": "igfo"', '"LSTM": "ifgo"', "TF1 keeps j before f", "gate_arrays"),
    Mutation(
        "gru-bias-split-one-gate-early",
        GATES,
        "bias[2 * hidden :] = bias_ih[2 * hidden :]",
        "bias[hidden:] = bias_ih[hidden:]",
        "the biases of z are summed, those of n are not",
        "gate_arrays engine_torch",
    ),
    Mutation(
        "tf1-kernel-halves-swapped",
        GATES,
        "kernel[: len(kernel) - outputs], kernel[len(kernel) - outputs :]",
        "kernel[outputs:], kernel[:outputs]",
        "TF1 puts x before h",
        "gate_arrays",
    ),
    Mutation(
        "masked-steps-first",
        RECURRENT,
        "np.argsort(~mask[order]",
        "np.argsort(mask[order]",
        "the steps that run are the valid ones",
        "masks",
    ),
    Mutation(
        "repeat-forward-only",
        RECURRENT,
        "        if reverse:\n",
        "        if reverse and self.flip:\n",
        "the reverse direction repeats what it stored before, which is later in time",
        "masks",
    ),
    Mutation(
        "mask-one-step-long",
        RECURRENT,
        "np.arange(steps) < lengths[:, None]",
        "np.arange(steps) <= lengths[:, None]",
        "a length is a number of steps",
        "masks",
    ),
    Mutation(
        "last-average-without-half",
        RECURRENT,
        '"average": (h[0] + h[1]) * h.dtype.type(0.5)',
        '"average": h[0] + h[1]',
        "an average is half the sum",
    ),
    Mutation(
        "causal-excludes-itself",
        ATTENTION,
        "np.arange(steps_q)[:, None] >= np.arange(steps_k)",
        "np.arange(steps_q)[:, None] > np.arange(steps_k)",
        "query i sees key i",
        "attention",
    ),
    Mutation(
        "attention-scale",
        ATTENTION,
        "1 / math.sqrt(dim)",
        "1 / dim",
        "scores are divided by the root of D",
        "attention",
    ),
    Mutation(
        "attention-length-one-long",
        ATTENTION,
        "return np.arange(steps) < given[:, None]",
        "return np.arange(steps) <= given[:, None]",
        "a length is a number of steps",
        "attention decoder",
    ),
    Mutation(
        "decoder-row-one-step-long",
        "rnncore/runtime/attention_decoder.py",
        "np.searchsorted(-lengths, -t)",
        'np.searchsorted(-lengths, -t, side="right")',
        "a row stops after its length",
        "decoder",
    ),
    # --- 8-bit integers -----------------------------------------------------------------------------------------------
    Mutation(
        "a-quad-that-saturates",
        INTEGERS,
        "abs(a[2]) + abs(a[3]) <= limit;",
        "abs(a[2]) + abs(a[3]) <= limit + 8;",
        "two products add up within int16",
        "quantized",
    ),
    Mutation(
        "a-vector-of-quads-that-saturates",
        INTEGERS,
        "(vh)(PAIR_SUMS(size, splat_h(1)) > splat_i(limit))",
        "(vh)(PAIR_SUMS(size, splat_h(1)) > splat_i(limit + 8))",
        "the same where several quads are looked at together",
        "quantized",
    ),
    Mutation(
        "the-range-of-rows-that-ended",
        INTEGER_LSTM,
        "            e = (extent){};\n",
        "",
        "a step's states are quantized by their own range",
        "quantized",
    ),
    Mutation(
        "nan-in-the-range",
        INTEGERS,
        "if (nan) *low = NAN;",
        "",
        "a range with NaN in it is none",
        "quantized",
    ),
]


class Result(NamedTuple):
    """noticed: whether anything but silence; judged: whether a test that ran said so."""

    noticed: bool
    judged: bool
    text: str


def run(command: list[str], tree: Path) -> subprocess.CompletedProcess[str]:
    """In the tree, and with its rnncore rather than an installed one."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LIMIT)


def build(tree: Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], tree)


def files_of_tests(tree: Path) -> dict[str, Path]:
    """The test files of a tree by name."""
    return {path.name: path for path in (tree / "tests").glob("*/test_*.py")}


def pytest(tree: Path, files: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", *options]
    paths = files_of_tests(tree)
    return run([*command, *(str(paths[name].relative_to(tree)) for name in files)], tree)


def failures(output: str) -> list[tuple[str, str]]:
    """(test, message) of pytest's summary; names of tests may hold blanks."""
    return re.findall(r"^FAILED (.+?)(?: - (.*))?$", output, re.MULTILINE)


def copy_tree(target: Path) -> None:
    """Copy the files that git tracks, as they are in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def prepare(base: Path) -> list[str]:
    """An unmutated, built copy at base; returns the tests that fail there."""
    copy_tree(base)
    built = build(base)
    if built.returncode:
        sys.exit(f"the unmutated tree does not build:\n{built.stderr}")
    where = run([sys.executable, "-c", "import rnncore; print(rnncore.__file__)"], base).stdout.strip()
    if not where or not Path(where).resolve().is_relative_to(base.resolve()):
        sys.exit(f"the tests would run {where or 'no rnncore'} rather than the copy in {base}")
    done = pytest(base, list(QUICK))
    if done.returncode not in (0, 1):
        sys.exit(f"the tests of the unmutated tree do not run:\n{done.stdout}{done.stderr}")
    return [name for name, _ in failures(done.stdout)]


def check(mutation: Mutation, base: Path, deselected: list[str]) -> Result:
    """Apply one mutation to a copy of base, and see who notices."""
    with tempfile.TemporaryDirectory(prefix="rnncore-mutation-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(base, tree)  # keeps times, so that a build does only what the mutation asks for
        path = tree / mutation.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutation.old) != 1:
            return Result(False, False, f"NOT APPLIED: the text occurs {text.count(mutation.old)} times")
        path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        try:
            if path.suffix in COMPILED and build(tree).returncode:
                return Result(True, False, "only by the compiler: it does not build")
            if run([sys.executable, "-c", "import rnncore"], tree).returncode:
                return Result(True, False, "only by an error at import")
            first = [f"test_{name}.py" for name in mutation.first.split()]
            # Those that should notice by themselves first: to collect the rest imports PyTorch, Keras and ONNX Runtime.
            for files in (first, [name for name in QUICK if name not in first]):
                done = pytest(tree, files, "-x", *(f"--deselect={name}" for name in deselected))
                if done.returncode:
                    break
        except subprocess.TimeoutExpired:
            return Result(True, False, f"only by the time limit of {LIMIT} s")
    if done.returncode == 0:
        return Result(False, True, "SURVIVED")
    if done.returncode < 0:
        return Result(True, False, f"only by a crash of the interpreter (signal {-done.returncode})")
    found = failures(done.stdout)
    if done.returncode == 1 and found:
        name, message = found[0]
        return Result(True, True, f"noticed by {name}" + (f" ({message})" if message else ""))
    error = re.search(r"^ERROR .*$", done.stdout, re.MULTILINE)
    if error:
        return Result(True, False, f"only by an error outside the tests: {error.group()}")
    return Result(
        False, False, f"UNKNOWN: pytest ended with {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Break rnncore on purpose, and see whether the tests notice.")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at a time (default 1)")
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutations (default: all)")
    given = parser.parse_args()
    unknown = set(given.names) - {mutation.name for mutation in MUTATIONS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(m.name for m in MUTATIONS)}")
    chosen = [mutation for mutation in MUTATIONS if not given.names or mutation.name in given.names]
    with tempfile.TemporaryDirectory(prefix="rnncore-unmutated-") as folder:
        base = Path(folder) / "tree"
        base.mkdir()
        failing = prepare(base)
        for name in failing:
            print(f"FAILS WITHOUT ANY MUTATION, left out: {name}", flush=True)
        results = []
        with ThreadPoolExecutor(given.jobs) as pool:
            running = {pool.submit(check, mutation, base, failing): mutation for mutation in chosen}
            for number, (future, mutation) in enumerate(running.items(), 1):
                results.append(future.result())
                print(f"[{number}/{len(chosen)}] {mutation.name} ({mutation.file}): {results[-1].text}", flush=True)
    judged = sum(result.noticed and result.judged for result in results)
    other = sum(result.noticed and not result.judged for result in results)
    missed = [m.name for m, result in zip(chosen, results, strict=True) if not result.noticed]
    print(f"{len(chosen)} mutations: {judged} noticed by a test, {other} only otherwise, {len(missed)} not noticed")
    for name in missed:
        print(f"not noticed: {name}")
    if failing:
        print(f"{len(failing)} tests fail without any mutation and could notice nothing")
    return 1 if missed or failing else 0


if __name__ == "__main__":
    sys.exit(main())
