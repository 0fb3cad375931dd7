"""The errors and warnings a user can meet; each is also the builtin one that fits it."""

from __future__ import annotations

import os


class MaskRCNNError(Exception):
    """Base of all errors this package raises on purpose."""


class ConfigError(MaskRCNNError, ValueError):
    """A configuration field is unknown or its value is out of range."""


class InputError(MaskRCNNError, ValueError):
    """An image, a target or an argument has the wrong shape, type or values."""


class ImageFileError(MaskRCNNError, OSError):
    """An image file is missing, empty, truncated or not an image."""


class DatasetError(MaskRCNNError, ValueError):
    """An annotation file cannot be used; the message names the file and the item."""


class CheckpointError(MaskRCNNError, ValueError):
    """A weights or checkpoint file cannot be read, or does not fit the model."""


class WeightsWarning(UserWarning):
    """Weights can be loaded, but hold values that no training ends with."""


class WriteError(MaskRCNNError, OSError):
    """An output file or folder cannot be written."""


class DownloadError(MaskRCNNError, OSError):
    """A published file cannot be fetched, or is not the one that was published."""


class NonFiniteLossError(MaskRCNNError, ValueError):
    """A training loss became NaN or infinite."""


class DeviceMemoryError(MaskRCNNError, MemoryError):
    """A GPU has not enough memory for what it was given; the message names what would fit."""


def did_you_mean(word: str, known: list[str], most: int = 1) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known word (or the `most` nearest), or an empty string.

    Example:
        >>> did_you_mean("nms_treshold", ["nms_threshold", "min_size"])
        " Did you mean 'nms_threshold'?"
    """
    import difflib

    near = [repr(other) for other in difflib.get_close_matches(word, known, n=most, cutoff=0.6)]
    if not near:
        return ""
    return f" Did you mean {' or '.join([', '.join(near[:-1]), near[-1]] if len(near) > 1 else near)}?"


def os_reason(path: str | os.PathLike[str], error: OSError) -> str:
    """Return the system's reason for a failed file operation, without Python's decoration."""
    return f"{path}: {error.strerror or error}"


def printable(text: str, length: int = 100) -> str:
    """Return the beginning of a foreign text in one line, without what a terminal would obey.

    Example:
        >>> printable("a" + chr(27) + "[31mb")
        'a?[31mb'
    """
    return "".join(c if c.isprintable() else "?" for c in text[:length])


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> counted(1, "box"), counted(2, "class")
        ('1 box', '2 classes')
    """
    plural = f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
