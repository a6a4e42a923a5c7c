"""Malicious, malformed and odd weight files, each with the argument why it must be refused, or must load.

``HOSTILE`` and ``BENIGN`` map a name to a Case; ``write(case, directory)`` makes the file. Everything is assembled
byte by byte here: neither torch nor safetensors could be talked into writing most of it.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rnncore.errors import FormatError, RnncoreError, UnsupportedError

CANARY = "canary"  # a payload that runs leaves a file of this name in the working directory


@dataclass(frozen=True)
class Case:
    """``build`` gives the bytes; refused with ``error`` whose message contains ``says``, or read to ``tensors``."""

    name: str
    why: str
    build: Callable[[], bytes]
    error: type[RnncoreError] | None = None
    says: str = ""
    tensors: tuple[str, ...] = ()


HOSTILE: dict[str, Case] = {}
BENIGN: dict[str, Case] = {}


def hostile(says: str, why: str, error: type[RnncoreError] = FormatError):
    """Registers a builder as a file that must be refused with a message that contains ``says``."""

    def register(build):
        HOSTILE[build.__name__] = Case(build.__name__, why, build, error, says)
        return build

    return register


def benign(tensors: str, why: str):
    """Registers a builder as a file that must load, with exactly these tensors (names separated by spaces)."""

    def register(build):
        BENIGN[build.__name__] = Case(build.__name__, why, build, None, "", tuple(tensors.split()))
        return build

    return register


def write(case: Case, directory: Path) -> Path:
    """The case's file in ``directory``."""
    path = Path(directory) / f"{case.name}.file"
    path.write_bytes(case.build())
    return path


# Pickles


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def group(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def numbers(values) -> bytes:
    return group(*map(integer, values))


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + group(*arguments) + b"R"


def mapping(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(key="0", kind="FloatStorage", numel=4, module="torch") -> bytes:
    return group(text("storage"), name(module, kind), text(key), text("cpu"), integer(numel)) + b"Q"


def tensor(of: bytes | None = None, offset=0, shape=(4,), strides=(1,)) -> bytes:
    arguments = (of or storage(), integer(offset), numbers(shape), numbers(strides), b"\x89", b"}")
    return call(name("torch._utils", "_rebuild_tensor_v2"), *arguments)


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


FLOATS = struct.pack("<4f", 1.0, 2.0, 3.0, 4.0)
GOOD = mapping(w=tensor())
PAYLOAD = call(name("posix", "system"), text(f"touch {CANARY}"))


# Zip archives


def zip_member(member: str, data: bytes, **lies) -> dict:
    """A member; ``lies`` replaces what its headers say."""
    method = lies.get("method", 0)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush() if method == 8 else data
    raw = member.encode() if isinstance(member, str) else member
    honest = {"name": raw, "data": packed, "flags": 0, "method": method, "crc": zlib.crc32(data), "mode": 0}
    return {**honest, "local": raw, "packed": len(packed), "size": len(data), "header": None, **lies}


def zip_of(*members: dict, comment=b"", count=None, shift=0, prefix=b"") -> bytes:
    """A zip archive of these members; count and shift falsify the end record."""
    body, directory = prefix, b""
    for m in members:
        at = len(body) if m["header"] is None else m["header"]
        sizes = struct.pack("<III", m["crc"], m["packed"], m["size"])
        common = struct.pack("<HHI", m["flags"], m["method"], 0) + sizes + struct.pack("<H", len(m["name"]))
        if m["header"] is None:
            local = struct.pack("<HHI", m["flags"], m["method"], 0) + sizes + struct.pack("<HH", len(m["local"]), 0)
            body += b"PK\x03\x04\x14\0" + local + m["local"] + m["data"]
        directory += b"PK\x01\x02\x14\x03\x14\0" + common + struct.pack("<HHHH", 0, 0, 0, 0)
        directory += struct.pack("<II", m["mode"] << 16, at) + m["name"]
    entries = len(members) if count is None else count
    end = struct.pack("<HHHHIIH", 0, 0, entries, entries, len(directory), len(body) + shift, len(comment))
    return body + directory + b"PK\x05\x06" + end + comment


def torch_zip(body: bytes = GOOD, storages=None, extra=(), **files: bytes) -> bytes:
    """An archive as torch.save writes it, around a pickle's opcodes."""
    storages = {"0": FLOATS} if storages is None else storages
    members = [zip_member("a/data.pkl", pickled(body))]
    members += [zip_member(f"a/{key}", data) for key, data in files.items()]
    members += [zip_member(f"a/data/{key}", data) for key, data in storages.items()]
    return zip_of(*members, *extra)


def stream(body: bytes = GOOD, keys=("0",), data: bytes = struct.pack("<q", 4) + FLOATS, **changes) -> bytes:
    """torch's older stream, around a pickle's opcodes."""
    magic = changes.get("magic", 0x1950A86A20F9469CFC6C)
    system = mapping(little_endian=changes.get("little", b"\x88"), protocol_version=integer(1001))
    names = b"](" + b"".join(map(text, keys)) + b"e"
    first = b"\x80\x02\x8a\x0a" + magic.to_bytes(10, "little") + b"."
    version = pickled(integer(changes.get("version", 1001)))
    return first + version + pickled(system) + pickled(body) + pickled(names) + data


def safetensors_of(header, data: bytes = FLOATS, size=None) -> bytes:
    """A safetensors file with a header given as text, bytes or an object."""
    raw = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(raw) if size is None else size) + raw + data


def entry(dtype="F32", shape=(4,), begin=0, end=16) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def npy(header: str | None = None, data: bytes = FLOATS, version=(1, 0), descr="'<f4'", shape="(4,)", order="False"):
    """A .npy file."""
    header = header or f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    raw = header.encode("latin-1")
    size = struct.pack("<H" if version[0] == 1 else "<I", len(raw))
    return b"\x93NUMPY" + bytes(version) + size + raw + data


# torch: the pickle


@hostile("without tensors", "the only content is a call of os.system; there is nothing else to load")
def torch_payload_alone():
    return torch_zip(PAYLOAD, {})


@hostile("without tensors", "the classic exploit: eval of a text; nothing is called, so nothing is left")
def torch_eval():
    return torch_zip(call(name("builtins", "eval"), text(f"open('{CANARY}', 'w')")), {})


@hostile("EXT1", "extension codes name classes through a registry outside the file")
def torch_extension_code():
    return torch_zip(b"\x82\x01")


@hostile("PERSID", "a persistent id as text is none that torch writes")
def torch_persistent_id_text():
    return torch_zip(b"Pabc\n")


@hostile("NEXT_BUFFER", "out-of-band buffers do not exist in a file")
def torch_out_of_band_buffer():
    return torch_zip(b"\x97")


@hostile("unknown", "an opcode that no protocol has")
def torch_unknown_opcode():
    return torch_zip(b"\xff")


@hostile("truncated", "the pickle ends before its STOP")
def torch_pickle_without_stop():
    return zip_of(zip_member("a/data.pkl", b"\x80\x02}"))


@hostile("value that is not there", "takes more from the stack than was put there")
def torch_stack_underflow():
    return torch_zip(b"\x86")


@hostile("value that is not there", "builds a list to a mark that was never set")
def torch_no_mark():
    return torch_zip(b"]e")


@hostile("never written", "reads a memo entry that does not exist")
def torch_memo_unwritten():
    return torch_zip(b"h\x05")


@hostile("memo index", "a memo index of four billion makes some unpicklers allocate a table of that size")
def torch_memo_index():
    return torch_zip(b"Nr\xff\xff\xff\xff")


@hostile("16777216", "one string may not be as long as the whole address space; the length is checked before reading")
def torch_long_string():
    return torch_zip(b"X" + struct.pack("<I", 17 << 20) + bytes(17 << 20))


@hostile("truncated", "a string of 4 GiB in a file of 300 bytes")
def torch_string_past_end():
    return torch_zip(b"X" + struct.pack("<I", 0xFFFFFFFF))


@hostile("too many pickle opcodes", "six million opcodes would take longer than a refusal may")
def torch_many_opcodes():
    return torch_zip(b"N0" * 3_000_000 + GOOD)


@hostile("too many bytes of a pickle's objects", "memory: a million dicts, each in the memo")
def torch_many_dicts():
    return torch_zip(b"}\x94" * 1_000_000)


@hostile("too many bytes of a pickle's objects", "memory: a million objects far beyond the memo's end")
def torch_sparse_memo():
    return torch_zip(b"N" + b"".join(b"r" + struct.pack("<I", 2 * i + 9) for i in range(1_000_000)))


@hostile("64 deep", "deep nesting exhausts the stack of whoever walks it recursively")
def torch_deep_tuple():
    return torch_zip(b"N" + b"\x85" * 300_000)


@hostile("64 deep", "deep nesting of dicts, with a tensor at the bottom")
def torch_deep_dict():
    return torch_zip((b"}" + text("k")) * 70 + tensor() + b"s" * 70)


@hostile("without tensors", "deep nesting of objects through their state: cut, and nothing is left")
def torch_deep_objects():
    make = b"h\x00)\x81"
    return torch_zip(name("a", "B") + b"q\x000" + make * 100_000 + b"b" * 99_999)


@hostile("contains itself", "a list that contains itself: a walk without memory does not end")
def torch_cyclic_list():
    return torch_zip(b"]q\x00(h\x00" + tensor() + b"e")


@hostile("contains itself", "a dict that contains itself through a tuple")
def torch_cyclic_dict():
    return torch_zip(b"}q\x00" + text("a") + b"h\x00\x85s")


@hostile("more than 100000 tensors", "sixty tuples, each twice in the next: 2 to the 60 names of one tensor")
def torch_billion_laughs():
    return torch_zip(tensor() + b"\x85" + b"2\x86" * 60)


@hostile("too many values", "sixty dicts, each twice in the next under one key: 2 to the 60 paths to one name")
def torch_billion_paths():
    body = tensor() + b"q\x00"
    for i in range(60):
        again = text("a") + b"h" + bytes([i])
        body += b"0}(" + again + again + b"uq" + bytes([i + 1])
    return torch_zip(body)


@hostile("expected a class or function", "calls a number")
def torch_call_of_number():
    return torch_zip(b"K\x01)R")


@hostile("expected a tuple", "calls with arguments that are no tuple")
def torch_call_without_tuple():
    return torch_zip(name("torch._utils", "_rebuild_tensor_v2") + b"}R")


@hostile("key without a value", "a dict of one and a half entries")
def torch_odd_dict():
    return torch_zip(b"}(" + text("a") + b"u")


@hostile("values at the end", "leaves two values, of which a reader would silently drop one")
def torch_two_values():
    return torch_zip(tensor() + b"N")


@hostile("after the end of the pickle", "bytes after STOP can hide a second object")
def torch_trailing_pickle():
    return torch_zip(GOOD + b"." + GOOD)


@hostile("two tensors are named", "'a.b' and 'a' > 'b' flatten to one name; which wins must not depend on order")
def torch_name_clash():
    other = tensor(storage("1"))
    return torch_zip(mapping(**{"a.b": tensor(), "a": mapping(b=other)}), {"0": FLOATS, "1": FLOATS})


@hostile("characters", "a tensor name of 70 joined keys is longer than any name")
def torch_long_name():
    return torch_zip((b"}" + text("k" * 900)) * 2 + tensor() + b"s" * 2)


@hostile("too many pickle opcodes", "half a million class names, which are slow to read")
def torch_many_names():
    return torch_zip(name("a", "b") * 500_000)


@hostile("too many pickle opcodes", "a third of a million tensors on one storage")
def torch_many_tensors():
    parts = group(storage(), integer(0), numbers((4,)), numbers((1,)), b"\x89", b"}") + b"q\x01"
    return torch_zip(name("torch._utils", "_rebuild_tensor_v2") + b"q\x00" + parts + b"](" + b"h\x00h\x01R" * 330_000)


@hostile("too many bytes of a pickle's objects", "a letter beyond the basic plane is 6 bytes here and 80 in Python")
def torch_wide_strings():
    return torch_zip(b"\x8c\x04\xf0\x90\x80\x80" * 1_000_000)


@hostile("without tensors", "one character beyond the basic plane makes Python keep four bytes for each letter")
def torch_wide_letters():
    return torch_zip((text("\U00010000" + "a" * 60_000) + b"0") * 300 + b"N")


@hostile("no end of line", "a class name without an end")
def torch_endless_name():
    return torch_zip(b"c" + b"a" * 100_000)


# torch: storages and views


@hostile("reaches element 4", "the view ends one element after its storage")
def torch_view_past_end():
    return torch_zip(mapping(w=tensor(offset=1, shape=(4,))))


@hostile("on a storage of 4", "more elements than the storage has, by a stride of 0: a few bytes become terabytes")
def torch_stride_zero():
    return torch_zip(mapping(w=tensor(shape=(1 << 20, 1 << 20), strides=(0, 0))))


@hostile("strides", "a negative stride reads in front of the storage")
def torch_negative_stride():
    return torch_zip(mapping(w=tensor(offset=3, strides=(-1,))))


@hostile("storage offset", "a negative offset reads in front of the storage")
def torch_negative_offset():
    return torch_zip(mapping(w=tensor(offset=-1)))


@hostile("shape", "a negative size")
def torch_negative_size():
    return torch_zip(mapping(w=tensor(shape=(-4,))))


@hostile("reaches element", "offset + stride overflows 64 bits and wraps around to a valid element")
def torch_overflowing_stride():
    return torch_zip(mapping(w=tensor(shape=(2,), strides=(1 << 64,))))


@hostile("addresses", "sizes whose product overflows 64 bits to something small")
def torch_overflowing_shape():
    return torch_zip(mapping(w=tensor(shape=(1 << 32, 1 << 32), strides=(1, 1))))


@hostile("addresses", "no elements, but sizes that numpy cannot multiply")
def torch_empty_and_huge():
    return torch_zip(mapping(w=tensor(shape=(1 << 62, 1 << 62, 0), strides=(1, 1, 1))))


@hostile("at most 8", "more dimensions than any tensor has")
def torch_many_dimensions():
    return torch_zip(mapping(w=tensor(shape=(1,) * 9, strides=(1,) * 9)))


@hostile("sizes and", "shape and strides of different length")
def torch_rank_mismatch():
    return torch_zip(mapping(w=tensor(shape=(2, 2), strides=(1,))))


@hostile("16 bytes, expected 32", "the storage claims more elements than its member holds")
def torch_storage_too_short():
    return torch_zip(mapping(w=tensor(storage(numel=8))))


@hostile("16 bytes, expected 8", "the storage claims fewer elements than its member holds")
def torch_storage_too_long():
    return torch_zip(mapping(w=tensor(storage(numel=2), shape=(2,))))


@hostile("expected an integer >= 0", "a storage of -1 elements")
def torch_storage_negative():
    return torch_zip(mapping(w=tensor(storage(numel=-1))))


@hostile("expected an integer >= 0", "a storage of 2 to the 200 elements")
def torch_storage_huge():
    return torch_zip(mapping(w=tensor(storage(numel=1 << 200))))


@hostile("no member", "the storage's member is missing")
def torch_storage_missing():
    return torch_zip(mapping(w=tensor(storage("7"))))


@hostile("no member", "a storage key that climbs out of the archive")
def torch_storage_path():
    return torch_zip(mapping(w=tensor(storage("../../../etc/passwd"))))


@hostile("but before it was", "one storage under two dtypes: the size check of one says nothing of the other")
def torch_storage_two_dtypes():
    views = {"w": tensor(), "v": tensor(storage(kind="DoubleStorage"), shape=(1,))}
    return torch_zip(mapping(**views))


@hostile("storage class", "a storage class of a foreign module")
def torch_storage_class():
    return torch_zip(mapping(w=tensor(storage(module="evil"))))


@hostile("expected a storage", "a tensor on a number")
def torch_tensor_on_number():
    return torch_zip(mapping(w=tensor(b"K\x05")))


@hostile("a bool is 7", "a bool that is neither 0 nor 1 is undefined behaviour in compiled code")
def torch_bool():
    return torch_zip(mapping(w=tensor(storage(kind="BoolStorage"))), {"0": b"\0\1\7\0"})


@hostile("complex64", "nothing but complex numbers, which no kernel takes", UnsupportedError)
def torch_complex_only():
    body = mapping(w=tensor(storage(kind="ComplexFloatStorage", numel=2), shape=(2,)))
    return torch_zip(body)


@hostile("byteorder", "a byte order that does not exist")
def torch_byte_order():
    return torch_zip(byteorder=b"middle")


# torch: the archive


@hostile("expected one", "two pickles: a scanner looks at one, a loader at the other")
def torch_two_pickles():
    return torch_zip(extra=[zip_member("b/data.pkl", pickled(PAYLOAD))])


@hostile("NAME/data.pkl", "a pickle at the top has no storages beside it")
def torch_pickle_at_top():
    return zip_of(zip_member("data.pkl", pickled(GOOD)))


@hostile("expected one", "an archive with code, whose constants are called like the pickle")
def torch_script_two_pickles():
    return torch_zip(extra=[zip_member("a/code/m.py", b"x"), zip_member("a/code/data.pkl", pickled(PAYLOAD))])


@hostile("torch.package", "torch.package archives carry Python sources", UnsupportedError)
def torch_package():
    return torch_zip(extra=[zip_member("a/.data/extern_modules", b"x")])


@hostile("torch.export", "torch.export archives are graphs, not weights", UnsupportedError)
def torch_export_archive():
    return zip_of(zip_member("a/archive_format", b"pt2"), zip_member("a/models/model.json", b"{}"))


@hostile("expected at most 67108864", "a pickle of 65 MiB in a file of 65 kB")
def torch_large_pickle():
    return zip_of(zip_member("a/data.pkl", bytes(65 << 20), method=8))


# torch: the stream


@hostile("no magic number", "the magic number is there, but not as the value of the first pickle")
def stream_magic():
    neutral = b"(N0N0N0N1"
    return b"\x80\x02" + neutral + stream()[2:14] + b"0K\x01." + stream()[15:]


@hostile("stream version 7", "a version that nobody has defined", UnsupportedError)
def stream_version():
    return stream(version=7)


@hostile("big-endian", "streams do not say how a big-endian machine would write them", UnsupportedError)
def stream_big_endian():
    return stream(little=b"\x89")


@hostile("storage keys", "a key that no tensor refers to: its size is unknown, so is where the next one begins")
def stream_extra_key():
    return stream(keys=("0", "1"))


@hostile("storage keys", "a storage without a key is nowhere in the file")
def stream_missing_key():
    return stream(keys=())


@hostile("storage keys", "a key twice: the same storage would be read from two places")
def stream_key_twice():
    return stream(keys=("0", "0"))


@hostile("5 elements, expected 4", "the storage and the object disagree about its size")
def stream_numel():
    return stream(data=struct.pack("<q", 5) + FLOATS)


@hostile("truncated", "the file ends within a storage")
def stream_truncated():
    return stream()[:-1]


@hostile("after the last storage", "bytes behind the end can hide a second file")
def stream_trailing():
    return stream() + b"x"


@hostile("truncated", "a storage of 4 exabytes in a file of 400 bytes")
def stream_huge():
    return stream(mapping(w=tensor(storage(numel=1 << 59))), data=struct.pack("<q", 1 << 59) + FLOATS)


@hostile("view of 2 to 6", "a view of a storage that reaches past it")
def stream_view():
    view = group(text("v"), integer(2), integer(4))
    storage = group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(4), view) + b"Q"
    return stream(mapping(w=tensor(storage)))


@hostile("persistent id", "a persistent id in a pickle that only says what the system is")
def stream_early_persistent_id():
    return stream(little=storage())


@hostile("tar", "torch's first container was a tar file, whose members are paths", UnsupportedError)
def torch_tar():
    return b"sys_info".ljust(100, b"\0") + bytes(157) + b"ustar\x0000" + bytes(255)


@hostile("a pickle that torch.save did not write", "a plain pickle has its tensors inside calls", UnsupportedError)
def plain_pickle():
    return b"\x80\x04" + PAYLOAD + b"."


# zip


@hostile("truncated", "no end record: half a download")
def zip_truncated():
    return torch_zip()[:-30]


@hostile("two members", "readers disagree about which of two members of one name counts")
def zip_duplicate():
    return torch_zip(extra=[zip_member("a/data/0", FLOATS)])


@hostile("plain relative name", "a member that climbs out of its directory")
def zip_parent():
    return torch_zip(extra=[zip_member("a/../../x", b"")])


@hostile("plain relative name", "an absolute member name")
def zip_absolute():
    return torch_zip(extra=[zip_member("/etc/passwd", b"")])


@hostile("plain relative name", "a name that climbs out on Windows")
def zip_backslash():
    return torch_zip(extra=[zip_member("a\\..\\x", b"")])


@hostile("plain relative name", "a drive letter is an absolute name on Windows")
def zip_drive():
    return torch_zip(extra=[zip_member("C:/x", b"")])


@hostile("plain relative name", "a name with a NUL ends there for C code")
def zip_nul():
    return torch_zip(extra=[zip_member("a/x\0.py", b"")])


@hostile("link", "a symlink makes later members land elsewhere")
def zip_symlink():
    return torch_zip(extra=[zip_member("a/link", b"/etc", mode=0o120777)])


@hostile("encrypted", "an encrypted member cannot be checked", UnsupportedError)
def zip_encrypted():
    return torch_zip(extra=[zip_member("a/x", b"", flags=1)])


@hostile("compression method 14", "LZMA is one more decoder to trust", UnsupportedError)
def zip_method():
    return torch_zip(extra=[zip_member("a/x", b"", method=14)])


@hostile("overlaps", "two members over one range of bytes: the trick of the 42 kB bomb that is not recursive")
def zip_overlap():
    return torch_zip(extra=[zip_member("a/x", b"", header=0)])


@hostile("reach past", "the local header's name is longer than the directory says, so that the data slides")
def zip_local_name():
    data = zip_of(
        zip_member("a/data.pkl", pickled(GOOD)),
        zip_member("a/data/0", FLOATS),
        zip_member("a/last", b""),
    )
    at = data.index(b"a/data/0") - 2
    return data[:at] + struct.pack("<H", 30) + data[at + 2 :]


@hostile("contradicts", "the local header has another name than the directory")
def zip_other_name():
    return torch_zip(storages={}, extra=[zip_member("a/data/0", FLOATS, local=b"a/data/1")])


@hostile("checksum", "a flipped bit in the weights")
def zip_checksum():
    return torch_zip(storages={}, extra=[zip_member("a/data/0", FLOATS, crc=1)])


@hostile("more than its size", "a member that decompresses to more than the size that was budgeted")
def zip_bomb_lying():
    return zip_of(zip_member("w.npy", npy(data=bytes(50 << 20)), method=8, size=100))


@hostile("bytes of output", "a member of 300 kB that honestly decompresses to 200 MB")
def zip_bomb_honest():
    return zip_of(zip_member("w.npy", bytes(200 << 20), method=8))


@hostile("bytes of output", "many members that together decompress to more than the budget")
def zip_bomb_many():
    one = npy(descr="'|u1'", shape=f"({30 << 20},)", data=bytes(30 << 20))
    first = zip_member("w0.npy", one, method=8)
    raws = [f"w{i}.npy".encode() for i in range(3)]
    return zip_of(*({**first, "name": raw, "local": raw} for raw in raws))


@hostile("expected 100 and the end", "a member that decompresses to less than it says")
def zip_short():
    return zip_of(zip_member("w.npy", b"abc", method=8, size=100))


@hostile("damaged", "bytes that are no deflate stream")
def zip_garbage():
    return zip_of({**zip_member("w.npy", b"abc", method=8), "data": b"\xff" * 40, "packed": 40})


@hostile("has a size of", "a stored member of two sizes")
def zip_stored_two_sizes():
    return zip_of(zip_member("w.npy", npy(), size=5))


@hostile("expected it to end at", "the end record points into the members")
def zip_shifted_directory():
    return zip_of(zip_member("a/data.pkl", pickled(GOOD)), shift=-4)


@hostile("zip directory: truncated", "the end record promises more members than there are")
def zip_count_too_large():
    return zip_of(zip_member("a/data.pkl", pickled(GOOD)), count=2)


@hostile("after the last", "the end record promises fewer members: the rest would be invisible")
def zip_count_too_small():
    return zip_of(zip_member("a/data.pkl", pickled(GOOD)), zip_member("a/x", b""), count=1)


@hostile("several parts", "an archive in several parts is not all here", UnsupportedError)
def zip_parts():
    data = zip_of(zip_member("a/data.pkl", pickled(GOOD)))
    at = data.rindex(b"PK\x05\x06") + 4
    return data[:at] + b"\x01\0" + data[at + 2 :]


@hostile("the directory begins at", "a member at 4 GiB in a small file")
def zip_header_far_away():
    return torch_zip(extra=[zip_member("a/x", b"", header=0xFFFFFFF0)])


@hostile("Keras", "a Keras archive has its own reader", UnsupportedError)
def zip_keras():
    return zip_of(zip_member("config.json", b"{}"), zip_member("model.weights.h5", b""))


@hostile("a zip archive of 1 members", "an archive of something else: the message says of what")
def zip_other():
    return zip_of(zip_member("word/document.xml", b""))


# safetensors


@hostile("expected at most 100000000", "a header of 4 GB would be allocated before it is read")
def safetensors_huge_header():
    return safetensors_of(b"{}", size=0xFFFFFFFF)


@hostile("truncated", "the header is longer than the file")
def safetensors_header_past_end():
    return safetensors_of(b"{}", size=1000)


@hostile("no format that is known", "the header has to begin with a brace, not with a space")
def safetensors_header_begins_with_space():
    return safetensors_of(" " + json.dumps({"w": entry()}))


@hostile("not JSON", "the header is no JSON")
def safetensors_no_json():
    return safetensors_of("{'w': 1}")


@hostile("not JSON", "the header is no UTF-8")
def safetensors_no_utf8():
    return safetensors_of(b'{"\xff\xfe": 1}')


@hostile("occurs twice", "a name twice: readers disagree about which entry counts; the reference accepts it")
def safetensors_duplicate_name():
    one = json.dumps(entry())
    return safetensors_of(f'{{"w": {one}, "w": {one}}}')


@hostile("occurs twice", "a field twice within one entry")
def safetensors_duplicate_field():
    return safetensors_of('{"w": {"dtype": "F32", "dtype": "F64", "shape": [4], "data_offsets": [0, 16]}}')


@hostile("overlap", "two tensors over the same bytes")
def safetensors_overlap():
    return safetensors_of({"v": entry(), "w": entry(shape=(2,), begin=8, end=16)})


@hostile("a hole", "bytes that belong to no tensor can hide another file")
def safetensors_hole():
    return safetensors_of({"w": entry(shape=(2,), begin=8, end=16)})


@hostile("expected 16, where", "bytes after the last tensor can hide another file")
def safetensors_trailing():
    return safetensors_of({"w": entry()}, FLOATS + b"x")


@hostile("expected 32, where", "the last tensor ends after the file")
def safetensors_past_end():
    return safetensors_of({"w": entry(shape=(8,), end=32)})


@hostile("16 bytes, expected 20", "shape and offsets disagree")
def safetensors_shape():
    return safetensors_of({"w": entry(shape=(5,))})


@hostile("-16 bytes", "an end before the beginning")
def safetensors_reversed():
    return safetensors_of({"w": entry(begin=16, end=0)})


@hostile("addresses", "a shape whose product overflows 64 bits to the right number of bytes")
def safetensors_overflow():
    return safetensors_of({"w": entry(shape=(1 << 62, 4, 1 << 62))})


@hostile("expected an integer >= 0", "a negative size, twice, gives a positive product")
def safetensors_negative():
    return safetensors_of({"w": entry(shape=(-2, -2))})


@hostile("expected an integer >= 0", "a size that is a float")
def safetensors_float_size():
    return safetensors_of({"w": entry(shape=(4.0,))})


@hostile("expected an integer >= 0", "true is an int in Python, not in the specification")
def safetensors_bool_size():
    return safetensors_of({"w": entry(shape=(4, True))})


@hostile("not JSON", "a size of ten thousand digits takes quadratic time to parse")
def safetensors_digits():
    return safetensors_of('{"w": {"dtype": "F32", "shape": [' + "9" * 10_000 + '], "data_offsets": [0, 16]}}')


@hostile("nested too deeply", "brackets nested a hundred thousand deep exhaust the parser's stack")
def safetensors_deep():
    return safetensors_of('{"w": ' + "[" * 100_000)


@hostile("more than", "a header of millions of empty lists takes a hundred times its size in memory")
def safetensors_many_lists():
    return safetensors_of('{"w": [' + "[]," * 4_000_000 + "[]]}")


@hostile("expected an object of", "an unknown field may change what the others mean")
def safetensors_unknown_field():
    return safetensors_of({"w": {**entry(), "strides": [1]}})


@hostile("F32X", "a dtype that does not exist")
def safetensors_dtype():
    return safetensors_of({"w": entry("F32X")})


@hostile("F8_E4M3", "float8 exists, but is not read; saying so is better than half a model", UnsupportedError)
def safetensors_float8():
    return safetensors_of({"w": entry("F8_E4M3", (16,))})


@hostile("object of strings", "metadata that is no text")
def safetensors_metadata():
    return safetensors_of({"__metadata__": {"a": 1}, "w": entry()})


@hostile("not valid Unicode", "half a surrogate pair cannot be printed or written")
def safetensors_surrogate():
    return safetensors_of('{"\\ud800": ' + json.dumps(entry()) + "}")


@hostile("no JSON", "NaN is Python's idea of JSON")
def safetensors_nan():
    return safetensors_of('{"__metadata__": {"a": NaN}}', b"")


# numpy


@hostile("a pickle", "an array of objects is a pickle", UnsupportedError)
def npy_objects():
    return npy(descr="'|O'", data=pickled(PAYLOAD))


@hostile("structured", "a structured array is no tensor", UnsupportedError)
def npy_structured():
    return npy(descr="[('a', '<f4'), ('b', '<i4')]")


@hostile("'<U4'", "text is no tensor", UnsupportedError)
def npy_text():
    return npy(descr="'<U4'")


@hostile("'f4'", "a dtype without byte order means another thing on another machine", UnsupportedError)
def npy_no_byte_order():
    return npy(descr="'f4'")


@hostile("16 bytes of data, expected 20", "more elements than bytes")
def npy_too_short():
    return npy(shape="(5,)")


@hostile("16 bytes of data, expected 12", "bytes after the last element")
def npy_too_long():
    return npy(shape="(3,)")


@hostile("addresses", "a shape whose product overflows")
def npy_overflow():
    return npy(shape=f"({1 << 62}, {1 << 62})")


@hostile("damaged", "a negative size")
def npy_negative():
    return npy(shape="(-4,)")


@hostile("damaged", "a header that is a program for whoever evaluates it")
def npy_expression():
    return npy("{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').system('touch canary'),), }")


@hostile("damaged", "brackets nested deeper than Python's parser survives")
def npy_deep():
    return npy("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 4000 + ")" * 4000 + "}")


@hostile("expected at most 10000", "a header of 4 GB")
def npy_huge_header():
    return b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"


@hostile("occurs twice", "a key twice")
def npy_key_twice():
    return npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'shape': (2,)}")


@hostile("expected descr, fortran_order and shape", "a key is missing")
def npy_key_missing():
    return npy("{'descr': '<f4', 'shape': (4,)}")


@hostile("version 9.0", "a version that nobody has defined", UnsupportedError)
def npy_version():
    return npy(version=(9, 0))


@hostile("truncated", "the file ends within its header")
def npy_truncated():
    return npy()[:20]


@hostile("at most 8", "more dimensions than any tensor has")
def npy_dimensions():
    return npy(shape="(" + "1," * 9 + ")", data=b"\0\0\0\0")


@hostile("no array that can be read", "nothing but objects in the archive", UnsupportedError)
def npz_objects_only():
    return zip_of(zip_member("a.npy", npy_objects()))


# files of other formats


@hostile("empty file", "a download that never began")
def other_empty():
    return b""


@hostile("addressing", "an HDF5 file of Keras that ends behind its signature", UnsupportedError)
def other_hdf5():
    return b"\x89HDF\r\n\x1a\n" + bytes(100)


@hostile("git-lfs", "a pointer instead of the file is the most common mistake with model repositories")
def other_lfs_pointer():
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


@hostile("HTML", "a login page that was saved as model.pt")
def other_html():
    return b"\n<!DOCTYPE html><html></html>"


@hostile("gzip", "a compressed file has to be unpacked by its owner, who knows how large it is", UnsupportedError)
def other_gzip():
    return b"\x1f\x8b\x08" + bytes(30)


@hostile("JSON", "a config beside the weights, taken for them")
def other_json():
    return b'{"architectures": []}'


@hostile("plain text", "a list of words is no model")
def other_text():
    return b"the 0.1 0.2\nof 0.3 0.4\n"


@hostile("no format that is known", "bytes of nothing in particular")
def other_bytes():
    return bytes(range(128, 256)) * 4


# odd, and fine


@benign("w", "the smallest archive")
def fine_torch_zip():
    return torch_zip()


@benign("w", "the smallest stream")
def fine_stream():
    return stream()


@benign("w", "a payload beside the weights is a call that nobody makes")
def fine_payload_beside_weights():
    return torch_zip(mapping(w=tensor(), optimizer=PAYLOAD, other=call(name("evil_module", "run"))))


@benign("w", "a payload in the state of an object, and in what restores it")
def fine_payload_in_state():
    made = name("evil_module", "Evil") + b")\x81" + mapping(state=PAYLOAD) + b"b"
    return torch_zip(mapping(w=tensor(), trainer=made))


@benign("w", "a payload under protocol 0's INST and OBJ")
def fine_payload_old_opcodes():
    inst = b"(" + text(f"touch {CANARY}") + b"iposix\nsystem\n"
    obj = b"(" + name("posix", "system") + text(f"touch {CANARY}") + b"o"
    return torch_zip(mapping(w=tensor(), a=inst, b=obj))


@benign("w", "an object that refers back to its parent, as omegaconf's do")
def fine_object_cycle():
    config = name("omegaconf.dictconfig", "DictConfig") + b")\x81q\x00" + mapping(_parent=b"h\x00") + b"b"
    return torch_zip(mapping(config=config, w=tensor()))


@benign("lstm.weight_ih_l0", "a pickled module: the names are those of its state_dict")
def fine_module():
    lstm = name("torch.nn.modules.rnn", "LSTM") + b")\x81"
    lstm += mapping(_parameters=mapping(weight_ih_l0=tensor()), _flat_weights=b"](" + tensor() + b"e") + b"b"
    top = name("__main__", "Net") + b")\x81" + mapping(_modules=mapping(lstm=lstm), _parameters=b"}") + b"b"
    return torch_zip(top)


@benign("w v", "two names for one storage")
def fine_tied():
    return torch_zip(mapping(w=tensor(), v=tensor(shape=(2, 2), strides=(1, 2))))


@benign("w", "no elements at all, with a stride past the end, as torch writes for empty slices")
def fine_empty_tensor():
    return torch_zip(mapping(w=tensor(storage(numel=0), shape=(0, 3), strides=(3, 1))), {"0": b""})


@benign("w", "a scalar")
def fine_scalar():
    return torch_zip(mapping(w=tensor(offset=3, shape=(), strides=())))


@benign("tensor", "a tensor alone has no name")
def fine_bare_tensor():
    return torch_zip(tensor())


@benign("0 1.0", "lists and tuples give numbers as names")
def fine_list():
    return torch_zip(b"](" + tensor() + tensor() + b"\x85e")


@benign("w", "written on a big-endian machine, and saying so")
def fine_big_endian():
    return torch_zip(storages={"0": struct.pack(">4f", 1, 2, 3, 4)}, byteorder=b"big")


@benign("w", "a checksum of 0, as torch writes when told not to compute it")
def fine_no_checksum():
    return torch_zip(storages={}, extra=[zip_member("a/data/0", FLOATS, crc=0)])


@benign("w", "a deflated archive, packed again by a zip tool")
def fine_deflated():
    pickle = zip_member("a/data.pkl", pickled(GOOD), method=8)
    return zip_of(pickle, zip_member("a/data/0", FLOATS, method=8), comment=b"packed again")


@benign("w", "complex numbers beside the weights are skipped, with a reason")
def fine_complex_beside():
    c = tensor(storage("1", "ComplexFloatStorage", 2), shape=(2,))
    return torch_zip(mapping(w=tensor(), c=c), {"0": FLOATS, "1": FLOATS})


@benign("w", "a vocabulary of 100,000 words beside the weights")
def fine_vocabulary():
    words = b"}(" + b"".join(text(f"word{i}") + b"K\x01" for i in range(100_000)) + b"u"
    return torch_zip(mapping(vocab=words, w=tensor()))


@benign("w", "a storage view, as streams from before torch 1.0 have it")
def fine_stream_view():
    view = group(text("v"), integer(2), integer(2))
    storage = group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(4), view) + b"Q"
    return stream(mapping(w=tensor(storage, shape=(2,))))


@benign("w", "a storage class of a graphics card, as old files have it")
def fine_cuda_storage():
    return stream(mapping(w=tensor(storage(module="torch.cuda"))))


@benign("a w b", "safetensors whose header is not in the order of its data, with an empty tensor")
def fine_safetensors():
    entries = {"b": entry(shape=(2,), begin=8, end=16), "a": entry("F64", (0,), 0, 0), "w": entry("F16", (4, 1), 0, 8)}
    return safetensors_of({"__metadata__": {"format": "pt"}, **entries})


@benign("", "safetensors without any tensor are valid")
def fine_safetensors_empty():
    return safetensors_of({"__metadata__": {"note": "nothing"}}, b"")


@benign("array", "a scalar .npy, big-endian, with a header of another writer")
def fine_npy():
    return npy("{'shape':(),'descr':'>f8','fortran_order':False}", struct.pack(">d", 0.5))


@benign("array", "Python 2 wrote long integers into shapes")
def fine_npy_python2():
    return npy(shape="(2L, 2L)", version=(2, 0))


@benign("w", "an object array beside the weights is skipped, with a reason")
def fine_npz():
    return zip_of(zip_member("words.npy", npy_objects()), zip_member("w.npy", npy()), zip_member("README", b"hello"))
