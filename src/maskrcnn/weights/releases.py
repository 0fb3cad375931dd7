"""Checkpoints that their publishers released, by name: where they are, how to check them, and how good they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from maskrcnn.errors import InputError, did_you_mean

DEFAULT = "torchvision/maskrcnn_resnet50_fpn_v2"
"""What `maskrcnn predict` takes where no weights are named."""

TORCHVISION_PAGE = "https://docs.pytorch.org/vision/stable/models.html"
DETECTRON2_PAGE = "https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md"
MATTERPORT_PAGE = "https://github.com/matterport/Mask_RCNN/releases"
KERAS_PAGE = "https://github.com/fchollet/deep-learning-models/releases"


@dataclass(frozen=True)
class Release:
    """One file. Figures are AP on COCO val2017 in percent, as published; None where nobody published one."""

    name: str
    """Publisher and model, as `torchvision/maskrcnn_resnet50_fpn_v2`."""
    address: str
    algorithm: str
    """What the digest is of: "sha256" or "md5"; empty where no digest is known."""
    digest: str
    """The beginning of the file's digest that the publisher tells, mostly in the file's name."""
    licence: str
    page: str
    """Where the figures and the licence are published."""
    num_classes: int = 0
    """Background not counted; 90 are COCO's category ids, of which 80 are in use, 0 is a file without a last layer."""
    size: int | None = None
    """Bytes, where the publisher tells them; torchvision's are rounded to a thousandth of 2²⁰."""
    box: float | None = None
    mask: float | None = None
    keypoint: float | None = None
    classifier: bool = False
    """An image classifier: the start of a backbone, no detector."""
    overrides: tuple[tuple[str, float], ...] = ()
    """Fields that are known of this file and not of others of its format."""

    @property
    def file_name(self) -> str:
        """What the file is called on this machine: as its publisher calls it.

        Where nothing is known to check it by, its folder's name comes first: there are several `R-50.pkl`.
        """
        folder, name = self.address.split("/")[-2:]
        return name if self.digest or self.size is not None else f"{folder}-{name}"

    def matches(self, path: Path) -> bool:
        """Return whether a file has the digest or, where none is known, the size; true where neither is."""
        if self.digest:
            return file_digest(path, self.algorithm).startswith(self.digest)
        return self.size is None or path.stat().st_size == self.size


def file_digest(path: Path, algorithm: str) -> str:
    """Return the digest of a file in hexadecimal digits."""
    with path.open("rb") as file:
        # systems that forbid MD5 for secrets allow it for this
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def find(name: str) -> Release:
    """Return the release of that name.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    if name not in releases():
        hint = suggestion(name)
        raise InputError(f"No published weights are called {name!r}.{hint} `maskrcnn pretrained` lists them.")
    return releases()[name]


def suggestion(name: str) -> str:
    """Return a question that names the nearest release, or an empty string.

    Example:
        >>> suggestion("maskrcnn_resnet50_fpn"), suggestion("holiday")
        (" Did you mean 'torchvision/maskrcnn_resnet50_fpn'?", '')
    """
    models = {full.split("/", 1)[1]: full for full in releases()}
    if "/" not in name and name in models:
        return f" Did you mean {models[name]!r}?"
    return did_you_mean(name, list(releases()))


def of_file(path: Path) -> Release | None:
    """Return the release that a file is, by its digest, or None.

    Only files that are called as a release is, or are as large, are read for it.
    """
    size = path.stat().st_size
    named = [r for r in releases().values() if r.file_name == path.name]
    alike = [r for r in releases().values() if r.size is not None and abs(size - r.size) <= 2**10]
    return next((r for r in [*named, *alike] if r.digest and r.matches(path)), None)


@cache
def releases() -> dict[str, Release]:
    """Return all releases by name: detectors first, each publisher's together."""
    every = [*_torchvision(), *_detectron2(), *_matterport()]
    return {release.name: release for release in sorted(every, key=lambda r: r.classifier)}


def _torchvision() -> Iterator[Release]:
    """As the enumerations of weights in torchvision 0.29 list them; file names hold the SHA-256's first digits."""
    eps, own_eps = (("backbone.norm_eps", 0.0),), (("backbone.norm_eps", 1e-5),)
    detectors = (
        ("maskrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2_coco-73cbd019", 177.219, 47.4, 41.8, None, ()),
        ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_coco-bf2d0c1e", 169.84, 37.9, 34.6, None, eps),
        ("fasterrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn_v2_coco-dd69338a", 167.104, 46.7, None, None, ()),
        ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_coco-258fb6c6", 159.743, 37.0, None, None, eps),
        ("keypointrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn_coco-fc266e95", 226.054, 54.6, None, 65.0, eps),
        (
            "keypointrcnn_resnet50_fpn_legacy",
            "keypointrcnn_resnet50_fpn_coco-9f466800",
            226.054,
            50.6,
            None,
            61.1,
            own_eps,
        ),
    )
    classifiers = (
        *(("resnet18", "resnet18-f37072fd", 44.661), ("resnet34", "resnet34-b627a593", 83.275)),
        *(("resnet50", "resnet50-0676ba61", 97.781), ("resnet50_v2", "resnet50-11ad3fa6", 97.79)),
        *(("resnet101", "resnet101-63fe2227", 170.511), ("resnet101_v2", "resnet101-cd907fc2", 170.53)),
        *(("resnet152", "resnet152-394f9c45", 230.434), ("resnet152_v2", "resnet152-f82ba261", 230.474)),
        ("resnext50_32x4d", "resnext50_32x4d-7cdf4587", 95.789),
        ("resnext50_32x4d_v2", "resnext50_32x4d-1a0047aa", 95.833),
        ("resnext101_32x8d", "resnext101_32x8d-8ba56ff5", 339.586),
        ("resnext101_32x8d_v2", "resnext101_32x8d-110c445d", 339.673),
        ("vgg16", "vgg16-397923af", 527.796),
        ("vgg16_bn", "vgg16_bn-6c64b313", 527.866),
    )
    rows = [*detectors, *((*row, None, None, None, ()) for row in classifiers)]
    for number, (name, file, mebibytes, box, mask, keypoint, overrides) in enumerate(rows):
        yield Release(
            f"torchvision/{name}",
            f"https://download.pytorch.org/models/{file}.pth",
            "sha256",
            file.rsplit("-", 1)[-1],
            "BSD-3-Clause",
            TORCHVISION_PAGE,
            1000 if number >= len(detectors) else 1 if keypoint else 90,
            round(mebibytes * 2**20),
            box,
            mask,
            keypoint,
            classifier=number >= len(detectors),
            overrides=overrides,
        )


_DETECTRON2 = """
COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x/137259246/9243eb 36.8 32.2
COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x/137260150/4f86c3 38.3 34.2
COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x/137260431/a54504 38.6 35.2
COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x/137849525/4ce675 39.8 34.4
COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x/137849551/84107b 40.0 35.9
COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/f10217 41.0 37.2
COCO-InstanceSegmentation/mask_rcnn_R_101_C4_3x/138363239/a2914c 42.6 36.7
COCO-InstanceSegmentation/mask_rcnn_R_101_DC5_3x/138363294/0464b7 41.9 37.3
COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x/138205316/a3ec72 42.9 38.6
COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x/139653917/2d9806 44.3 39.5
Misc/mask_rcnn_R_50_FPN_3x_gn/138602888/dc5d9e 42.6 38.6
Misc/mask_rcnn_R_50_FPN_3x_syncbn/169527823/3b3c51 41.9 37.8
Misc/scratch_mask_rcnn_R_50_FPN_3x_gn/138602908/01ca85 39.9 36.6
new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ/42047764/bb69de 44.6 40.3
new_baselines/mask_rcnn_R_50_FPN_200ep_LSJ/42047638/89a8d3 46.3 41.7
new_baselines/mask_rcnn_R_50_FPN_400ep_LSJ/42019571/14d201 47.4 42.5
new_baselines/mask_rcnn_R_101_FPN_100ep_LSJ/42025812/4f7b58 46.4 41.6
new_baselines/mask_rcnn_R_101_FPN_200ep_LSJ/42131867/0bb7ae 48.0 43.1
new_baselines/mask_rcnn_R_101_FPN_400ep_LSJ/42073830/f96b26 48.9 43.7
COCO-Detection/faster_rcnn_R_50_C4_1x/137257644/721ade 35.7
COCO-Detection/faster_rcnn_R_50_DC5_1x/137847829/51d356 37.3
COCO-Detection/faster_rcnn_R_50_FPN_1x/137257794/b275ba 37.9
COCO-Detection/faster_rcnn_R_50_C4_3x/137849393/f97cb7 38.4
COCO-Detection/faster_rcnn_R_50_DC5_3x/137849425/68d202 39.0
COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/280758 40.2
COCO-Detection/faster_rcnn_R_101_C4_3x/138204752/298dad 41.1
COCO-Detection/faster_rcnn_R_101_DC5_3x/138204841/3e0943 40.6
COCO-Detection/faster_rcnn_R_101_FPN_3x/137851257/f6e8b1 42.0
COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x/139173657/68b088 43.0
COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x/137261548/04e291 53.6 - 64.0
COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x/137849621/a6e10b 55.4 - 65.5
COCO-Keypoints/keypoint_rcnn_R_101_FPN_3x/138363331/997cc7 56.4 - 66.1
COCO-Keypoints/keypoint_rcnn_X_101_32x8d_FPN_3x/139686956/5ad38f 57.3 - 66.0
"""
"""Folder, model, run and the MD5's first digits of the zoo's files; box, mask and keypoint AP."""


def _detectron2() -> Iterator[Release]:
    """As its MODEL_ZOO.md lists them, whose file names hold the MD5's first digits."""
    root, licence = "https://dl.fbaipublicfiles.com/detectron2", "CC BY-SA 3.0"
    for line in _DETECTRON2.split("\n"):
        if line:
            path, *published = line.split()
            *folder, digest = path.split("/")
            figures = [None if figure == "-" else float(figure) for figure in published]
            box, mask, keypoint = (*figures, None, None)[:3]
            address = f"{root}/{'/'.join(folder)}/model_final_{digest}.pkl"
            yield Release(
                f"detectron2/{folder[1]}", address, "md5", digest, licence, DETECTRON2_PAGE,
                num_classes=1 if keypoint else 80, box=box, mask=mask, keypoint=keypoint,
            )  # fmt: skip
    backbones = {
        "R-50": "MSRA/R-50.pkl",
        "R-101": "MSRA/R-101.pkl",
        "X-101-32x8d": "FAIR/X-101-32x8d.pkl",
        "R-50-torchvision": "torchvision/R-50.pkl",
    }
    for name, file in backbones.items():
        address = f"{root}/ImageNetPretrained/{file}"
        yield Release(
            f"detectron2/{name}", address, "", "", licence, DETECTRON2_PAGE, num_classes=1000, classifier=True
        )


def _matterport() -> Iterator[Release]:
    """Matterport's figures are on COCO's minival of 2014, whose images are those of val2017."""
    yield Release(
        "matterport/mask_rcnn_coco",
        "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5",
        "",
        "",
        "MIT",
        MATTERPORT_PAGE,
        num_classes=80,
        size=257_557_808,
        box=34.7,
        mask=29.6,
    )
    yield Release(
        "keras/resnet50",
        "https://github.com/fchollet/deep-learning-models/releases/download/v0.2/"
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5",
        "a268eb855778b3df3c7506639542a6af",
        "MIT",
        KERAS_PAGE,
        num_classes=0,
        classifier=True,
    )
