"""Building a graph or a function of an ONNX file: nodes, weights, and the type and shape of every value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import FunctionProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor

DOMAIN = "maskrcnn"
"""Of the steps that are no standard operators, and of our functions."""
OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
IR_VERSION = 10
"""The first that knows shapes inside functions."""

Shape = Sequence[int | str]
"""Sides; a name for one that depends on the photo or on who calls a function."""

FLOAT, INT64, BOOL, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8


class Scope:
    """The graph, or one of its functions, while it is built."""

    def __init__(self, with_weights: bool, is_function: bool = False, rows: str = "") -> None:
        """Begin.

        Args:
            with_weights: whether weights are written; else only their shapes are.
            is_function: functions hold weights as constants, the graph as initializers.
            rows: a name for the first side of every value of a function that is called with different ones.
        """
        self.with_weights = with_weights
        self.is_function = is_function
        self.rows = rows
        self.nodes: list[NodeProto] = []
        self.values: dict[str, ValueInfoProto] = {}
        self.shapes: dict[str, tuple[int | str, ...]] = {}
        self.initializers: dict[str, TensorProto] = {}

    def value(self, name: str, shape: Shape, kind: int = FLOAT, what: str = "") -> str:
        """Note a value's type and shape and return its name."""
        sides = (self.rows, *shape[1:]) if self.rows else tuple(shape)
        self.shapes[name] = sides
        self.values[name] = helper.make_tensor_value_info(name, kind, sides, what)
        return name

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        name: str,
        doc: str = "",
        domain: str = "",
        input_names: Sequence[str] = (),
        **attributes: Any,
    ) -> None:
        """Add a node; attributes that are None are left out.

        Args:
            op: the operator.
            inputs: names of values.
            outputs: names of values, which `value` must know.
            name: unique in the whole file.
            doc: what it is, for people.
            domain: of the operator; that of ONNX by default.
            input_names: what inputs are to an operator of our own; Netron shows them.
            attributes: the operator's.
        """
        assert all(output in self.values for output in outputs), outputs
        given = {key: value for key, value in attributes.items() if value is not None}
        node = helper.make_node(op, list(inputs), list(outputs), name, doc or None, domain or None, **given)
        if input_names:
            node.metadata_props.add(key="input_names", value=repr(list(input_names)))
        self.nodes.append(node)

    def weight(self, name: str, tensor: Tensor, caller: str) -> str:
        """Add a weight and return its name; one that several nodes share stands in the file once.

        Without weights there are constants of the same shape instead: sparse tensors that hold nothing. Each node
        has its own then, since Netron draws a constant that several nodes share as a node.
        """
        if not self.with_weights:
            return self._constant(f"{name}@{caller}", tensor.shape, sparse_value=_hollow(name, tensor))
        array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        return self._array(name, array)

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Add a short list of integers, as a new shape, and return its name."""
        return self._array(name, np.array(values, np.int64))

    def function(self, name: str, inputs: Sequence[str], outputs: Sequence[str], doc: str) -> FunctionProto:
        """Return what was built as a function; the inputs must be values too."""
        return helper.make_function(
            DOMAIN, name, list(inputs), list(outputs), self.nodes, OPSETS, doc_string=doc,
            value_info=list(self.values.values()),
        )  # fmt: skip

    def _array(self, name: str, array: np.ndarray) -> str:
        if name in self.initializers:
            return name
        tensor = numpy_helper.from_array(array, name)
        if self.is_function:
            return self._constant(name, array.shape, tensor.data_type, value=tensor)
        self.initializers[name] = tensor
        return name

    def _constant(self, name: str, shape: Shape, kind: int = FLOAT, **attribute: Any) -> str:
        self.values[name] = helper.make_tensor_value_info(name, kind, tuple(shape))
        self.add("Constant", [], [name], name, **attribute)
        return name


def _hollow(name: str, tensor: Tensor) -> Any:
    """Return a sparse tensor of the same shape in which nothing is stored."""
    values = helper.make_tensor(name, FLOAT, [0], [])
    places = helper.make_tensor(f"{name}.indices", INT64, [0], [])
    return helper.make_sparse_tensor(values, places, list(tensor.shape))
