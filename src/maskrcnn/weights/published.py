"""Published networks by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn.errors import InputError
from maskrcnn.progress import Reporter
from maskrcnn.weights.download import fetch
from maskrcnn.weights.files import load
from maskrcnn.weights.releases import find, releases

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN


def pretrained(
    name: str,
    class_names: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> MaskRCNN:
    """Return a published network, in eval mode, on the CPU; its file is downloaded once, into PyTorch's cache.

    Args:
        name: as `torchvision/maskrcnn_resnet50_fpn_v2`; `maskrcnn pretrained` and docs/weights.md list them.
        class_names: as for `load`: classes of the same name are kept, others start anew.
        overrides: dotted configuration fields to change.
        reporter: shows the download; by default it shows a bar on standard error.

    Raises:
        InputError: there is no such name, or it is a classifier.
        DownloadError: the file cannot be fetched, or is not the one that was published.
    """
    release = find(str(name))
    if release.classifier:
        raise InputError(
            f"{name} is an image classifier, which can start a backbone: pass it as the configuration's "
            "backbone_weights."
        )
    return load(fetch(release, reporter or Reporter()), class_names=class_names, overrides=overrides)


def locate(source: str, reporter: Reporter | None = None) -> Path:
    """Return the path that a path or the name of a release stands for; what exists as a path is one.

    Raises:
        InputError: it looks like a name, and there is no such release.
        DownloadError: the release cannot be fetched.
    """
    path = Path(source).expanduser()
    publishers = {name.split("/")[0] for name in releases()}
    if path.exists() or source.split("/")[0] not in publishers or path.suffix:
        return path
    return fetch(find(source), reporter or Reporter())
