"""A network's graph with preprocessing before it and its results in the frame of the photo."""

from __future__ import annotations

from typing import Any

import onnx

from maskrcnn.config import Config
from maskrcnn.errors import InputError
from maskrcnn.export.graph import Sizes, output_names
from maskrcnn.export.onnx.found import in_photo
from maskrcnn.export.onnx.photo import prepare_photo
from maskrcnn.export.onnx.photo_model import PHOTO
from maskrcnn.export.onnx.steps import BOOL, FLOAT, INT64, UINT8, Steps


def check_photo_sizes(config: Config, sizes: Sizes) -> None:
    """Raise `InputError` where a graph of these sizes cannot take every photo, one at a time."""
    if sizes.batch != 1 or sizes.any_batch:
        raise InputError(
            "--with-preprocessing takes one photo at a time: leave out --batch, and --dynamic batch or both."
        )
    if not sizes.any_size and min(sizes.height, sizes.width) < config.image.max_size:
        most = -(-config.image.max_size // sizes.divisor) * sizes.divisor
        raise InputError(
            f"--with-preprocessing takes photos of any shape, which {sizes.height} × {sizes.width} does not hold: "
            f"leave out --dynamic none, or give --size {most}x{most}."
        )


def with_photo(network: Any, config: Config, sizes: Sizes, paste: bool) -> Any:
    """Return a graph from a photo to detections in it, `network` in its middle; `network` is changed.

    Args:
        network: the `onnx.ModelProto` of the network alone.
        config: of the network.
        sizes: that it was made for.
        paste: give masks of the photo's size, instead of probabilities in the frame of their box.
    """
    graph = network.graph
    fields = output_names(config)
    inner = {name: f"network/{name}" for name in fields}
    for node in graph.node:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    before, after = Steps("preprocess"), Steps("in_photo")
    prepared = prepare_photo(before, PHOTO, config.image, sizes)
    taken = {value.name for value in graph.input}
    for name in ("images", "sizes", "offsets"):
        if name in taken:
            before.Identity(getattr(prepared, name), named=name)
    names = in_photo(after, inner, config, prepared, paste)
    nodes = [*before.nodes, *graph.node, *after.nodes]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*before.constants, *after.constants])
    graph.input.append(onnx.helper.make_tensor_value_info(PHOTO, UINT8, [1, "photo_height", "photo_width", 3]))
    graph.output.extend(_described(name, config, paste) for name in names)
    return network


def _described(name: str, config: Config, paste: bool) -> Any:
    """Return what the graph tells of an output."""
    pixels: list[int | str] = ["photo_height", "photo_width"] if paste else ["mask_height", "mask_width"]
    keypoints = len(config.keypoint_names)
    kinds: dict[str, tuple[int, list[int | str]]] = {
        "boxes": (FLOAT, [4]),
        "labels": (INT64, []),
        "scores": (FLOAT, []),
        "masks": (BOOL if paste else FLOAT, pixels),
        "keypoint_logits": (FLOAT, [keypoints, "heatmap_height", "heatmap_width"]),
    }
    kind, sides = kinds[name]
    return onnx.helper.make_tensor_value_info(name, kind, ["detections", *sides])
