"""Losses of a whole data set: how many objects of each size are lost at each stage, and what to change first."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from rich.markup import escape
from rich.table import Table

from maskrcnn.config import Config
from maskrcnn.data.any import CheckedDataset, ImagesAndTargets
from maskrcnn.errors import DatasetError, ImageFileError, counted
from maskrcnn.inspection.misses.advice import advise
from maskrcnn.inspection.misses.cascade import explain
from maskrcnn.inspection.misses.outcome import SIZES, STAGES, ObjectOutcome, Size, Stage
from maskrcnn.progress import Reporter
from maskrcnn.structures import Target

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN

_SIZES: tuple[Size, ...] = get_args(Size)

Collect = Callable[[int, UInt8[np.ndarray, "H W 3"], Target, list[ObjectOutcome]], None]
"""Is given every image's index, its pixels, its target with the network's labels, and what became of its objects."""


@dataclass(frozen=True)
class MissReport:
    """What became of the objects of a data set."""

    outcomes: dict[str, list[ObjectOutcome]]
    """By the image's name."""
    config: Config
    unreadable: int = 0
    """Images that were left out."""

    @property
    def objects(self) -> list[ObjectOutcome]:
        """All objects, image by image."""
        return [outcome for outcomes in self.outcomes.values() for outcome in outcomes]

    def counts(self) -> dict[Stage, dict[Size, int]]:
        """Return how many objects of each size ended at each stage, in the order of the network, `found` last."""
        counts: dict[Stage, dict[Size, int]] = {stage: dict.fromkeys(_SIZES, 0) for stage in STAGES}
        for outcome in self.objects:
            counts[outcome.stage][outcome.size] += 1
        return counts

    def table(self) -> Table:
        """Return the losses by stage and size; stages that lost nothing are left out."""
        counts = self.counts()
        totals = {size: sum(row[size] for row in counts.values()) for size in _SIZES}
        images = counted(len(self.outcomes), "image")
        table = Table(
            title=f"What became of {counted(len(self.objects), 'object')} in {images}",
            caption=f"Sizes by area in the photo: {', '.join(f'{name} {text}' for name, text in SIZES.items())}.",
            title_justify="left",
            caption_justify="left",
            header_style="bold",
        )
        table.add_column("Stage", overflow="fold")
        for title in (*_SIZES, "all", "share"):
            table.add_column(title.capitalize(), justify="right", no_wrap=True)
        for stage, row in counts.items():
            if sum(row.values()) and stage != "found":
                table.add_row(STAGES[stage].title, *self._cells(row, totals))
        table.add_section()
        table.add_row("found", *self._cells(counts["found"], totals), style="bold")
        table.add_row("objects", *(str(n) for n in (*totals.values(), len(self.objects))), "")
        return table

    def _cells(self, row: dict[Size, int], totals: dict[Size, int]) -> list[str]:
        each = [str(row[size]) if totals[size] else "–" for size in _SIZES]
        share = 100 * sum(row.values()) / max(len(self.objects), 1)
        return [*each, str(sum(row.values())), f"{share:.0f} %"]

    def advice(self, most: int = 3) -> list[str]:
        """Return what to change against the largest losses, each with the objects that it is about.

        Args:
            most: how many losses, each of one stage and one size.
        """
        groups: dict[tuple[Stage, Size], list[ObjectOutcome]] = {}
        for outcome in self.objects:
            if not outcome.found:
                groups.setdefault((outcome.stage, outcome.size), []).append(outcome)
        totals = {size: sum(outcome.size == size for outcome in self.objects) for size in _SIZES}
        largest = sorted(groups.items(), key=lambda item: -len(item[1]))[:most]
        return [
            f"{len(lost)} of {totals[size]} {size} objects: {_title(stage, len(lost))}. "
            + advise(stage, [outcome.numbers for outcome in lost], self.config)
            for (stage, size), lost in largest
        ]

    def summary(self) -> dict[str, Any]:
        """Return all of it as plain values that JSON takes."""
        objects = self.objects
        return {
            "images": len(self.outcomes),
            "unreadable": self.unreadable,
            "objects": len(objects),
            "found": sum(outcome.found for outcome in objects),
            "stages": {stage: row for stage, row in self.counts().items() if sum(row.values())},
            "advice": self.advice(),
            "outcomes": [
                {"image": image, **outcome.summary()} for image, found in self.outcomes.items() for outcome in found
            ],
        }


def explain_dataset(
    model: MaskRCNN,
    dataset: ImagesAndTargets,
    *,
    score_threshold: float = 0.5,
    iou: float = 0.5,
    mask_iou: float = 0.5,
    images: Sequence[int] | None = None,
    reporter: Reporter | None = None,
    collect: Collect | None = None,
) -> MissReport:
    """Return what became of every true object of a data set; see `explain`.

    An image that cannot be read is named and left out. Classes of the data are the network's of the same name.

    Args:
        model: the network.
        dataset: images with their ground truth.
        score_threshold: least score of a detection.
        iou: least IoU of its box.
        mask_iou: least IoU of its mask.
        images: numbers of the images to look at; all by default.
        reporter: shows progress; nothing is shown by default.
        collect: is given each image's results as they come.

    Raises:
        DatasetError: the data has a class that the network does not know, no object, or no image can be read.
        InputError: a target is wrong, or a number out of range.
    """
    reporter = reporter or Reporter(quiet=True)
    names = tuple(getattr(dataset, "class_names", model.config.class_names))
    place = torch.tensor(_places(names, model.config.class_names))
    with_masks = model.config.masks and getattr(dataset, "masks", True)
    items = CheckedDataset(dataset, names, with_masks)
    chosen = range(len(dataset)) if images is None else images
    outcomes: dict[str, list[ObjectOutcome]] = {}
    unreadable = 0
    with reporter.bar("explaining", len(chosen)) as bar:
        for index in chosen:
            name = items.image_name(index)
            try:
                pixels, target = items[index]
            except ImageFileError as e:
                reporter.warn(f"{e} It is left out.")
                unreadable += 1
                bar.advance()
                continue
            target = replace(target, labels=place[target.labels])
            found = explain(model, pixels, target, score_threshold=score_threshold, iou=iou, mask_iou=mask_iou)
            outcomes[name if name not in outcomes else f"{name} (item {index})"] = found
            if collect is not None:
                collect(index, pixels, target, found)
            missed = sum(not outcome.found for outcome in found)
            bar.advance(f"{name}: {missed} of {counted(len(found), 'object')} missed")
    report = MissReport(outcomes, model.config, unreadable)
    if unreadable and not outcomes:
        raise DatasetError("None of the images can be read.")
    if not report.objects:
        raise DatasetError("No object is annotated in these images, so none can be missed.")
    return report


def _title(stage: Stage, objects: int) -> str:
    """Return a stage's title for a number of objects."""
    title = STAGES[stage].title
    return title if objects == 1 else re.sub(r"\bits\b", "their", re.sub(r"\bit\b", "them", title))


def _places(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Return the network's label of each class of the data."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DatasetError(
            f"The data has classes that the network does not know: {', '.join(unknown)}. It knows {', '.join(known)}."
        )
    return [list(known).index(name) for name in names]


def outcomes_table(name: str, outcomes: Sequence[ObjectOutcome]) -> Table:
    """Return what became of each object of one image, with the sentences."""
    found = sum(outcome.found for outcome in outcomes)
    table = Table(
        title=f"{escape(name)}: {found} of {counted(len(outcomes), 'object')} found",
        title_justify="left",
        header_style="bold",
        show_lines=True,
    )
    table.add_column("Object", justify="right")
    table.add_column("Class", overflow="fold")
    table.add_column("Box", overflow="fold")
    table.add_column("What became of it", overflow="fold", ratio=1)
    for outcome in outcomes:
        title = STAGES[outcome.stage].title
        told = f"[{'green' if outcome.found else 'bold red'}]{escape(title)}[/]\n{escape(outcome.sentence)}"
        if outcome.advice:
            told += f"\n[italic]{escape(outcome.advice)}[/]"
        x1, y1, x2, y2 = outcome.box
        box = f"{x1:.0f}, {y1:.0f} – {x2:.0f}, {y2:.0f}\n{outcome.size}"
        table.add_row(str(outcome.index), escape(outcome.name), box, told)
    return table
