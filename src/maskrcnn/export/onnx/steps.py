"""A few lines to write graphs with: each call adds an operator and returns the name of its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

FLOAT, DOUBLE, INT64, UINT8, BOOL = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.BOOL,
)


class Steps:
    """Operators in the order in which they are called, named after a part of the graph.

    Example:
        >>> steps = Steps("photo")
        >>> steps.Add("x", steps.constant(1.0))
        'photo/Add'
        >>> [node.op_type for node in steps.nodes]
        ['Add']
    """

    def __init__(self, part: str) -> None:
        self.part = part
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._taken: dict[str, int] = {}

    def __getattr__(self, operator: str) -> Any:
        if not operator[:1].isupper():
            raise AttributeError(operator)

        def add(*inputs: str, named: str | None = None, results: int = 1, **attributes: Any) -> Any:
            name = self._free(operator)
            outputs = [named or name] if results == 1 else [f"{name}:{k}" for k in range(results)]
            self.nodes.append(onnx.helper.make_node(operator, inputs, outputs, name=name, **attributes))
            return outputs[0] if results == 1 else outputs

        return add

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Return the name of a constant: floats are float32 and whole numbers int64, unless told otherwise."""
        array = np.asarray(value)
        kinds = {"f": np.float32, "i": np.int64, "b": np.bool_}
        array = array.astype(dtype or kinds[array.dtype.kind])
        name = self._free("constant")
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def ints(self, *numbers: int) -> str:
        """Return whole numbers as a constant of one dimension, as axes and sizes are given."""
        return self.constant(np.array(numbers, np.int64))

    def cut(self, value: str, begin: int, end: int, axis: int) -> str:
        """Return a part along an axis."""
        return str(self.Slice(value, self.ints(begin), self.ints(end), self.ints(axis)))

    def joined(self, values: Sequence[str], axis: int = 0) -> str:
        """Return values one after the other along an axis."""
        return str(self.Concat(*values, axis=axis))

    def _free(self, kind: str) -> str:
        self._taken[kind] = self._taken.get(kind, 0) + 1
        number = self._taken[kind]
        return f"{self.part}/{kind}" + (f"_{number}" if number > 1 else "")
