"""What both sides are given: one network's weights, by torchvision's names, and the inputs of every case.

Needs torch alone. Everything is made from fixed seeds, written to one file and read by both sides.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

HEIGHT, WIDTH = 800, 1088
PHOTO_HEIGHT, PHOTO_WIDTH = 1200, 1632
"""Two megapixels; resized to a shorter side of 800 it is 800 × 1088, without padding."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCKS = (3, 4, 6, 3)
CLASSES = 91
OBJECTS = 8
LEVEL_GAINS = (0.05, 0.3, 0.5, 1.5)
"""Makes coarser levels livelier, so that each level gives some of the proposals."""
BACKGROUND_BIAS = 60.0
"""Leaves some 35 detections in an image; without it every RoI is an object."""


def make() -> dict[str, Tensor]:
    """Return the inputs of all cases by name; the two images of `photos` are those of `images`."""
    generator = torch.Generator().manual_seed(0)
    photos = torch.stack([_photo(generator) for _ in range(2)])
    images = F.interpolate(photos.float() / 255, size=(HEIGHT, WIDTH), mode="bilinear")
    targets = torch.stack([_boxes(generator, OBJECTS, 40, 400) for _ in range(2)])
    candidates = torch.stack([_boxes(generator, 1000, 16 * 2**k, 64 * 2**k, centres=60) for k in range(5)])
    levels = {f"p{k}": torch.rand(1, 256, HEIGHT // 2**k, WIDTH // 2**k, generator=generator) for k in range(2, 6)}
    return {
        "photos": photos,
        "images": (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None],
        "target_boxes": targets,
        "target_labels": torch.randint(1, CLASSES, (2, OBJECTS), generator=generator),
        "target_masks": torch.stack([_ellipses(boxes) for boxes in targets]),
        **levels,
        "rois": _boxes(generator, 1000, 16, 600)[None],
        "crops_gradient": torch.rand(1000, 256, 7, 7, generator=generator),
        "nms_boxes": candidates,
        "nms_scores": torch.rand(5, 1000, generator=generator).sort(dim=1, descending=True).values,
        "mask_probabilities": torch.rand(100, 1, 28, 28, generator=generator),
        "mask_boxes": _boxes(generator, 100, 16, 500),
    }


def weights(depths: tuple[int, ...] = BLOCKS) -> dict[str, Tensor]:
    """Return random weights of torchvision's `maskrcnn_resnet50_fpn`, or of one with other numbers of blocks.

    They are so scaled that they find a few dozen objects.
    """
    tensors: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def layer(name: str, *shape: int, gain: float = 2.0, bias: bool = True, fan: int = 0) -> None:
        spread = math.sqrt(gain / (fan or math.prod(shape[1:])))
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) * spread
        if bias:
            tensors[f"{name}.bias"] = torch.zeros(shape[0])

    def norm(name: str, channels: int, scale: float = 1.0) -> None:
        tensors[f"{name}.weight"] = torch.full((channels,), scale)
        tensors[f"{name}.bias"] = torch.zeros(channels)
        tensors[f"{name}.running_mean"] = torch.zeros(channels)
        tensors[f"{name}.running_var"] = torch.ones(channels)

    layer("backbone.body.conv1", 64, 3, 7, 7, bias=False)
    norm("backbone.body.bn1", 64)
    before = 64
    for stage, blocks in enumerate(depths, 1):
        planes = 32 * 2**stage
        for block in range(blocks):
            name = f"backbone.body.layer{stage}.{block}"
            for i, shape in enumerate(((planes, before, 1, 1), (planes, planes, 3, 3), (planes * 4, planes, 1, 1)), 1):
                layer(f"{name}.conv{i}", *shape, bias=False)
                norm(f"{name}.bn{i}", shape[0], scale=0.25 if i == 3 else 1.0)
            if block == 0:
                layer(f"{name}.downsample.0", planes * 4, before, 1, 1, bias=False)
                norm(f"{name}.downsample.1", planes * 4)
            before = planes * 4
        layer(f"backbone.fpn.inner_blocks.{stage - 1}.0", 256, before, 1, 1, gain=1.0)
        layer(f"backbone.fpn.layer_blocks.{stage - 1}.0", 256, 256, 3, 3, gain=LEVEL_GAINS[stage - 1])
    layer("rpn.head.conv.0.0", 256, 256, 3, 3)
    layer("rpn.head.cls_logits", 3, 256, 1, 1, gain=1.0)
    layer("rpn.head.bbox_pred", 12, 256, 1, 1, gain=0.1)
    layer("roi_heads.box_head.fc6", 1024, 256 * 7 * 7)
    layer("roi_heads.box_head.fc7", 1024, 1024)
    layer("roi_heads.box_predictor.cls_score", CLASSES, 1024, gain=40.0)
    layer("roi_heads.box_predictor.bbox_pred", CLASSES * 4, 1024, gain=0.1)
    for i in range(4):
        layer(f"roi_heads.mask_head.{i}.0", 256, 256, 3, 3)
    layer("roi_heads.mask_predictor.conv5_mask", 256, 256, 2, 2, fan=256)
    layer("roi_heads.mask_predictor.mask_fcn_logits", CLASSES, 256, 1, 1)
    tensors["roi_heads.box_predictor.cls_score.bias"][0] = BACKGROUND_BIAS
    return tensors


def _photo(generator: torch.Generator) -> Tensor:
    """Return uint8 [3, H, W] with detail of all sizes, as photographs have."""
    photo = torch.zeros(1, 3, PHOTO_HEIGHT, PHOTO_WIDTH)
    for cell in (4, 16, 64, 256):
        shape = (1, 3, -(-PHOTO_HEIGHT // cell), -(-PHOTO_WIDTH // cell))
        noise = torch.rand(shape, generator=generator)
        photo += F.interpolate(noise, size=photo.shape[2:], mode="bilinear") / 4
    return ((photo[0] - 0.5) * 2 + 0.5).clamp(0, 1).mul(255).to(torch.uint8)


def _boxes(generator: torch.Generator, count: int, smallest: float, largest: float, centres: int = 0) -> Tensor:
    """Return boxes of log-uniform sides inside the image; with `centres`, crowded around that many points."""
    size = torch.tensor([WIDTH, HEIGHT])
    middle = torch.rand(centres or count, 2, generator=generator) * size
    middle = middle[torch.arange(count) % len(middle)]
    ratio = largest / smallest
    sides = smallest * ratio ** torch.rand(count, 2, generator=generator)
    if centres:
        sides = smallest * ratio ** torch.rand(centres, 2, generator=generator)[torch.arange(count) % centres]
        sides = sides * torch.exp(0.15 * torch.randn(count, 2, generator=generator))
        middle = middle + 0.1 * sides * torch.randn(count, 2, generator=generator)
    corners = torch.cat((middle - sides / 2, middle + sides / 2), dim=1)
    return torch.minimum(corners.clamp(min=0), size.repeat(2).float())


def _ellipses(boxes: Tensor) -> Tensor:
    """Return bool [G, HEIGHT, WIDTH]: the ellipse in each box."""
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(1)
    x, y = torch.arange(WIDTH) + 0.5, torch.arange(HEIGHT)[:, None] + 0.5
    return ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 < 1
