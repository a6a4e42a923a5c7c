"""What JSON Schema cannot say of a request for inference, said to schemathesis.

A drawn request that the description allows is made one that its model takes: as many numbers as the shape says, the
same rows in every input, ids of the vocabulary, a sequence that begins, a deadline that can be met, no header that
splits the JSON. What was drawn for the rest (ids, parameters, which outputs, nested data or flat) stays. Requests that
break the description are left as they are.
"""

import json

import _helpers  # noqa: F401
import numpy as np
import schemathesis
from schemathesis import GenerationMode
from served import WORDS, models

from rnncore.serve.openapi import JSON_LENGTH
from rnncore.serve.service import Service

SERVED = Service(models()).models


@schemathesis.hook
def before_call(context, case, **kwargs):
    meta = case.meta
    if not case.path.endswith("/infer") or meta is None or meta.generation.mode != GenerationMode.POSITIVE:
        return
    case.headers.pop(JSON_LENGTH, None)
    if isinstance(case.body, dict):
        case.body = made_right(SERVED[case.path_parameters["model"]], case.body)


def made_right(served, body):
    """A request that this model takes, with what a drawn one says otherwise."""
    drawn = body.get("inputs", [])
    rng = np.random.default_rng(len(json.dumps(body)))
    rows, steps = 1 + len(drawn) % 3, 1 + len(json.dumps(drawn)) % 4
    parameters = dict(body.get("parameters", {}))
    for name in ("sequence_id", "sequence_start", "sequence_end"):
        if not (served.sequences.available and parameters.get("sequence_id")):
            parameters.pop(name, None)
    if "sequence_id" in parameters:
        parameters["sequence_start"], rows = True, 1
    if "timeout" in parameters:
        parameters["timeout"] = max(10_000_000, parameters["timeout"])
    inputs = [
        entry for entry in served.metadata()["inputs"] if "parameters" not in entry or "sequence_id" not in parameters
    ]
    found = {**body, "parameters": parameters}
    found["inputs"] = [tensor(entry, rows, steps, rng, nested=len(drawn) > 1) for entry in inputs]
    if "outputs" in found:
        found["outputs"] = [{"name": entry["name"]} for entry in served.metadata()["outputs"][: len(found["outputs"])]]
    return found


def tensor(entry, rows, steps, rng, nested):
    free = iter((rows, steps))
    shape = [next(free) if size == -1 else size for size in entry["shape"]]
    most = {"FP32": 9, "BOOL": 2, "INT64": WORDS}[entry["datatype"]]
    data = rng.integers(0, steps + 1 if entry["name"] == "lengths" else most, shape)
    data = data.astype(bool) if entry["datatype"] == "BOOL" else data
    numbers = data if nested else data.ravel()
    return {"name": entry["name"], "shape": shape, "datatype": entry["datatype"], "data": numbers.tolist()}
