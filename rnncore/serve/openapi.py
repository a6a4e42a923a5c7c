"""The OpenAPI description of the HTTP service."""

from __future__ import annotations

from typing import Any

from rnncore._version import __version__
from rnncore.serve.protocol import (
    ID_CHARACTERS,
    MOST_BYTES,
    MOST_JSON_NAMES,
    MOST_PRIORITY,
    MOST_SEQUENCE_ID,
    MOST_TIMEOUT,
    UNSUPPORTED,
)
from rnncore.serve.service import VERSION, Service
from rnncore.serve.tensors import DATATYPES, MOST_DIMENSIONS

__all__ = ["describe"]

JSON_LENGTH = "Inference-Header-Content-Length"
REFUSALS = {
    "400": "the request is wrong, for the reason that is given",
    "401": "a token is needed",
    "404": "there is no such model",
    "408": "the body did not arrive in time",
    "413": "the request is too large",
    "415": "the body has a Content-Encoding that is not gzip",
    "421": "the server has another name",
    "422": "an output holds NaN or infinity, which JSON cannot",
    "431": "the head of the request is too large",
    "500": "an error of the server",
    "503": "the queue is full, or the server ends: try again after Retry-After seconds",
    "504": "the deadline passed before the work began",
}


def describe(service: Service, with_tokens: bool) -> dict[str, Any]:
    """OpenAPI 3.1, with the names of this service's models."""
    model = _parameter("model", {"type": "string", "enum": list(service.models)})
    version = _parameter("version", {"type": "string", "enum": [VERSION]})
    paths: dict[str, Any] = {
        "/v2/health/live": _get("Whether the server lives", "Live", free=True),
        "/v2/health/ready": _get("Whether the server takes requests", "Ready", free=True, ready="Ready"),
        "/v2": _get("Name, version and extensions", "ServerMetadata"),
        "/v2/models/stats": _get("Counts of every model", "Statistics"),
        "/v2/repository/index": {"post": {**_get("The models", "Index")["get"], "operationId": "index"}},
        "/metrics": _get("Counts and histograms for Prometheus", None, text=True),
        "/status": _get("What the status page shows", "Status"),
    }
    for prefix, parameters in (
        ("/v2/models/{model}", [model]),
        ("/v2/models/{model}/versions/{version}", [model, version]),
    ):
        of_model = {
            "": _get("Inputs and outputs of a model", "ModelMetadata", ("404",)),
            "/ready": _get("Whether a model takes requests", "ModelReady", ("404",), ready="ModelReady"),
            "/config": _get("Triton's configuration of a model", "ModelConfig", ("404",)),
            "/stats": _get("Counts of a model", "Statistics", ("404",)),
            "/infer": {"post": _infer()},
        }
        paths |= {f"{prefix}{path}": {"parameters": parameters, **item} for path, item in of_model.items()}
    description: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "rnncore", "version": __version__, "summary": "Open Inference Protocol v2"},
        "paths": paths,
        "components": {"schemas": _schemas()},
    }
    if with_tokens:
        description["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        description["security"] = [{"token": []}]
    return description


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _refused(statuses: tuple[str, ...]) -> dict[str, Any]:
    return {status: {"description": REFUSALS[status], "content": _content("Error")} for status in statuses}


def _get(
    summary: str,
    schema: str | None,
    refusals: tuple[str, ...] = (),
    *,
    free: bool = False,
    text: bool = False,
    ready: str = "",
) -> dict[str, Any]:
    """A route that is read. ready: the schema of its answer also where the server takes no requests."""
    answer: dict[str, Any] = {"description": summary}
    if schema is not None:
        answer["content"] = _content(schema)
    elif text:
        answer["content"] = {"text/plain": {"schema": {"type": "string"}}}
    always = ("400", "408", "415", "421", "431") + (() if free else ("401",))
    operation: dict[str, Any] = {"summary": summary, "responses": {"200": answer, **_refused((*always, *refusals))}}
    if ready:
        operation["responses"]["503"] = {"description": "not ready", "content": _content(ready)}
    if free:
        operation["security"] = []
    return {"get": operation}


def _infer() -> dict[str, Any]:
    header = {"description": "size of the JSON, where raw bytes follow it", "schema": {"type": "integer", "minimum": 0}}
    answer = _content("InferResponse")
    answer["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": "Run a model",
        "parameters": [{"name": JSON_LENGTH, "in": "header", "required": False, **header}],
        "requestBody": {"required": True, "content": _content("InferRequest")},
        "responses": {
            "200": {"description": "The outputs", "headers": {JSON_LENGTH: header}, "content": answer},
            **_refused(tuple(REFUSALS)),
        },
    }


def _object(required: list[str], closed: bool = False, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return {**schema, "additionalProperties": False} if closed else schema


def _parameters(**properties: Any) -> dict[str, Any]:
    """Parameters that mean something here, among any others."""
    unsupported = {"propertyNames": {"not": {"enum": sorted(UNSUPPORTED)}}}
    return {
        **_object([], **properties),
        **unsupported,
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    }


def _array(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def _schemas() -> dict[str, Any]:
    text, count, flag = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
    names = {"type": "string", "enum": sorted(DATATYPES.values())}
    numbers = {"oneOf": [{"type": "number"}, flag, _array({})]}
    tensor = _object(["name", "datatype", "shape"], name=text, datatype=names, shape=_array({"type": "integer"}))
    counted = _object(["count", "ns"], count=count, ns=count)
    parameters = _parameters(
        sequence_id={"oneOf": [{**count, "maximum": MOST_SEQUENCE_ID}, {"type": "string", "maxLength": ID_CHARACTERS}]},
        sequence_start=flag,
        sequence_end=flag,
        priority={**count, "maximum": MOST_PRIORITY},
        timeout={**count, "maximum": MOST_TIMEOUT, "description": "microseconds"},
        binary_data_output=flag,
    )
    given = _object(
        ["name", "shape", "datatype"],
        True,
        name=text,
        shape=_array(count, maxItems=MOST_DIMENSIONS),
        datatype=names,
        data={"oneOf": [_array(numbers), {"type": "null"}]},
        parameters=_parameters(binary_data_size={**count, "maximum": MOST_BYTES}),
    )
    wanted = _object(["name"], True, name=text, parameters=_parameters(binary_data=flag))
    output = _object(
        ["name", "shape", "datatype"],
        name=text,
        shape=_array(count),
        datatype=names,
        data=_array(numbers),
        parameters=_object([], binary_data_size=count),
    )
    statistics = _object(
        ["name", "version", "inference_count", "execution_count", "inference_stats"],
        name=text,
        version=text,
        inference_count=count,
        execution_count=count,
        inference_stats=_object([], success=counted, fail=counted, queue=counted, compute_infer=counted),
    )
    return {
        "Live": _object(["live"], live=flag),
        "Ready": _object(["ready"], ready=flag),
        "ModelReady": _object(["name", "ready"], name=text, ready=flag),
        "Error": _object(["error", "request_id"], error=text, request_id=text),
        "ServerMetadata": _object(
            ["name", "version", "extensions"], name=text, version=text, extensions=_array(text)
        ),
        "ModelMetadata": _object(
            ["name", "versions", "platform", "inputs", "outputs"],
            name=text,
            versions=_array(text),
            platform=text,
            inputs=_array(tensor),
            outputs=_array(tensor),
        ),
        "ModelConfig": _object(["name", "platform", "max_batch_size", "input", "output"], name=text, platform=text),
        "Index": _array(_object(["name", "version", "state", "reason"], name=text, version=text, state=text)),
        "Statistics": _object(["model_stats"], model_stats=_array(statistics)),
        "Status": _object(["version", "ready", "uptime", "models"], ready=flag, models=_array({"type": "object"})),
        "InferRequest": _object(
            ["inputs"],
            True,
            id={"type": "string", "maxLength": ID_CHARACTERS},
            model_name=text,
            parameters=parameters,
            inputs=_array(given, maxItems=MOST_JSON_NAMES),
            outputs=_array(wanted, maxItems=MOST_JSON_NAMES),
        ),
        "InferResponse": _object(
            ["model_name", "model_version", "outputs"], model_name=text, model_version=text, id=text,
            outputs=_array(output),
        ),
    }  # fmt: skip
