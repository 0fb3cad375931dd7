"""The door for pictures: from a file, PIL image, array or tensor to the network's input.

Any picture first becomes uint8 RGB of the original size; `prepare_image` then resizes and normalises it as
`ImageConfig` says, and `batch_images` pads several to one tensor.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from maskrcnn.config import ImageConfig
from maskrcnn.errors import ImageFileError, InputError, os_reason
from maskrcnn.structures import ImageBatch

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
"""What is accepted as a picture: a path, a PIL image, a uint8 [H, W, 3] array or a [3, H, W] tensor."""

IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("avif", "bmp", "gif", "heic", "heif", "j2k", "jp2", "jpe", "jpeg", "jpg", "pbm", "pgm", "png"),
        *("pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
"""Endings by which `image_files` knows pictures in a folder."""

_KNOWN_STRANGERS = {
    b"version https://git-lfs": "a Git LFS pointer; fetch the picture with `git lfs pull`",
    b"<": "text, probably a saved web page",
    b"{": "text, probably JSON",
    b"%PDF": "a PDF; save its pages as images first",
}
"""First bytes of what people take for pictures, and what to say of it."""


def load_image(source: ImageLike, name: str = "image") -> UInt8[np.ndarray, "H W 3"]:
    """Return a picture as uint8 RGB in its upright orientation.

    Of a file with several frames the first is taken. Transparency is laid on white. 16-bit values are
    divided by 257: the brightness is kept, never stretched. The result may share memory with `source`.

    Args:
        source: a path, a PIL image, an array uint8 or uint16 [H, W, 3], [H, W], [H, W, 1] or
            [H, W, 4] (RGBA), or a tensor [3, H, W], uint8 or float from 0 to 1.
        name: what error messages call it.

    Raises:
        ImageFileError: the file is missing, empty, damaged, too large or not an image.
        InputError: the array, tensor or PIL image has the wrong shape, type or values.
    """
    if isinstance(source, (str, os.PathLike)):
        return _load_file(Path(source))
    if isinstance(source, Image.Image):
        return _load_pil(source, name)
    if isinstance(source, Tensor):
        return _load_tensor(source, name)
    if isinstance(source, np.ndarray):
        return _load_array(source, name)
    hint = " OpenCV's imread returns None for a file it cannot read." if source is None else ""
    raise InputError(
        f"{name} must be a path, a PIL image, a uint8 [H, W, 3] array or a [3, H, W] tensor; "
        f"got {type(source).__name__}.{hint}"
    )


def _load_file(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    if path.is_dir():
        raise ImageFileError(f"{path}: is a folder, not an image; maskrcnn.images.image_files lists its pictures.")
    try:
        with path.open("rb") as f:
            head = f.read(32)
    except FileNotFoundError:
        raise ImageFileError(f"{path}: no such file (looked from {Path.cwd()}).") from None
    except OSError as e:
        raise ImageFileError(f"{os_reason(path, e)}.") from None
    if not head:
        raise ImageFileError(f"{path}: the file is empty (0 bytes).")
    try:
        with _readable_errors(str(path), head), Image.open(path) as image:
            return _upright_rgb(image)
    except InputError as e:
        raise ImageFileError(str(e)) from None


def _load_pil(image: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    # Image.open reads the pixels only when they are asked for, so a broken file may show here.
    with _readable_errors(str(getattr(image, "filename", "") or name)):
        return _upright_rgb(image)


@contextmanager
def _readable_errors(name: str, head: bytes = b"") -> Iterator[None]:
    """Turn whatever Pillow raises while it decodes into one line that begins with `name`."""
    try:
        yield
    except InputError as e:
        raise InputError(f"{name}: {e}") from None
    except UnidentifiedImageError:
        raise ImageFileError(f"{name}: {_stranger(head)}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise ImageFileError(f"{name}: {_bomb(e)}") from None
    except Exception as e:  # noqa: BLE001 - on broken bytes decoders raise whatever they trip over
        raise ImageFileError(f"{name}: {_damage(e)}.") from None


def _stranger(head: bytes) -> str:
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "a HEIC photo; convert it to JPEG, or install pillow-heif and call its register_heif_opener()"
    for start, what in _KNOWN_STRANGERS.items():
        if head.lstrip().startswith(start):
            return f"not an image, but {what}"
    return "not an image in a format that Pillow reads, or its first bytes are damaged"


def _damage(error: Exception) -> str:
    reason = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "the image does not fit in memory"
    return f"the image is truncated or damaged ({reason or type(error).__name__})"


def _bomb(error: Exception) -> str:
    pixels = next((int(word.strip("()")) for word in str(error).split() if word.strip("()").isdigit()), 0)
    return (
        f"{pixels / 1e6:.0f} million pixels are refused, since a file that claims so many may be an attack "
        "(decompression bomb); if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS."
    )


def _upright_rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    image.load()
    if not all(image.size):
        raise InputError(f"the image has no pixels; its size is {image.width} × {image.height}.")
    # Metadata that cannot be read is no reason to refuse good pixels.
    with suppress(SyntaxError, ValueError, TypeError, KeyError, OSError, ArithmeticError):
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _rgb(_from_16_bit(np.asarray(image)))
    if image.mode in ("F", "LAB"):
        what = "32-bit floats" if image.mode == "F" else "L*a*b* values"
        raise InputError(
            f"pictures of {what} (PIL mode {image.mode}) have no known way to 8 bits; save it as 8-bit RGB."
        )
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    if image.has_transparency_data:
        return _rgb(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _from_16_bit(pixels: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Return 16-bit pixels as 8-bit ones; 65535 / 255 = 257, exactly."""
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise InputError(f"values must be 0 to 65535 (16 bits); got {low} to {high}. Save it as 8-bit RGB.")
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _rgb(pixels: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "H W 3"]:
    """Return grey, RGB or RGBA pixels as RGB, what is transparent on white."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels)
    alpha = pixels[:, :, 3:].astype(np.uint16)
    return ((pixels[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _load_array(array: Shaped[np.ndarray, "..."], name: str) -> UInt8[np.ndarray, "H W 3"]:
    got = f"got {array.dtype} {list(array.shape)}"
    rule = f"{name} must be a uint8 array [H, W, 3] of RGB pixels"
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        raise InputError(f"{rule}; {got}. It looks like CHW; pass image.transpose(1, 2, 0).")
    if array.ndim == 4:
        raise InputError(f"{rule}; {got}. It looks like a batch; pass a list of its images.")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or array.size == 0:
        raise InputError(f"{rule}, or [H, W] grey, with at least one pixel; {got}.")
    if array.dtype == np.uint16:
        array = _from_16_bit(array)
    if array.dtype != np.uint8:
        low, high = array.min(), array.max()
        fix = "(image * 255).round().astype(np.uint8)" if high <= 1 else "image.astype(np.uint8)"
        raise InputError(f"{rule}; {got} with values {low:.4g} to {high:.4g}. If 0 is black, pass {fix}.")
    return _rgb(array)


def _load_tensor(tensor: Tensor, name: str) -> UInt8[np.ndarray, "H W 3"]:
    got = f"got {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    rule = f"{name} must be a tensor [3, H, W], uint8 or float from 0 to 1"
    if tensor.ndim == 4:
        raise InputError(f"{rule}; {got}. It looks like a batch; pass a list of its images.")
    if tensor.ndim == 2 or (tensor.ndim == 3 and tensor.shape[0] == 1):
        raise InputError(f"{rule}; {got}, a single channel. For a grey picture pass image.expand(3, -1, -1).")
    if tensor.ndim == 3 and tensor.shape[0] != 3 and tensor.shape[2] == 3:
        raise InputError(f"{rule}; {got}. It looks like HWC; pass image.permute(2, 0, 1).")
    if tensor.ndim != 3 or tensor.shape[0] != 3 or tensor.numel() == 0:
        raise InputError(f"{rule}, with at least one pixel; {got}.")
    tensor = tensor.detach()
    if tensor.is_floating_point():
        low, high = tensor.min().item(), tensor.max().item()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(f"{rule}; {got} that holds NaN or infinity.")
        if low < 0 or high > 1:
            cause = (
                "is normalised already; pass it before normalisation"
                if low < 0
                else "is 0 to 255; divide it by 255 or pass uint8"
            )
            raise InputError(f"{rule}; {got} with values {low:.4g} to {high:.4g}. It probably {cause}.")
        tensor = (tensor.float() * 255).round().to(torch.uint8)
    if tensor.dtype != torch.uint8:
        raise InputError(f"{rule}; {got}. Pass image.to(torch.uint8).")
    return np.ascontiguousarray(tensor.permute(1, 2, 0).cpu().numpy())


def image_files(inputs: Iterable[str | Path], *, recursive: bool = False) -> list[Path]:
    """Return the picture files that paths, folders and glob patterns name, each once.

    The order is that of `inputs`; what comes from one folder or pattern is sorted. Folders and patterns
    give files with a known image suffix that are not hidden; a file named outright is taken as it is.

    Args:
        inputs: files, folders or patterns such as ``photos/*.jpg`` or ``photos/**/*.png``.
        recursive: also look into the folders' subfolders.

    Raises:
        InputError: a path does not exist, or a folder or pattern holds no picture.
    """
    found: dict[str, Path] = {}
    for item in [inputs] if isinstance(inputs, (str, Path)) else inputs:
        for path in _matches(Path(os.path.expanduser(item)), recursive):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _matches(path: Path, recursive: bool) -> list[Path]:
    # A file may have a bracket in its name, so what exists comes before what is a pattern.
    if path.is_file():
        return [path]
    if path.is_dir():
        candidates = list(path.rglob("*") if recursive else path.iterdir())
        where = f"the folder {path} {'and its subfolders hold' if recursive else 'holds'} no pictures"
    elif glob.has_magic(str(path)):
        candidates = [Path(p) for p in glob.glob(str(path), recursive=True)]
        where = f"the pattern {path} matches no pictures"
    else:
        raise InputError(f"{path}: no such file or folder (looked from {Path.cwd()}).")
    files = [p for p in candidates if not p.is_dir()]  # a link that leads nowhere is named when it is read
    pictures = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if not pictures:
        others = f"; it has {len(files)} other file{'s' * (len(files) != 1)}" if files else ""
        raise InputError(f"{where} (.jpg, .png, .tif, …){others}.")
    return sorted(pictures)


def resized_size(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """Return the (height, width) to which a photo is resized, before padding; at least 1 each.

    The ways to round are in the order of operations of the implementations they match, in float64.

    Example:
        >>> resized_size(536, 559, ImageConfig(resize="pil"))
        (800, 834)
    """
    shorter, longer = min(height, width), max(height, width)
    if config.resize == "float":
        scale = min(config.min_size / shorter, config.max_size / longer)
        new = (math.floor(height * scale), math.floor(width * scale))
    elif config.resize == "pil_floor":
        new = _floored_size(height, width, config)
    elif config.resize == "skimage":
        scale = max(1.0, config.min_size / shorter)
        if round(longer * scale) > config.max_size:
            scale = config.max_size / longer
        new = (round(height * scale), round(width * scale))
    else:
        scale = config.min_size / shorter
        exact = (height * scale, width * scale)
        # The shorter side is min_size exactly, whatever the product's last bit.
        exact = (float(config.min_size), exact[1]) if height < width else (exact[0], float(config.min_size))
        if max(exact) > config.max_size:
            shrink = config.max_size / max(exact)
            exact = (exact[0] * shrink, exact[1] * shrink)
        new = (int(exact[0] + 0.5), int(exact[1] + 0.5))
    return max(new[0], 1), max(new[1], 1)


def _floored_size(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    shorter, longer = min(height, width), max(height, width)
    side = config.min_size
    if longer / shorter * side > config.max_size:
        side = round(config.max_size * shorter / longer)
    # Rounding the shorter side first may let the longer one pass max_size, which a square has no room for.
    most = config.max_size if config.padding == "square" else longer * side
    if height < width:
        return side, min(int(side * width / height), most)
    return min(int(side * height / width), most), side


def prepare_image(image: UInt8[np.ndarray, "H W 3"], config: ImageConfig) -> Float[Tensor, "3 h w"]:
    """Return an RGB photo as the network sees it: resized, channels ordered, normalised; not yet padded."""
    height, width = resized_size(image.shape[0], image.shape[1], config)
    if config.resize in ("pil", "pil_floor"):
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        return _normalised(np.asarray(resized), config)
    if config.resize == "skimage":
        return _normalised(_resize_over_black(image, (height, width)), config)
    return F.interpolate(_normalised(image, config)[None], size=(height, width), mode="bilinear", align_corners=False)[
        0
    ]


def _resize_over_black(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image resized bilinearly in float64, the photo lying on black, and cut (not rounded) to whole numbers.

    So scikit-image's `resize` does with order 1 and its constant mode: no antialiasing, darker borders.
    """
    if image.shape[:2] == size:
        return image
    for axis, (old, new) in enumerate(zip(image.shape[:2], size, strict=True)):
        position = (np.arange(new) + 0.5) * (old / new) - 0.5
        low = np.floor(position).astype(np.int64)
        upper = position - low
        padded = np.pad(image.astype(np.float64), [(1, 1) if a == axis else (0, 0) for a in range(3)])
        shape = [-1 if a == axis else 1 for a in range(3)]
        below, above = (padded.take(np.clip(low + 1 + k, 0, old + 1), axis) for k in (0, 1))
        image = below * (1 - upper).reshape(shape) + above * upper.reshape(shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def _normalised(image: UInt8[np.ndarray, "H W 3"], config: ImageConfig) -> Float[Tensor, "3 H W"]:
    if config.channel_order == "bgr":
        image = image[:, :, ::-1]
    x = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1).contiguous()
    # Division, since 1/255 has no exact float and a product would differ in the last bit.
    x = x / (1 / config.pixel_scale)
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    return (x - mean[:, None, None]) / std[:, None, None]


def denormalised(image: Float[Tensor, "3 H W"], config: ImageConfig) -> UInt8[np.ndarray, "H W 3"]:
    """Return what the network sees as RGB pixels to look at: the inverse of how `prepare_image` normalises.

    Example:
        >>> config = ImageConfig()
        >>> grey = np.full((2, 2, 3), 128, np.uint8)
        >>> bool((denormalised(_normalised(grey, config), config) == grey).all())
        True
    """
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    colors = (image.detach().float().cpu() * std + mean) / config.pixel_scale
    if config.channel_order == "bgr":
        colors = colors.flip(0)
    return colors.nan_to_num(0.0).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()


def batch_images(
    images: Sequence[Float[Tensor, "3 _h _w"]],
    original_sizes: Sequence[tuple[int, int]],
    config: ImageConfig,
    at_least: tuple[int, int] = (0, 0),
) -> ImageBatch:
    """Return prepared images padded to one size.

    Args:
        images: what `prepare_image` returned.
        original_sizes: (height, width) of each photo.
        config: says the padded size.
        at_least: least (height, width) of the tensor, before it is rounded up to a multiple of `size_divisor`.

    Raises:
        InputError: there is no image, the numbers differ, or an image exceeds the square.
    """
    if not images:
        raise InputError("images must hold at least one image; got none.")
    if len(images) != len(original_sizes):
        raise InputError(
            f"original_sizes must hold one (height, width) per image; "
            f"got {len(original_sizes)} for {len(images)} images."
        )
    sizes = [(int(i.shape[1]), int(i.shape[2])) for i in images]
    height, width = max(at_least[0], *(h for h, _ in sizes)), max(at_least[1], *(w for _, w in sizes))
    if config.padding == "square":
        if max(height, width) > config.max_size:
            raise InputError(
                f"images must fit in max_size {config.max_size} for square padding; got {height} × {width}."
            )
        height = width = config.max_size
    divisor = config.size_divisor
    height, width = math.ceil(height / divisor) * divisor, math.ceil(width / divisor) * divisor
    tensor = images[0].new_zeros(len(images), 3, height, width)
    if config.padding_fill == "black":
        black = _normalised(np.zeros((1, 1, 3), np.uint8), config)
        tensor += black.to(tensor)
    centred = config.padding_place == "center"
    offsets = [((height - h) // 2, (width - w) // 2) if centred else (0, 0) for h, w in sizes]
    for slot, image, (h, w), (y, x) in zip(tensor, images, sizes, offsets, strict=True):
        slot[:, y : y + h, x : x + w] = image
    originals = torch.tensor([tuple(s) for s in original_sizes])
    return ImageBatch(tensor, torch.tensor(sizes), originals, torch.tensor(offsets) if centred else None)


def prepare(images: Sequence[ImageLike], config: ImageConfig, first: int = 0) -> ImageBatch:
    """Return pictures of any kind and size as one batch for the network.

    `first` is the number of the first image in error messages, for a batch out of a longer list.

    Raises:
        ImageFileError: a file cannot be read as an image.
        InputError: `images` is empty, or one of them has the wrong shape, type or values.
    """
    loaded = [load_image(image, f"images[{i}]") for i, image in enumerate(images, first)]
    original_sizes = [(p.shape[0], p.shape[1]) for p in loaded]
    return batch_images([prepare_image(p, config) for p in loaded], original_sizes, config)
