"""Pickles as data: a machine for the opcodes of plain containers, which calls nothing that a file names.

`pickle.Unpickler` imports and calls what a file asks for, and allocates what it claims to hold. Here a name is
looked up in a table of stand-ins, which are functions of ours; any other name, and every opcode that only a pickle
of code needs, is refused. Long strings are not read but noted by their place, for a stand-in to fetch.
"""

from __future__ import annotations

import codecs
import os
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

from maskrcnn.errors import printable

MAX_OPCODES = 500_000
"""Weights and optimizer state of a ResNet-101 take a fifth; this many take about a second."""
LONG_STRING = 1024
"""Strings of more bytes are left in the file."""
LONGEST_LINE = 1 << 28
MAX_ARGUMENTS = 16
"""Of one call, and members of a tuple that is a key."""
MAX_MEMO = 1 << 32
KEY_COST = 50
"""Instructions that a key which is no text counts for: its hash can be chosen, so that many keys take forever."""

OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"}
    | {"SHORT_BINSTRING", "SHORT_BINBYTES", "UNICODE", "SHORT_BINUNICODE"}
)
"""Opcodes that push their argument; none has use for LONG4, numbers of more than 255 bytes."""
STRINGS = {"BINSTRING": 4, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8, "BINUNICODE": 4, "BINUNICODE8": 8}
"""Opcodes of strings, and how many bytes their lengths have."""
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class RefusedError(ValueError):
    """Why a file is not read; the words follow "it" in a sentence."""


class DamagedError(RefusedError):
    """The file ends too early or makes no sense."""

    def __init__(self) -> None:
        super().__init__("is damaged or cut short")


class Stretch:
    """Part of a binary file, with the reading methods of one, that ends where it ends."""

    def __init__(self, file: BinaryIO, start: int = 0, end: int | None = None) -> None:
        self.file, self.position = file, start
        self.end = os.fstat(file.fileno()).st_size if end is None else end
        file.seek(start)

    def read(self, size: int) -> bytes:
        """Return exactly so many bytes."""
        if not 0 <= size <= self.end - self.position:
            raise DamagedError
        self.position += size
        return self.file.read(size)

    def read_into(self, memory: memoryview) -> None:
        """Fill the memory, to its end."""
        if len(memory) > self.end - self.position or self.file.readinto(memory) != len(memory):  # type: ignore[attr-defined]
            raise DamagedError
        self.position += len(memory)

    def readline(self) -> bytes:
        """Return the rest of the line with its end."""
        line = self.file.readline(min(self.end - self.position, LONGEST_LINE))
        self.position += len(line)
        return line

    def seek(self, position: int) -> None:
        """Go on reading at another place of the file."""
        if not 0 <= position <= self.end:
            raise DamagedError
        self.position = self.file.seek(position)


class Span(NamedTuple):
    """A long string that was left in the file."""

    start: int
    size: int
    is_text: bool
    """Text in UTF-8, not bytes."""


class Name(NamedTuple):
    """A function or class that a pickle names; it is never imported."""

    module: str
    name: str


class Pending:
    """Something of which a pickle tells the state after it was made."""

    def build(self, state: Any) -> None:
        """Take the state in."""
        raise NotImplementedError

    @property
    def value(self) -> Any:
        """What it stands for, once it is complete."""
        raise NotImplementedError


StandIn = Callable[..., Any]


class Machine:
    """Runs pickles one after the other.

    Args:
        file: where they are.
        admitted: what is done in the place of each function or class that a pickle may name; None for names that
            may stand in a file but not be called.
        persistent: gives what a persistent id stands for; such ids are refused if it is None.
    """

    def __init__(
        self,
        file: Stretch,
        admitted: Mapping[tuple[str, str], StandIn | None],
        persistent: StandIn | None = None,
    ) -> None:
        self.file, self.admitted, self.persistent = file, admitted, persistent
        self.left = MAX_OPCODES
        self.text_left = 2 * file.end  # characters that may be handed to functions
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return what the next pickle holds.

        Raises:
            RefusedError: it is damaged, or holds what is not admitted.
        """
        self.stack, self.marks, self.memo = [], [], {}
        try:
            while self._step():
                pass
            return self._pop()
        except RefusedError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, struct.error):
            raise DamagedError from None  # a stack that ran empty, a string that is none, …

    def _step(self) -> bool:
        """Run one opcode; return whether another follows."""
        opcode = OPCODES[self.file.read(1)]
        name = opcode.name
        self._count(1)
        if name == "STRING":  # Python's own reader of this opcode takes ASCII only
            self.stack.append(_unquoted(self.file.readline()))
        elif name in STRINGS:
            self._string(name)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        else:
            argument: Any = opcode.arg.reader(self.file) if opcode.arg else None  # type: ignore[arg-type]
            if name in VALUES:
                self.stack.append(argument)
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                if argument >= MAX_MEMO:
                    raise DamagedError
                self.memo[argument] = self.stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            elif name in ("GLOBAL", "INST"):
                self._name(*argument.split(" ", 1))
                if name == "INST":
                    raise RefusedError("makes instances of classes, which weights have no need of")
            elif name not in ("PROTO", "FRAME", "STOP"):
                self._act(name)
        return name != "STOP"

    def _count(self, instructions: int) -> None:
        self.left -= instructions
        if self.left < 0:
            raise RefusedError(f"holds more than {MAX_OPCODES:,} pickle instructions, too many for weights")

    def _hand_over(self, *values: Any) -> None:
        """Count what a function gets as if the file held it once more: the function, or PyTorch's, may copy it."""
        for value in values:
            if isinstance(value, Span):
                self.text_left -= value.size if value.is_text else 0
            elif isinstance(value, str):
                self.text_left -= len(value)
            elif isinstance(value, list | tuple | dict):
                self._count(len(value))
        if self.text_left < 0:
            raise RefusedError("holds the same text too often for weights")

    def _string(self, name: str) -> None:
        size = int.from_bytes(self.file.read(STRINGS[name]), "little")
        is_text = "UNICODE" in name
        if size > LONG_STRING:
            self.stack.append(Span(self.file.position, size, is_text))
            self.file.seek(self.file.position + size)
            return
        data = self.file.read(size)
        self.stack.append(
            data.decode("utf-8", "surrogatepass") if is_text else data if "BYTE" in name else data.decode("latin1")
        )

    def _act(self, name: str) -> None:
        """Run an opcode that has no argument of its own."""
        match name:
            case "MARK":
                self.marks.append(self.stack)
                self.stack = []
            case "POP":
                self.stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                self.stack.append(self.stack[-1])
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_DICT":
                self.stack.append({})
            case "LIST" | "TUPLE":
                items = self._since_mark()  # which changes the stack
                self.stack.append(items if name == "LIST" else tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(reversed([self._pop() for _ in range(TUPLES[name])])))
            case "DICT":
                pairs = self._since_mark()
                self.stack.append({})
                self._set(pairs)
            case "APPEND" | "APPENDS":
                items = self._since_mark() if name == "APPENDS" else [self._pop()]
                if type(self.stack[-1]) is not list:
                    raise DamagedError
                self.stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                self._set(self._since_mark() if name == "SETITEMS" else [self._pop(), self._pop()][::-1])
            case _:
                self._make(name)

    def _make(self, name: str) -> None:
        """Run an opcode by which `pickle` would import or call something."""
        match name:
            case "STACK_GLOBAL":
                attribute, module = self._pop(), self._pop()
                self._name(module, attribute)
            case "REDUCE" | "NEWOBJ":
                arguments, maker = self._pop(), self._pop()
                stand_in = self.admitted.get(maker) if isinstance(maker, Name) else None
                if stand_in is None:
                    raise RefusedError("calls what is no function, and loading that could run code")
                if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
                    raise DamagedError
                self._hand_over(*arguments)
                self.stack.append(stand_in(*arguments))
            case "BUILD":
                state, made = self._pop(), self.stack[-1]
                self._hand_over(state, *(state if type(state) is tuple else ()))
                if isinstance(made, Pending):
                    made.build(state)
                elif type(made) is not dict:  # attributes of an OrderedDict say nothing of weights
                    raise RefusedError("sets attributes of what has none, and loading that could run code")
            case "BINPERSID" if self.persistent is not None:
                self.stack.append(self.persistent(self._pop()))
            case _:
                raise RefusedError(f"holds the pickle instruction {name}, which weights have no need of")

    def _name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:  # the hash of nested tuples can take forever
            raise DamagedError
        found = Name(module, name)
        if found not in self.admitted:
            raise RefusedError(
                f"holds {printable(f'{module}.{name}')}, which is no tensor, and loading that could run code; a "
                "whole model is read once its weights are saved alone, with torch.save(model.state_dict(), path)"
            )
        self.stack.append(found)

    def _set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(pairs) % 2:
            raise DamagedError
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | bytes):
                self._count(KEY_COST)
                parts = key if type(key) is tuple and len(key) <= MAX_ARGUMENTS else (key,)
                # The hash of nested tuples can take forever.
                if not all(isinstance(part, str | bytes | int | float | None) for part in parts):
                    raise RefusedError("has dictionaries with keys that are no names")
            target[key] = value

    def _pop(self) -> Any:
        return _complete(self.stack.pop())

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return [_complete(item) for item in items]


def ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    """Stand in for `collections.OrderedDict`; Python 2 gives its items as a list of pairs."""
    if type(pairs) is not list and pairs != ():
        raise DamagedError
    if not all(type(key) is str for key, _ in pairs):
        raise RefusedError("has dictionaries with keys that are no names")
    return dict(pairs)


def encode(text: Any, encoding: Any) -> Any:
    """Stand in for `_codecs.encode`, by which Python 3 writes bytes in protocols 0 to 2."""
    if encoding != "latin1" or not isinstance(text, str | Span):
        raise DamagedError
    return text if isinstance(text, Span) else text.encode("latin1")


def _complete(value: Any) -> Any:
    return value.value if isinstance(value, Pending) else value


def _unquoted(line: bytes) -> str:
    """Return a string of protocol 0, one character for each byte."""
    text = line.removesuffix(b"\n")
    if len(line) == len(text) or text[:1] not in (b"'", b'"') or text[-1:] != text[:1] or len(text) < 2:
        raise DamagedError
    return codecs.escape_decode(text[1:-1])[0].decode("latin1")
