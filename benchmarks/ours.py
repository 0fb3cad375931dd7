"""maskrcnn's side of each case; started by run.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

import maskrcnn
import onnx_side
from maskrcnn.config import ImageConfig
from maskrcnn.ops.masks import paste_masks
from maskrcnn.ops.nms import nms
from maskrcnn.roi_align import FlatPyramid, assign_levels, roi_align
from maskrcnn.structures import DetectionBatch, Detections, ImageBatch, TargetBatch
from worker import Build, Case, checksum, detection_figures, serve

Tensors = Mapping[str, Tensor]
STRIDES = (4, 8, 16, 32)


def network(batch: int) -> Build:
    """From prepared images to boxes, labels, scores and small masks."""

    def build(inputs: Tensors, weights: Tensors) -> Case:
        model = _model(weights)
        images = ImageBatch.of(inputs["images"][:batch].clone(), ImageConfig())

        def figures(found: DetectionBatch) -> dict[str, float]:
            some = found.valid
            probabilities = found.mask_logits[some].sigmoid()
            return detection_figures(found.boxes[some], found.labels[some], found.scores[some], probabilities)

        return Case(_inference(lambda: model(images)), figures)

    return build


def predict(batch: int, optimized: str | None = None) -> Build:
    """From photos to masks of the photos' size; `optimized` for the type of numbers that this names."""

    def build(inputs: Tensors, weights: Tensors) -> Case:
        as_it_is = _model(weights)
        model = as_it_is if optimized is None else as_it_is.optimize(optimized)
        del as_it_is
        photos = list(inputs["photos"][:batch].permute(0, 2, 3, 1).contiguous().numpy())

        def figures(found: list[Detections]) -> dict[str, float]:
            masks = torch.cat([d.masks.float().mean((1, 2)) for d in found if d.masks is not None])
            boxes, labels = torch.cat([d.boxes for d in found]), torch.cat([d.labels for d in found])
            return detection_figures(boxes, labels, torch.cat([d.scores for d in found]), masks)

        return Case(lambda: model.predict(photos, score_threshold=0.0, batch_size=batch), figures)

    return build


def train(batch: int, bfloat16: bool = False) -> Build:
    """Forward, backward and a step of SGD, as `maskrcnn train` does them."""

    def build(inputs: Tensors, weights: Tensors) -> Case:
        model = _model(weights).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1e-7, momentum=0.9)  # so small that every step is the same work
        images = inputs["images"][:batch].clone()
        boxes, labels = inputs["target_boxes"][:batch], inputs["target_labels"][:batch] - 1
        valid = torch.ones(labels.shape, dtype=torch.bool)
        targets = TargetBatch(boxes.clone(), labels, inputs["target_masks"][:batch].clone(), valid)

        def step() -> dict[str, float]:
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                losses = model(images, targets)
            optimizer.zero_grad()
            losses.total.backward()
            optimizer.step()
            return {name: float(loss) for name, loss in losses.named().items()}

        return Case(step, lambda losses: losses)

    return build


def pooling(backward: bool) -> Build:
    """RoIAlign over four levels, from the levels' maps."""

    def build(inputs: Tensors, weights: Tensors) -> Case:
        maps = [inputs[f"p{k}"].clone().requires_grad_(backward) for k in range(2, 6)]
        boxes, gradient = inputs["rois"].clone(), inputs["crops_gradient"].clone()
        config = maskrcnn.Config.preset(class_names=["any"]).roi_align

        def crops() -> Tensor:
            levels = assign_levels(boxes, STRIDES, config)
            return roi_align(FlatPyramid.of(maps, STRIDES), boxes, levels, 7, 2, aligned=False)

        def gradients() -> tuple[Tensor, ...]:
            return torch.autograd.grad(crops(), maps, gradient)

        if backward:
            return Case(gradients, lambda found: {f"p{k}": checksum(g) for k, g in enumerate(found, 2)})
        return Case(_inference(crops), lambda found: {"crops": checksum(found)})

    return build


def suppression(inputs: Tensors, weights: Tensors) -> Case:
    """NMS within each of five levels, then the best 1000 that are left."""
    boxes, scores = inputs["nms_boxes"].clone(), inputs["nms_scores"].clone()
    valid = torch.ones_like(scores, dtype=torch.bool)

    def run() -> Tensor:
        keep = nms(boxes, valid, 0.7)
        best, index = scores.masked_fill(~keep, -1.0).flatten().topk(1000)
        return index[best >= 0]

    return Case(_inference(run), lambda kept: {"kept": float(len(kept)), "which": checksum(kept)})


def paste(inputs: Tensors, weights: Tensors) -> Case:
    """100 masks of 28 × 28 laid on an image, as booleans."""
    probabilities, boxes = inputs["mask_probabilities"][:, 0].clone(), inputs["mask_boxes"].clone()
    size = (inputs["images"].shape[2], inputs["images"].shape[3])
    return Case(
        _inference(lambda: paste_masks(probabilities, boxes, size, "integer_box")),
        lambda masks: {"pixels": float(masks.sum())},
    )


def _model(weights: Tensors) -> maskrcnn.MaskRCNN:
    # These weights have torchvision's names and its eps for people's own models.
    return maskrcnn.load(weights, overrides={"backbone.norm_eps": 1e-5})


def _inference(run: Callable[[], Any]) -> Callable[[], Any]:
    return torch.inference_mode()(run)


CASES: dict[str, Build] = {
    "network-1": network(1),
    "network-2": network(2),
    "predict-1": predict(1),
    "predict-2": predict(2),
    "fast-1": predict(1, "float32"),
    "fast-2": predict(2, "float32"),
    "fast-bf16-1": predict(1, "bfloat16"),
    "fast-bf16-2": predict(2, "bfloat16"),
    "onnx-1": onnx_side.predict(1, _model),
    "train-1": train(1),
    "train-2": train(2),
    "train-bf16-1": train(1, bfloat16=True),
    "train-bf16-2": train(2, bfloat16=True),
    "roi-align": pooling(backward=False),
    "roi-align-backward": pooling(backward=True),
    "nms": suppression,
    "paste": paste,
}

if __name__ == "__main__":
    serve(CASES, {"maskrcnn": version("maskrcnn"), "torch": torch.__version__})
