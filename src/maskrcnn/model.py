"""Mask R-CNN: read `MaskRCNN.forward` beside the paper's figure 1.

image ─► 1 backbone [+ FPN] ─► 2 RPN ─► proposals
                  │ features               │
                  └──────► 3 RoIAlign ◄────┘
                               │ crops
                               ▼
       4 heads: class · box · mask (· keypoints)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from maskrcnn.backbones import FPN, VGG, ResNet, SingleScale, Stage
from maskrcnn.config import Config, ResNetConfig
from maskrcnn.errors import ConfigError
from maskrcnn.heads import BoxHead, KeypointHead, MaskHead, SampledRoIs
from maskrcnn.heads.box import Found
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops import stand_ins
from maskrcnn.roi_align import FlatPyramid, RoIAlign, assign_levels
from maskrcnn.rpn import RPN
from maskrcnn.stages import is_recording, records_all_slots, stage
from maskrcnn.structures import DetectionBatch, Detections, ImageBatch, Losses, MaskForm, Target, TargetBatch
from maskrcnn.targets import check_batch

if TYPE_CHECKING:
    from maskrcnn.images import ImageLike
    from maskrcnn.inspection.trace import Trace
    from maskrcnn.prediction import Predictor

BUCKETS = (8, 16, 32, 64, 100)
"""Numbers of RoIs that the mask branch is run on where padding would cost time."""


class MaskRCNN(nn.Module):
    """Faster R-CNN with a mask branch (He et al. 2017), on VGG or ResNet, plain or with FPN.

    Example:
        >>> config = Config.preset("resnet18-fpn", class_names=["cat", "dog"])
        >>> model = MaskRCNN(config).eval()
        >>> out = model(torch.zeros(1, 3, 128, 128))
        >>> out.boxes.shape, out.mask_logits.shape[:2]
        (torch.Size([1, 100, 4]), torch.Size([1, 100]))
    """

    def __init__(self, config: Config) -> None:
        if not isinstance(config, Config):
            raise ConfigError(
                f"MaskRCNN takes a Config; got {type(config).__name__}. Config.preset(name, class_names=[…]) makes one."
            )
        super().__init__()
        start = None
        if config.backbone_weights is not None:
            from maskrcnn.weights import classifiers

            source, start = config.backbone_weights, classifiers.read_backbone(config)
            config = start.config
        self.config = config
        resnet = config.backbone if isinstance(config.backbone, ResNetConfig) else None
        c5_network = resnet is not None and resnet.dilate_c5
        c4_network = resnet is not None and config.fpn is None and not c5_network
        build = VGG if resnet is None else ResNet
        last_stage = 4 if config.fpn is None and not c5_network else 5
        self.backbone = build(config.backbone, last_stage)  # type: ignore[arg-type]
        channels = self.backbone.channels
        single = SingleScale(channels, "c5" if c5_network else "c4")
        self.fpn = single if config.fpn is None else FPN(config.fpn, channels)
        corners = config.box_corners
        self.rpn = RPN(config.rpn, config.anchors, self.fpn.channels, self.fpn.strides, corners)
        self.box_roi_align = RoIAlign(config.roi_align, config.box.pool_size, corners)
        self.stage5 = Stage(config.backbone, 5) if c4_network else nn.Identity()  # type: ignore[arg-type]
        crop_channels = getattr(self.stage5, "channels", self.fpn.channels)
        crop_size = -(-config.box.pool_size // 2) if c4_network else config.box.pool_size
        self.box_head = BoxHead(config.box, crop_channels, crop_size, config.num_classes, corners)
        if config.masks:
            self.mask_roi_align = RoIAlign(config.roi_align, config.mask.pool_size, corners)
            self.mask_head = MaskHead(config.mask, crop_channels, config.num_classes)
        if config.keypoint_names:
            self.keypoint_roi_align = RoIAlign(config.roi_align, config.keypoint.pool_size, corners)
            self.keypoint_head = KeypointHead(config.keypoint, crop_channels, len(config.keypoint_names))
        self._freeze()
        if start is not None:
            classifiers.fill(self, start, source)

    @overload
    def forward(self, images: Tensor | ImageBatch, targets: None = None) -> DetectionBatch: ...

    @overload
    def forward(self, images: Tensor | ImageBatch, targets: TargetBatch) -> Losses: ...

    def forward(self, images: Tensor | ImageBatch, targets: TargetBatch | None = None) -> DetectionBatch | Losses:
        """Return detections; with targets, losses: what is passed decides, not train or eval mode.

        Args:
            images: prepared images, [N, 3, H, W] with sides that are multiples of the configuration's
                `image.size_divisor`, or an `ImageBatch`, which also tells where padding begins.
            targets: ground truth in the input frame.

        Raises:
            InputError: images or targets have another shape or type, or do not fit each other.
        """
        images, targets = self._checked(images, targets)
        features = self.fpn(self.backbone(images.tensor))  # 1 backbone
        rpn = self.rpn(features, images, training=targets is not None)  # 2 RPN
        proposals = self.rpn.propose(rpn, images, training=targets is not None)
        pyramid = self.pyramid(features)
        if targets is None:
            found = self.box_head.detections(*self.boxes(pyramid, proposals.boxes), proposals, images)  # 3, 4
            masks, keypoints = self._masks_of(pyramid, found), self._keypoints_of(pyramid, found)
            return DetectionBatch(found.boxes, found.labels, found.scores, masks, found.valid, keypoints)
        rois = self.box_head.sample(proposals, targets)
        box_losses = self.box_head.losses(*self.boxes(pyramid, rois.boxes), rois, targets)
        losses = Losses(*self.rpn.losses(rpn, targets), *box_losses, *self._foreground_losses(pyramid, rois, targets))
        if is_recording():
            stage("loss", losses.total)
        return losses

    def boxes(
        self, pyramid: FlatPyramid, rois: Float[Tensor, "N R 4"]
    ) -> tuple[Float[Tensor, "NR K1"], Float[Tensor, "NR Kb 4"]]:
        """Return class logits and box deltas of every RoI: parts 3 and 4 for classes and boxes."""
        levels = stage("roi_levels", assign_levels(rois, pyramid.strides, self.config.roi_align))
        crops = stage("box_features", self.box_roi_align(pyramid, rois, levels))
        class_logits, box_deltas = self.box_head(self.stage5(crops))
        return stage("class_logits", class_logits), stage("box_deltas", box_deltas)

    def masks(
        self, pyramid: FlatPyramid, rois: Float[Tensor, "N R 4"], labels: Int64[Tensor, "N R"]
    ) -> Float[Tensor, "NR M M"]:
        """Return mask logits of every RoI for its class: parts 3 and 4 for masks."""
        levels = stage("mask_roi_levels", assign_levels(rois, pyramid.strides, self.config.roi_align))
        crops = stage("mask_features", self.mask_roi_align(pyramid, rois, levels))
        return self.mask_head(self.stage5(crops), labels.flatten())

    def keypoints(self, pyramid: FlatPyramid, rois: Float[Tensor, "N R 4"]) -> Float[Tensor, "NR Kp S S"]:
        """Return heatmap logits of every RoI and keypoint: parts 3 and 4 for keypoints."""
        levels = assign_levels(rois, pyramid.strides, self.config.roi_align)
        crops = stage("keypoint_features", self.keypoint_roi_align(pyramid, rois, levels))
        return stage("keypoint_logits", self.keypoint_head(self.stage5(crops)))

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        score_threshold: float = 0.5,
        batch_size: int = 1,
        masks: MaskForm = "pixels",
    ) -> list[Detections]:
        """Return what is found in each image: paths, PIL images, uint8 arrays [H, W, 3] or tensors, of any size.

        Runs in inference mode on the model's device, with the weights as they are. What scores less than the
        configuration's `box.score_threshold` is not found at any `score_threshold`. With `masks="rle"` the
        `Detections` hold COCO's run lengths, `rles`, in place of `masks`: a hundred masks of a large photo take
        gigabytes as pixels.

        Raises:
            ImageFileError: a file is missing, truncated or not an image.
            InputError: an array or tensor is not an image, or a number is out of range; the message says what to do.

        Example:
            >>> import numpy as np
            >>> model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"]))
            >>> [found] = model.predict(np.zeros((120, 160, 3), np.uint8))
            >>> found.image_size
            (120, 160)
        """
        from maskrcnn.prediction import predict

        return predict(self, images, score_threshold, batch_size, masks)

    def trace(
        self,
        image: ImageLike,
        stages: Sequence[str] | None = None,
        targets: Target | Mapping[str, Any] | None = None,
    ) -> Trace:
        """Return the named tensors of a run on one image; `print` of it is a table.

        The run is a normal one, in inference mode, with the weights as they are; its numbers are those of `predict`.

        Args:
            image: as for `predict`.
            stages: names or globs of stages (`p2`, `proposals`, `rpn_*`), modules (`backbone.layer3.5.conv2`)
                or Matterport's names (`fpn_p6`); all stages by default.
            targets: ground truth in the frame of the photo. With it the run is one of training: it ends in losses,
                and has matched_gt, sampled_rois and mask_targets among its stages. What is drawn at random is drawn
                with the same numbers each time.

        Raises:
            InputError: there is no stage or module of a name, or image or targets are wrong.
            ImageFileError: the file is missing, truncated or not an image.

        Example:
            >>> import numpy as np
            >>> model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"]))
            >>> model.trace(np.zeros((120, 160, 3), np.uint8), ["p6"]).shape_of("p6")
            'N 1 × C 64 × H 5 × W 7'
        """
        from maskrcnn.inspection.trace import trace

        return trace(self, image, stages, targets)

    def optimize(self, dtype: str = "auto", compile: bool = True) -> Predictor:
        """Return a copy of the network that predicts faster on its device, and does nothing else.

        Batch norms become part of convolutions and feature maps lie channels last. A compiled program is kept on disk
        and serves every network of the same configuration, whatever its weights and the sizes of photos.

        Args:
            dtype: what the convolutions compute with. `float32`: what the network finds as it is, scores to 1e-4.
                `bfloat16`: scores and boxes change in the third digit. `auto`: bfloat16 where the processor has it.
            compile: False runs the optimized network eagerly. Where nothing can be compiled, as without a C++ compiler,
                that happens by itself, with a warning.

        Raises:
            InputError: there is no such dtype.

        Example:
            >>> import numpy as np
            >>> model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"]))
            >>> fast = model.optimize("float32", compile=False)
            >>> [found] = fast.predict(np.zeros((120, 160, 3), np.uint8))
            >>> found.image_size
            (120, 160)
        """
        from maskrcnn.optimized import optimize

        return optimize(self, dtype, compile)

    def save(self, path: str | Path) -> None:
        """Write weights, configuration and class names into one safetensors file, atomically."""
        from maskrcnn.weights import save

        save(self, path)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype

    def _checked(
        self, images: Tensor | ImageBatch, targets: TargetBatch | None
    ) -> tuple[ImageBatch, TargetBatch | None]:
        """Return checked input, the boxes with the corners that the network works with."""
        batch = ImageBatch.of(images, self.config.image)
        if targets is not None:
            config = self.config
            check_batch(targets, batch, config.num_classes, config.masks, len(config.keypoint_names))
            if self.config.box_corners == "centers":
                targets = targets._replace(boxes=box_ops.move_ends(targets.boxes, -1.0))
        if is_recording():
            stage("image", batch.tensor)
            stage("image_meta", batch.meta(self.config.num_classes))
        return batch, targets

    def pyramid(self, features: Mapping[str, Float[Tensor, "N C _H _W"]]) -> FlatPyramid:
        """Return the levels that RoIs are cut from: all but p6."""
        names = [name for name in features if name != "p6"]
        return FlatPyramid.of([features[n] for n in names], [self.fpn.strides[n] for n in names])

    def _masks_of(self, pyramid: FlatPyramid, found: Found) -> Float[Tensor, "N D M M"]:
        """Return the mask logits of each detection's own class; 0 × 0 without a mask head."""
        if not self.config.masks:
            return found.boxes.new_zeros(*found.boxes.shape[:2], 0, 0)
        boxes = _filled(found)
        run = boxes.shape[1]
        return _in_slots(self.masks(pyramid, boxes, found.labels[:, :run]), run, found.valid)

    def _keypoints_of(self, pyramid: FlatPyramid, found: Found) -> Float[Tensor, "N D Kp S S"]:
        """Return the heatmaps of each detection; 0 × 0 × 0 without a keypoint head."""
        if not self.config.keypoint_names:
            return found.boxes.new_zeros(*found.boxes.shape[:2], 0, 0, 0)
        boxes = _filled(found)
        return _in_slots(self.keypoints(pyramid, boxes), boxes.shape[1], found.valid)

    def _foreground_losses(
        self, pyramid: FlatPyramid, rois: SampledRoIs, targets: TargetBatch
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the losses on masks and keypoints of the positive RoIs, which stand in the first slots."""
        if not self.config.masks and not self.config.keypoint_names:
            return rois.boxes.new_zeros(()), rois.boxes.new_zeros(())
        matching = self.config.box.matching
        slots = max(int(matching.samples_per_image * matching.positive_fraction), 1)
        run = _bucket(rois.positive[:, :slots])
        foreground = SampledRoIs(*(t[:, :run] for t in rois))
        whole = foreground  # masks and keypoints know whole pixels
        if self.config.box_corners == "centers":
            whole = foreground._replace(boxes=box_ops.move_ends(foreground.boxes, 1.0))
        mask, keypoint = rois.boxes.new_zeros(()), rois.boxes.new_zeros(())
        if self.config.masks:
            logits = self.masks(pyramid, foreground.boxes, box_ops.gather_rows(targets.labels, foreground.matched_gt))
            mask = self.mask_head.loss(logits, whole, targets, self.config.roi_align.aligned)
        if self.config.keypoint_names:
            keypoint = self.keypoint_head.loss(self.keypoints(pyramid, foreground.boxes), whole, targets)
        return mask, keypoint

    def _frozen(self) -> Iterator[nn.Module]:
        """Yield the modules of the stages that are not trained."""
        stages = self.backbone.stages()
        if isinstance(self.stage5, Stage):  # C4: the fifth stage is the head
            stages.append([self.stage5])
        for modules in stages[: self.config.backbone.frozen_stages]:
            yield from modules

    def _freeze(self) -> None:
        for module in self._frozen():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> MaskRCNN:
        """Set train mode, except for BatchNorm in frozen stages and behind RoIAlign: that keeps its statistics.

        Among the RoIs there are slots without one, which must not enter a mean.
        """
        super().train(mode)
        for module in self._frozen():
            module.eval()
        heads = [self.stage5, self.box_head, *([self.mask_head] if self.config.masks else [])]
        for module in (m for head in heads for m in head.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            module.eval()
        return self


def _filled(found: Found) -> Float[Tensor, "N run 4"]:
    """Return the boxes of the first slots, as many as masks are worth computing for."""
    if stand_ins.exporting():
        return stand_ins.filled_slots(found.boxes, found.valid)
    return found.boxes[:, : _bucket(found.valid, all_slots=records_all_slots())]


def _bucket(valid: Bool[Tensor, "N R"], all_slots: bool = False) -> int:
    """Return how many of the R slots to run: all, or on an eager CPU the smallest bucket that holds the valid.

    Valid slots must stand in front. A CPU waits for nothing to look at the values; a GPU would. Training never asks
    for all: more rows in a sum round otherwise, and a run that is traced now and then would drift from one that is not.
    """
    slots = valid.shape[1]
    if torch.compiler.is_compiling() or valid.device.type != "cpu" or all_slots:
        return slots
    needed = int(valid.sum(1).max())
    return min(next((b for b in BUCKETS if b >= needed), slots), slots)


def _in_slots(rows: Float[Tensor, "NR *rest"], run: int, valid: Bool[Tensor, "N D"]) -> Float[Tensor, "N D *rest"]:
    """Return what a head gave for the first `run` slots of each image, 0 in slots that are not valid."""
    slots = rows.reshape(valid.shape[0], run, *rows.shape[1:])
    slots = torch.where(valid[:, :run].reshape(*slots.shape[:2], *[1] * (slots.dim() - 2)), slots, 0.0)
    return nn.functional.pad(slots, (0, 0) * (slots.dim() - 2) + (0, valid.shape[1] - run))
