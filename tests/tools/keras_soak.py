"""Keras 3's own tests of recurrent, attention and core layers and of saving, each model in them through rnncore.

    python tests/tools/keras_soak.py [--only TEXT] [--write] [--verbose]

The tests run as they are, on the torch backend, each file in a process of its own. Every layer and model that they call
with arrays is built again as a functional model of inputs like those arrays, exported by from_keras, and run on them;
every functional model that they save is loaded from its file. The outputs must be Keras's own. What a test itself says
does not matter here.

Prints each value that differs, each exception that is not rnncore's and each process that died, then the counts; exit
code 1 where there is one of them. --write puts the counts into docs/compatibility.md, between its two markers.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _helpers  # noqa: F401
from compatibility import table, write_section
from paths import ROOT

os.environ.setdefault("KERAS_BACKEND", "torch")

FOLDERS = {"layers/rnn": "recurrent", "layers/attention": "attention", "layers/core": "core", "saving": "saving"}
OUTCOMES = ("ok", "refused", "wrong", "foreign", "crash", "passed over")
PER_LAYER = 3  # calls of one layer that are looked at
SECONDS = 3600


def files() -> list[tuple[str, Path]]:
    """(folder, file) of the tests that come with Keras."""
    import keras

    source = Path(keras.__file__).parent / "src"
    return [(folder, path) for folder in FOLDERS for path in sorted((source / folder).glob("*_test.py"))]


# --- in the process of one file -----------------------------------------------------------------------------------


class Recorder:
    """Stands around Layer.__call__ and the saving of models while the tests run; writes an outcome a line."""

    def __init__(self, log: Path):
        self.log = open(log, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (as long as the process)
        self.busy = False
        self.seen: Counter[int] = Counter()
        self.kept: list[Any] = []  # so that no two layers have one id

    def install(self) -> None:
        import keras
        from keras.src.saving import saving_api, saving_lib
        from keras.src.trainers.trainer import Trainer

        self._around(keras.layers.Layer, "__call__", self._called)
        for owner, name in ((saving_api, "save_model"), (saving_lib, "save_model")):
            self._around(owner, name, self._saved)
        self._around(keras.Model, "save", self._saved)
        for owner in (Trainer, *_subclasses(Trainer)):
            for name in ("fit", "train_on_batch", "evaluate"):
                if name in vars(owner):
                    self._around(owner, name, None)

    def _around(self, owner: Any, name: str, after: Callable[..., None] | None) -> None:
        """Calls ``after`` with what the function was given; without it nothing inside is looked at."""
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            if self.busy:
                return original(*args, **kwargs)
            transparent = after == self._called and _is_custom_model(args[0])
            if not transparent:
                self.busy = True
            try:
                result = original(*args, **kwargs)
                if after is not None and not transparent:
                    after(*args, **kwargs)
                return result
            finally:
                if not transparent:
                    self.busy = False

        wrapped.__name__, wrapped.__signature__ = name, inspect.signature(original)
        setattr(owner, name, wrapped)

    def _called(self, layer: Any, *args: Any, **kwargs: Any) -> None:
        self.seen[id(layer)] += 1
        self.kept.append(layer)
        if self.seen[id(layer)] <= PER_LAYER and not kwargs.get("training"):
            self._judge(f"call of {type(layer).__name__}", lambda: exported(layer, args, kwargs))

    def _saved(self, model: Any, filepath: Any = None, *args: Any, **kwargs: Any) -> None:
        path = str(filepath)
        if _is_network(model) and path.endswith((".keras", ".h5")) and os.path.isfile(path):
            self._judge(f"file of {type(model).__name__}", lambda: loaded(model, path))

    def _judge(self, what: str, run: Callable[[], Iterator[tuple[Any, Any, float]] | None]) -> None:
        from rnncore.errors import RnncoreError

        outcome, text = "ok", ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compared = run()
                if compared is None:
                    return
                outcome, text = judged(compared)
        except NotKeras as error:
            outcome, text = "passed over", f"{type(error.__cause__).__name__}: {error.__cause__}"
        except RnncoreError as error:
            outcome = "wrong" if type(error).__name__ == "VerificationError" else "refused"
            text = str(error)
        except Exception:
            outcome, text = "foreign", traceback.format_exc()
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0].rpartition("/")[2]
        self.log.write(json.dumps({"what": what, "outcome": outcome, "text": text, "test": test}) + "\n")


class NotKeras(Exception):
    """Something that is no functional model in Keras either."""


def _subclasses(kind: type) -> list[type]:
    return [part for one in kind.__subclasses__() for part in (one, *_subclasses(one))]


def _is_network(model: Any) -> bool:
    from keras.src.models import Functional, Sequential

    return isinstance(model, (Functional, Sequential)) and getattr(model, "inputs", None) is not None and model.built


def _is_custom_model(layer: Any) -> bool:
    import keras

    return isinstance(layer, keras.Model) and not _is_network(layer)


def exported(layer: Any, args: tuple, kwargs: dict) -> Iterator[tuple[Any, Any, float]] | None:
    """(ours, Keras's, tolerance) of each output of a layer's call; None where no array was given."""
    import keras

    from rnncore import Model
    from rnncore.export import from_keras

    arrays: list[Any] = []
    kwargs = {key: value for key, value in kwargs.items() if value is not None and key != "training"}
    mask = _mask_of(args[:1])
    if mask is not None and "mask" not in kwargs and "mask" in inspect.signature(layer.call).parameters:
        kwargs["mask"] = mask
    if any(_is_symbolic(leaf) for leaf in keras.tree.flatten((args, kwargs))):
        return None
    try:
        if _is_network(layer):
            model, arrays = layer, [_array(leaf) for leaf in keras.tree.flatten(args) if _is_array(leaf)]
            if kwargs or len(arrays) != len(model.inputs):
                return None
        else:
            model = _functional(layer, args, kwargs, arrays)
        if not arrays:
            return None
        expected = _expected(model, arrays)
    except Exception as error:
        raise NotKeras from error
    made = from_keras(model)
    names = [entry.name for entry in made.spec.inputs if not entry.optional]
    return _pairs(Model(made.spec, made.weights), dict(zip(names, arrays, strict=True)), expected, model)


def _functional(layer: Any, args: tuple, kwargs: dict, arrays: list[Any]) -> Any:
    """A functional model of a layer's copy, whose inputs stand for the arrays of a call, which are listed."""
    import keras

    inputs: list[Any] = []

    def symbolic(leaf):
        if not _is_array(leaf):
            return leaf
        array = _array(leaf)
        arrays.append(array)
        inputs.append(keras.Input(array.shape[1:], batch_size=_batch(layer, array), dtype=str(array.dtype)))
        return inputs[-1]

    copy = type(layer).from_config(layer.get_config())
    outputs = copy(*keras.tree.map_structure(symbolic, args), **keras.tree.map_structure(symbolic, kwargs))
    copy.set_weights(layer.get_weights())
    return keras.Model(inputs, outputs)


def _batch(layer: Any, array: Any) -> int | None:
    return len(array) if getattr(layer, "stateful", False) else None


def _mask_of(args: Any) -> Any:
    import keras

    found = [getattr(leaf, "_keras_mask", None) for leaf in keras.tree.flatten(args)]
    return found[0] if len(found) == 1 else None


def _is_symbolic(leaf: Any) -> bool:
    import keras

    return isinstance(leaf, keras.KerasTensor)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and len(leaf.shape) > 0


def _array(leaf: Any) -> Any:
    import keras
    import numpy as np

    return np.asarray(keras.ops.convert_to_numpy(leaf))


def loaded(model: Any, path: str) -> Iterator[tuple[Any, Any, float]] | None:
    """The same of a model's file, on drawn inputs."""
    import numpy as np

    import rnncore

    generator = np.random.default_rng(0)
    arrays = []
    for entry in model.inputs:
        shape = [2, *(size or 5 for size in entry.shape[1:])] if entry.shape[0] is None else list(entry.shape)
        whole = entry.dtype.startswith(("int", "uint", "bool"))
        drawn = generator.integers(0, 2, shape) if whole else generator.normal(size=shape)
        arrays.append(drawn.astype(entry.dtype if entry.dtype != "bfloat16" else "float32"))
    try:
        expected = _expected(model, arrays)
    except Exception as error:
        raise NotKeras from error
    found = rnncore.load(path)
    names = [entry.name for entry in found.spec.inputs if not entry.optional]
    return _pairs(found, dict(zip(names, arrays, strict=True)), expected, model)


def _expected(model: Any, arrays: list[Any]) -> list[Any]:
    import keras

    for layer in model.layers:
        if getattr(layer, "stateful", False) and hasattr(layer, "reset_state"):
            layer.reset_state()
    packed = keras.tree.pack_sequence_as(model._inputs_struct, arrays) if hasattr(model, "_inputs_struct") else arrays
    packed = packed[0] if isinstance(packed, (list, tuple)) and len(packed) == 1 else packed
    return [_array(leaf) for leaf in keras.tree.flatten(model(packed, training=False))]


def _pairs(found: Any, inputs: dict[str, Any], expected: list[Any], model: Any) -> Iterator[tuple[Any, Any, float]]:
    outputs = list(found.run(inputs).values())
    half = any(getattr(layer, "compute_dtype", "") in ("float16", "bfloat16") for layer in model._flatten_layers())
    assert len(outputs) == len(expected), f"{len(outputs)} outputs, expected {len(expected)}"
    return ((ours, theirs, 5e-2 if half else 1e-4) for ours, theirs in zip(outputs, expected, strict=True))


def judged(compared: Iterator[tuple[Any, Any, float]]) -> tuple[str, str]:
    """ "ok", or "wrong" and what is."""
    import numpy as np

    for ours, theirs, tolerance in compared:
        if np.shape(ours) != np.shape(theirs):
            return "wrong", f"shape {np.shape(ours)}, expected {np.shape(theirs)}"
        wide, wanted = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if wide.size and not np.allclose(wide, wanted, tolerance, tolerance * max(1.0, np.abs(wanted).max())):
            return "wrong", f"off by {np.abs(wide - wanted).max():.3g} of {np.abs(wanted).max():.3g}"
    return "ok", ""


def run_file(path: str, log: str) -> int:
    import pytest

    Recorder(Path(log)).install()
    with tempfile.TemporaryDirectory() as place:
        words = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", f"--rootdir={place}", "-c", os.devnull]
        return pytest.main([*words, "--disable-warnings", "--tb=no", "--no-header", path])


# --- counting -----------------------------------------------------------------------------------------------------


def reason(text: str) -> str:
    """What a refusal says, without files, names, numbers and what was found."""
    text = re.sub(r"^\S*/[^:]*: | in [^\s,:]*/[^\s,:]+", "", text.splitlines()[0])
    text = re.sub(r"^(?:layer|model|input|config\S*)[^:]*?\((\w+)\)", r"\1", text)
    text = re.sub(r"'[^']*'", "'...'", text.partition(", expected")[0])
    return re.sub(r"\s+", " ", re.sub(r"\d+", "N", text))[:100]


def section(counts: dict[str, Counter[str]], reasons: Counter[str], version: str) -> str:
    """The section of docs/compatibility.md, in Markdown."""
    head = (
        f"Keras {version}'s own tests on its torch backend: every layer and model in them that is called with arrays "
        "or saved is exported or loaded, and compared with Keras. Passed over: what Keras itself makes no functional "
        "model of. Made by `make keras-soak`."
    )
    titles = ("tests", "equal", "refused by name", "wrong", "other exception", "crash", "passed over")
    rows = {**counts, "all": sum(counts.values(), Counter())}
    outcomes = table(titles, [(name, *(row[key] for key in OUTCOMES)) for name, row in rows.items()])
    common, rest = reasons.most_common(40), sum(count for _, count in reasons.most_common()[40:])
    refused = [(text.replace("|", "/"), count) for text, count in common] + [("others", rest)] * bool(rest)
    return "\n\n".join([head, outcomes, *([table(("refused", "times"), refused)] if refused else [])])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="files whose path has this in it")
    parser.add_argument("--write", action="store_true", help="put the counts into docs/compatibility.md")
    parser.add_argument("--verbose", action="store_true", help="print refusals too")
    parser.add_argument("--file", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.file:
        return run_file(*options.file)
    counts, reasons = {name: Counter() for name in FOLDERS.values()}, Counter()
    chosen = [(folder, path) for folder, path in files() if options.only in str(path)]
    with tempfile.TemporaryDirectory() as place:
        for number, (folder, path) in enumerate(chosen):
            log = Path(place) / f"{number}.jsonl"
            words = [sys.executable, __file__, "--file", str(path), str(log)]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
            child = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, timeout=SECONDS)
            entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            found = counts[FOLDERS[folder]]
            for entry in entries:
                found[entry["outcome"]] += 1
                if entry["outcome"] == "refused":
                    reasons[reason(entry["text"])] += 1
                if entry["outcome"] in ("wrong", "foreign") or (options.verbose and entry["outcome"] != "ok"):
                    print(f"{entry['outcome']} {entry['test']}: {entry['what']}: {entry['text']}", flush=True)
            if child.returncode not in (0, 1, 2, 5):
                found["crash"] += 1
                print(f"CRASH {path.name}: exit code {child.returncode}")
            last = child.stdout.strip().splitlines()[-1:] or ["nothing"]
            print(f"{path.name}: {dict(Counter(entry['outcome'] for entry in entries))}; {last[0]}", flush=True)
    whole = sum(counts.values(), Counter())
    print(", ".join(f"{key} {whole[key]}" for key in OUTCOMES))
    if options.write:
        import keras

        write_section("Keras", section(counts, reasons, keras.__version__))
    return 1 if whole["wrong"] or whole["foreign"] or whole["crash"] else 0


if __name__ == "__main__":
    sys.exit(main())
