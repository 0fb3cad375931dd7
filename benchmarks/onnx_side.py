"""maskrcnn's ONNX export run by ONNX Runtime, as a side of the cases that start from photos; used by ours.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from maskrcnn.export.graph import choose_sizes
from maskrcnn.export.onnx.runtime import load_onnx
from maskrcnn.export.onnx.write import build as build_graph
from maskrcnn.export.onnx.write import write
from maskrcnn.model import MaskRCNN
from maskrcnn.structures import Detections
from worker import Build, Case, detection_figures

Tensors = Mapping[str, Tensor]


def predict(batch: int, model_of: Callable[[Tensors], MaskRCNN]) -> Build:
    """From photos to masks of the photos' size; `model_of` makes the network of the weights."""

    def build(inputs: Tensors, weights: Tensors) -> Case:
        model = model_of(weights)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.onnx")
            sizes = choose_sizes(model.config, batch, dynamic="size" if batch == 1 else "both")
            write(build_graph(model, sizes), file, lambda path: None)
            exported = load_onnx(file)
        photos = list(inputs["photos"][:batch].permute(0, 2, 3, 1).contiguous().numpy())

        def figures(found: list[Detections]) -> dict[str, float]:
            masks = torch.cat([d.masks.float().mean((1, 2)) for d in found if d.masks is not None])
            boxes, labels = torch.cat([d.boxes for d in found]), torch.cat([d.labels for d in found])
            return detection_figures(boxes, labels, torch.cat([d.scores for d in found]), masks)

        return Case(lambda: exported.predict(photos, score_threshold=0.0, batch_size=batch), figures)

    return build
