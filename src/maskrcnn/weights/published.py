"""Published networks by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn.errors import InputError
from maskrcnn.progress import Reporter
from maskrcnn.weights.download import fetch
from maskrcnn.weights.files import load
from maskrcnn.weights.releases import Release, find, releases

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
    release = find_detector(str(name))
    return load(fetch(release, reporter or Reporter()), class_names=class_names, overrides=overrides)


def find_detector(name: str) -> Release:
    """Return the release of that name.

    Raises:
        InputError: there is none, or it is a classifier.
    """
    release = find(name)
    if release.classifier:
        raise InputError(
            f"{name} is an image classifier, no detector. It can start a backbone: "
            f'Config.preset(…, overrides={{"backbone_weights": "{name}"}}), or '
            f"maskrcnn train … --set backbone_weights={name}"
        )
    return release


def locate(source: str, reporter: Reporter | None = None) -> Path:
    """Return the path that a path or the name of a release stands for; what exists as a path is one.

    Raises:
        InputError: it looks like a name, and there is no such release.
        DownloadError: the release cannot be fetched.
    """
    if is_name(source):
        return fetch(find(source), reporter or Reporter())
    return Path(source).expanduser()


def locate_classifier(source: str, reporter: Reporter | None = None) -> Path:
    """Return the path that a path or the name of a classifier stands for, as `locate`.

    Raises:
        InputError: it looks like a name, and there is no such release, or it is a detector.
        DownloadError: the release cannot be fetched.
    """
    if is_name(source) and not find(source).classifier:
        raise InputError(
            f"{source} is a detector; backbone_weights takes an image classifier, as torchvision/resnet50."
        )
    return locate(source, reporter)


def is_name(source: str) -> bool:
    """Return whether this is written as the name of a release, of which there may be none: publisher and model.

    What exists as a path, or ends as a file does, is a path.
    """
    publishers = {name.split("/")[0] for name in releases()}
    path = Path(source).expanduser()
    return source.split("/")[0] in publishers and "/" in source and not path.suffix and not path.exists()
