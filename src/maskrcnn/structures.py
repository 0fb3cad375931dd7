"""The types that cross the network's doors: batches inside it, one object per image outside.

Inside, everything has a fixed shape, so that one program serves eager, compiled and exported runs:
a batch of images is one tensor, and what differs in number from image to image is padded and marked
by a boolean `valid`. Outside, `Target` is what a data set gives and `Detections` what `predict` returns.

Letters used in all shape annotations of the package:

    N images · C channels · H, W height and width · A anchors · L pyramid levels · P proposals ·
    S sampled RoIs · F foreground RoIs · R regions of interest, any kind · D detections ·
    G ground truths · K classes (background not counted; K1 = K + 1 with it) · M mask side

Boxes are always (x1, y1, x2, y2), absolute pixels, half-open: width = x2 − x1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from maskrcnn.config import ImageConfig
from maskrcnn.errors import InputError
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.rle import RLE, decode_rles

MaskForm: TypeAlias = Literal["pixels", "rle"]
"""How masks are wanted: bool tensors of the photo's size, or COCO's run lengths, a thousandth of that."""


class ImageBatch(NamedTuple):
    """Images as the network sees them: resized, normalised, padded to one size.

    `sizes` is the (height, width) that the image itself fills, in pixels of the input frame, from
    `offsets` on; the rest of each tensor is padding. `original_sizes` is (height, width) of the photo.
    """

    tensor: Float[Tensor, "N 3 H W"]
    sizes: Int64[Tensor, "N 2"]
    original_sizes: Int64[Tensor, "N 2"]
    offsets: Int64[Tensor, "N 2"] | None = None
    """(y, x) of the image's first pixel; None where all images begin at the top left."""

    @property
    def starts(self) -> Int64[Tensor, "N 2"]:
        """Return (y, x) of the image's first pixel."""
        return torch.zeros_like(self.sizes) if self.offsets is None else self.offsets

    def windows(self, of: Literal["image", "input"] = "image") -> Int64[Tensor, "N 4"]:
        """Return the edges (x1, y1, x2, y2) of each image in the input frame, or those of the padded input."""
        if of == "image":
            starts = self.starts
            return torch.cat((starts.flip(-1), (starts + self.sizes).flip(-1)), dim=1)
        height, width = self.tensor.shape[-2:]
        return box_ops.vector((0, 0, width, height), self.sizes.device).expand(self.sizes.shape[0], 4)

    @classmethod
    def of(cls, images: Tensor | ImageBatch, config: ImageConfig) -> ImageBatch:
        """Return a prepared tensor as a batch without padding; a batch as it is, once checked.

        Raises:
            InputError: the tensor is not [N, 3, H, W] of floating point, a side is not a multiple of
                `size_divisor`, or (seen on an eager CPU alone) the values are far from normalised.
        """
        batch = images if isinstance(images, ImageBatch) else None
        tensor = images.tensor if isinstance(images, ImageBatch) else images
        if not isinstance(tensor, Tensor) or tensor.dim() != 4 or tensor.shape[1] != 3:
            got = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InputError(
                f"images must be a prepared tensor [N, 3, H, W] or an ImageBatch; got {got}. For photos, use "
                "model.predict(photos), or images.prepare(photos, model.config.image)."
            )
        if not tensor.is_floating_point():
            raise InputError(
                f"images must be normalised floating point; got {tensor.dtype}. images.prepare does that for photos."
            )
        if not torch.compiler.is_compiling() and tensor.device.type == "cpu" and tensor.numel():
            _check_range(tensor, config)
        count, _, height, width = tensor.shape
        size_divisor = config.size_divisor
        if not count:
            raise InputError("images must hold at least one image; got none.")
        if height % size_divisor or width % size_divisor:
            raise InputError(
                f"images must have sides that are multiples of {size_divisor} (image.size_divisor); got "
                f"{height} × {width}. images.prepare pads them."
            )
        if batch is None:
            sizes = box_ops.vector((height, width), tensor.device).expand(count, 2)
            return cls(tensor, sizes, sizes)
        pairs = {"sizes": batch.sizes, "original_sizes": batch.original_sizes, "offsets": batch.starts}
        for name, pair in pairs.items():
            got = list(pair.shape)
            if got != [count, 2]:
                what = "(y, x)" if name == "offsets" else "(height, width)"
                raise InputError(f"images.{name} must be [{count}, 2], {what} of each image; got {got}.")
        return batch

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ImageBatch:
        """Return the batch on another device, its pixels as another type if wished."""
        tensor = self.tensor.to(device, dtype, non_blocking=True)
        sizes, original_sizes, starts = (
            t.to(device, non_blocking=True) for t in (self.sizes, self.original_sizes, self.starts)
        )
        return ImageBatch(tensor, sizes, original_sizes, None if self.offsets is None else starts)

    def meta(self, num_classes: int) -> Float[Tensor, "N _"]:
        """Return what Matterport calls `input_image_meta`, 12 + K + 1 numbers for each image.

        They are: id (0), height, width and channels of the photo, the same of the padded input, the part that
        the image fills (y1, x1, y2, x2; input frame), the scale along y, and a flag for each class (0).
        """
        count, channels, height, width = self.tensor.shape
        meta = torch.zeros(count, 13 + num_classes, device=self.tensor.device)
        meta[:, 1:3], meta[:, 3] = self.original_sizes, channels
        meta[:, 4], meta[:, 5], meta[:, 6] = height, width, channels
        meta[:, 7:9], meta[:, 9:11] = self.starts, self.starts + self.sizes
        meta[:, 11] = self.sizes[:, 0] / self.original_sizes[:, 0]
        return meta


def _check_range(tensor: Float[Tensor, "N 3 H W"], config: ImageConfig) -> None:
    """Raise `InputError` for pixels of 0 to 255 where normalised ones are far smaller."""
    extremes = [
        (v * config.pixel_scale - m) / s for v in (0, 255) for m, s in zip(config.mean, config.std, strict=True)
    ]
    lowest, highest = (float(v) for v in tensor.aminmax())
    if not max(-lowest, highest) <= 10 * max(map(abs, extremes)):
        raise InputError(
            f"images must be normalised, to about {min(extremes):.1f} … {max(extremes):.1f}; got values from "
            f"{lowest:.4g} to {highest:.4g}. images.prepare normalises photos, whose values are 0 to 255."
        )


class TargetBatch(NamedTuple):
    """Ground truth of a batch, padded to the same number G of objects per image (at least 1).

    `boxes` and `masks` are in the input frame. `masks` has height and width 0 for a network without masks.
    """

    boxes: Float[Tensor, "N G 4"]
    labels: Int64[Tensor, "N G"]
    masks: Bool[Tensor, "N G Hm Wm"]
    valid: Bool[Tensor, "N G"]
    keypoints: Float[Tensor, "N G Kp 3"] | None = None
    """(x, y, visibility) in the input frame, for a network with a keypoint head."""

    def to(self, device: torch.device | str) -> TargetBatch:
        """Return the batch on another device."""
        return TargetBatch(*(None if t is None else t.to(device, non_blocking=True) for t in self))  # type: ignore[arg-type]


class Proposals(NamedTuple):
    """Class-agnostic boxes from the RPN, best first, input frame; padded with zeros where not `valid`."""

    boxes: Float[Tensor, "N P 4"]
    scores: Float[Tensor, "N P"]
    valid: Bool[Tensor, "N P"]


class DetectionBatch(NamedTuple):
    """Detections of a batch, best first, padded where not `valid`; boxes in the input frame.

    `mask_logits` is the mask of the detected class, still M × M in the frame of its box; 0 × 0 without a mask head.
    """

    boxes: Float[Tensor, "N D 4"]
    labels: Int64[Tensor, "N D"]
    scores: Float[Tensor, "N D"]
    mask_logits: Float[Tensor, "N D M M"]
    valid: Bool[Tensor, "N D"]
    keypoint_logits: Float[Tensor, "N D Kp S S"]
    """Heatmaps of each detection's keypoints in the frame of its box; 0 × 0 × 0 without a keypoint head."""


class Losses(NamedTuple):
    """The losses of the papers, each a scalar; a network without masks or keypoints gives a zero for them."""

    rpn_objectness: Float[Tensor, ""]
    rpn_box: Float[Tensor, ""]
    class_: Float[Tensor, ""]
    box: Float[Tensor, ""]
    mask: Float[Tensor, ""]
    keypoint: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Return the sum, unweighted as in the papers (Mask R-CNN, section 3)."""
        return self.rpn_objectness + self.rpn_box + self.class_ + self.box + self.mask + self.keypoint

    def named(self) -> dict[str, Tensor]:
        """Return the losses by the names that logs use."""
        return {name.rstrip("_"): value for name, value in self._asdict().items()}


@dataclass
class Target:
    """The ground truth of one image, in the frame of the original photo.

    `crowd` marks regions that hold many objects: they are left out of training, and in evaluation
    what falls on them counts neither way. `area` is what an annotation file says of the object's size
    in pixels, for the small/medium/large figures of COCO; without it the mask's own area is used. `keypoints`
    are (x, y, visibility), x and y as in COCO's files, where pixels are counted from 0; visibility is 0 for not
    labelled, 1 for hidden, 2 for visible.
    """

    boxes: Float[Tensor, "G 4"]
    labels: Int64[Tensor, " G"]
    masks: Bool[Tensor, "G H W"] | None = None
    crowd: Bool[Tensor, " G"] | None = None
    area: Float[Tensor, " G"] | None = None
    keypoints: Float[Tensor, "G Kp 3"] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def without_crowds(self) -> Target:
        """Return the target without its crowd regions."""
        return self if self.crowd is None else self.select(~self.crowd)

    def select(self, index: Tensor) -> Target:
        """Return the objects that a boolean mask or an index tensor picks."""
        return Target(**{f.name: _pick(getattr(self, f.name), index) for f in fields(self)})


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best first, in the frame of the original photo.

    Behaves like a sequence: `len`, iteration, and indexing by a number, a slice, a boolean mask or an
    index tensor all give `Detections` again.

    Example:
        >>> d = Detections.empty(image_size=(480, 640), class_names=("cat", "dog"))
        >>> len(d), d.boxes.shape, d.masks.shape
        (0, torch.Size([0, 4]), torch.Size([0, 480, 640]))
    """

    boxes: Float[Tensor, "D 4"]
    labels: Int64[Tensor, " D"]
    scores: Float[Tensor, " D"]
    masks: Bool[Tensor, "D H W"] | None
    image_size: tuple[int, int]
    class_names: tuple[str, ...] = field(default=(), repr=False)
    keypoints: Float[Tensor, "D Kp 3"] | None = None
    """(x, y, score) of each keypoint."""
    keypoint_names: tuple[str, ...] = field(default=(), repr=False)
    skeleton: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    """Pairs of keypoints that pictures join by a line."""
    keypoint_scores: Literal["logit", "softmax"] = field(default="softmax", repr=False)
    """What the scores of keypoints mean, see `KeypointHeadConfig.scores`."""
    rles: tuple[RLE, ...] | None = field(default=None, repr=False)
    """The masks as COCO's run lengths, where they were asked for in this form; `masks` is None then."""

    def __post_init__(self) -> None:
        n = len(self.boxes)
        wanted = {"boxes": (n, 4), "labels": (n,), "scores": (n,), "masks": (n, *self.image_size)}
        if self.keypoints is not None:
            wanted["keypoints"] = (n, len(self.keypoint_names) or self.keypoints.shape[1], 3)
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise InputError(
                    f"Detections.{name} must have shape {list(shape)} for {n} boxes in an image of "
                    f"{self.image_size[0]} × {self.image_size[1]} pixels; got {list(value.shape)}."
                )
        if self.rles is not None and [r["size"] for r in self.rles] != [[*self.image_size]] * n:
            sizes = ", ".join(sorted({str(r["size"]) for r in self.rles}))
            raise InputError(
                f"Detections.rles must be {n} of size {[*self.image_size]}, one for each box; got {len(self.rles)}"
                f"{f' of size {sizes}' if sizes else ''}."
            )

    @classmethod
    def empty(cls, image_size: tuple[int, int], class_names: tuple[str, ...] = ()) -> Detections:
        """Return no detections for an image of (height, width)."""
        return cls(
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            scores=torch.zeros(0),
            masks=torch.zeros(0, *image_size, dtype=torch.bool),
            image_size=image_size,
            class_names=class_names,
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: SupportsIndex | slice | Tensor | np.ndarray | Sequence[int]) -> Detections:
        places = _places(index, len(self))
        picked = {name: _pick(getattr(self, name), places) for name in _PER_DETECTION}
        rles = None if self.rles is None else tuple(self.rles[i] for i in places.tolist())
        return replace(self, **picked, rles=rles)

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))

    @property
    def names(self) -> list[str]:
        """The class name of each detection; where none is known, "class" and the label."""
        known = self.class_names
        return [known[i] if 0 <= i < len(known) else f"class {i}" for i in self.labels.tolist()]

    def with_masks(self) -> Detections:
        """Return the detections with `masks` as pixels, drawn from `rles` if they are held so.

        Of a large photo draw a few at a time: `found[3].with_masks().masks`.
        """
        if self.rles is None:
            return self
        return replace(self, masks=decode_rles(self.rles, *self.image_size), rles=None)

    def above(self, score: float) -> Detections:
        """Return the detections whose score is at least `score`."""
        return self[self.scores >= score]

    def __repr__(self) -> str:
        height, width = self.image_size
        found = ", ".join(f"{n} {s:.2f}" for n, s in zip(self.names[:5], self.scores.tolist(), strict=False))
        more = ", …" if len(self) > 5 else ""
        return f"Detections({len(self)} in {width} × {height}{': ' if found else ''}{found}{more})"


_PER_DETECTION = ("boxes", "labels", "scores", "masks", "keypoints")


def _places(index: Any, count: int) -> Int64[Tensor, " n"]:
    """Return the places in a sequence of `count` that an index of any kind picks."""
    if isinstance(index, slice):
        return torch.tensor(range(*index.indices(count)), dtype=torch.int64)
    tensor = index if isinstance(index, Tensor) else torch.from_numpy(np.array(index))
    if tensor.dtype == torch.bool:
        if tuple(tensor.shape) != (count,):
            raise IndexError(f"a mask of {list(tensor.shape)} for {count} detections")
        return tensor.nonzero()[:, 0]
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
        raise IndexError(f"detections are picked by whole numbers; got {tensor.dtype}")
    places = tensor.long().reshape(-1)
    wrong = places[(places < -count) | (places >= count)]
    if len(wrong):
        raise IndexError(f"detection {int(wrong[0])} of {count}")
    return places % max(count, 1)


def _pick(value: Shaped[Tensor, "..."] | None, index: Any) -> Any:
    return None if value is None else value[index]
