"""Malicious, malformed and odd Keras files, each with the argument why it must be refused, or must load.

In the style of hostile_files.py. HDF5 is written by h5py and then falsified, byte by byte where h5py would not.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable

import h5py
import numpy as np
from hostile_files import CANARY, Case

from rnncore.errors import FormatError, RnncoreError, UnsupportedError, WeightError

HOSTILE: dict[str, Case] = {}
BENIGN: dict[str, Case] = {}


def hostile(says: str, why: str, error: type[RnncoreError] = FormatError):
    def register(build):
        HOSTILE[build.__name__] = Case(build.__name__, why, build, error, says)
        return build

    return register


def benign(why: str):
    def register(build):
        BENIGN[build.__name__] = Case(build.__name__, why, build)
        return build

    return register


DENSE = {"name": "dense", "trainable": True, "dtype": "float32", "units": 2, "activation": "linear", "use_bias": True}
INPUT = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 3], "dtype": "float32", "name": "in"}}
KERNEL, BIAS = np.arange(6, dtype=np.float32).reshape(3, 2), np.ones(2, np.float32)


def sequential(*layers, **more) -> dict:
    entries = [INPUT, *(layers or [{"class_name": "Dense", "config": DENSE}])]
    return {"class_name": "Sequential", "config": {"name": "model", "layers": entries}, **more}


def dense(**changes) -> dict:
    return {"class_name": "Dense", "config": {**DENSE, **changes}}


def hdf5(edit: Callable | None = None, config=None, version="2.9.0", **options) -> bytes:
    """A whole-model file of one Dense; ``edit`` gets the open h5py file at the end."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        file.attrs["keras_version"] = version
        file.attrs["model_config"] = json.dumps(config or sequential()) if not isinstance(config, str) else config
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"in", b"dense"]
        group.create_group("in").attrs["weight_names"] = np.zeros(0)
        own = group.create_group("dense")
        own.attrs["weight_names"] = [b"dense/kernel:0", b"dense/bias:0"]
        own["dense/kernel:0"], own["dense/bias:0"] = KERNEL, BIAS
        if edit is not None:
            edit(file)
    return buffer.getvalue()


def kernel(edit: Callable[[h5py.Group], None], **more) -> bytes:
    """The same with the kernel replaced by what ``edit`` makes in its group."""

    def replace(file):
        group = file["model_weights/dense/dense"]
        del group["kernel:0"]
        edit(group)

    return hdf5(replace, **more)


def keras_zip(config=None, weights: bytes | None = None, metadata=None, **members: bytes) -> bytes:
    """A .keras file of one Dense."""
    if weights is None:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file["layers/dense/vars/0"], file["layers/dense/vars/1"] = KERNEL, BIAS
        weights = buffer.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("metadata.json", json.dumps(metadata or {"keras_version": "3.5.0"}))
        text = config if isinstance(config, (str, bytes)) else json.dumps(config or modern())
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", weights)
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def modern(*layers) -> dict:
    entry = {"module": "keras.layers", "class_name": "InputLayer", "registered_name": None,
             "config": {"batch_shape": [None, 3], "dtype": "float32", "name": "in"}}  # fmt: skip
    one = {"module": "keras.layers", "class_name": "Dense", "registered_name": None, "config": DENSE}
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "m", "layers": [entry, *(layers or [one])]},
    }


def patched(data: bytes, old: bytes, new: bytes, count: int = 1) -> bytes:
    assert old in data and len(old) == len(new)
    return data.replace(old, new, count)


def functional(layers: list, inputs=("in", 0, 0), outputs=("dense", 0, 0)) -> dict:
    config = {"name": "m", "layers": layers, "input_layers": [list(inputs)], "output_layers": [list(outputs)]}
    return {"class_name": "Functional", "config": config}


FIRST = {**INPUT, "name": "in", "inbound_nodes": []}


# HDF5: what points elsewhere


@hostile("soft link", "a soft link may lead anywhere, in circles too; Keras writes hard links only")
def hdf5_soft_link():
    return kernel(lambda group: group.__setitem__("kernel:0", h5py.SoftLink("/model_weights/dense/dense/bias:0")))


@hostile("soft link", "two soft links that lead to each other never end")
def hdf5_soft_link_loop():
    def edit(group):
        group["kernel:0"], group["other"] = h5py.SoftLink("other"), h5py.SoftLink("kernel:0")

    return kernel(edit)


@hostile("external link", "an external link opens another file of the attacker's choice")
def hdf5_external_link():
    return kernel(lambda group: group.__setitem__("kernel:0", h5py.ExternalLink("/etc/passwd", "x")))


@hostile("external file", "external storage reads any file as weights, and pyfive would give zeros for it")
def hdf5_external_storage():
    external = [("/etc/passwd", 0, 24)]
    return kernel(lambda group: group.create_dataset("kernel:0", (3, 2), "f4", external=external))


@hostile("virtual dataset", "a virtual dataset is made of other files")
def hdf5_virtual_dataset():
    def edit(group):
        layout = h5py.VirtualLayout((3, 2), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3, 2))
        group.create_virtual_dataset("kernel:0", layout)

    return kernel(edit)


@hostile("a group, expected a dataset", "a group that contains itself in the place of an array")
def hdf5_hard_link_cycle():
    def edit(group):
        group["kernel:0"] = group

    return kernel(edit)


# HDF5: sizes that lie


@hostile(
    "too many bytes of arrays",
    "256 TiB in a file of two kilobytes: the shape is compared with the bytes that are there",
)
def hdf5_huge_shape():
    data = hdf5()
    return patched(data, struct.pack("<QQQQ", 3, 2, 3, 2), struct.pack("<QQQQ", 1 << 23, 1 << 23, 1 << 23, 1 << 23))


@hostile("too many bytes of arrays", "the same asked of chunks, none of which has to be there")
def hdf5_huge_sparse_chunks():
    return kernel(lambda group: group.create_dataset("kernel:0", (1 << 23, 1 << 20), "f4", chunks=(1024, 1024)))


@hostile("never written", "a dataset that was never written reads as zeros; weights are not zeros by accident")
def hdf5_never_written():
    return kernel(lambda group: group.create_dataset("kernel:0", (3, 2), "f4"))


@hostile("was written", "chunks that were never written read as zeros")
def hdf5_chunks_never_written():
    return kernel(lambda group: group.create_dataset("kernel:0", (3, 2), "f4", chunks=(3, 1)))


@hostile("chunks, expected", "one chunk of two is missing, and would read as zeros")
def hdf5_chunk_missing():
    def edit(group):
        group.create_dataset("kernel:0", (3, 2), "f4", chunks=(3, 1))[:, 0] = 1

    return kernel(edit)


@hostile("too many bytes of arrays", "a bomb: a gigabyte of zeros in a megabyte of deflate")
def hdf5_deflate_bomb():
    def edit(group):
        dataset = group.create_dataset("kernel:0", (1 << 28,), "f4", chunks=(1 << 20,), compression="gzip")
        dataset[: 1 << 20] = 0

    return kernel(edit)


def deflated(data: bytes, size: int = 16384) -> bytes:
    """A kernel in one gzip chunk, whose bytes are replaced by others of the same length."""

    def edit(group):
        group.create_dataset("kernel:0", data=np.zeros((64, 64), "f4"), chunks=(64, 64), compression="gzip")

    file = kernel(edit)
    packed = zlib.compress(bytes(size), 4)
    return patched(file, packed, (data + bytes(len(packed)))[: len(packed)])


@hostile("damaged", "a chunk that is no deflate stream")
def hdf5_deflate_garbage():
    return deflated(b"\xff" * 40)


@hostile("does not fit", "a checksum that does not fit its chunk")
def hdf5_fletcher32():
    def edit(group):
        group.create_dataset("kernel:0", data=np.full((3, 2), 1.5, "f4"), chunks=(3, 2), fletcher32=True)

    return patched(kernel(edit), np.full(6, 1.5, "f4").tobytes(), np.full(6, 2.5, "f4").tobytes())


@hostile("lzf copies from before the beginning", "a copy from before the output begins reads foreign memory in C")
def hdf5_lzf_backwards():
    def edit(group):
        array = np.zeros((64, 64), "f4")
        group.create_dataset("kernel:0", data=array, chunks=(64, 64), compression="lzf")

    data = kernel(edit)
    at = data.index(b"\x01\x00\x00\xe0")  # two literals, then the first copy
    return data[:at] + b"\x20\xff\xff\xe0" + data[at + 4 :]


@hostile("attribute of", "an attribute that claims 2**40 elements makes a reader allocate them")
def hdf5_attribute_count():
    def edit(file):
        file.attrs["long"] = np.arange(77, dtype="i1")

    return patched(hdf5(edit), struct.pack("<Q", 77), struct.pack("<Q", 1 << 40), 8)


@hostile("past the end", "an object header that lies outside the file")
def hdf5_truncated():
    data = hdf5()
    return data[: len(data) // 2]


@hostile("64-bit", "the signature and nothing else", UnsupportedError)
def hdf5_signature_only():
    return b"\x89HDF\r\n\x1a\n" + bytes(200)


@hostile("an object at offset", "an address of the root beyond any file")
def hdf5_root_address():
    data = bytearray(hdf5(libver="latest"))
    data[36:44] = struct.pack("<Q", 1 << 60)
    return bytes(data)


@hostile("too many reads", "a B-tree of six small nodes, each 64 times the child of the one above: 64**6 leaves")
def hdf5_btree_that_grows():
    data = bytearray(hdf5())
    at = data.index(b"TREE")  # the root group's
    leaf = struct.unpack_from("<Q", data, at + 32)[0]
    data[at + 5], data[at + 6] = 6, 1
    data[at + 32 : at + 40] = struct.pack("<Q", len(data))
    for level in range(5, -1, -1):
        child = len(data) + 24 + 64 * 16 + 8 if level else leaf
        node = b"TREE\0" + bytes([level]) + struct.pack("<H", 64) + b"\xff" * 16
        data += node + struct.pack("<QQ", 0, child) * 64 + bytes(8)
    return bytes(data)


@hostile("in 257 pieces", "an object header that continues in itself for ever")
def hdf5_header_cycle():
    data = hdf5()
    at = data.index(b"HEAP")
    # the root's object header stands at 96 in files of h5py: version 1, its first message a continuation of itself
    head = bytearray(data)
    size = struct.unpack_from("<I", head, 104)[0]
    head[98:100] = struct.pack("<H", 0xFFFF)
    head[112:120] = struct.pack("<HHB3x", 0x10, 16, 0)
    head[120:136] = struct.pack("<QQ", 112, size)
    assert at > 136
    return bytes(head)


@hostile("layout version 4", "chunk indexes of libver='latest' are not read, and say so", UnsupportedError)
def hdf5_layout_4():
    def edit(group):
        group.create_dataset("kernel:0", data=np.ones((64, 64), "f4"), chunks=(8, 8))

    return kernel(edit, libver="latest")


@hostile("array of", "text in the place of numbers", UnsupportedError)
def hdf5_strings():
    return kernel(lambda group: group.create_dataset("kernel:0", data=np.array([[b"a", b"b"]] * 3)))


@hostile("array of", "a compound type, whose fields may be anything", UnsupportedError)
def hdf5_compound():
    pairs = np.zeros((3, 2), [("a", "f4"), ("b", "i4")])
    return kernel(lambda group: group.create_dataset("kernel:0", data=pairs))


@hostile("array of", "references to objects are no numbers", UnsupportedError)
def hdf5_references():
    def edit(group):
        group.create_dataset(
            "kernel:0", data=np.array([group.ref] * 6, h5py.ref_dtype).reshape(3, 2), dtype=h5py.ref_dtype
        )

    return kernel(edit)


@hostile("kernel: shape", "an array of another shape than its layer's", WeightError)
def hdf5_other_shape():
    return kernel(lambda group: group.create_dataset("kernel:0", data=np.zeros((3, 5), "f4")))


@hostile("no 'layers'", "without the list of layers nobody knows whose arrays are whose")
def hdf5_no_layer_names():
    def edit(file):
        del file["model_weights"].attrs["layer_names"]

    return hdf5(edit)


@hostile("arrays, expected 2", "a layer without its arrays", WeightError)
def hdf5_layer_missing():
    def edit(file):
        file["model_weights"].attrs["layer_names"] = [b"in"]

    return hdf5(edit)


@hostile("no '../model_weights/dense'", "layer names are labels, never paths: .. is looked for, not followed")
def hdf5_path_name():
    def edit(file):
        file["model_weights"].attrs["layer_names"] = [b"in", b"../model_weights/dense"]

    return hdf5(edit)


@hostile("is twice in layer_names", "a layer twice in the list")
def hdf5_layer_twice():
    def edit(file):
        file["model_weights"].attrs["layer_names"] = [b"in", b"dense", b"dense"]

    return hdf5(edit)


# Configs: what is code, and what does not end


LAMBDA = {
    "class_name": "Lambda",
    "config": {"name": "code", "function": ["4wEAAAAAAAAA", None, None], "trainable": True},
}


@hostile("a Lambda is code", "a Lambda is marshalled bytecode, which Keras runs", UnsupportedError)
def config_lambda():
    return hdf5(config=sequential(dense(), LAMBDA))


@hostile("a Lambda is code", "the same in a .keras, where enable_unsafe_deserialization would run it", UnsupportedError)
def keras_lambda():
    code = {"module": "keras.layers", "class_name": "Lambda", "registered_name": None,
            "config": {"name": "l", "function": {"class_name": "__lambda__", "config": {"code": "4wE="}}}}  # fmt: skip
    return keras_zip(modern(code))


@hostile("of module 'os'", "a class of any module: Keras imported it and called it (CVE-2025-1550)", UnsupportedError)
def keras_foreign_module():
    bad = {"module": "os", "class_name": "system", "registered_name": None, "config": {"command": f"touch {CANARY}"}}
    return keras_zip(modern(bad))


@hostile("of module 'evil_module'", "a module beside the file would be imported", UnsupportedError)
def keras_module_beside():
    return keras_zip(modern({"module": "evil_module", "class_name": "Evil", "config": {}, "registered_name": None}))


@hostile("of module 'keras;evil'", "a module's name that only begins like Keras's", UnsupportedError)
def keras_module_prefix():
    return keras_zip(modern({"module": "keras;evil", "class_name": "Dense", "config": DENSE, "registered_name": None}))


@hostile("registered class", "a registered class is code of somebody's package", UnsupportedError)
def keras_registered():
    one = {"module": "keras.layers", "class_name": "Dense", "registered_name": "evil>Dense", "config": DENSE}
    return keras_zip(modern(one))


@hostile("expected one of", "a function as activation is code, whatever module it is said to be of", UnsupportedError)
def keras_function():
    bad = {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "function"}
    return keras_zip(modern(dense(activation=bad)))


@hostile("not accepted", "a layer that Keras has and rnncore does not is refused by name", UnsupportedError)
def config_unknown_layer():
    return hdf5(config=sequential({"class_name": "RandomContrast", "config": {"name": "c", "factor": 0.5}}))


@hostile("a call of TensorFlow itself", "TFOpLambda names a function of TensorFlow", UnsupportedError)
def config_tf_op():
    op = {"class_name": "TFOpLambda", "name": "f", "config": {"name": "f", "function": "io.read_file"},
          "inbound_nodes": [["in", 0, 0, {}]]}  # fmt: skip
    return hdf5(config=functional([FIRST, op], outputs=("f", 0, 0)))


@hostile("option magic", "an option that nobody knows may mean anything", UnsupportedError)
def config_unknown_option():
    return hdf5(config=sequential(dense(magic=1)))


@hostile("in a cycle", "a functional model whose layers read each other")
def config_cycle():
    a = {**dense(name="a"), "name": "a", "inbound_nodes": [[["dense", 0, 0, {}]]]}
    b = {**dense(), "name": "dense", "inbound_nodes": [[["a", 0, 0, {}]]]}
    return hdf5(config=functional([FIRST, a, b]))


@hostile("there is none", "a call that reads a layer which does not exist")
def config_missing_layer():
    b = {**dense(), "name": "dense", "inbound_nodes": [[["nobody", 0, 0, {}]]]}
    return hdf5(config=functional([FIRST, b]))


@hostile("is read, there is none", "the fifth output of a layer with one")
def config_missing_output():
    b = {**dense(), "name": "dense", "inbound_nodes": [[["in", 0, 0, {}]]]}
    return hdf5(config=functional([FIRST, b], outputs=("dense", 0, 4)))


@hostile("two layers are named", "two layers of one name: the second would take the first one's arrays")
def config_layer_twice():
    return hdf5(config=sequential(dense(), dense()))


@hostile("occurs twice in one object", "duplicate keys: readers disagree which one counts")
def config_duplicate_key():
    text = json.dumps(sequential())
    return hdf5(config=text[:-1] + ', "class_name": "Functional"}')


@hostile("nested too deeply", "brackets without end exhaust the parser's stack")
def config_deep_json():
    return hdf5(config='{"class_name": ' + "[" * 100_000 + "]" * 100_000 + "}")


@hostile("nested more than", "models in models without end exhaust ours")
def config_deep_models():
    layer = dense()
    for _ in range(100):
        layer = {"class_name": "Sequential", "config": {"name": "m", "layers": [layer]}}
    return hdf5(config=layer)


@hostile("is no JSON", "NaN is no JSON")
def config_nan():
    return hdf5(config=json.dumps(sequential(dense(units=float("nan")))))


@hostile("expected an object", "a config that is a list")
def config_list():
    return hdf5(config="[1, 2]")


@hostile("kernel: shape", "units that no array of the file has: nothing of that size is allocated", WeightError)
def config_huge_units():
    return hdf5(config=sequential(dense(units=1 << 60)))


@hostile("positive sizes", "a negative size of the input")
def config_negative_input():
    entry = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, -3], "name": "in"}}
    return hdf5(config={"class_name": "Sequential", "config": {"name": "m", "layers": [entry, dense()]}})


@hostile("expected Sequential", "a subclassed model is code", UnsupportedError)
def config_subclass():
    return hdf5(config={"class_name": "MyModel", "config": {"layers": []}})


@hostile("expected a number", "a version that is none")
def version_text():
    return hdf5(version="latest")


# The zip around them


@hostile("holds pickles", "model.weights.npz holds pickled dictionaries", UnsupportedError)
def keras_npz():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("config.json", json.dumps(modern()))
        archive.writestr("model.weights.npz", b"PK\x05\x06" + bytes(18))
    return out.getvalue()


@hostile("plain relative name", "a member that would be written elsewhere if it were extracted")
def keras_traversal():
    return keras_zip(**{"../../etc/evil": b"x"})


@hostile("no object header", "weights that are no HDF5 behind their signature")
def keras_weights_garbage():
    return keras_zip(weights=hdf5(libver="earliest")[:96] + b"\xee" * 4000)


@hostile("no group 'dense'", "a .keras without the arrays of a layer", WeightError)
def keras_arrays_missing():
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("layers")
    return keras_zip(weights=buffer.getvalue())


# What is odd and fine


@benign("the plain case")
def fine_h5():
    return hdf5()


@benign("the plain case")
def fine_keras():
    return keras_zip()


@benign("the config of Keras before 2.2: a list of layers")
def config_as_list():
    return hdf5(config={"class_name": "Sequential", "config": [INPUT, dense()]})


@benign("version 2 object headers and compact groups (libver='latest'), as long as arrays are contiguous")
def latest_headers():
    return hdf5(libver="latest")


@benign("compressed by h5repack")
def gzip_chunks():
    return kernel(lambda group: group.create_dataset("kernel:0", data=KERNEL, chunks=(2, 1), compression="gzip"))


@benign("shuffled and compressed")
def shuffle_gzip():
    return kernel(lambda group: group.create_dataset("kernel:0", data=KERNEL, shuffle=True, compression="gzip"))


@benign("h5py's lzf")
def lzf_chunks():
    return kernel(lambda group: group.create_dataset("kernel:0", data=KERNEL, compression="lzf"))


@benign("checksums that fit")
def fletcher32_chunks():
    return kernel(lambda group: group.create_dataset("kernel:0", data=KERNEL, chunks=(2, 2), fletcher32=True))


@benign("big endian numbers")
def big_endian():
    return kernel(lambda group: group.create_dataset("kernel:0", data=KERNEL.astype(">f4")))


@benign("an array inside its object header")
def compact_storage():
    def edit(group):
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3, 2))
        one = h5py.h5d.create(group.id, b"kernel:0", h5py.h5t.IEEE_F32LE, space, plist)
        one.write(h5py.h5s.ALL, h5py.h5s.ALL, KERNEL)

    return kernel(edit)


@benign("optimizer state with external links is never looked at")
def optimizer_elsewhere():
    def edit(file):
        file.create_group("optimizer_weights")["x"] = h5py.ExternalLink("/etc/passwd", "x")

    return hdf5(edit)


@benign("attributes that nobody knows, of every type")
def more_attributes():
    def edit(file):
        file.attrs["note"], file.attrs["numbers"] = "text", np.arange(100)
        file.attrs["words"] = ["a", "b"]

    return hdf5(edit)


@benign("so many attributes that HDF5 keeps them in a heap")
def many_attributes():
    def edit(file):
        for number in range(40):
            file.attrs[f"a{number}"] = number

    return hdf5(edit, libver="latest")


@benign("so many groups that the list of them needs a B-tree of its own")
def many_groups():
    def edit(file):
        for number in range(300):
            file["model_weights"].create_group(f"unused_{number}")

    return hdf5(edit)


@benign("names as text of fixed length, as h5py 1 wrote them")
def fixed_names():
    def edit(file):
        file["model_weights"].attrs["layer_names"] = np.array([b"in", b"dense"], "S8")

    return hdf5(edit)


@benign("names as text of variable length")
def variable_names():
    def edit(file):
        file["model_weights"].attrs["layer_names"] = np.array(["in", "dense"], h5py.string_dtype())

    return hdf5(edit)


@benign("layer names with slashes, which h5py takes for groups")
def slash_in_name():
    def edit(file):
        file["model_weights"].move("dense", "scope/dense")
        file["model_weights"].attrs["layer_names"] = [b"in", b"scope/dense"]

    return hdf5(edit, config=sequential(dense(name="scope/dense")))


@benign("layers with training options and regularizers")
def training_options():
    more = {"kernel_regularizer": {"class_name": "L2", "config": {"l2": 0.01}}, "bias_constraint": None}
    return hdf5(config=sequential(dense(**more, kernel_initializer={"class_name": "Zeros", "config": {}})))


@benign("compile information and build information beside the network")
def compile_config():
    document = modern()
    document |= {
        "compile_config": {"optimizer": "adam"},
        "build_config": {"input_shape": [None, 3]},
        "registered_name": None,
    }
    return keras_zip(document, assets=b"", **{"assets/readme.txt": b"hello"})


@benign("tf.keras's modules")
def tf_keras_module():
    document = modern()
    document["module"] = "tf_keras.src.engine.sequential"
    return keras_zip(document, metadata={"keras_version": "2.15.0"})


@benign("a .keras of 2.12, with its list of layers under another name")
def checkpoint_dependencies():
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("_layer_checkpoint_dependencies/dense/vars")
        group["0"], group["1"] = KERNEL, BIAS
    return keras_zip(weights=buffer.getvalue(), metadata={"keras_version": "2.13.1"})


@benign("text beyond ASCII in names")
def unicode_names():
    def edit(file):
        file["model_weights"].move("dense", "größe")
        file["model_weights"].attrs["layer_names"] = [b"in", "größe".encode()]

    return hdf5(edit, config=sequential(dense(name="größe")))
