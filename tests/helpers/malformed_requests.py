"""Malformed requests: each built from a valid one, by one of the kinds below.

A kind that is certainly wrong must get a 4xx; one that may happen to be right (flipped bytes), that or an answer.
"""

import copy
import gzip
import json
import re

import numpy as np
from served import FEATURES, WORDS

LENGTH = "Inference-Header-Content-Length"
BOMB = gzip.compress(bytes(80 << 20), 1)


class Attack:
    """Draws requests: (path, headers, body, whether it is certainly wrong)."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.kinds = {name[5:]: getattr(self, name) for name in sorted(dir(self)) if name.startswith("kind_")}

    def draw(self):
        name = self.pick(list(self.kinds))
        return name, self.kinds[name]()

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def numbers(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    # --- valid ones ---

    def tagger(self, binary):
        batch, steps = self.rng.integers(1, 4), self.rng.integers(1, 6)
        x = self.numbers(batch, steps, FEATURES)
        lengths = self.rng.integers(0, steps + 1, batch)
        return self.request("tagger", {"x": x, "lengths": lengths}, binary)

    def reader(self, binary):
        return self.request("reader", {"ids": self.rng.integers(0, WORDS, (2, 3))}, binary)

    def any(self, binary):
        return self.pick([self.tagger, self.reader])(binary)

    def request(self, model, arrays, binary):
        names = {"float32": "FP32", "int64": "INT64"}
        inputs, raw = [], b""
        for name, array in arrays.items():
            entry = {"name": name, "shape": list(map(int, array.shape)), "datatype": names[array.dtype.name]}
            if binary:
                entry["parameters"] = {"binary_data_size": array.nbytes}
                raw += array.tobytes()
            else:
                entry["data"] = array.ravel().tolist()
            inputs.append(entry)
        return model, {"inputs": inputs}, raw

    @staticmethod
    def packed(model, request, raw, certain=True, headers=None):
        head = request if isinstance(request, bytes) else json.dumps(request).encode()
        own = {LENGTH: str(len(head))} if raw else {}
        return f"/v2/models/{model}/infer", {**own, **(headers or {})}, head + raw, certain

    # --- wrong ones ---

    def kind_lengths_that_lie(self):
        model, request, _ = self.tagger(False)
        entry = request["inputs"][1]
        count, steps = entry["shape"][0], request["inputs"][0]["shape"][1]
        row = self.rng.integers(count)
        entry["data"][row] = self.pick(
            [steps + 1, -1, 2**62, -(2**63), 2**63, 2**64, 1.5, "1", None, True, [1], 10**40]
        )
        return self.packed(model, request, b"")

    def kind_lengths_of_another_batch(self):
        model, request, _ = self.tagger(False)
        count = request["inputs"][1]["shape"][0]
        other = self.pick([0, count + 1, count + 1000])
        request["inputs"][1].update(shape=self.pick([[other], [count, 1], [1, count, 1], []]), data=[1] * other)
        return self.packed(model, request, b"")

    def kind_binary_lengths_that_lie(self):
        steps, batch = 4, int(self.rng.integers(1, 5))
        lengths = np.full(batch, 2)
        lengths[self.rng.integers(batch)] = self.pick([5, -1, 2**62, -(2**62)])
        return self.packed(
            *self.request("tagger", {"x": self.numbers(batch, steps, FEATURES), "lengths": lengths}, True)
        )

    def kind_wrong_dtype(self):
        model, request, raw = self.any(self.rng.random() < 0.5)
        entry = self.pick(request["inputs"])
        others = ["BF16", "BYTES", "INT32", "UINT8", "BOOL", "fp32", "", None, 3, ["FP32"], "X" * 9999]
        if raw or entry["datatype"] != "FP32":  # else numbers of JSON are any float's
            others += ["FP64", "FP16"]
        entry["datatype"] = self.pick(others)
        return self.packed(model, request, raw)

    def kind_number_beyond_the_model_s_float(self):
        x = self.numbers(1, 2, FEATURES)
        model, request, raw = self.request("tagger", {"x": x}, self.rng.random() < 0.5)
        wide = x.astype(np.float64)
        wide[0, 0, 0] = self.pick([1e39, -1e300, 1.7e308])
        request["inputs"][0]["datatype"] = "FP64"
        if raw:
            raw = wide.tobytes()
            request["inputs"][0]["parameters"]["binary_data_size"] = len(raw)
        else:
            request["inputs"][0]["data"] = wide.ravel().tolist()
        return self.packed(model, request, raw)

    def kind_wrong_shape(self):
        binary = self.rng.random() < 0.5
        model, request, raw = self.any(binary)
        entry = self.pick(request["inputs"])
        right = list(entry["shape"])
        axis = self.rng.integers(len(right))
        size = self.pick([-1, -(2**31), right[axis] + 1, 2**31, 2**63, 2**64, 10**30, 0.5, "2", None, True, [2], {}])
        right[axis] = size
        wrong = [right, [*right, 2], [2] * 40, [2**32, 2**32], [0, 2**62], None, 3, "3", {}, [[1]]]
        entry["shape"] = self.pick(wrong)
        return self.packed(model, request, raw)

    def kind_data_of_another_size(self):
        model, request, _ = self.any(False)
        entry = request["inputs"][0]
        data = entry["data"]
        wrong = [data[:-1], [*data, 1], [], [data], [data, data], None, 1, "1", {}, [[[[[1]]]]], [*data[:-1], [1]]]
        entry["data"] = self.pick(wrong)
        return self.packed(model, request, b"")

    def kind_data_of_another_kind(self):
        model, request, _ = self.any(False)
        data = request["inputs"][0]["data"]
        wrong = ["1", None, True, {}, [], 1e400, 10**400, -(10**400)] + ([1.5, 2**63] if model == "reader" else [1e39])
        data[self.rng.integers(len(data))] = self.pick(wrong)
        return self.packed(model, request, b"")

    def kind_unknown_words(self):
        ids = self.rng.integers(0, WORDS, (2, 3))
        ids[self.rng.integers(2), self.rng.integers(3)] = self.pick([WORDS, -1 - WORDS, 2**62, -(2**63)])
        return self.packed(*self.request("reader", {"ids": ids}, self.rng.random() < 0.5))

    def kind_truncated_binary(self):
        path, headers, body, _ = self.packed(*self.any(True))
        return path, headers, body[: -int(self.rng.integers(1, 8))], True

    def kind_binary_left_over(self):
        path, headers, body, _ = self.packed(*self.any(True))
        return path, headers, body + bytes(int(self.rng.integers(1, 80))), True

    def kind_binary_size_that_lies(self):
        model, request, raw = self.any(True)
        parameters = self.pick(request["inputs"])["parameters"]
        size = parameters["binary_data_size"]
        wrong = [size - 1, size + 1, 0, -1, 2**40, 2**63, 1.5, str(size), None, True, [size]]
        parameters["binary_data_size"] = self.pick(wrong if size else wrong[1:2])
        return self.packed(model, request, raw)

    def kind_header_length_that_lies(self):
        path, _, body, _ = self.packed(*self.any(True))
        wrong = ["0", "1", "-1", str(len(body)), str(len(body) + 1), "9" * 30, "abc", "", "1.5", "0x10", "1 1"]
        return path, {LENGTH: self.pick(wrong)}, body, True

    def kind_both_data_and_binary(self):
        model, request, raw = self.any(True)
        self.pick(request["inputs"])["data"] = [1]
        return self.packed(model, request, raw)

    def kind_truncated_json(self):
        model, request, _ = self.any(False)
        head = json.dumps(request).encode()
        return self.packed(model, head[: self.rng.integers(len(head))], b"")

    def kind_not_json(self):
        bad = self.pick(
            [
                b"", b"nul", b"\xff\xfe\xfd", b"\x00", b"'a'", b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b"-Infinity",
                b"[1,]", b'{"inputs": [NaN]}', b"1" * 5000, b'"\\ud800"', b"<xml/>", b"a=1&b=2", b"\xef\xbb\xbf{}",
            ]
        )  # fmt: skip
        return self.packed("tagger", bad, b"")

    def kind_other_json(self):
        return self.packed(
            "tagger", self.pick([b"[]", b"1", b'"x"', b"null", b"true", b"{}", b'{"inputs": null}']), b""
        )

    def kind_wrong_sequence(self):
        model, request, _ = self.request("tagger", {"x": self.numbers(1, 2, FEATURES)}, False)
        wrong = [
            {"sequence_id": int(self.rng.integers(1, 2**60))},
            {"sequence_id": "never begun", "sequence_end": True},
            {"sequence_start": True},
            {"sequence_end": True, "sequence_id": 0},
            {"sequence_id": -1, "sequence_start": True},
            {"sequence_id": 2**64, "sequence_start": True},
            {"sequence_id": 1.5, "sequence_start": True},
            {"sequence_id": False, "sequence_start": True},
            {"sequence_id": None, "sequence_start": True},
            {"sequence_id": [1], "sequence_start": True},
            {"sequence_id": "a" * 1000, "sequence_start": True},
            {"sequence_id": 3, "sequence_start": 1},
            {"sequence_id": 3, "sequence_start": "true"},
            {"sequence_id": 3, "sequence_start": True, "sequence_end": None},
        ]
        request["parameters"] = self.pick(wrong)
        return self.packed(model, request, b"")

    def kind_wrong_sequence_input(self):
        model, request, _ = self.request("tagger", {"x": self.numbers(2, 2, FEATURES)}, False)
        request["parameters"] = {"sequence_id": 9, "sequence_start": True}
        return self.packed(self.pick([model, "two.ways"]), request, b"")

    def kind_wrong_parameters(self):
        model, request, raw = self.any(self.rng.random() < 0.5)
        wrong = [
            {"timeout": -1}, {"timeout": "1"}, {"timeout": 1.5}, {"timeout": 2**70}, {"priority": -1},
            {"priority": 0.5}, {"priority": 2**40}, {"binary_data_output": 1}, {"shared_memory_region": "x"},
            {"x" * 5000: [1]}, {"shared_memory_offset": 0}, {"other": None}, {"other": {}}, [], 1,
        ]  # fmt: skip
        request["parameters"] = self.pick(wrong)
        return self.packed(model, request, raw)

    def kind_wrong_outputs(self):
        model, request, raw = self.any(self.rng.random() < 0.5)
        known = "tags" if model == "tagger" else "gru.h"
        wrong = [
            [{"name": "nope"}], [{"name": known}, {"name": known}], [{}], [known], {}, 1, "x", [{"name": 3}], False,
            [{"name": known, "parameters": {"classification": 2}}], [{"name": known, "parameters": {"binary_data": 1}}],
            [{"name": known}] * 1000, [{"name": known, "datatype": "FP32"}],
        ]  # fmt: skip
        request["outputs"] = self.pick(wrong)
        return self.packed(model, request, raw)

    def kind_wrong_names(self):
        model, request, raw = self.any(self.rng.random() < 0.5)
        self.pick(request["inputs"])["name"] = self.pick(["y", "", None, 3, "x" * 10_000, ["x"], "\x00", "\ud800"])
        return self.packed(model, request, raw)

    def kind_input_twice_or_missing(self):
        model, request, _ = self.any(False)
        request["inputs"] = self.pick([request["inputs"] * 2, [], request["inputs"] * 200, [None], [[]]])
        return self.packed(model, request, b"")

    def kind_unknown_keys(self):
        model, request, raw = self.any(self.rng.random() < 0.5)
        self.pick([request, *request["inputs"]])[self.pick(["Inputs", "url", "model", ""])] = 1
        return self.packed(model, request, raw)

    def kind_unknown_model(self):
        _, request, raw = self.tagger(True)
        bad = ["nope", "tagger/versions/2", "tagger%00", "..%2f..%2fetc%2fpasswd", "%ff", "x" * 5000, "tagger%2Finfer"]
        return self.packed(self.pick(bad), request, raw)

    def kind_encoded(self):
        encoding = self.pick(["deflate", "br", "gzip, gzip", "x-gzip", "x"])
        return self.packed(*self.any(True), headers={"Content-Encoding": encoding})

    def kind_damaged_gzip(self):
        path, headers, body, _ = self.packed(*self.any(True))
        whole = gzip.compress(body)
        at = int(self.rng.integers(len(whole) - 1))
        damaged = [whole[:at], whole + b"x", b"", body, whole[:-8] + bytes(8), whole + whole[:9], whole[4:]]
        return path, {**headers, "Content-Encoding": "gzip"}, self.pick(damaged), True

    def kind_gzip_bomb(self):
        path, headers, _, _ = self.packed(*self.any(True))
        return path, {**headers, "Content-Encoding": "gzip"}, BOMB, True

    def kind_flipped_gzip(self):
        path, headers, body, _ = self.packed(*self.any(self.rng.random() < 0.5))
        changed = bytearray(gzip.compress(body))
        changed[self.rng.integers(len(changed))] ^= 1 << self.rng.integers(8)
        return path, {**headers, "Content-Encoding": "gzip"}, bytes(changed), False

    def kind_key_twice(self):
        """A key of an object somewhere in the JSON, once more."""
        model, request, raw = self.any(self.rng.random() < 0.5)
        request["parameters"] = {"timeout": 30_000_000}
        head = json.dumps(request)
        places = list(re.finditer(r'("\w+"): ', head))
        at = self.pick(places)
        head = f"{head[: at.start()]}{at[1]}: {self.pick(['1', 'null', '[]', '{}'])}, {head[at.start() :]}"
        return self.packed(model, head.encode(), raw)

    def kind_field_twice(self):
        path, headers, body, _ = self.packed(*self.any(True))
        name = self.pick(["Authorization", "Host", "Content-Encoding", LENGTH])
        values = {"Host": "localhost", "Content-Encoding": "gzip", LENGTH: headers[LENGTH]}
        value = values.get(name, "Bearer a-token-of-somebody")
        return path, [*headers.items(), (name, value), (name, value)], body, True

    def kind_other_json_inside(self):
        """A value anywhere in the JSON replaced by another."""
        model, request, raw = self.any(self.rng.random() < 0.5)
        request = copy.deepcopy(request)
        place = request
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = self.pick(keys)
            inner = place[key]
            if not (isinstance(inner, (dict, list)) and inner) or self.rng.random() < 0.3:
                break
            place = inner
        place[key] = self.pick([None, True, -1, 1.5, 2**65, "x", [], {}, [[]], "x" * 1000, -(2**31), 10**300])
        return self.packed(model, request, raw, certain=False)

    def kind_flipped_bytes(self):
        path, headers, body, _ = self.packed(*self.any(self.rng.random() < 0.5))
        changed = bytearray(body)
        for _ in range(self.rng.integers(1, 3)):
            changed[self.rng.integers(len(changed))] ^= 1 << self.rng.integers(7)
        return path, headers, bytes(changed), False


def as_pairs(headers):
    """Of a mapping, or of pairs where a name is there twice."""
    return list(headers.items() if isinstance(headers, dict) else headers)
