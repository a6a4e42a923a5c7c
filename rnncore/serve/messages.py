"""The protobuf classes of inference.proto, made when they are needed: no generated code, no compiler.

They are in a descriptor pool of their own, separate from those of the process under the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["SERVICE", "message", "methods"]

FILE = "inference.proto"
SERVICE = "inference.GRPCInferenceService"
TOKEN = re.compile(r"//[^\n]*|[A-Za-z_][A-Za-z0-9_.]*|[0-9]+|\"[^\"]*\"|[{}()<>=;,]")
RPC = re.compile(r"rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\)")
Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {name: getattr(Field, f"TYPE_{name.upper()}") for name in (
    "bool", "string", "bytes", "double", "float", "int32", "int64", "uint32", "uint64",
)}  # fmt: skip


@cache
def _source() -> str:
    return (resources.files(__package__) / FILE).read_text(encoding="ascii")


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_Reader(_source()).file)
    return pool


@cache
def message(name: str) -> Any:
    """The class of a message, as "ModelInferRequest" or "ModelInferRequest.InferInputTensor"."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


def methods() -> dict[str, tuple[Any, Any, bool]]:
    """The service's methods: name -> class of the request, of the answer, whether both are streams."""
    return {
        name: (message(request), message(answer), bool(streams))
        for name, streams, request, _, answer in RPC.findall(_source())
    }


class _Reader:
    """The messages and enums of a .proto as a FileDescriptorProto."""

    def __init__(self, source: str):
        self._tokens = [token for token in TOKEN.findall(source) if not token.startswith("//")]
        self._at = 0
        self._enums = set(re.findall(r"\benum (\w+)", source))
        self.file = descriptor_pb2.FileDescriptorProto(name=FILE, package="inference", syntax="proto3")
        while self._at < len(self._tokens):
            kind = self._next()
            if kind == "message":
                self._message(self.file.message_type.add())
            elif kind == "enum":
                self._enum(self.file.enum_type.add())
            elif kind == "service":
                self._skip_block()
            else:  # syntax and package
                while self._next() != ";":
                    pass

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _block(self) -> Iterator[str]:
        """The first token of each entry of a block in braces."""
        self._next()
        while (token := self._next()) != "}":
            yield token

    def _skip_block(self) -> None:
        depth = 0
        while True:
            depth += {"{": 1, "}": -1}.get(token := self._next(), 0)
            if token == "}" and not depth:
                return

    def _message(self, descriptor: Any) -> None:
        descriptor.name = self._next()
        for token in self._block():
            if token == "message":
                self._message(descriptor.nested_type.add())
            elif token == "oneof":
                descriptor.oneof_decl.add(name=self._next())
                for kind in self._block():
                    self._field(descriptor, kind, oneof_index=len(descriptor.oneof_decl) - 1)
            elif token == "map":
                self._map(descriptor)
            elif token == "repeated":
                self._field(descriptor, self._next(), label=Field.LABEL_REPEATED)
            else:
                self._field(descriptor, token)

    def _field(self, descriptor: Any, kind: str, **more: Any) -> None:
        name, _, number, _ = (self._next() for _ in range(4))
        field = descriptor.field.add(name=name, number=int(number), **{"label": Field.LABEL_OPTIONAL, **more})
        self._type(field, kind)

    def _type(self, field: Any, kind: str) -> None:
        if kind in SCALARS:
            field.type = SCALARS[kind]
        else:
            field.type = Field.TYPE_ENUM if kind in self._enums else Field.TYPE_MESSAGE
            field.type_name = kind  # resolved from the inside out, as in the language

    def _map(self, descriptor: Any) -> None:
        _, key, _, kind, _, name, _, number, _ = (self._next() for _ in range(9))
        entry = descriptor.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        for place, (what, of) in enumerate((("key", key), ("value", kind)), 1):
            self._type(entry.field.add(name=what, number=place, label=Field.LABEL_OPTIONAL), of)
        field = descriptor.field.add(name=name, number=int(number), label=Field.LABEL_REPEATED)
        self._type(field, entry.name)

    def _enum(self, descriptor: Any) -> None:
        descriptor.name = self._next()
        for name in self._block():
            _, number, _ = (self._next() for _ in range(3))
            descriptor.value.add(name=name, number=int(number))
