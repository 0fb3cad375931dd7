"""From a network to an ONNX file: traced by `torch.export`, written in standard operators, named and described."""

from __future__ import annotations

import ast
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from maskrcnn import __version__
from maskrcnn.config import Config
from maskrcnn.export.graph import ExportedGraph, Sizes, output_names
from maskrcnn.export.onnx import check_packages
from maskrcnn.export.onnx.options import DEFAULT_OPSET, check_opset
from maskrcnn.export.onnx.runtime import ABOUT
from maskrcnn.files import replacing
from maskrcnn.model import MaskRCNN
from maskrcnn.ops.stand_ins import tracing_for_onnx

LARGEST = 1_900_000_000
"""Bytes of weights beyond which they go into a file of their own: a protobuf file holds 2^31 at most."""


def build(model: MaskRCNN, sizes: Sizes, opset: int = DEFAULT_OPSET) -> Any:
    """Return the network as an `onnx.ModelProto`: prepared images and their sizes in, `DetectionBatch` out.

    Args:
        model: stays as it is.
        sizes: of the input; see `choose_sizes`.
        opset: version of ONNX's operators.

    Raises:
        InputError: a package is missing, or the opset is out of range.
    """
    check_packages()
    check_opset(opset)
    from maskrcnn.export.onnx.translations import TRANSLATIONS

    graph = ExportedGraph(model).float().cpu().eval()
    with torch.no_grad(), _without_noise():
        with tracing_for_onnx():
            program = torch.export.export(
                graph,
                sizes.example(model.config),
                dynamic_shapes=sizes.dynamic_shapes(model.config),
                strict=False,
            )
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            custom_translation_table=TRANSLATIONS,
            output_names=output_names(model.config),
            verbose=False,
        )
    assert written is not None  # it is None only where it writes a file itself
    proto = written.model_proto
    _name(proto, sizes)
    describe(proto, model.config, sizes)
    return proto


def describe(proto: Any, config: Config, sizes: Sizes, variant: str = "network", precision: str = "float32") -> None:
    """Write into a graph what a program needs to know of it.

    Args:
        proto: the graph.
        config: of the network.
        sizes: of the input.
        variant: "network" from prepared images, or "photo" with preprocessing inside.
        precision: of weights and computation.
    """
    import onnx

    about = {
        "maskrcnn": __version__,
        "variant": variant,
        "precision": precision,
        "sizes": asdict(sizes),
        "configuration": json.loads(config.to_json()),
    }
    names = "\n".join(config.class_names)
    onnx.helper.set_model_props(proto, {ABOUT: json.dumps(about), "class_names": names})
    proto.producer_name, proto.producer_version = "maskrcnn", __version__
    proto.graph.name = "Mask R-CNN"


def write(proto: Any, path: Path, check: Callable[[Path], None]) -> None:
    """Write a graph; weights beyond 2 GB go into a second file, `<name>.data`, beside it.

    Args:
        proto: the graph.
        path: of the file.
        check: is given the file before it takes its place; what it raises leaves the place as it was.

    Raises:
        WriteError: it cannot be written.
    """
    import onnx

    with replacing(path) as new:
        if sum(len(t.raw_data) for t in proto.graph.initializer) > LARGEST:
            place = Path(os.path.realpath(path))  # of what a link points to
            data = new.with_name(f"{place.name}.data")
            onnx.save(proto, str(new), save_as_external_data=True, location=data.name, size_threshold=1024)
            onnx.load_external_data_for_model(proto, str(new.parent))  # saving took them out of the graph
            check(new)
            os.replace(data, place.with_name(data.name))
        else:
            onnx.save(proto, str(new))
            check(new)


def _name(proto: Any, sizes: Sizes) -> None:
    """Name nodes by their modules and sizes by what they are; drop what tells of this machine's folders."""
    taken: dict[str, int] = {}
    for node in proto.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        inside = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        name = "/".join([*(inside[-1].split(".")[1:] if inside else ()), node.op_type])
        taken[name] = taken.get(name, 0) + 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]  # runtimes find them out themselves
    del proto.graph.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
        dims = value.type.tensor_type.shape.dim
        if sizes.any_batch:
            dims[0].dim_param = "batch"
        if value.name == "images" and sizes.any_size:
            dims[2].dim_param, dims[3].dim_param = "height", "width"


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keep back what torch and the packages under it warn and log of themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
