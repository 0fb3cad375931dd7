"""From photos to detections in the photos' own frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from maskrcnn.config import BoxCorners, Config
from maskrcnn.errors import InputError
from maskrcnn.images import ImageLike, prepare
from maskrcnn.memory import memory_explained
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.keypoints import read_heatmaps
from maskrcnn.ops.masks import paste_masks
from maskrcnn.ops.rle import RLE, paste_rles
from maskrcnn.stages import stage
from maskrcnn.structures import DetectionBatch, Detections, ImageBatch, MaskForm

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN


class Predictor(ABC):
    """A network as `predict` and `evaluate` know it: one that is not a `MaskRCNN` itself but optimized or exported.

    It differs from `MaskRCNN` in how it runs and in the sizes of input that it takes; what is done with photos
    before and with detections after is the same.
    """

    config: Config

    @abstractmethod
    def detect(self, images: ImageBatch) -> DetectionBatch:
        """Return what is found in prepared images; boxes in the input frame.

        Raises:
            InputError: their size or number is one that it cannot run.
        """

    def prepare(self, photos: Sequence[ImageLike], first: int = 0) -> ImageBatch:
        """Return photos as the network wants them; see `images.prepare`."""
        return prepare(photos, self.config.image, first)

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        score_threshold: float = 0.5,
        batch_size: int = 1,
        masks: MaskForm = "pixels",
    ) -> list[Detections]:
        """Return what is found in each image, as `MaskRCNN.predict` does."""
        check_mask_form(masks)
        return in_batches(
            lambda photos, first: self.found_in(photos, first, score_threshold, masks),
            images,
            score_threshold,
            batch_size,
        )

    def found_in(
        self, photos: Sequence[ImageLike], first: int, score_threshold: float, masks: MaskForm
    ) -> list[Detections]:
        """Return what is found in the photos of one batch, whose first has the number `first` in messages."""
        batch = self.prepare(photos, first)
        return unbatch(self.detect(batch), batch, self.config, score_threshold, masks)


def predict(
    model: MaskRCNN,
    images: ImageLike | Sequence[ImageLike],
    score_threshold: float,
    batch_size: int,
    masks: MaskForm = "pixels",
) -> list[Detections]:
    """Return the detections of each image; see `MaskRCNN.predict`."""

    def run(photos: Sequence[ImageLike], first: int) -> list[Detections]:
        batch = prepare(photos, model.config.image, first).to(model.device, model.dtype)
        count, _, height, width = batch.tensor.shape
        with memory_explained(model.device, count, (height, width), probe):
            found = model(batch)
        return unbatch(found, batch, model.config, score_threshold, masks)

    def probe(side: int) -> None:
        side = -(-side // model.config.image.size_divisor) * model.config.image.size_divisor
        model(torch.zeros(1, 3, side, side, device=model.device, dtype=model.dtype))

    check_mask_form(masks)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return in_batches(run, images, score_threshold, batch_size)
    finally:
        model.train(was_training)


def in_batches(
    run: Callable[[Sequence[ImageLike], int], list[Detections]],
    images: ImageLike | Sequence[ImageLike],
    score_threshold: float,
    batch_size: int,
) -> list[Detections]:
    """Return what `run` finds in images, given to it a batch at a time with the number of its first image.

    Raises:
        InputError: score_threshold or batch_size is out of range.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1; got {batch_size}.")
    if not 0 <= score_threshold <= 1:
        raise InputError(f"score_threshold must be 0 to 1; got {score_threshold}.")
    several: Sequence[ImageLike] = list(images) if isinstance(images, (list, tuple)) else [images]  # type: ignore[list-item]
    found: list[Detections] = []
    for start in range(0, len(several), batch_size):
        found += run(several[start : start + batch_size], start)
    return found


def check_mask_form(masks: object) -> None:
    """Raise `InputError` unless masks are wanted in a form that there is."""
    if masks not in get_args(MaskForm):
        raise InputError(f"masks must be {' or '.join(map(repr, get_args(MaskForm)))}; got {masks!r}.")


def unbatch(
    detections: DetectionBatch,
    images: ImageBatch,
    config: Config,
    score_threshold: float = 0.0,
    masks: MaskForm = "pixels",
) -> list[Detections]:
    """Return one `Detections` per image, on the CPU, in the frame of the original photo, with masks pasted."""
    boxes = _in_photos(detections.boxes, images, config.box_corners)
    if config.box.round_boxes:
        boxes = boxes.round()
    keep = detections.valid & (detections.scores >= score_threshold) & box_ops.large_enough(boxes, 0.0)
    starts, scale = images.starts.flip(-1), (images.original_sizes / images.sizes).flip(-1)  # x, y
    found = []
    for n, (height, width) in enumerate(images.original_sizes.tolist()):
        chosen = keep[n]
        pixels: Tensor | None = None
        rles: list[RLE] | None = None
        if config.masks:
            probabilities = detections.mask_logits[n, chosen].sigmoid()
            rule, threshold = config.mask.paste, config.mask.threshold
            # The rule was written for corners that name the last pixel.
            ends = -1.0 if config.box_corners == "inclusive" else 0.0
            laid = box_ops.move_ends(boxes[n, chosen], ends)
            if masks == "rle":
                rles = paste_rles(probabilities, laid, (height, width), rule, threshold)
            else:
                pixels = stage("masks", paste_masks(probabilities, laid, (height, width), rule, threshold)).cpu()
        keypoints: Tensor | None = None
        if config.keypoint_names:
            # The head learns in whole pixels, see MaskRCNN's losses.
            ends = 1.0 if config.box_corners == "centers" else 0.0
            logits, rois = detections.keypoint_logits[n, chosen], box_ops.move_ends(detections.boxes[n, chosen], ends)
            keypoints = read_heatmaps(logits.float(), rois.float(), config.keypoint.scores)
            keypoints[..., :2] = (keypoints[..., :2] - starts[n]) * scale[n]
            stage("keypoints", keypoints)
        found.append(
            Detections(
                boxes=boxes[n, chosen].cpu(),
                labels=detections.labels[n, chosen].cpu(),
                scores=detections.scores[n, chosen].cpu(),
                masks=pixels,
                rles=None if rles is None else tuple(rles),
                image_size=(height, width),
                class_names=config.class_names,
                keypoints=None if keypoints is None else keypoints.cpu(),
                keypoint_names=config.keypoint_names,
                keypoint_scores=config.keypoint.scores,
                skeleton=config.keypoint.skeleton if config.keypoint_names else (),
            )
        )
    return found


def _in_photos(boxes: Float[Tensor, "N D 4"], images: ImageBatch, corners: BoxCorners) -> Float[Tensor, "N D 4"]:
    """Return boxes of the input frame in the frame of the photos, as edges, clipped."""
    photos = torch.cat((torch.zeros_like(images.original_sizes), images.original_sizes.flip(-1)), dim=1)
    return box_ops.clip(to_photos(boxes, images, corners), photos, "edges")


def to_photos(boxes: Float[Tensor, "N D 4"], images: ImageBatch, corners: BoxCorners) -> Float[Tensor, "N D 4"]:
    """Return boxes of the input frame in the frame of the photos, as edges; they may reach over the border.

    Args:
        boxes: as the network has them, with corners as `corners` says.
        images: the batch that they were found in.
        corners: `Config.box_corners`.
    """
    ends = 0.0 if corners == "edges" else -1.0
    last = 1 if corners == "centers" else 0  # corner to corner, or centre of the first pixel to that of the last
    scale = (images.original_sizes - last) / (images.sizes - last).clamp(min=1)
    starts = images.starts.flip(-1).repeat(1, 2)[:, None]
    moved = box_ops.move_ends(boxes, ends if corners == "inclusive" else 0.0) - starts
    return box_ops.move_ends(moved * scale.flip(-1).repeat(1, 2)[:, None], -ends)
