"""Smaller and faster variants of a network's graph: half precision, and 8 bits.

Convolutions and matrix products are what changes. What decides on boxes stays float32: anchors, decoding, NMS,
RoIAlign, scores, and in 8 bits also the first convolution and the last layer of each head.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from maskrcnn.images import ImageLike
from maskrcnn.structures import ImageBatch

PARTS = ("backbone", "fpn", "rpn", "stage5", "box_head", "mask_head", "keypoint_head")
"""Modules whose layers are reduced; their nodes are named after them."""

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
BETWEEN = ("Relu", "MaxPool", "Add", "Resize")
"""Operators with weights, and those that may stand between them, in half precision too."""

PREDICTORS = ("class_logits", "box_deltas", "objectness", "deltas", "predictor", "deconv")
"""Last layers of the heads."""

MOST_CALIBRATION_PHOTOS = 100


def to_half(proto: Any) -> Any:
    """Return the graph with layers in float16; its inputs and outputs stay float32."""
    float16 = import_module("onnxruntime.transformers.float16")
    kept = [node.name for node in proto.graph.node if not _in_half(node)]
    return float16.convert_float_to_float16(
        onnx.shape_inference.infer_shapes(proto), keep_io_types=True, op_block_list=[], node_block_list=kept
    )


def _in_half(node: Any) -> bool:
    return node.name.split("/")[0] in PARTS and node.op_type in LAYERS + BETWEEN


def to_int8(
    proto: Any,
    photos: Sequence[ImageLike],
    prepare: Callable[[ImageLike], ImageBatch],
    tell: Callable[[], None],
) -> Any:
    """Return the graph with layers in 8 bits (QDQ), each channel of weights with a scale of its own.

    Args:
        proto: the graph.
        photos: the ranges of what lies between layers are what these give, at most 100 of them.
        prepare: makes the network's input of one of them.
        tell: is called after each.
    """
    quantization: Any = import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory(prefix="maskrcnn-") as folder:
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(onnx.shape_inference.infer_shapes(proto), str(before))
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it speaks to the root logger
        try:
            quantization.quantize_static(
                str(before),
                str(after),
                _Reader(quantization.CalibrationDataReader, proto, photos, prepare, tell),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Gemm"],
                nodes_to_quantize=[node.name for node in proto.graph.node if _in_int8(node)],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
        finally:
            logging.root.setLevel(level)
        reduced = onnx.load(str(after))
    del reduced.graph.value_info[:]
    return reduced


def _in_int8(node: Any) -> bool:
    parts = node.name.split("/")
    first = parts[:2] in (["backbone", "conv1"], ["backbone", "stem"])
    return parts[0] in PARTS and node.op_type in ("Conv", "Gemm") and not first and not set(parts) & set(PREDICTORS)


def _Reader(  # noqa: N802 - it stands for a class, whose base is known only when the package is there
    base: Any,
    proto: Any,
    photos: Sequence[ImageLike],
    prepare: Callable[[ImageLike], ImageBatch],
    tell: Callable[[], None],
) -> Any:
    """Return what gives the quantiser one input after the other."""

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.inputs = _inputs(proto, photos, prepare, tell)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.inputs, None)

    return Reader()


def _inputs(
    proto: Any,
    photos: Sequence[ImageLike],
    prepare: Callable[[ImageLike], ImageBatch],
    tell: Callable[[], None],
) -> Iterator[dict[str, np.ndarray]]:
    wanted = {value.name for value in proto.graph.input}
    for photo in list(photos)[:MOST_CALIBRATION_PHOTOS]:
        batch = prepare(photo)
        feeds = {"images": batch.tensor, "sizes": batch.sizes, "offsets": batch.starts}
        yield {name: tensor.numpy() for name, tensor in feeds.items() if name in wanted}
        tell()
