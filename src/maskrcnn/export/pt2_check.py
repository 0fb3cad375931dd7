"""What a program's file may hold, so that loading it runs nothing but the network.

`torch.export.load` believes what it reads: it unpickles what a file calls a weight, calls what it names as an operator,
evaluates what it gives as a size, and loads compiled code that lies beside the program. So before it gets a file, all
of it is held against what `maskrcnn export` writes: raw weights, operators that networks of this package are made of,
and text that is nothing but names and arithmetic.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import torch
from torch.export.pt2_archive._package import PT2ArchiveReader

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

GUARD_WORDS = frozenset(["L", "images", "sizes", "offsets", "size", "max", "min", "and", "or", "not"])
"""Words that a program may say with what sizes it takes."""

NAME = re.compile(r"[A-Za-z0-9_.@]*")
DETAIL = re.compile(r"[A-Za-z0-9_.,;@$\[\]() ]*")
RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.[a-z_]+|\.data/[a-z_]+"
    r"|models/model\.json|data/sample_inputs/model\.pt|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|extra/maskrcnn\.json"
)
"""Names of what a program's file holds."""


def check_program(file: IO[bytes]) -> None:
    """Raise `CheckpointError` where a program's file holds more than a network; the message says what, not where.

    Args:
        file: a .pt2 file open for reading; it is read through torch's own reader, as it will be later.
    """
    file.seek(0)
    with PT2ArchiveReader(file) as archive:
        names = archive.get_file_names()
        for name in names:
            if not RECORDS.fullmatch(name):
                raise _refused(f"the part {printable(name)!r}")
        for kind in ("weights", "constants"):
            _check_payload(json.loads(archive.read_bytes(f"data/{kind}/model_{kind}_config.json")))
        _check_inputs(archive.read_bytes("data/sample_inputs/model.pt"))
        _check_graph(json.loads(archive.read_bytes("models/model.json")))
    file.seek(0)


def _refused(what: str) -> CheckpointError:
    return CheckpointError(what)


def _check_payload(config: Mapping[str, Any]) -> None:
    """Refuse weights that are objects."""
    for name, entry in config["config"].items():
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise _refused(f"the weight {printable(name)!r} as an object")


def _check_inputs(pickled: bytes) -> None:
    """Refuse example inputs that are more than tensors: torch would read them with less care if this way failed."""
    try:
        inputs = torch.load(io.BytesIO(pickled), weights_only=True)
    except Exception:  # noqa: BLE001 - whatever is wrong with them, they are not read another way
        raise _refused("example inputs that are not tensors") from None
    if not isinstance(inputs, tuple):
        raise _refused("example inputs that are not tensors")


def _check_graph(program: Any) -> None:
    for key, text in _texts(program, "program"):
        allowed = _RULES.get(key)
        if allowed is None or not allowed(text):
            raise _refused(f"{key} {printable(text)!r}")
    for key in program["range_constraints"]:
        if not _is_size(key):
            raise _refused(f"the size {printable(key)!r}")


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


def _made_of(words: frozenset[str], symbols: str) -> Callable[[str], bool]:
    """Return a rule for text of numbers, signs of arithmetic, these words, and symbols."""
    token = re.compile(symbols)

    def rule(text: str) -> bool:
        rest = re.sub(r"[A-Za-z_]\w*", lambda m: "" if m[0] in words or token.fullmatch(m[0]) else "?", text)
        return re.fullmatch(r"[0-9 +\-*/%<>=!,.()'\[\]]*", rest) is not None and "**" not in rest

    return rule


_is_size = _made_of(SIZE_WORDS, r"[suz]\d+")
_is_guard = _made_of(GUARD_WORDS, r"(?!)")


def _is_tree(text: str) -> bool:
    """Return whether a structure of inputs or outputs is made of tuples, lists and dicts."""
    types = re.findall(r'"type": *("[^"]*"|null)', text)
    return text.count('"type"') == len(types) and set(types) <= {
        "null",
        *(f'"builtins.{t}"' for t in ("tuple", "list", "dict")),
    }


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
