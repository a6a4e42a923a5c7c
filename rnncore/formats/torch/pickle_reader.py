"""Pickles as data: an interpreter that imports nothing, calls nothing from the file and builds only inert values.

What a pickle may become here: None, bool, int, float, str, tuple, list, Pairs (a dict), and Inert objects: a Name
(module and class or function, never looked up), a Foreign (an object of a class that is not in the caller's table;
its state is kept, as data), NOTHING (bytes, sets and other things that hold no tensors) and what the table's own
functions give. Dicts are lists of keys and values in turn: hashing what a file chose can be made to take for ever.

What a vocabulary is made of (text, integers, floats, the memo) is decoded here; the arguments of all other opcodes by
the readers of the standard library's ``pickletools``. Opcodes that are not in ACTIONS are refused.
"""

from __future__ import annotations

import pickletools
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rnncore.errors import FormatError
from rnncore.files.cursor import Budget, Cursor, shown

__all__ = ["NOTHING", "Foreign", "Inert", "Name", "Pairs", "PickleBudget", "read_pickle"]

MAX_OPCODES = 6_500_000  # of those that are decoded here; others count more than once: COSTS
CALL_COST = 24
SPARSE_COST = 4
MAX_MEMO = 1 << 31
MEMORY_AT_LEAST = 64 << 20  # bytes that the objects of all pickles may have, without the references to them
MEMORY_RATIO = 8  # and times the bytes of the pickle, if that is more: a short word takes that much
CONTAINER = 72  # bytes of an empty one
LONGEST_STRING = 16 << 20
LONGEST_KEPT = 1 << 16  # longer strings are checked and dropped
WINDOW = 1 << 16  # bytes that are decoded between two looks at the budget
LONGEST_SHORT = 9  # bytes of the longest opcode that is decoded here, without text


class Inert:
    """Base of everything that represents an object of the file without being one."""

    __slots__ = ()


class Name(Inert):
    """A class or function that the file names."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __str__(self) -> str:
        return shown(f"{self.module[:200]}.{self.name[:200]}")


class Foreign(Inert):
    """An object of a class that we do not know: never built, only its data is kept.

    attributes  what BUILD was given, in order
    entries     what was appended (a list) or set (Pairs)
    """

    __slots__ = ("attributes", "entries", "kind")

    def __init__(self, kind: Name):
        self.kind = kind
        self.attributes: list | None = None
        self.entries: list | None = None


class Nothing(Inert):
    """Something of the file that holds no tensors and is not kept."""

    __slots__ = ()


NOTHING = Nothing()
UNNAMED = Name("", "unknown")


class Pairs(list):
    """A dict: key, value, key, value, ..."""

    __slots__ = ()


class PickleBudget:
    """The budget of all pickles of one file together. size: bytes that they may have."""

    def __init__(self, place: str, size: int):
        self.opcodes = Budget(MAX_OPCODES, "pickle opcodes", place)
        self.memory = Budget(max(MEMORY_AT_LEAST, MEMORY_RATIO * size), "bytes of a pickle's objects", place)


Table = Mapping[tuple[str, str], Callable[[tuple], Any]]


def read_pickle(cursor: Cursor, table: Table, persistent: Callable[[Any], Any], budget: PickleBudget) -> Any:
    """The value of one pickle, and the cursor after its end.

    table       (module, name) -> what a call of it with these arguments stands for; all others become Foreign
    persistent  what a persistent id stands for
    Both are given inert values, and raise ValueError for those that they cannot take.

    Raises FormatError with the place and offset for whatever is wrong.
    """
    machine = _Machine(cursor, table, persistent, budget)
    decoder = _Decoder(cursor, machine, budget)
    try:
        decoder.run()
        if len(machine.stack) != 1 or machine.marks:
            raise ValueError(f"{len(machine.stack)} values at the end, expected 1")
        return machine.stack[0]
    except FormatError:
        raise
    except IndexError:
        raise FormatError(f"{cursor.place}: pickle, offset {decoder.at}: takes a value that is not there") from None
    except (ValueError, OverflowError, struct.error) as error:
        raise FormatError(f"{cursor.place}: pickle, offset {decoder.at}: {shown(str(error), 300)}") from None


class _Decoder:
    """Opcodes one after another, from the cursor into the machine. at: the offset of the last one."""

    def __init__(self, cursor: Cursor, machine: _Machine, budget: PickleBudget):
        self.cursor, self.machine, self.budget = cursor, machine, budget
        self.at = cursor.tell()

    def run(self) -> None:
        """Until STOP. Windows of the file are decoded by ``short``, and what it leaves by ``any``."""
        stopped = False
        while not stopped:
            self.budget.opcodes.spend(0)
            self.budget.memory.spend(0)
            self.short()
            stopped = self.any()

    def any(self) -> bool:
        """One opcode of whichever kind, at ``at``. Returns whether it was STOP."""
        cursor, opcodes = self.cursor, self.budget.opcodes
        cursor.seek(self.at)
        code = cursor.u8()
        opcode = OPCODES[code]
        if opcode is None:
            raise ValueError(f"opcode {bytes([code])!r} is unknown")
        argument = opcode.arg.reader(cursor) if opcode.arg is not None else None
        opcodes.spend(COSTS[code])
        action = ACTIONS.get(opcode.name)
        if action is None:
            raise ValueError(f"opcode {opcode.name} is not allowed")
        action(self.machine, argument)
        self.at = cursor.tell()
        return opcode.name == "STOP"

    def short(self) -> None:
        """Short opcodes, up to the first of another kind or the end of a window.

        One function with local names, since it runs once for each word of a vocabulary.
        """
        machine, opcodes, memory = self.machine, self.budget.opcodes, self.budget.memory
        base, size = self.at, min(WINDOW, len(self.cursor) - self.at)
        data = self.cursor.slice(base, size).bytes(size)
        at, end = 0, size - LONGEST_SHORT
        stack, memo, sparse = machine.stack, machine.memo, machine.sparse
        push, spent, count = stack.append, 0, 0
        try:
            while at <= end:
                code = data[at]
                count += 1
                if code == 0x58 or code == 0x8C:  # BINUNICODE, SHORT_BINUNICODE
                    begin = at + 5 if code == 0x58 else at + 2
                    stop = begin + (u32(data, at + 1)[0] if code == 0x58 else data[at + 1])
                    if stop > end:
                        return
                    text = data[begin:stop].decode("utf-8", "surrogatepass")
                    spent += sizeof(text)
                    push(text)
                    count += 1
                    at, code = stop, data[stop]  # which in most cases is one of those that follow
                if code == 0x72 or code == 0x71 or code == 0x94:  # LONG_BINPUT, BINPUT, MEMOIZE
                    known = len(memo)
                    if code == 0x94:
                        index, step = known + len(sparse), 1
                    else:
                        index, step = (u32(data, at + 1)[0], 5) if code == 0x72 else (data[at + 1], 2)
                    if index == known and not sparse:
                        memo.append(stack[-1])
                    else:
                        machine.put(index)
                    at += step
                elif code == 0x4B:  # BININT1
                    push(data[at + 1])
                    at += 2
                elif code == 0x4A:  # BININT
                    push(i32(data, at + 1)[0])
                    spent += 28
                    at += 5
                elif code == 0x4D:  # BININT2
                    push(u16(data, at + 1)[0])
                    spent += 28
                    at += 3
                elif code == 0x68 or code == 0x6A:  # BINGET, LONG_BINGET
                    index, step = (data[at + 1], 2) if code == 0x68 else (u32(data, at + 1)[0], 5)
                    push(memo[index] if index < len(memo) else machine.remembered(index))
                    at += step
                elif code == 0x47:  # BINFLOAT
                    push(f64(data, at + 1)[0])
                    spent += 24
                    at += 9
                elif code == 0x58 or code == 0x8C:
                    continue
                else:
                    action = BARE[code]
                    if action is None:
                        return
                    count += COSTS[code]
                    action(machine, None)
                    stack = machine.stack
                    push = stack.append
                    at += 1
        finally:
            self.at = base + at
            opcodes.left -= count
            memory.left -= spent


class _Machine:
    """The stack, the marks (stacks that wait) and the memo of one pickle."""

    def __init__(self, cursor: Cursor, table: Table, persistent: Callable[[Any], Any], budget: PickleBudget):
        self.place, self.table, self.persistent, self.budget = cursor.place, table, persistent, budget
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: list = []
        self.sparse: dict[int, Any] = {}  # what was kept under numbers beyond the memo's end

    def push(self, value):
        self.stack.append(value)

    def scalar(self, value):
        self.budget.memory.spend(sys.getsizeof(value))
        self.stack.append(value)

    def text(self, value):
        if len(value) > LONGEST_KEPT:
            self.stack.append(NOTHING)
        else:
            self.scalar(value)

    def nothing(self, _):
        self.stack.append(NOTHING)

    def ignore(self, _):
        """An opcode that changes nothing here."""

    def mark(self, _):
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop(self, _):
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def drop_to_mark(self, _):
        self.pop_mark()

    def duplicate(self, _):
        self.stack.append(self.stack[-1])

    def put(self, index):
        if not 0 <= index < MAX_MEMO:
            raise ValueError(f"memo index {index}, expected less than {MAX_MEMO}")
        value, known = self.stack[-1], len(self.memo)
        if index < known:
            self.memo[index] = value
        elif index > known:
            self.budget.opcodes.spend(SPARSE_COST)
            self.budget.memory.spend(0 if index in self.sparse else CONTAINER)
            self.sparse[index] = value
        else:
            self.memo.append(value)
            self.sparse.pop(index, None)
            while len(self.memo) in self.sparse:
                self.memo.append(self.sparse.pop(len(self.memo)))

    def memoize(self, _):
        self.put(len(self.memo) + len(self.sparse))

    def get(self, index):
        self.stack.append(self.memo[index] if 0 <= index < len(self.memo) else self.remembered(index))

    def remembered(self, index):
        """The object kept under a number beyond the memo's end."""
        if index not in self.sparse:
            raise ValueError(f"memo index {index} was never written")
        return self.sparse[index]

    def container(self, made):
        self.budget.memory.spend(CONTAINER)
        self.stack.append(made)

    def tuple_to_mark(self, _):
        items = tuple(self.pop_mark())
        self.container(items)

    def tuple_of(self, count):
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.container(items)

    def empty_list(self, _):
        self.container([])

    def list_to_mark(self, _):
        items = self.pop_mark()
        self.container(items)

    def empty_dict(self, _):
        self.container(Pairs())

    def dict_to_mark(self, _):
        items = Pairs(self.pop_mark())
        _check_even(items)
        self.container(items)

    def append(self, _):
        item = self.stack.pop()
        self.extend(list, [item])

    def appends(self, _):
        items = self.pop_mark()
        self.extend(list, items)

    def set_item(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self.extend(Pairs, [key, value])

    def set_items(self, _):
        items = self.pop_mark()
        _check_even(items)
        self.extend(Pairs, items)

    def extend(self, kind: type[Any], items: list):
        """Adds to the list or Pairs on top of the stack, or to what a Foreign there has of them."""
        target: Any = self.stack[-1]
        if type(target) is kind:
            target.extend(items)
        elif type(target) is Foreign:
            if target.entries is None:
                target.entries = kind()
            if type(target.entries) is not kind:
                raise ValueError(f"an object of {target.kind} has entries both with and without keys")
            target.entries.extend(items)
        elif not isinstance(target, Inert):
            raise ValueError(f"adds to {type(target).__name__}, expected a {'dict' if kind is Pairs else 'list'}")

    def add_items(self, _):
        self.pop_mark()
        if not isinstance(self.stack[-1], Inert):
            raise ValueError(f"adds to {type(self.stack[-1]).__name__}, expected a set")

    def frozen_set(self, _):
        self.pop_mark()
        self.stack.append(NOTHING)

    def name(self, text):
        module, _, name = text.partition(" ")
        self.name_of(module, name)

    def name_from_stack(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self.name_of(module, name)

    def name_of(self, module, name):
        if type(module) is not str or type(name) is not str or not module or not name:
            raise ValueError("a class without a name")
        self.budget.memory.spend(CONTAINER + sys.getsizeof(module) + sys.getsizeof(name))
        self.stack.append(Name(module, name))

    def persistent_id(self, _):
        self.stack.append(self.persistent(self.stack.pop()))

    def reduce(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        self.call(function, arguments)

    def new_object(self, _):
        self.reduce(None)

    def new_object_with_keywords(self, _):
        keywords = self.stack.pop()
        if type(keywords) is not Pairs:
            raise ValueError(f"keywords are {type(keywords).__name__}, expected a dict")
        self.reduce(None)

    def instance(self, text):
        arguments = tuple(self.pop_mark())
        self.name(text)
        self.call(self.stack.pop(), arguments)

    def object_to_mark(self, _):
        items = self.pop_mark()
        self.call(items[0], tuple(items[1:]))

    def call(self, function, arguments):
        """Pushes what a call stands for; nothing is called but our own table's functions."""
        if type(arguments) is not tuple:
            raise ValueError(f"arguments are {type(arguments).__name__}, expected a tuple")
        if type(function) is Name:
            known = self.table.get((function.module, function.name))
            if known is not None:
                self.budget.opcodes.spend(CALL_COST)
            self.budget.memory.spend(CONTAINER)
            value = Foreign(function) if known is None else known(arguments)
        elif isinstance(function, Inert):
            value = Foreign(getattr(function, "kind", UNNAMED))
        else:
            raise ValueError(f"calls {type(function).__name__}, expected a class or function")
        self.stack.append(value)

    def build(self, _):
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Foreign:
            if target.attributes is None:
                target.attributes = []
            target.attributes.append(state)
        elif not isinstance(target, (Inert, Pairs)):
            raise ValueError(f"gives state to {type(target).__name__}, expected an object")


def _check_even(items: list) -> None:
    if len(items) % 2:
        raise ValueError("a key without a value")


ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.ignore),
    "NONE": _Machine.push,
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _Machine.scalar),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), _Machine.scalar),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _Machine.text),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.text),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_SET"), _Machine.nothing),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": _Machine.tuple_to_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "EMPTY_LIST": _Machine.empty_list,
    "LIST": _Machine.list_to_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "EMPTY_DICT": _Machine.empty_dict,
    "DICT": _Machine.dict_to_mark,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "FROZENSET": _Machine.frozen_set,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.drop_to_mark,
    "DUP": _Machine.duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_from_stack,
    "BINPERSID": _Machine.persistent_id,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_with_keywords,
    "INST": _Machine.instance,
    "OBJ": _Machine.object_to_mark,
    "BUILD": _Machine.build,
}

OPCODES: list[Any] = [vars(pickletools)["code2op"].get(chr(code)) for code in range(256)]
BARE = [
    ACTIONS.get(opcode.name) if opcode is not None and opcode.arg is None and opcode.name != "STOP" else None
    for opcode in OPCODES
]
"""Actions of opcodes without an argument, by their byte."""

# What an opcode takes from the budget: time in units of an integer's, of which a call of an action is one too.
_COSTS = {
    **dict.fromkeys(("GLOBAL", "INST"), 40),
    **dict.fromkeys(("INT", "LONG", "FLOAT", "STRING", "UNICODE", "GET", "PUT", "STACK_GLOBAL"), 24),
    **dict.fromkeys(("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "BINPERSID", "BUILD"), 8),
}
COSTS = [
    _COSTS.get(opcode.name, 16 if opcode.arg is not None else 2) if opcode is not None else 0 for opcode in OPCODES
]

u16, u32 = struct.Struct("<H").unpack_from, struct.Struct("<I").unpack_from
i32, f64 = struct.Struct("<i").unpack_from, struct.Struct(">d").unpack_from
sizeof = str.__sizeof__
