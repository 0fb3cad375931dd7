"""The network cut once, after the class and box heads: read both halves beside `MaskRCNN.forward`.

Between them the number of detections is known, so that the mask branch runs on as many RoIs as there are.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from maskrcnn.export.graph import Sizes
from maskrcnn.heads.box import Found
from maskrcnn.model import MaskRCNN
from maskrcnn.structures import ImageBatch

FOUND = Found._fields


class FirstHalf(nn.Module):
    """From prepared images to boxes, and the maps that masks are cut out of."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model
        self.maps = [name for name in model.fpn.strides if name != "p6"]
        self.outputs = [*FOUND, *self.maps]

    def forward(
        self, images: Float[Tensor, "N 3 H W"], sizes: Int64[Tensor, "N 2"], offsets: Int64[Tensor, "N 2"] | None = None
    ) -> tuple[Tensor, ...]:
        """Return what `outputs` names: the fields of `Found`, then maps, finest first."""
        model, batch = self.model, ImageBatch(images, sizes, sizes, offsets)
        features = model.fpn(model.backbone(images))
        proposals = model.rpn.propose(model.rpn(features, batch), batch, training=False)
        pyramid = model.pyramid(features)
        found = model.box_head.detections(*model.boxes(pyramid, proposals.boxes), proposals, batch)
        return *found, *(features[name] for name in self.maps)

    def sample(self, sizes: Sizes) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """Return inputs to trace the half with, and which of their sizes may differ."""
        config, like = self.model.config, next(self.parameters())
        images, *others = sizes.example(config)
        images = images.to(like.dtype, memory_format=torch.channels_last)
        return (images, *others), sizes.dynamic_shapes(config)


class SecondHalf(nn.Module):
    """From boxes and maps to the masks and keypoints of each box."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model
        self.maps = [name for name in model.fpn.strides if name != "p6"]
        config = model.config
        self.outputs = ["mask_logits"] * config.masks + ["keypoint_logits"] * bool(config.keypoint_names)

    def forward(
        self, boxes: Float[Tensor, "N R 4"], labels: Int64[Tensor, "N R"], maps: list[Float[Tensor, "N C _h _w"]]
    ) -> tuple[Tensor, ...]:
        """Return what `outputs` names, [N, R, …], with something in slots that are not valid, too."""
        model, results = self.model, []
        pyramid = model.pyramid(dict(zip(self.maps, maps, strict=True)))
        if model.config.masks:
            results.append(model.masks(pyramid, boxes, labels))
        if model.config.keypoint_names:
            results.append(model.keypoints(pyramid, boxes))
        return tuple(rows.reshape(*boxes.shape[:2], *rows.shape[1:]) for rows in results)

    def sample(self, sizes: Sizes, first: FirstHalf) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return inputs to trace the half with, and which of their sizes may differ."""
        inputs, _ = first.sample(sizes)
        with torch.inference_mode(False), torch.no_grad():
            maps = list(first.model.fpn(first.model.backbone(inputs[0])).values())[: len(self.maps)]
        count, slots = maps[0].shape[0], self.model.config.box.detections_per_image
        rois = min(slots, 5)
        boxes, labels = torch.zeros(count, rois, 4), torch.zeros(count, rois, dtype=torch.int64)
        Dim = torch.export.Dim
        batch = Dim("batch", min=1, max=1024)
        per_image = {0: batch, 1: Dim("rois", min=2, max=slots)} if slots > 2 else {0: batch}
        sides = [{0: batch, 2: Dim(f"rows{k}", min=2), 3: Dim(f"columns{k}", min=2)} for k in range(len(maps))]
        return (boxes, labels, maps), (per_image, per_image, sides)
