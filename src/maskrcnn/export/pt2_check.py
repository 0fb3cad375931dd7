"""What a program's file may hold, so that loading it runs nothing but the network.

`torch.export.load` believes what it reads: it unpickles what a file calls a weight, calls what it names as an operator,
evaluates what it gives as a size, and loads compiled code that lies beside the program. So before it gets a file, all
of it is held against what `maskrcnn export` writes: raw weights, operators that networks of this package are made of,
and text that is nothing but names and arithmetic. And torch gets a file that is made of what was checked, not the one
that it came in: two readers of an archive need not find the same in it.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import torch
from torch.export.pt2_archive._package import PT2ArchiveWriter

from maskrcnn.errors import CheckpointError, printable

_OPERATORS = """
    __and__ __or__ _assert_tensor_metadata abs add add_ alias all amax any arange batch_norm bitwise_and bitwise_not
    bitwise_or bmm cat ceil clamp clamp_ clamp_max clamp_min clone contiguous conv2d conv_transpose2d copy_ cumsum
    detach detach_ div div_ embedding_bag empty eq exp expand expand_as fill_ flatten flip floor floor_divide full
    full_like gather ge group_norm gt index index_select isfinite item le lift_fresh_copy linear log log2 logical_and
    logical_and_ logical_not logical_or lt masked_fill masked_fill_ matmul max max_pool2d maximum mean min minimum mul
    mul_ narrow ne neg new_full new_ones new_zeros ones ones_like pad permute pow promote_types reciprocal relu relu_
    remainder repeat reshape round rsub scalar_tensor scatter scatter_add select select_scatter sigmoid slice softmax
    sort split split_with_sizes sqrt squeeze stack sub sub_ sum sym_size t tanh to topk transpose tril triu unbind
    unflatten unsqueeze upsample_bilinear2d upsample_nearest2d view view_as where zeros zeros_like
"""
OPERATORS = frozenset(_OPERATORS.split())
"""Operators of torch.ops.aten that programs may have: they read and give tensors, and nothing else."""

_ARITHMETIC = "add sub mul floordiv mod neg getitem eq ne lt le gt ge and_ or_ truediv pow"
ARITHMETIC = frozenset(_ARITHMETIC.split())
"""Functions of Python's operator that programs may have."""

_SIZE_WORDS = """
    Symbol Integer Rational Add Mul Pow Max Min FloorDiv CleanDiv CeilDiv Mod PythonMod ModularIndexing CeilToInt
    FloorToInt TruncToInt IntTrueDiv ToFloat Eq Ne Equality Unequality StrictLessThan LessThan StrictGreaterThan
    GreaterThan And Or Not true false True False positive integer nonnegative
"""
SIZE_WORDS = frozenset(_SIZE_WORDS.split())
"""Words that a size may be written with, beside its symbols."""

INPUTS = ("images", "sizes", "offsets")
"""Of whose sizes a program may say what it takes."""

NAME = re.compile(r"[A-Za-z0-9_.@]*")
DETAIL = re.compile(r"[A-Za-z0-9_.,;@$\[\]() ]*")
RECORDS = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|extra/maskrcnn\.json"
)
"""Names of what a program's file holds."""

MARKS = re.compile(r"archive_format|archive_version|byteorder|version|\.[a-z_]+|\.data/[a-z_]+")
"""Names of what every archive of torch holds, and of what files of the system's are called."""

LARGEST_TEXT = 1 << 20
"""Most bytes of what a file tells of itself."""


class Archive:
    """The parts of a .pt2 file by their names, without the folder that all of them lie in.

    Raises:
        CheckpointError: it is none; the message says why, not which.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._bytes = file.seek(0, os.SEEK_END)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as e:
            raise CheckpointError(str(e)) from None
        self._parts = {part.filename.partition("/")[2]: part for part in self._zip.infolist()}

    @property
    def names(self) -> list[str]:
        """Return the names of all parts."""
        return list(self._parts)

    def read(self, name: str, most: int | None = None) -> bytes:
        """Return a part, which may have so many bytes at most."""
        part = self._parts.get(name)
        if part is None:
            raise CheckpointError(f"there is no {name} in it")
        if most is not None and part.file_size > most:
            raise CheckpointError(f"{name} is too large")
        try:
            return self._zip.read(part)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, OSError) as e:
            raise CheckpointError(f"{name}: {e}") from None

    def is_plain(self) -> bool:
        """Return whether the parts are as they are, none packed or twice, so that they take what the file does."""
        parts = self._zip.infolist()
        stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
        return stored and len(parts) == len(self._parts) and sum(part.file_size for part in parts) <= self._bytes


def checked_copy(file: IO[bytes]) -> io.BytesIO:
    """Return a program's file made anew of its parts, all of them checked.

    Args:
        file: a .pt2 file open for reading.

    Raises:
        UnexpectedError: it holds more than a network; the message says what, not where.
        CheckpointError: it is damaged.
    """
    archive = Archive(file)
    if not archive.is_plain():
        raise UnexpectedError("packed parts, or more than fits in it")
    names = [name for name in archive.names if not MARKS.fullmatch(name)]
    for name in names:
        if not RECORDS.fullmatch(name):
            raise UnexpectedError(f"the part {printable(name)!r}")
    if "byteorder" in archive.names and archive.read("byteorder", LARGEST_TEXT) != b"little":
        raise UnexpectedError("numbers in another byte order")
    for kind in ("weights", "constants"):
        _check_payload(_parsed(archive.read(f"data/{kind}/model_{kind}_config.json")))
    _check_inputs(archive.read("data/sample_inputs/model.pt"))
    _check_graph(_parsed(archive.read("models/model.json")))
    copy = io.BytesIO()
    with PT2ArchiveWriter(copy) as writer:
        for name in names:
            writer.write_bytes(name, archive.read(name))
    copy.seek(0)
    return copy


class UnexpectedError(CheckpointError):
    """What a program's file holds that `maskrcnn export` does not write."""


def _parsed(data: bytes) -> Any:
    """Return JSON as torch reads it."""
    return json.loads(data.decode("utf-8"))


def _check_payload(config: Mapping[str, Any]) -> None:
    """Refuse weights that are objects."""
    for name, entry in config["config"].items():
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise UnexpectedError(f"the weight {printable(name)!r} as an object")


def _check_inputs(pickled: bytes) -> None:
    """Refuse example inputs that are more than tensors: torch would read them with less care if this way failed."""
    try:
        inputs = torch.load(io.BytesIO(pickled), weights_only=True)
    except Exception:  # noqa: BLE001 - whatever is wrong with them, they are not read another way
        raise UnexpectedError("example inputs that are not tensors") from None
    if not isinstance(inputs, tuple):
        raise UnexpectedError("example inputs that are not tensors")


def _check_graph(program: Any) -> None:
    for key, text in _texts(program, "program"):
        allowed = _RULES.get(key)
        if allowed is None or not allowed(text):
            raise UnexpectedError(f"{key} {printable(text)!r}")
    for key in program["range_constraints"]:
        if not _is_size(key):
            raise UnexpectedError(f"the size {printable(key)!r}")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every text of a JSON value with the key that it stands under; keys that are a stranger's as names."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, dict):
        for inner, item in value.items():
            if key != "range_constraints":
                yield "name", inner
            yield from _texts(item, inner if key != "metadata" else f"metadata.{inner}")


def _is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None


def _is_operator(text: str) -> bool:
    *path, name = text.split(".")
    if path == ["_operator"]:
        return name in ARITHMETIC
    if path == ["torch"]:
        return name in ("sym_max", "sym_min")
    if path == ["torch", "ops", "higher_order"]:
        return name in ("while_loop", "cond")
    return len(path) == 4 and path[:3] == ["torch", "ops", "aten"] and path[3] in OPERATORS and _is_name(name)


_SIGNS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
LARGEST_POWER, LARGEST_NUMBER = 4, 1 << 63
"""Of what formulas may have. With more, a short text can take all memory; so it can with lists and products of text."""


def _formula(words: frozenset[str], symbols: str) -> Callable[[str], bool]:
    """Return a rule for arithmetic on numbers, sizes of inputs and these symbols, with these functions."""
    symbol = re.compile(symbols)

    def is_number(node: ast.AST) -> bool:
        match node:
            case ast.Constant(value=value):
                return isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER
            case ast.Name(id=name):
                return name in words or symbol.fullmatch(name) is not None
            case ast.BinOp(left=left, right=right, op=sign):
                return isinstance(sign, _SIGNS) and is_number(left) and is_number(right)
            case ast.UnaryOp(operand=operand, op=sign):
                return isinstance(sign, ast.USub | ast.Not) and is_number(operand)
            case ast.BoolOp(values=values):
                return all(map(is_number, values))
            case ast.Compare(left=left, comparators=others, ops=signs):
                return all(isinstance(sign, _COMPARISONS) for sign in signs) and all(map(is_number, (left, *others)))
            case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=told):
                return symbol.fullmatch(name) is not None and all(k.arg in words and is_number(k.value) for k in told)
            case ast.Call(func=ast.Name(id="Pow"), args=[base, power], keywords=[]):
                return "Pow" in words and is_number(base) and _is_small(power)
            case ast.Call(func=ast.Name(id=name), args=given, keywords=[]):
                return name in words - {"Pow", "Symbol"} and all(map(is_number, given))
            case ast.Subscript(
                value=ast.Call(
                    func=ast.Attribute(
                        value=ast.Subscript(value=ast.Name(id="L"), slice=ast.Constant(value=str(name))), attr="size"
                    ),
                    args=[],
                    keywords=[],
                ),
                slice=ast.Constant(value=int()),
            ):
                return name in INPUTS
        return False

    def rule(text: str) -> bool:
        try:
            return is_number(ast.parse(text, mode="eval").body)
        except (SyntaxError, ValueError):
            return False

    return rule


def _is_small(power: ast.expr) -> bool:
    """Return whether an exponent is a small number as it is written."""
    try:
        value = ast.literal_eval(power.args[0] if isinstance(power, ast.Call) and len(power.args) == 1 else power)
    except ValueError:
        return False
    return isinstance(value, int) and abs(value) <= LARGEST_POWER


_is_size = _formula(SIZE_WORDS, r"[suz]\d+")
_is_guard = _formula(frozenset(["max", "min"]), r"(?!)")


def _is_tree(text: str) -> bool:
    """Return whether a structure of inputs or outputs is made of tuples, lists and dicts, and names their keys."""
    value = json.loads(text)
    return isinstance(value, list) and len(value) == 2 and value[0] == 1 and _is_branch(value[1])


def _is_branch(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"type", "context", "children_spec"}:
        return False
    if value["type"] not in (None, "builtins.tuple", "builtins.list", "builtins.dict"):
        return False
    if not isinstance(value["context"], str | None):
        return False
    context = json.loads(value["context"] or "null")
    keys = context if isinstance(context, list) else []
    plain = context is None or (isinstance(context, list) and all(isinstance(k, str) and _is_name(k) for k in keys))
    return plain and all(_is_branch(child) for child in value["children_spec"])


_NAMES = "name as_name parameter_name buffer_name tensor_constant_name fqn forward_arg_names verifiers"

_RULES: dict[str, Callable[[str], bool]] = {
    "target": _is_operator,
    "expr_str": _is_size,
    "guards_code": _is_guard,
    "in_spec": _is_tree,
    "out_spec": _is_tree,
    "torch_version": lambda text: re.fullmatch(r"[\w.+]*", text) is not None,
    "as_string": lambda text: re.fullmatch(r"[a-z_]*", text) is not None,
    "as_float": lambda text: text in ("Infinity", "-Infinity", "NaN"),
    "type": lambda text: text in ("cpu", "cuda", "mps"),
    "metadata.nn_module_stack": lambda text: DETAIL.fullmatch(text) is not None,
    **dict.fromkeys(_NAMES.split(), _is_name),
}
"""What may stand under each key of the program's JSON; no other key has text."""
