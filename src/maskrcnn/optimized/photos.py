"""Photos on their way to the network, on the device: uint8 pixels go up, all else happens there.

What comes out is what `images.prepare` makes on the CPU. Pillow's resizing is done over in its own whole numbers, so
that no pixel differs; scikit-image's, in float64, stays on the CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from maskrcnn.config import ImageConfig
from maskrcnn.images import ImageLike, batch_images, load_image, prepare_image, resized_size
from maskrcnn.ops import boxes as box_ops
from maskrcnn.structures import ImageBatch

PRECISION = 22
"""Bits behind the point of Pillow's weights for pixels of 8 bits (PRECISION_BITS in its Resample.c)."""

Padded = Callable[[int, int], tuple[int, int]]
"""Says the (height, width) that images of at most some height and width are padded to."""


def prepare_on(
    photos: Sequence[ImageLike], config: ImageConfig, device: torch.device, first: int, padded: Padded
) -> ImageBatch:
    """Return photos as one batch on the device, as `images.prepare` does it; nothing waits for the device.

    Args:
        photos: pictures of any kind and size.
        config: of the network's input.
        device: where the work is done.
        first: number of the first photo in error messages.
        padded: the size of the batch, once rounded up to a multiple of `size_divisor`.

    Raises:
        ImageFileError, InputError: as `images.prepare`.
    """
    loaded = [load_image(photo, f"images[{i}]") for i, photo in enumerate(photos, first)]
    images = [image_on(pixels, config, device) for pixels in loaded]
    least = padded(max(i.shape[1] for i in images), max(i.shape[2] for i in images)) if images else (0, 0)
    batch = batch_images(images, [(p.shape[0], p.shape[1]) for p in loaded], config, least)
    offsets = None if batch.offsets is None else sent(batch.offsets, device)
    return ImageBatch(batch.tensor, sent(batch.sizes, device), sent(batch.original_sizes, device), offsets)


def image_on(pixels: UInt8[np.ndarray, "H W 3"], config: ImageConfig, device: torch.device) -> Float[Tensor, "3 h w"]:
    """Return an RGB photo as the network sees it, on the device; the twin of `images.prepare_image`.

    Example:
        >>> grey = np.full((60, 80, 3), 128, np.uint8)
        >>> config = ImageConfig(min_size=30, max_size=60)
        >>> bool((image_on(grey, config, torch.device("cpu")) == prepare_image(grey, config)).all())
        True
    """
    if config.resize == "skimage":
        return sent(prepare_image(pixels, config), device)
    size = resized_size(pixels.shape[0], pixels.shape[1], config)
    photo = sent(torch.from_numpy(np.require(pixels, requirements=["C", "W"])), device)
    if config.resize != "float":
        return _normalised(resize_as_pillow(photo, size), config)
    return F.interpolate(_normalised(photo, config)[None], size=size, mode="bilinear", align_corners=False)[0]


def sent(tensor: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """Return a CPU tensor on the device; from pinned memory, so that nothing waits for the copy."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def resize_as_pillow(photo: UInt8[Tensor, "H W 3"], size: tuple[int, int]) -> UInt8[Tensor, "h w 3"]:
    """Return a photo resized to (height, width) by Pillow's antialiased bilinear rule, with Pillow's pixels.

    First along x, then along y, each result rounded to 8 bits. The weights are whole numbers, and so are the sums.

    Example:
        >>> row = torch.tensor([[[0, 0, 0], [100, 100, 100]]], dtype=torch.uint8)
        >>> resize_as_pillow(row, (1, 4))[0, :, 0]
        tensor([  0,  25,  75, 100], dtype=torch.uint8)
    """
    for axis, new in ((1, size[1]), (0, size[0])):
        if photo.shape[axis] != new:
            photo = _resampled(photo, axis, new)
    return photo


def _resampled(photo: UInt8[Tensor, "H W 3"], axis: int, new: int) -> UInt8[Tensor, "h w 3"]:
    taps = _taps_on(photo.shape[axis], new, photo.device)
    total: Tensor | None = None
    shape = [-1 if a == axis else 1 for a in range(3)]
    for pixel, weight in zip(taps.pixel, taps.weight, strict=True):
        part = photo.index_select(axis, pixel).int() * weight.reshape(shape)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.add_(1 << (PRECISION - 1)).bitwise_right_shift_(PRECISION).clamp_(0, 255).to(torch.uint8)


class Taps(NamedTuple):
    """Which old pixels each new one is a weighted sum of, along one axis: k for each of n; some weigh nothing."""

    pixel: Int[Tensor, "k n"]
    weight: Int[Tensor, "k n"]
    """In units of 1 / 2^PRECISION."""


@functools.lru_cache(maxsize=256)
def _taps_on(old: int, new: int, device: torch.device) -> Taps:
    """Return the taps on a device; photos of one camera share them."""
    with torch.inference_mode(False):
        return Taps(*(sent(t, device) for t in taps(old, new)))


def taps(old: int, new: int) -> Taps:
    """Return Pillow's weights for resizing `old` pixels to `new` by its bilinear filter, in its order of operations.

    Example:
        >>> taps(2, 1).weight[:2, 0] / 2**PRECISION
        tensor([0.5000, 0.5000])
    """
    scale = old / new
    reach = max(scale, 1.0)  # a triangle over as many old pixels to each side
    most = math.ceil(reach) * 2 + 1
    centre = (np.arange(new) + 0.5) * scale
    begin = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + reach + 0.5).astype(np.int64), old)
    pixel = begin + np.arange(most)[:, None]
    weight = np.maximum(1.0 - np.abs((pixel - centre + 0.5) * (1.0 / reach)), 0.0) * (pixel < end)
    total = np.zeros(new)
    for row in weight:  # one after the other, as Pillow adds them up
        total += row
    whole = (weight / total * (1 << PRECISION) + 0.5).astype(np.int32)
    return Taps(torch.from_numpy(np.minimum(pixel, old - 1)), torch.from_numpy(whole))


def _normalised(photo: UInt8[Tensor, "H W 3"], config: ImageConfig) -> Float[Tensor, "3 H W"]:
    """Do what `images.prepare_image` does to values, operation by operation."""
    channels = photo.permute(2, 0, 1)
    x = (channels.flip(0) if config.channel_order == "bgr" else channels).float().contiguous()
    x = box_ops.divided(x, 1 / config.pixel_scale)
    mean, std = (box_ops.vector(values, photo.device, torch.float32) for values in (config.mean, config.std))
    return (x - mean[:, None, None]) / std[:, None, None]
