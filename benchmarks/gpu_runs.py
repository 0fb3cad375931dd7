"""What gpu.py runs: the same network here and in torchvision, for inference and for training."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import inputs
import maskrcnn
from gpu_measure import Found, Work, as_found
from maskrcnn.optimized.cuda import CudaModel, exact_float32
from maskrcnn.optimized.step import compiled_step
from maskrcnn.structures import DetectionBatch, ImageBatch, TargetBatch

DEPTHS = {"resnet50-fpn": (3, 4, 6, 3), "resnet101-fpn": (3, 4, 23, 3)}
"""Blocks of the networks that torchvision has, too."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OBJECTS = 8


def has_torchvision() -> bool:
    return importlib.util.find_spec("torchvision") is not None


class Subject:
    """One network with weights by torchvision's names, where torchvision has it."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.weights = inputs.weights(DEPTHS[name]) if name in DEPTHS else None

    def ours(self) -> maskrcnn.MaskRCNN:
        if self.weights is not None:
            # These weights have torchvision's names and its eps for people's own models.
            return maskrcnn.load(self.weights, overrides={"backbone.norm_eps": 1e-5}).to(self.device)
        torch.manual_seed(0)
        model = maskrcnn.MaskRCNN(maskrcnn.Config.preset(self.name, class_names=["a", "b"]))
        with torch.no_grad():  # strong enough to find something
            for layer in (model.rpn.objectness, model.rpn.deltas, model.box_head.class_logits):
                layer.weight.mul_(20)
        return model.to(self.device)

    def theirs(self) -> Any:
        """Return torchvision's network; None where it has none, or is not there."""
        if self.weights is None or not has_torchvision():
            return None
        from torchvision.models.detection import MaskRCNN
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.ops.misc import FrozenBatchNorm2d

        backbone = resnet_fpn_backbone(
            backbone_name=self.name.removesuffix("-fpn"),
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            trainable_layers=3,
        )
        model = MaskRCNN(backbone, num_classes=inputs.CLASSES)
        model.load_state_dict(self.weights)
        return model.to(self.device, memory_format=torch.channels_last)


def made_images(batch: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return normalised images with detail of all sizes, as photographs have."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(batch, 3, height, width)
    for cell in (4, 16, 64, 256):
        noise = torch.rand(batch, 3, -(-height // cell), -(-width // cell), generator=generator)
        images += F.interpolate(noise, size=(height, width), mode="bilinear") / 4
    mean, std = (torch.tensor(v)[:, None, None] for v in (inputs.MEAN, inputs.STD))
    photos = ((images - 0.5) * 2 + 0.5).clamp(0, 1)
    return ((photos - mean) / std).to(device, memory_format=torch.channels_last)


def made_targets(batch: int, height: int, width: int, device: torch.device, classes: int) -> TargetBatch:
    """Return `OBJECTS` ellipses in each image."""
    generator = torch.Generator().manual_seed(1)
    size = torch.tensor([width, height])
    middle = torch.rand(batch, OBJECTS, 2, generator=generator) * size
    sides = (0.05 + 0.4 * torch.rand(batch, OBJECTS, 2, generator=generator)) * size
    corners = torch.cat((middle - sides / 2, middle + sides / 2), dim=2)
    boxes = torch.minimum(corners.clamp(min=0), size.repeat(2).float())
    labels = torch.randint(0, classes, (batch, OBJECTS), generator=generator)
    boxes, labels = boxes.to(device), labels.to(device)
    x1, y1, x2, y2 = boxes[..., None, None].unbind(2)
    x, y = torch.arange(width, device=device) + 0.5, torch.arange(height, device=device)[:, None] + 0.5
    masks = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 < 1
    return TargetBatch(boxes, labels, masks, torch.ones_like(labels, dtype=torch.bool))


Inference = dict[str, tuple[Work, Callable[[Any], Found]]]
"""By name: what is timed, from prepared images to boxes, classes and small masks; and its result's detections."""


def inference_runs(subject: Subject, images: Tensor, dtype: torch.dtype, compile: bool) -> Inference:
    """Return the runs of one batch and precision: torchvision's first, where it is there."""
    device, size = images.device, (images.shape[2], images.shape[3])
    model = subject.ours().eval()
    batch = ImageBatch.of(images, model.config.image)
    fast = CudaModel(model, dtype, compile=compile, graphs=device.type == "cuda")
    graphs, fast.graphs = fast.graphs, None
    eager = model.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ready = batch._replace(tensor=images.to(dtype))

    def run_eager() -> DetectionBatch:
        with torch.inference_mode(), exact_float32():
            return eager(ready)

    def run_compiled() -> DetectionBatch:
        fast.graphs = None
        return fast.detect(batch)

    def run_graph() -> DetectionBatch:
        fast.graphs = graphs
        return fast.detect(batch)

    runs: Inference = {}
    theirs = subject.theirs()
    if theirs is not None:
        runs["torchvision"] = (_torchvision_inference(theirs.eval(), images, size, dtype), _their_found)
    runs["eager"] = (run_eager, as_found)
    if compile:
        runs["compiled"] = (run_compiled, as_found)
    if graphs is not None:
        runs["CUDA graph"] = (run_graph, as_found)
    return runs


def _torchvision_inference(model: Any, images: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Work:
    from torchvision.models.detection.image_list import ImageList

    listed = ImageList(images, [size] * len(images))

    def run() -> Any:
        with torch.inference_mode(), exact_float32(), _autocast(images.device, dtype):
            features = model.backbone(listed.tensors)
            proposals, _ = model.rpn(listed, features)
            found, _ = model.roi_heads(features, proposals, listed.image_sizes)
        return found

    return run


def _their_found(found: Any) -> Found:
    return [
        {"boxes": d["boxes"].float().cpu(), "labels": d["labels"].cpu() - 1, "scores": d["scores"].float().cpu()}
        for d in found
    ]


def _autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype != torch.float32)


def _sgd(model: torch.nn.Module, device: torch.device) -> torch.optim.SGD:
    trained = [p for p in model.parameters() if p.requires_grad]
    # A rate so small that every step is the same work.
    return torch.optim.SGD(trained, lr=1e-7, momentum=0.9, fused=device.type == "cuda")


def training_runs(subject: Subject, images: Tensor, dtype: torch.dtype, compile: bool) -> dict[str, Work]:
    """Return training steps by name, each giving its losses as tensors by our names."""
    device = images.device
    runs: dict[str, Work] = {}
    theirs = subject.theirs()
    if theirs is not None:
        runs["torchvision"] = _torchvision_step(theirs.train(), images, dtype)
    for name in ("eager", "compiled") if compile else ("eager",):
        model = subject.ours().train()
        targets = made_targets(len(images), images.shape[2], images.shape[3], device, model.config.num_classes)
        step = compiled_step(model, _sgd(model, device), dtype, compile=name == "compiled")
        runs[name] = _our_step(step, images, targets)
    return runs


def _our_step(step: Any, images: Tensor, targets: TargetBatch) -> Work:
    def run() -> dict[str, Tensor]:
        losses: dict[str, Tensor] = step(images, targets).named()
        return losses

    return run


def _torchvision_step(model: Any, images: Tensor, dtype: torch.dtype) -> Work:
    from torchvision.models.detection.image_list import ImageList

    count, _, height, width = images.shape
    listed, optimizer = ImageList(images, [(height, width)] * count), _sgd(model, images.device)
    truth = made_targets(count, height, width, images.device, inputs.CLASSES - 1)
    targets = [
        {"boxes": b, "labels": n + 1, "masks": m.to(torch.uint8)}
        for b, n, m in zip(truth.boxes, truth.labels, truth.masks, strict=True)
    ]

    def run() -> dict[str, Tensor]:
        with _autocast(images.device, dtype):
            features = model.backbone(listed.tensors)
            proposals, rpn = model.rpn(listed, features, targets)
            _, heads = model.roi_heads(features, proposals, listed.image_sizes, targets)
        sum([*rpn.values(), *heads.values()]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {
            "rpn_objectness": rpn["loss_objectness"].detach(),
            "rpn_box": rpn["loss_rpn_box_reg"].detach(),
            "class": heads["loss_classifier"].detach(),
            "box": heads["loss_box_reg"].detach(),
            "mask": heads["loss_mask"].detach(),
        }

    return run
