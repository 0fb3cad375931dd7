"""Networks out of ONNX files, run by ONNX Runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import CheckpointError, InputError, MaskRCNNError, os_reason, printable
from maskrcnn.export.exported import ExportedModel
from maskrcnn.export.graph import Sizes, output_names
from maskrcnn.export.onnx import check_packages
from maskrcnn.export.onnx.photo_model import PhotoModel

ABOUT = "maskrcnn"
"""The entry of `metadata_props` that tells the configuration and the sizes of input, as JSON."""


class OnnxModel(ExportedModel):
    """A network that `maskrcnn export --format onnx` wrote."""

    def __init__(self, config: Config, sizes: Sizes, session: Any) -> None:
        super().__init__(config, sizes)
        self.session = session

    def run(
        self, images: Float[Tensor, "N 3 H W"], sizes: Int64[Tensor, "N 2"], offsets: Int64[Tensor, "N 2"] | None
    ) -> Mapping[str, Tensor]:
        """Return the graph's outputs by name."""
        inputs = {"images": images.float(), "sizes": sizes, "offsets": offsets}
        feeds = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items() if tensor is not None}
        names = output_names(self.config)
        found = self.session.run(names, feeds)
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}


def load_onnx(
    path: str | Path, threads: int | None = None, providers: Sequence[str] | None = None
) -> OnnxModel | PhotoModel:
    """Return the network of an ONNX file; nothing in the file can run but ONNX's operators.

    Args:
        path: of the file.
        threads: that ONNX Runtime computes with; as many as PyTorch by default.
        providers: of ONNX Runtime, as CUDAExecutionProvider, best first; the processor by default.

    Raises:
        InputError: the package onnxruntime is missing, or a provider.
        CheckpointError: the file is missing, damaged or another program's.
    """
    session = open_session(path, threads, providers)
    config, sizes, variant = described(path, session)
    return PhotoModel(config, session) if variant == "photo" else OnnxModel(config, sizes, session)


def open_session(path: str | Path, threads: int | None = None, providers: Sequence[str] | None = None) -> Any:
    """Return ONNX Runtime's session of a file; see `load_onnx`."""
    check_packages(("onnxruntime",))
    onnxruntime: Any = import_module("onnxruntime")
    try:
        os.stat(path)
    except OSError as e:
        raise CheckpointError(f"Cannot read {os_reason(path, e)}.") from None
    known = onnxruntime.get_available_providers()
    wanted = list(providers or ["CPUExecutionProvider"])
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"This onnxruntime has no {unknown[0]}; it has {', '.join(known)}.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as e:  # noqa: BLE001 - it raises whatever it trips over
        text = " ".join(str(e).split())
        raise CheckpointError(f"{path} is damaged, or no ONNX file that can be run ({printable(text, 200)}).") from None


def described(path: str | Path, session: Any) -> tuple[Config, Sizes, str]:
    """Return configuration, sizes of input and variant that a file tells of itself."""
    text = session.get_modelmeta().custom_metadata_map.get(ABOUT)
    if text is None:
        raise CheckpointError(
            f"{path} was not written by maskrcnn export --format onnx: it does not tell a configuration. A file made "
            "with --for netron is for looking at alone."
        )
    try:
        about = json.loads(text)
        config = Config.from_json(json.dumps(about["configuration"])).replace({"backbone_weights": None})
        given = about["sizes"]
        numbers = {name: int(given[name]) for name in ("batch", "height", "width", "divisor", "least")}
        return config, Sizes(dynamic=given["dynamic"], **numbers), str(about["variant"])
    except (MaskRCNNError, KeyError, TypeError, ValueError, RecursionError) as e:
        reason = printable(" ".join(str(e).split()).rstrip("."), 200)
        raise CheckpointError(f"{path} is damaged, or of another version of maskrcnn: {reason}.") from None
