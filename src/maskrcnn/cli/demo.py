"""`maskrcnn demo`."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from maskrcnn.cli.common import Quiet, bold, output_folder, reporter
from maskrcnn.config import Config
from maskrcnn.data import ShapesDataset
from maskrcnn.drawing import contact_sheet, overlay, side_by_side, target_as_detections
from maskrcnn.errors import InputError, WriteError, os_reason
from maskrcnn.evaluation import EvaluationResult
from maskrcnn.evaluation import evaluate as measure
from maskrcnn.evaluation.result import Figures
from maskrcnn.files import write_text
from maskrcnn.inspection.report import report as make_report
from maskrcnn.model import MaskRCNN
from maskrcnn.progress import Reporter
from maskrcnn.structures import Detections
from maskrcnn.training import TrainOptions
from maskrcnn.training import train as run_training

MARKER = ".maskrcnn-demo"
"""Tells the demo's folder from one of a training run, which must never be cleared."""
REPORT = "report.html"
UNSEEN, PICTURES = 200, 12
"""Images to measure on, and how many of them are drawn."""


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything the demo makes.")] = Path(
        "demo"
    ),
    steps: Annotated[int, typer.Option(help="Training steps of 8 images.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Start of all chance.", min=0, max=2**31 - 1)] = 0,
    quiet: Quiet = False,
) -> None:
    """Train a small network on made images, measure and draw.

    \b
    Example:
      maskrcnn demo -o demo

    Needs no data, no GPU and about two minutes on two cores.
    """
    report = reporter(quiet)
    began = time.monotonic()
    training, unseen = ShapesDataset(steps * 8, seed=2 * seed), ShapesDataset(UNSEEN, seed=2 * seed + 1)
    _clear(output)
    torch.manual_seed(seed)
    model = MaskRCNN(demo_config(training.class_names))
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    report.say(
        f"Training a Mask R-CNN of {parameters:.1f} million weights from random numbers on {len(training)} made images "
        f"of {', '.join(n + 's' for n in training.class_names)}."
    )
    result = run_training(model, training, output, demo_options(seed), device="cpu", reporter=report)
    found: list[Detections] = []
    figures = measure(model, unseen, 8, report, collect=lambda index, detections: found.append(detections))
    write_text(output / "evaluation.json", figures.to_json() + "\n")
    _draw(unseen, found, output)
    _explain(model, unseen, found, output, report)
    _tell(report, figures, output, result.seconds, time.monotonic() - began)


def demo_config(class_names: tuple[str, ...]) -> Config:
    """Return the demo's network: `small-fpn`, narrower still, for images of 128 × 128."""
    return Config.preset(
        "small-fpn",
        class_names=class_names,
        overrides={
            "image.min_size": 128,
            "image.max_size": 128,
            "backbone.width": 16,
            "fpn.channels": 48,
            "anchors.sizes": ((8,), (16,), (32,), (64,), (128,)),
            "rpn.channels": 48,
            "rpn.pre_nms_top_n": 200,
            "rpn.pre_nms_top_n_training": 200,
            "rpn.post_nms_top_n": 100,
            "rpn.post_nms_top_n_training": 100,
            "rpn.matching.samples_per_image": 64,
            "roi_align.canonical_size": 64.0,
            "box.fc_channels": 128,
            "box.candidates": 100,
            "box.detections_per_image": 20,
            "box.matching.samples_per_image": 32,
            "mask.channels": 48,
        },
    )


def demo_options(seed: int) -> TrainOptions:
    """Return how the demo trains: each image once."""
    return TrainOptions(
        epochs=1,
        batch_size=8,
        optimizer="adamw",
        learning_rate=2e-3,
        schedule="cosine",
        warmup_steps=50,
        clip_norm=5.0,
        seed=seed,
        evaluate_every=0,
    )


def _clear(output: Path) -> None:
    """Make room for a new demo; never in a folder that holds something else."""
    if output.is_dir() and any(output.iterdir()):
        if not (output / MARKER).exists():
            raise InputError(f"{output} holds files that no demo made; choose another folder with -o.")
        try:
            shutil.rmtree(output)
        except OSError as e:
            raise WriteError(f"Cannot clear {os_reason(output, e)}.") from None
    output_folder(output)
    write_text(output / MARKER, "A later demo may clear this folder.\n")


def _draw(unseen: ShapesDataset, found: list[Detections], output: Path) -> None:
    """Write pictures of truth and prediction side by side, and one sheet of them all."""
    pairs = []
    for index in range(min(PICTURES, len(unseen))):
        image, target = unseen[index]
        truth = target_as_detections(target, unseen.image_size, unseen.class_names)
        left = overlay(image, truth, scores=False, scale=4, color_by="class", alpha=0.25)
        right = overlay(image, found[index].above(0.5), scale=4, color_by="class", alpha=0.25)
        pairs.append(side_by_side(left, right, ("ground truth", "prediction, score 0.5 or more")))
    try:
        (output / "pictures").mkdir(parents=True, exist_ok=True)
        for index, pair in enumerate(pairs):
            pair.save(output / "pictures" / f"{index:02d}.png")
        contact_sheet(pairs[:6], columns=2).save(output / "predictions.png")
    except OSError as e:
        raise WriteError(f"Cannot write {os_reason(output, e)}.") from None


def _explain(model: MaskRCNN, unseen: ShapesDataset, found: list[Detections], output: Path, report: Reporter) -> None:
    """Write a report of the unseen image in which the network found most."""
    index = max(range(len(found)), key=lambda i: len(found[i].above(0.5)))
    report.say("Writing the report of an unseen image.")
    text = make_report(model, unseen[index][0], name=f"made image {index}")
    write_text(output / REPORT, text)


def _tell(report: Reporter, figures: EvaluationResult, output: Path, training: float, total: float) -> None:
    Console().print(figures)
    report.say(
        f"\nOn {figures.num_images} unseen images: box AP50 {bold(_percent(figures.box))}, mask AP50 "
        f"{bold(_percent(figures.mask))}. Training took {training:.0f} s, everything {total:.0f} s.\n\n"
        f"{bold(output / REPORT)}  the whole network, and what it did with one of them: open it in a browser\n"
        f"{bold(output / 'predictions.png')}  six of them, truth beside prediction (more in pictures/)\n"
        f"{bold(output / 'model.safetensors')}  the network: weights, configuration and class names\n"
        f"{bold(output / 'log.jsonl')}  losses of every step (also in tensorboard/)\n\n"
        "On your own photos, annotated in COCO's format:\n"
        "  maskrcnn train PHOTOS -o runs/photos        a folder with annotations/train.json, val.json and images/\n"
        "  maskrcnn predict runs/photos/best.safetensors NEW_PHOTOS -o found\n"
    )


def _percent(figures: Figures | None) -> str:
    return f"{100 * ((figures or {}).get('AP50') or 0):.1f}"
