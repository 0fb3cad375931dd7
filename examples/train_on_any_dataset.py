"""Training on a data set of your own: anything with a length that gives (image, target)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import maskrcnn
from maskrcnn.training import TrainOptions, train


class Rectangles(torch.utils.data.Dataset[Any]):
    """One bright rectangle per image, described as torchvision's detectors want it."""

    class_names = ("rectangle",)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        rng = np.random.default_rng(index)
        x1, y1 = rng.integers(4, 30, size=2).tolist()
        x2, y2 = x1 + 20, y1 + 28
        image = rng.integers(0, 60, (64, 64, 3), np.uint8)
        image[y1:y2, x1:x2] += 150
        mask = np.zeros((1, 64, 64), bool)
        mask[:, y1:y2, x1:x2] = True
        return image, {"boxes": [[x1, y1, x2, y2]], "labels": [0], "masks": mask}


config = maskrcnn.Config.preset(
    "small-fpn", class_names=Rectangles.class_names, overrides={"image.min_size": 64, "image.max_size": 64}
)
model = maskrcnn.MaskRCNN(config)
options = TrainOptions(epochs=2, batch_size=2, optimizer="adamw", learning_rate=1e-3, warmup_steps=4)
with tempfile.TemporaryDirectory() as folder:
    result = train(model, Rectangles(), Path(folder) / "run", options, validation=Rectangles())
    assert result.evaluation is not None
    print(f"{result.steps} steps; box AP50 on the same images: {result.evaluation.box['AP50']:.2f}")
