"""tritonclient, unchanged, against the service: numbers are those of the model, bit for bit."""

import numpy as np
import pytest
import tritonclient.http as triton
from served import FEATURES, WORDS, models, running
from stream_models import equal
from tritonclient.utils import InferenceServerException

import rnncore

MODELS = models()
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def address():
    with running(MODELS) as found:
        yield found


@pytest.fixture(scope="module")
def client(address):
    with triton.InferenceServerClient(address, concurrency=4) as found:
        yield found


def given(name, array, binary=True, datatype=None):
    names = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "int32": "INT32", "bool": "BOOL"}
    found = triton.InferInput(name, list(array.shape), datatype or names[array.dtype.name])
    found.set_data_from_numpy(array, binary_data=binary)
    return found


def features(batch, steps):
    return RNG.standard_normal((batch, steps, FEATURES)).astype(np.float32)


def test_health_and_metadata(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("tagger") and client.is_model_ready("tagger", "1")
    assert not client.is_model_ready("stranger") and not client.is_model_ready("tagger", "2")
    server = client.get_server_metadata()
    assert (server["name"], server["version"]) == ("rnncore", rnncore.__version__)
    assert {"binary_tensor_data", "sequence", "sequence(string_id)"} <= set(server["extensions"])
    found = client.get_model_metadata("tagger")
    assert found["versions"] == ["1"]
    assert found["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, -1, FEATURES]},
        {"name": "lengths", "datatype": "INT64", "shape": [-1], "parameters": {"optional": True}},
    ]
    assert found["outputs"] == [{"name": "tags", "datatype": "FP32", "shape": [-1, -1, 4]}]
    config = client.get_model_config("reader")
    assert config["input"] == [{"name": "ids", "data_type": "TYPE_INT64", "dims": [-1, -1], "optional": False}]
    assert [entry["name"] for entry in client.get_model_repository_index()] == list(MODELS)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_infer(client, binary_in, binary_out):
    x = features(3, 7)
    wanted = None if binary_out is None else [triton.InferRequestedOutput("tags", binary_data=binary_out)]
    found = client.infer("tagger", [given("x", x, binary_in)], outputs=wanted, request_id="mine")
    response = found.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("mine", "tagger", "1")
    is_binary = "parameters" in found.get_output("tags")
    assert is_binary == (binary_out is not False)
    tags = found.as_numpy("tags")
    assert tags.dtype == np.float32
    assert equal(tags, MODELS["tagger"](x))


@pytest.mark.parametrize("binary", [True, False])
def test_ragged_rows_by_lengths(client, binary):
    x, lengths = features(4, 9), np.array([9, 1, 0, 5])
    found = client.infer("tagger", [given("x", x, binary), given("lengths", lengths, not binary)])
    assert equal(found.as_numpy("tags"), MODELS["tagger"](x, lengths=lengths))
    x[1, 1:] = np.nan  # behind a row's end
    again = client.infer("tagger", [given("lengths", lengths), given("x", x)])
    assert np.array_equal(again.as_numpy("tags"), found.as_numpy("tags"))


def test_ids_and_several_outputs(client):
    ids = RNG.integers(0, WORDS, (2, 6))
    expected = MODELS["reader"](ids)
    found = client.infer("reader", [given("ids", ids)])
    for name in ("gru.last", "gru.h"):
        assert equal(found.as_numpy(name), expected[name])
    wanted = [triton.InferRequestedOutput("gru.h", binary_data=True)]
    found = client.infer("reader", [given("ids", ids, False)], outputs=wanted)
    assert [entry["name"] for entry in found.get_response()["outputs"]] == ["gru.h"]
    assert equal(found.as_numpy("gru.h"), expected["gru.h"])


@pytest.mark.parametrize("binary", [True, False])
def test_bools(client, binary):
    a, keep = RNG.standard_normal((3, 4)).astype(np.float32), RNG.random((3, 4)) < 0.5
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("keep", "kept")]
    found = client.infer("adder", [given("a", a, binary), given("keep", keep, binary)], outputs=wanted)
    assert np.array_equal(found.as_numpy("kept"), a * keep)
    assert found.as_numpy("keep").dtype == bool and np.array_equal(found.as_numpy("keep"), keep)


def test_no_rows_and_no_steps(client):
    for shape in ((0, 4), (2, 0)):
        x = features(*shape)
        for binary in (True, False):
            found = client.infer("tagger", [given("x", x, binary)]).as_numpy("tags")
            assert found.shape == (*shape, 4)


def test_many_at_once_are_batched_and_right(client):
    xs = [features(1 + i % 3, 3 + i % 11) for i in range(40)]
    waiting = [client.async_infer("two.ways", [given("x", x)]) for x in xs]
    for x, asked in zip(xs, waiting, strict=True):
        assert equal(asked.get_result().as_numpy("tags"), MODELS["two.ways"](x))


def test_statistics_count(client):
    def numbers():
        (found,) = client.get_inference_statistics("reader")["model_stats"]
        return found["inference_count"], found["inference_stats"]["success"]["count"]

    rows, before = numbers()
    client.infer("reader", [given("ids", np.zeros((3, 2), np.int64))])
    assert numbers() == (rows + 3, before + 1)


@pytest.mark.parametrize("sequence", [7, "ann", 2**64 - 1])
def test_a_sequence_is_a_stream(client, sequence):
    x = features(1, 12)
    whole = MODELS["tagger"](x)
    for begin, end in ((0, 1), (1, 6), (6, 12)):
        found = client.infer(
            "tagger",
            [given("x", x[:, begin:end])],
            sequence_id=sequence,
            sequence_start=begin == 0,
            sequence_end=end == 12,
        )
        assert equal(found.as_numpy("tags"), whole[:, begin:end])
    with pytest.raises(InferenceServerException, match="sequence_start"):
        client.infer("tagger", [given("x", x)], sequence_id=sequence)


def test_sequences_side_by_side(client):
    xs = [features(1, 6) for _ in range(20)]
    for t in range(6):
        options = {"sequence_start": t == 0, "sequence_end": t == 5}
        waiting = [
            client.async_infer("tagger", [given("x", x[:, t : t + 1])], sequence_id=100 + i, **options)
            for i, x in enumerate(xs)
        ]
        for x, asked in zip(xs, waiting, strict=True):
            assert equal(asked.get_result().as_numpy("tags"), MODELS["tagger"](x)[:, t : t + 1])


def test_a_sequence_of_ids_with_several_outputs(client):
    ids = RNG.integers(0, WORDS, (1, 5))
    for t in range(5):
        options = {"sequence_id": "ids", "sequence_start": t == 0, "sequence_end": t == 4}
        found = client.infer("reader", [given("ids", ids[:, t : t + 1])], **options)
    expected = MODELS["reader"](ids)
    assert equal(found.as_numpy("gru.last"), expected["gru.last"])
    assert equal(found.as_numpy("gru.h"), expected["gru.h"])


def test_a_sequence_begun_again_begins_anew(client):
    x = features(1, 4)
    for _ in range(3):
        found = client.infer("tagger", [given("x", x)], sequence_id="again", sequence_start=True)
        assert equal(found.as_numpy("tags"), MODELS["tagger"](x))


X = np.zeros((1, 2, FEATURES), np.float32)


@pytest.mark.parametrize(
    ("model", "inputs", "options", "status", "reason"),
    [
        ("stranger", [("x", X)], {}, 404, "model 'stranger' is unknown, expected tagger, reader"),
        ("tagger", [("x", X)], {"model_version": "2"}, 404, "no version '2', expected '1'"),
        ("tagger", [("y", X)], {}, 400, "input 'y' is unknown, expected x, lengths"),
        ("tagger", [], {}, 400, "input 'x' missing"),
        ("tagger", [("x", X.astype(np.int64))], {}, 400, "input 'x': datatype 'INT64', expected FP16, FP32, FP64"),
        ("reader", [("ids", np.zeros((1, 2)))], {}, 400, "input 'ids': datatype 'FP64', expected INT64"),
        ("tagger", [("x", X[0])], {}, 400, "x: shape"),
        ("tagger", [("x", X[:, :, :3])], {}, 400, "dimension 2 is 3, not 5"),
        ("tagger", [("x", X), ("lengths", np.array([3]))], {}, 400, "lengths: 3 at row 0, expected 0 to 2"),
        ("tagger", [("x", X), ("lengths", np.array([1, 1]))], {}, 400, "lengths"),
        ("tagger", [("x", X)], {"outputs": [triton.InferRequestedOutput("nope")]}, 400, "output 'nope' is unknown"),
        ("tagger", [("x", X)], {"parameters": {"temperature": [1]}}, 400, "parameter 'temperature' is [1], expected"),
        ("tagger", [("x", X)], {"sequence_id": 3}, 400, "sequence 3 is not open"),
        ("two.ways", [("x", X)], {"sequence_id": 3, "sequence_start": True}, 400, "has no sequences"),
        ("reader", [("ids", np.array([[WORDS]]))], {}, 400, "30"),
        ("tagger", [("x", X)], {"request_compression_algorithm": "deflate"}, 415, "Content-Encoding"),
    ],
)
def test_refusals(client, model, inputs, options, status, reason):
    with pytest.raises(InferenceServerException) as error:
        client.infer(model, [given(name, array) for name, array in inputs], **options)
    assert error.value.status() == str(status)
    assert reason in error.value.message()


def test_no_model_is_loaded_over_the_network(client):
    for ask in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="neither loaded nor unloaded"):
            ask("tagger")
