"""What docs/serving.md and the README tell people to type, typed."""

import json
import re
import shlex
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from served import running

import rnncore

ROOT = Path(rnncore.__file__).parents[1]
PAGE, README = (ROOT / "docs" / "serving.md").read_text(), (ROOT / "README.md").read_text()
SERVING = README[README.index("## Serving") :].split("\n## ")[0]


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.S)


def curls(text):
    """(path, body or None) of each curl in a text."""
    for block in re.findall(r"```\n(.*?)```", text, re.S):
        for command in re.split(r"(?m)^(?=\S)", block):
            if command.startswith("curl "):
                words = shlex.split(command, comments=True)
                path = words[1].removeprefix("localhost:8000")
                yield path, words[words.index("-d") + 1] if "-d" in words else None


@pytest.fixture(scope="module")
def address():
    with running({"sunspots": rnncore.load("zoo:sunspots")}) as found:
        yield found


@pytest.mark.parametrize("text", [PAGE, SERVING], ids=["page", "readme"])
def test_curl(address, text):
    commands = list(curls(text))
    assert sum(body is not None for _, body in commands) >= 1
    for path, body in commands:
        url = f"http://{address}{path}"
        answer = httpx.get(url) if body is None else httpx.post(url, content=body)
        assert answer.status_code == 200, answer.text
        if body is not None:
            given = {
                entry["name"]: np.array(entry["data"]).reshape(entry["shape"]) for entry in json.loads(body)["inputs"]
            }
            expected = rnncore.load("zoo:sunspots").run({**given, "x": given["x"].astype(np.float32)})["forecast"]
            assert np.array_equal(np.array(answer.json()["outputs"][0]["data"], np.float32), expected.ravel())


def test_tritonclient_and_sequences(address):
    names = {}
    client, sequence, *_ = python_blocks(PAGE)
    exec(client.replace("localhost:8000", address), names)
    assert np.array_equal(names["y"], rnncore.load("zoo:sunspots")(names["x"]))
    exec(sequence, names)


def test_in_an_app_of_ones_own():
    names = {"np": np}
    mounted, own = python_blocks(PAGE)[2:4]
    exec(mounted + own, names)
    with running(names["app"]) as address:
        assert httpx.get(f"http://{address}/models/v2/models/sunspots").json()["name"] == "sunspots"
        numbers = [12.0, 33.4, 60.1]
        answer = httpx.post(f"http://{address}/forecast", json=numbers).json()
    x = np.array(numbers, np.float32)[None, :, None]
    assert np.array_equal(np.array(answer, np.float32), rnncore.load("zoo:sunspots")(x)[0, :, 0])


def test_every_recipe_is_python():
    assert len(python_blocks(PAGE)) == 7
    for block in python_blocks(PAGE):
        compile(block, "serving.md", "exec")


def test_the_table_of_options_is_the_commands(tmp_path):
    from rnncore.cli.serve import serve

    options = {name for parameter in serve.params for name in parameter.opts + parameter.secondary_opts}
    deployed = PAGE + (ROOT / "deploy" / "kserve.yaml").read_text() + (ROOT / "deploy" / "Dockerfile").read_text()
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", deployed))
    foreign = {"--count", "--screenshot", "--seconds", "--from-file", "--no-install-recommends", "--no-cache-dir"}
    foreign |= {"--from", "--no-create-home", "--uid", "--interval", "--timeout", "--start-period"}
    assert told - foreign <= options


def test_what_is_deployed_is_what_the_command_and_kserve_take():
    from rnncore.cli.serve import serve

    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    entry = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", dockerfile, re.M)[1])
    assert entry[:2] == ["rnncore", "serve"]
    given = serve.make_context("serve", [*entry[2:], "tagger=/models/tagger.safetensors"]).params
    assert {f"{given['port']}", f"{given['grpc_port']}"} == set(
        re.search(r"^EXPOSE (.*)$", dockerfile, re.M)[1].split()
    )
    assert f":{given['port']}/v2/health/ready" in dockerfile

    runtime, service = yaml.safe_load_all((ROOT / "deploy" / "kserve.yaml").read_text())
    assert (runtime["apiVersion"], runtime["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    spec, predictor = runtime["spec"], service["spec"]["predictor"]["model"]
    # of KServe's ServingRuntimeSpec and SupportedModelFormat
    assert set(spec) <= {"annotations", "containers", "protocolVersions", "supportedModelFormats", "volumes"}
    assert all(set(one) <= {"name", "version", "autoSelect", "priority"} for one in spec["supportedModelFormats"])
    assert predictor["modelFormat"]["name"] in {one["name"] for one in spec["supportedModelFormats"]}
    assert (
        predictor["runtime"] == runtime["metadata"]["name"] and predictor["protocolVersion"] in spec["protocolVersions"]
    )
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container" and container["command"] == entry[:2]
    arguments = [one.replace("{{.Name}}", service["metadata"]["name"]) for one in container["args"]]
    given = serve.make_context("serve", arguments).params
    assert given["models"] == ("tagger=/mnt/models",)
    ports = [container[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")]
    assert {given["port"], int(spec["annotations"]["prometheus.kserve.io/port"]), *ports} == {8080}
    (mount,) = container["volumeMounts"]
    assert Path(given["token_file"]).parent == Path(mount["mountPath"])
    assert mount["name"] in {volume["name"] for volume in spec["volumes"]}
