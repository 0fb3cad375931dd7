"""Networks out of ONNX files, run by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import CheckpointError, MaskRCNNError, printable
from maskrcnn.export.exported import ExportedModel
from maskrcnn.export.graph import Sizes, output_names, told_by
from maskrcnn.export.onnx.photo_model import PhotoModel
from maskrcnn.export.onnx.session import open_session, run_session

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
        return run_session(self.session, names, feeds)


def load_onnx(
    path: str | Path, threads: int | None = None, providers: Sequence[Any] | None = None
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
        return *told_by(about), str(about["variant"])
    except (MaskRCNNError, KeyError, TypeError, ValueError, RecursionError) as e:
        reason = printable(" ".join(str(e).split()).rstrip("."), 200)
        raise CheckpointError(f"{path} is damaged, or of another version of maskrcnn: {reason}.") from None
