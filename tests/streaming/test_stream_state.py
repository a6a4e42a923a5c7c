"""States as bytes: the documented layout, read back bit for bit; damaged, hostile and foreign bytes are refused."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_models import SPECS, draw, equal, make

from rnncore import FormatError, RnncoreError, State, StateError
from rnncore.runtime.state import DTYPES, arrays_from_bytes, arrays_to_bytes

KEY = "ab" * 32


def sealed(body):
    """The bytes with the checksum that fits them, as one who forges them would."""
    return body + struct.pack("<I", zlib.crc32(body))


def header(count=1, magic=b"RNNSTATE", version=1, zero=0, digest=bytes(32)):
    return magic + struct.pack("<HHI", version, zero, count) + digest


def entry(name=b"r.h", dtype=0, shape=(1, 1, 2), data=bytes(8)):
    return (
        struct.pack("<H", len(name)) + name + bytes((dtype, len(shape))) + struct.pack(f"<{len(shape)}Q", *shape) + data
    )


def some_state():
    rng = np.random.default_rng(0)
    return State({"a.h": rng.standard_normal((2, 3, 4)).astype(np.float32), "a.c": rng.standard_normal((2, 3, 5))})


def test_there_and_back():
    state = some_state()
    assert State.from_bytes(state.to_bytes()) == state
    found = State.from_bytes(state.to_bytes(KEY), KEY)
    assert found == state
    found["a.h"][...] = 0  # the caller's own, writeable
    for data in (bytearray(state.to_bytes()), memoryview(state.to_bytes())):
        assert State.from_bytes(data) == state


def test_the_layout_is_the_documented_one():
    array = np.array([[[1.5, -2.0]]], np.float32)
    expected = sealed(header(digest=bytes.fromhex(KEY)) + entry(data=struct.pack("<2f", 1.5, -2.0)))
    assert State({"r.h": array}).to_bytes(KEY) == expected
    assert State.from_bytes(expected, KEY) == State({"r.h": array})


def test_bits_are_kept():
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    special.view(np.uint32)[0] |= 0x1234  # a NaN with a payload
    state = State({"r.h": special.reshape(1, 1, 6)})
    assert State.from_bytes(state.to_bytes())["r.h"].tobytes() == special.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_order_and_rank(dtype):
    array = np.arange(6).reshape(1, 2, 3).astype(dtype)
    arrays = {
        "c": array, "fortran": np.asfortranarray(array), "big": array.astype(array.dtype.newbyteorder(">")),
        "scalar": array[0, 0, 1], "empty": array[:, :0],
    }  # fmt: skip
    found = arrays_from_bytes(arrays_to_bytes({name: np.asarray(a) for name, a in arrays.items()}, None), None)
    for name, given_array in arrays.items():
        assert found[name].dtype == np.dtype(dtype)
        assert np.array_equal(found[name], given_array)
        assert found[name].shape == given_array.shape


HOSTILE = {
    "nothing": b"",
    "a few bytes": b"RNNSTATE",
    "another magic": sealed(header(magic=b"RNNSTATF") + entry()),
    "a later version": sealed(header(version=2) + entry()),
    "reserved bytes": sealed(header(zero=1) + entry()),
    "no array": sealed(header(count=1)),
    "too many arrays": sealed(header(count=(1 << 32) - 1)),
    "one array too few": sealed(header(count=2) + entry()),
    "bytes behind": sealed(header() + entry() + b"x"),
    "an empty name": sealed(header() + entry(name=b"")),
    "a long name": sealed(header() + entry(name=b"n" * 5000)),
    "a name that is not UTF-8": sealed(header() + entry(name=b"\xff\xfe")),
    "one name twice": sealed(header(count=2) + entry() + entry()),
    "an unknown dtype": sealed(header() + entry(dtype=12)),
    "a rank too high": sealed(header() + entry(shape=(1,) * 17, data=bytes(4))),
    "a size beyond the bytes": sealed(header() + entry(shape=(1 << 40,))),
    "sizes whose product wraps": sealed(header() + entry(shape=(1 << 32, 1 << 32, 1 << 32), data=b"")),
    "a huge size beside 0": sealed(header() + entry(shape=((1 << 64) - 1, 0), data=b"")),
    "a number": sealed(header() + entry(shape=(), data=bytes(4))),
    "a vector": sealed(header() + entry(shape=(2,), data=bytes(8))),
    "four dimensions": sealed(header() + entry(shape=(1, 1, 1, 1), data=bytes(4))),
    "a bool of 2": sealed(header() + entry(dtype=3, shape=(2,), data=b"\x01\x02")),
    "truncated data": sealed(header() + entry(data=bytes(7))),
    "a wrong checksum": header() + entry() + bytes(4),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bytes_are_refused(what):
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"^state: "):
            State.from_bytes(HOSTILE[what])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_hostile_ones_are_nearly_right():
    assert set(State.from_bytes(sealed(header() + entry()))) == {"r.h"}


def test_every_flipped_bit_and_every_truncation_is_found():
    data = some_state().to_bytes(KEY)
    for place in range(len(data)):
        with pytest.raises(FormatError):
            State.from_bytes(data[:place])
        with pytest.raises(FormatError):
            State.from_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])


@given(st.binary(max_size=200), st.integers(0, 3))
def test_random_bytes_behind_a_valid_beginning(data, kind):
    """Only our errors, whatever the bytes say; those that are accepted are a state."""
    body = [data, header() + data, header(count=2) + entry() + data, header() + entry()[:7] + data][kind]
    try:
        state = State.from_bytes(sealed(body))
    except RnncoreError:
        return
    assert State.from_bytes(state.to_bytes()).keys() == state.keys()


def test_other_models_are_refused():
    data = some_state().to_bytes(KEY)
    with pytest.raises(StateError, match=r"abababababab.*cdcdcdcdcdcd"):
        State.from_bytes(data, "cd" * 32)
    with pytest.raises(StateError, match="none is named"):
        State.from_bytes(some_state().to_bytes(), KEY)
    assert State.from_bytes(data) == some_state(), "who does not ask is not refused"


@pytest.mark.parametrize("key", ["", "xy" * 32, "ab", 7, b"ab" * 16])
def test_what_is_no_fingerprint(key):
    with pytest.raises(StateError, match="fingerprint"):
        some_state().to_bytes(key)


@pytest.mark.parametrize("data", [None, "text", 7, some_state()])
def test_what_are_no_bytes(data):
    with pytest.raises(StateError, match="expected bytes"):
        State.from_bytes(data)


def test_fingerprints():
    model = make(SPECS["gru"])
    assert model.fingerprint == make(SPECS["gru"]).fingerprint
    others = (make(SPECS["gru"], seed=1), make(SPECS["gru"], dtype="float64"), make(SPECS["rnn"]))
    assert len({model.fingerprint, *(other.fingerprint for other in others)}) == 4
    weights = dict(model.weights)
    weights["r.bias_l1"] = weights["r.bias_l1"].copy()
    weights["r.bias_l1"][0] += 1
    assert type(model)(model.spec, weights).fingerprint != model.fingerprint
    assert type(model)(model.spec, weights, num_threads=3).fingerprint == type(model)(model.spec, weights).fingerprint


def test_a_service_keeps_its_users_states():
    """model(x, state) with the state in a store between calls."""
    model = make(SPECS["graph"])
    x = draw(model.spec, np.random.default_rng(1), 1, 9)
    store, found = {}, []
    for t in range(9):
        state = State.from_bytes(store["ann"], model.fingerprint) if "ann" in store else None
        y, state = model(x[:, t : t + 1], state)
        store["ann"] = state.to_bytes(model.fingerprint)
        found.append(y)
    assert equal(np.concatenate(found, axis=1), model(x))


def test_forged_streams_are_refused():
    """What has a right checksum and the model's fingerprint is still checked before it is used."""
    model = make(SPECS["lstm"])
    stream = model.stream()
    arrays = arrays_from_bytes(stream.save(), None)
    key = stream._program.fingerprint
    for change in (
        {"r.h": arrays["r.h"][:, :, :5]}, {"r.h": arrays["r.h"].astype(np.float64)}, {"r.x": arrays["r.h"]},
        {"ended": np.zeros(2, bool)}, {"ended": np.zeros(1, np.int8)},
    ):  # fmt: skip
        with pytest.raises(StateError, match="state"):
            stream.load(arrays_to_bytes({**arrays, **change}, key))
    with pytest.raises(StateError, match="missing"):
        stream.load(arrays_to_bytes({"r.h": arrays["r.h"]}, key))
