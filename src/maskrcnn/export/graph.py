"""The network as it is exported: one module from prepared images to detections, and the sizes it shall take."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from maskrcnn.config import Config
from maskrcnn.errors import InputError
from maskrcnn.layers import FrozenBatchNorm
from maskrcnn.model import MaskRCNN
from maskrcnn.structures import DetectionBatch, ImageBatch

Dynamic = Literal["batch", "size", "both", "none"]
"""What may differ from run to run: how many images, their height and width, both or neither."""

LARGEST_BATCH, LARGEST_SIDE = 1024, 16384


class ExportedGraph(nn.Module):
    """The network without its training part: images, the sizes of the photos in them and where these begin.

    Args of `forward` are the fields of `ImageBatch`, results those of `DetectionBatch`.

    Example:
        >>> model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"]))
        >>> graph = ExportedGraph(model)
        >>> found = graph(torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]]))
        >>> found["boxes"].shape
        torch.Size([1, 100, 4])
    """

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = with_norms_folded(model)

    def forward(
        self, images: Float[Tensor, "N 3 H W"], sizes: Int64[Tensor, "N 2"], offsets: Int64[Tensor, "N 2"] | None = None
    ) -> dict[str, Tensor]:
        """Return what is found, by the names of `output_names`."""
        found = self.model(ImageBatch(images, sizes, sizes, offsets))
        return {name: getattr(found, name) for name in output_names(self.model.config)}


def output_names(config: Config) -> list[str]:
    """Return the fields of `DetectionBatch` that a network fills."""
    wanted = ["boxes", "labels", "scores", "valid"]
    wanted += ["mask_logits"] if config.masks else []
    wanted += ["keypoint_logits"] if config.keypoint_names else []
    return [name for name in DetectionBatch._fields if name in wanted]


def as_detection_batch(outputs: dict[str, Tensor]) -> DetectionBatch:
    """Return a graph's outputs as what `MaskRCNN` returns: heads that it has not are 0 × 0."""
    slots = outputs["boxes"].shape[:2]
    empty = {
        "mask_logits": torch.zeros(*slots, 0, 0),
        "keypoint_logits": torch.zeros(*slots, 0, 0, 0),
    }
    return DetectionBatch(**{**empty, **outputs})


def with_norms_folded(model: MaskRCNN) -> MaskRCNN:
    """Return a copy in eval mode whose batch norms have become part of the convolutions before them.

    Numbers change by rounding alone. Group norms, which know their statistics only when they run, stay.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for parent, name, conv, norm in list(_conv_and_norm(folded)):
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        before = 0.0 if conv.bias is None else conv.bias
        conv.bias = nn.Parameter(norm.bias + (before - norm.running_mean) * scale, requires_grad=False)
        conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
        setattr(parent, name, nn.Identity())
    return folded


def _conv_and_norm(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Conv2d, Any]]:
    """Yield every batch norm with the convolution before it: the child that stands before it in its module."""
    for parent in model.modules():
        before: nn.Module | None = None
        for name, child in parent.named_children():
            if isinstance(child, (nn.BatchNorm2d, FrozenBatchNorm)) and isinstance(before, nn.Conv2d):
                yield parent, name, before, child
            before = child


@dataclass(frozen=True)
class Sizes:
    """Which inputs an exported file takes: its own batch and size, and what of these may differ."""

    batch: int
    height: int
    width: int
    dynamic: Dynamic
    divisor: int
    least: int
    """Smallest height and width where they may differ, in input pixels."""

    @property
    def any_batch(self) -> bool:
        """Whether the number of images may differ."""
        return self.dynamic in ("batch", "both")

    @property
    def any_size(self) -> bool:
        """Whether height and width may differ."""
        return self.dynamic in ("size", "both")

    @classmethod
    def told(cls, given: Mapping[str, Any]) -> Sizes:
        """Return the sizes that a file tells of itself, as `asdict` gives them.

        Raises:
            ValueError, TypeError, KeyError: they cannot be.
        """
        numbers = {name: given[name] for name in ("batch", "height", "width", "divisor", "least")}
        for name, value in numbers.items():
            if type(value) is not int or not 1 <= value <= (LARGEST_BATCH if name == "batch" else LARGEST_SIDE):
                raise ValueError(f"{name} cannot be {value!r}")
        if given["dynamic"] not in get_args(Dynamic):
            raise ValueError(f"dynamic cannot be {given['dynamic']!r}")
        return cls(dynamic=given["dynamic"], **numbers)

    def example(self, config: Config) -> tuple[Tensor, ...]:
        """Return inputs to trace the graph with."""
        count = max(self.batch, 2) if self.any_batch else self.batch  # one image would be taken for a constant
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(count, 3, self.height, self.width, generator=generator)
        sizes = torch.tensor([[self.height, self.width]]).repeat(count, 1)
        offsets = (torch.zeros_like(sizes),) if config.image.padding_place == "center" else ()
        return images, sizes, *offsets

    def dynamic_shapes(self, config: Config) -> dict[str, dict[int, Any]]:
        """Return what `torch.export` wants to know of sizes that may differ."""
        Dim = torch.export.Dim
        batch = {0: Dim("batch", min=1, max=LARGEST_BATCH)} if self.any_batch else {}
        sides = {}
        if self.any_size:
            least, most = self.least // self.divisor, LARGEST_SIDE // self.divisor
            rows, columns = Dim("rows", min=least, max=most), Dim("columns", min=least, max=most)
            sides = {2: self.divisor * rows, 3: self.divisor * columns}
        shapes = {"images": {**batch, **sides}, "sizes": batch}
        return {**shapes, "offsets": batch} if config.image.padding_place == "center" else shapes


def told_by(about: Mapping[str, Any]) -> tuple[Config, Sizes]:
    """Return the configuration and the sizes that a file tells of itself, whatever its format.

    Raises:
        MaskRCNNError, ValueError, TypeError, KeyError, RecursionError: they cannot be.
    """
    config = Config.from_json(json.dumps(about["configuration"])).replace({"backbone_weights": None})
    return config, Sizes.told(about["sizes"])


def choose_sizes(
    config: Config, batch: int = 1, size: tuple[int, int] | None = None, dynamic: Dynamic = "size"
) -> Sizes:
    """Return the sizes that a file is exported for.

    Args:
        config: of the network.
        batch: images that go through it together.
        size: (height, width) of its input in pixels; by default one that holds every photo.
        dynamic: what may differ from these.

    Raises:
        InputError: a side is no multiple of `image.size_divisor`, too small or large, or not what photos are padded to.
    """
    divisor = config.image.size_divisor
    coarsest = 16 if config.fpn is None else 64  # pixels per cell; a map of one cell would be traced as a special case
    least = -(-(coarsest + 1) // divisor) * divisor
    if size is None:
        longest = max(least, -(-config.image.max_size // divisor) * divisor)
        size = (longest, longest)
        if dynamic in ("size", "both") and config.image.padding != "square":
            size = (max(least, -(-config.image.min_size // divisor) * divisor), longest)
    for name, side in zip(("height", "width"), size, strict=True):
        if side % divisor or not least <= side <= LARGEST_SIDE:
            raise InputError(
                f"The exported {name} must be a multiple of {divisor} (image.size_divisor) from {least} to "
                f"{LARGEST_SIDE // divisor * divisor}; got {side}. Near it lies {_near(side, divisor, least)}."
            )
    square = -(-config.image.max_size // divisor) * divisor if config.image.padding == "square" else None
    if square is not None and dynamic in ("batch", "none") and size != (square, square):
        raise InputError(
            f"The exported size must be {square}x{square}: it pads every photo to a square of image.max_size. "
            f"For {size[0]}x{size[1]} add --set image.padding=batch --set image.max_size={max(size)}."
        )
    if not 1 <= batch <= LARGEST_BATCH:
        raise InputError(f"The exported batch must be 1 to {LARGEST_BATCH} images; got {batch}.")
    return Sizes(batch, *size, dynamic, divisor, least)


def _near(side: int, divisor: int, least: int) -> int:
    return min(max(round(side / divisor) * divisor, least), LARGEST_SIDE // divisor * divisor)
