"""torchvision's side of each case, run by a Python that has it and needs nothing else; started by run.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, batched_nms
from torchvision.ops.misc import FrozenBatchNorm2d

from worker import Build, Case, checksum, detection_figures, serve

Tensors = Mapping[str, Tensor]


def network(batch: int) -> Build:
    def build(inputs: Tensors, weights: Tensors) -> Case:
        model, images = _model(weights).eval(), _image_list(inputs, batch)

        def run() -> list[dict[str, Tensor]]:
            features = model.backbone(images.tensors)
            proposals, _ = model.rpn(images, features)
            found, _ = model.roi_heads(features, proposals, images.image_sizes)
            return found

        return Case(_inference(run), lambda found: _figures(found, [d["masks"] for d in found]))

    return build


def predict(batch: int) -> Build:
    def build(inputs: Tensors, weights: Tensors) -> Case:
        model = _model(weights).eval()
        photos = list(inputs["photos"][:batch].clone())

        def run() -> list[dict[str, Tensor]]:
            found = model([photo.float() / 255 for photo in photos])
            return [{**d, "masks": d["masks"] >= 0.5} for d in found]

        return Case(_inference(run), lambda found: _figures(found, [d["masks"].float() for d in found]))

    return build


def train(batch: int) -> Build:
    def build(inputs: Tensors, weights: Tensors) -> Case:
        model, images = _model(weights).train(), _image_list(inputs, batch)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1e-7, momentum=0.9)
        names = {"boxes": "target_boxes", "labels": "target_labels", "masks": "target_masks"}
        targets = [{name: inputs[key][i].clone() for name, key in names.items()} for i in range(batch)]
        for target in targets:
            target["masks"] = target["masks"].to(torch.uint8)

        def step() -> dict[str, float]:
            features = model.backbone(images.tensors)
            proposals, rpn = model.rpn(images, features, targets)
            _, heads = model.roi_heads(features, proposals, images.image_sizes, targets)
            optimizer.zero_grad()
            sum([*rpn.values(), *heads.values()]).backward()
            optimizer.step()
            return {
                "rpn_objectness": float(rpn["loss_objectness"]),
                "rpn_box": float(rpn["loss_rpn_box_reg"]),
                "class": float(heads["loss_classifier"]),
                "box": float(heads["loss_box_reg"]),
                "mask": float(heads["loss_mask"]),
            }

        return Case(step, lambda losses: losses)

    return build


def pooling(backward: bool) -> Build:
    def build(inputs: Tensors, weights: Tensors) -> Case:
        maps = {f"p{k}": inputs[f"p{k}"].clone().requires_grad_(backward) for k in range(2, 6)}
        boxes, gradient = inputs["rois"][0].clone(), inputs["crops_gradient"].clone()
        size = (inputs["images"].shape[2], inputs["images"].shape[3])
        pool = MultiScaleRoIAlign(list(maps), output_size=7, sampling_ratio=2)

        def crops() -> Tensor:
            return pool(maps, [boxes], [size])

        def gradients() -> tuple[Tensor, ...]:
            return torch.autograd.grad(crops(), list(maps.values()), gradient)

        if backward:
            return Case(gradients, lambda found: {f"p{k}": checksum(g) for k, g in enumerate(found, 2)})
        return Case(_inference(crops), lambda found: {"crops": checksum(found)})

    return build


def suppression(inputs: Tensors, weights: Tensors) -> Case:
    boxes, scores = inputs["nms_boxes"].flatten(0, 1).clone(), inputs["nms_scores"].flatten().clone()
    levels = torch.arange(5).repeat_interleave(1000)
    return Case(
        _inference(lambda: batched_nms(boxes, scores, levels, 0.7)[:1000]),
        lambda kept: {"kept": float(len(kept)), "which": checksum(kept)},
    )


def paste(inputs: Tensors, weights: Tensors) -> Case:
    probabilities, boxes = inputs["mask_probabilities"].clone(), inputs["mask_boxes"].clone()
    size = (inputs["images"].shape[2], inputs["images"].shape[3])
    return Case(
        _inference(lambda: paste_masks_in_image(probabilities, boxes, size) >= 0.5),
        lambda masks: {"pixels": float(masks.sum())},
    )


def _model(weights: Tensors) -> Any:
    """Return what `maskrcnn_resnet50_fpn(weights="DEFAULT")` builds, with other weights."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    model = MaskRCNN(backbone, num_classes=91)
    model.load_state_dict(weights)
    return model


def _image_list(inputs: Tensors, batch: int) -> ImageList:
    images = inputs["images"][:batch].clone()
    return ImageList(images, [(images.shape[2], images.shape[3])] * batch)


def _figures(found: list[dict[str, Tensor]], masks: list[Tensor]) -> dict[str, float]:
    boxes, labels, scores = (torch.cat([d[key] for d in found]) for key in ("boxes", "labels", "scores"))
    return detection_figures(boxes, labels - 1, scores, torch.cat([m.mean((1, 2, 3)) for m in masks]))


def _inference(run: Callable[[], Any]) -> Callable[[], Any]:
    return torch.inference_mode()(run)


CASES: dict[str, Build] = {
    "network-1": network(1),
    "network-2": network(2),
    "predict-1": predict(1),
    "predict-2": predict(2),
    "train-1": train(1),
    "train-2": train(2),
    **{name: predict(1) for name in ("fast-1", "fast-bf16-1", "onnx-1")},
    **{name: predict(2) for name in ("fast-2", "fast-bf16-2")},
    "train-bf16-1": train(1),
    "train-bf16-2": train(2),
    "roi-align": pooling(backward=False),
    "roi-align-backward": pooling(backward=True),
    "nms": suppression,
    "paste": paste,
}

if __name__ == "__main__":
    serve(CASES, {"torchvision": torchvision.__version__, "torch": torch.__version__})
