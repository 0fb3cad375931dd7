"""What the reference runs have in common: arrays by name, slices by their description, detections matched."""

import json
import re
from pathlib import Path

import numpy as np
import torch

from maskrcnn.ops import boxes as box_ops

HERE = Path(__file__).parent
RELATIVE = 1e-3


class Case:
    """One folder: its arrays as tensors, their descriptions, and its manifest."""

    def __init__(self, name):
        self.folder = HERE / name
        self.arrays = dict(np.load(self.folder / "expected.npz"))
        self.told = json.loads((self.folder / "expected.json").read_text())
        self.described = self.told.get("arrays", self.told)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())

    def __getitem__(self, name):
        return torch.from_numpy(self.arrays[name])

    def sliced(self, tensor, name):
        """Return the part of a whole tensor that was kept."""
        text = self.described[name]["slice"]
        found = re.match(r"\[([^\]]*)\]", text)
        if found is None:
            assert text == "whole"
            return tensor
        return tensor[tuple(_index(part.strip()) for part in found[1].split(","))]

    def assert_near(self, ours, name, tolerance):
        """Within the reference's own tolerance, and within 1e-3 of the largest value."""
        theirs = self[name]
        assert ours.shape == theirs.shape
        difference = float((ours - theirs).abs().max())
        assert difference <= min(tolerance, RELATIVE * float(theirs.abs().max())), f"{name}: {difference}"


def _index(text):
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return slice(*(int(part) if part else None for part in text.split(":")))


def assert_matched(found, boxes, labels, scores):
    """At least 99 % of the reference's detections: same label, IoU > 0.99, score within 1e-3; and no others."""
    assert len(found) == len(boxes)
    overlap = box_ops.iou(boxes, found.boxes).masked_fill(labels[:, None] != found.labels, 0)
    best, partner = overlap.max(dim=1)
    matched = (best > 0.99) & ((found.scores[partner] - scores).abs() < 1e-3)
    assert float(matched.double().mean()) >= 0.99


def assert_areas(found, areas):
    """Masks of the same area to 1 %."""
    torch.testing.assert_close(found.masks.sum((1, 2)).double(), areas.double(), rtol=0.01, atol=0)


def assert_masks(found, packed, most):
    """The first masks, pixel by pixel."""
    height, width = found.image_size
    bits = np.unpackbits(packed.numpy(), axis=1)[:, : height * width].reshape(-1, height, width).astype(bool)
    for mask, theirs in zip(found.masks, torch.from_numpy(bits), strict=False):
        assert int((mask != theirs).sum()) <= max(most, 0.002 * int(theirs.sum()))


def distance_to_nearest(boxes, others):
    """For each box the largest coordinate difference to the nearest of others, and which that is."""
    nearest = torch.cdist(boxes, others, p=float("inf")).min(dim=1)
    return nearest.values, nearest.indices
