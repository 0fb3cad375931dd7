"""Batches for training: which images in which order, and each of them prepared for the network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskrcnn.batching import batch_targets, resize_target
from maskrcnn.config import Config
from maskrcnn.data.any import CheckedDataset, ImagesAndTargets
from maskrcnn.errors import DatasetError, ImageFileError, MaskRCNNError
from maskrcnn.images import batch_images, prepare_image
from maskrcnn.keypoints import mirrored_order, moved
from maskrcnn.structures import ImageBatch, Target, TargetBatch


class Batch(NamedTuple):
    """A batch ready for the network; `skipped` tells of images that could not be read."""

    images: ImageBatch
    targets: TargetBatch
    names: tuple[str, ...]
    skipped: tuple[str, ...]


class _Item(NamedTuple):
    image: Float[Tensor, "3 h w"]
    target: Target
    original_size: tuple[int, int]
    name: str


class _Unreadable(NamedTuple):
    key: tuple[int, int]
    reason: str


class TrainingItems(Dataset[Any]):
    """Items of a data set read, checked, mirrored by chance and brought to the network's size.

    An item is asked for as (epoch, index); chance depends on these and the seed alone, so a run that is
    stopped and resumed sees the very same images, with any number of workers.
    """

    def __init__(self, dataset: ImagesAndTargets, config: Config, flip: float, seed: int) -> None:
        self.dataset = CheckedDataset(dataset, config.class_names, config.masks, config.keypoint_names)
        self.config = config
        self.flip = flip
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> _Item | _Unreadable | MaskRCNNError:
        """Return the item, or the error that reading it gave: raised in a worker it would lose its form."""
        try:
            return self._item(*key)
        except ImageFileError as e:
            return _Unreadable(key, str(e))
        except MaskRCNNError as e:
            return e

    def _item(self, epoch: int, index: int) -> _Item:
        image, target = self.dataset[index]
        size = (image.shape[0], image.shape[1])
        target = target.without_crowds()
        if target.keypoints is not None:
            target = replace(target, keypoints=moved(target.keypoints, self.config.keypoint.pixel_offset))
        if np.random.default_rng([self.seed, epoch, index]).random() < self.flip:
            image, target = mirrored(image, target, self.config.keypoint_names)
        prepared = prepare_image(image, self.config.image)
        new_size = (int(prepared.shape[1]), int(prepared.shape[2]))
        target = resize_target(target, size, new_size, self.config.image.resize)
        return _Item(prepared, target, size, self.dataset.image_name(index))

    def collate(self, items: Sequence[_Item | _Unreadable | MaskRCNNError]) -> Batch | MaskRCNNError:
        """Return a batch without the images that cannot be read; any other error as it is.

        Where no image of the batch can be read, the next one of the data set that can takes their place, so
        that every process has something to compute in every step.
        """
        items = list(items)
        unreadable = [item for item in items if isinstance(item, _Unreadable)]
        if len(unreadable) == len(items):
            items.append(self._next_readable(unreadable[0]))
        for item in items:
            if isinstance(item, MaskRCNNError):
                return item
        good = [item for item in items if isinstance(item, _Item)]
        images = batch_images([i.image for i in good], [i.original_size for i in good], self.config.image)
        height, width = images.tensor.shape[-2:]
        targets = batch_targets([i.target for i in good], (height, width), self.config.masks, images.offsets)
        return Batch(images, targets, tuple(i.name for i in good), tuple(u.reason for u in unreadable))

    def _next_readable(self, after: _Unreadable) -> _Item | MaskRCNNError:
        epoch, index = after.key
        count = len(self.dataset)
        for step in range(1, count):
            item = self[epoch, (index + step) % count]
            if not isinstance(item, _Unreadable):
                return item
        return DatasetError(f"No image of the training data can be read. The first: {after.reason}")


class Order:
    """Which items each step takes: every epoch a new permutation, shared out among processes."""

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.steps_per_epoch = -(-length // (batch_size * processes))
        self._epoch, self._order = -1, list[int]()

    def step(self, step: int) -> list[tuple[int, int]]:
        """Return (epoch, index) of the items that this process takes in a step, counted over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = self._order_of(epoch)
        whole = self.batch_size * self.processes
        batch = order[position * whole : (position + 1) * whole]
        if self.processes > 1:  # every process needs an item: begin again at the front
            batch += order[: whole - len(batch)]
        return [(epoch, index) for index in batch[self.rank :: self.processes]]

    def _order_of(self, epoch: int) -> list[int]:
        if self._epoch != epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.length).tolist()
            self._epoch = epoch
        return self._order


class _Steps:
    def __init__(self, order: Order, start: int, stop: int) -> None:
        self.order, self.start, self.stop = order, start, stop

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (self.order.step(step) for step in range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


def training_batches(
    items: TrainingItems, order: Order, start: int, stop: int, workers: int
) -> DataLoader[Batch | MaskRCNNError]:
    """Return the batches of steps `start` to `stop`, across epochs."""
    return DataLoader(
        items,
        batch_sampler=_Steps(order, start, stop),
        num_workers=workers,
        collate_fn=items.collate,
        generator=torch.Generator(),  # not the global one, which belongs to the network's own sampling
        pin_memory=torch.cuda.is_available(),
    )


def read(batches: Iterable[Batch | MaskRCNNError]) -> Iterator[Batch | MaskRCNNError]:
    """Yield the batches; raise `DatasetError` where a process that reads them has died."""
    with dead_readers_told():
        yield from batches


@contextmanager
def dead_readers_told() -> Iterator[None]:
    """Raise `DatasetError` for what torch raises, wherever the program is, when a reading process has died."""
    try:
        yield
    except RuntimeError as e:
        if not re.search(r"DataLoader worker.* (exited unexpectedly|is killed by signal)", str(e)):
            raise
        raise DatasetError(
            "A process that reads images has died, most often for lack of memory. Fewer --workers need less; "
            "0 reads the images in the training process itself."
        ) from e


def mirrored(
    image: UInt8[np.ndarray, "H W 3"], target: Target, keypoint_names: Sequence[str] = ()
) -> tuple[UInt8[np.ndarray, "H W 3"], Target]:
    """Return image and target mirrored left to right; left and right keypoints change places."""
    width = image.shape[1]
    x1, y1, x2, y2 = target.boxes.unbind(-1)
    boxes = torch.stack((width - x2, y1, width - x1, y2), dim=-1)
    masks = None if target.masks is None else target.masks.flip(-1)
    keypoints = target.keypoints
    if keypoints is not None:
        x, y, seen = keypoints[:, mirrored_order(keypoint_names)].unbind(-1)
        keypoints = torch.stack((torch.where(seen > 0, width - x, 0.0), y, seen), dim=-1)
    flipped = replace(target, boxes=boxes, masks=masks, keypoints=keypoints)
    return np.ascontiguousarray(image[:, ::-1]), flipped
