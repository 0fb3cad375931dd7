"""The network as a file for other programs: to run (`onnx`, `pt2`), and here to look at.

Needs the package `onnx`, which the extra `export` brings; it is imported when an export is made.
"""

from __future__ import annotations

from pathlib import Path

from maskrcnn.config import Config
from maskrcnn.errors import InputError
from maskrcnn.files import replacing
from maskrcnn.model import MaskRCNN

__all__ = ["check_installed", "export_for_netron"]

LARGEST = 2_000_000_000
"""Bytes of a protobuf file, of which 2^31 are too many."""


def export_for_netron(
    network: MaskRCNN | Config, path: str | Path, photo: tuple[int, int] | None = None, weights: bool = True
) -> None:
    """Write an ONNX file that Netron shows readably. It is for looking at, not for running.

    Its nodes are the layers under their module's path (`fpn/lateral4`, `rpn/conv/p3`) and the steps between them
    (NMS, RoIAlign, …), each as one; stages of the backbone are functions to look into. Every edge has a shape.

    Args:
        network: the network; a configuration is enough without weights.
        path: of the file.
        photo: (height, width) of the photo to take shapes for; by default one that fills the input.
        weights: False leaves them out, for a file under 1 MB.

    Raises:
        InputError: the package onnx is missing, weights are wanted of a configuration, or they exceed 2 GB.
        WriteError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.onnx"
        >>> export_for_netron(Config.preset("resnet50-fpn", class_names=["cat"]), path, weights=False)
        >>> path.stat().st_size < 1_000_000
        True
    """
    check_installed()
    import onnx

    from maskrcnn.export.netron import netron_graph

    if isinstance(network, Config):
        if weights:
            raise InputError("A configuration has no weights to export: give a MaskRCNN, or weights=False.")
        config, model = network, None
    else:
        config, model = network.config, network if weights else None
    size = 0 if model is None else 4 * sum(tensor.numel() for tensor in model.state_dict().values())
    if size > LARGEST:
        raise InputError(
            f"{path} would hold {size / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB at most; leave the weights "
            "out with weights=False (--weights-free)."
        )
    graph = netron_graph(config, model, photo)
    with replacing(path) as new:
        onnx.save(graph, str(new))


def check_installed() -> None:
    """Raise `InputError` where the package onnx is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise InputError("ONNX files need the package onnx: pip install 'maskrcnn[export]'") from None
