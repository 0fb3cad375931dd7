"""What a file is, by how it begins, and what to say of files that are no weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from maskrcnn.errors import CheckpointError, os_reason

Container = Literal["safetensors", "torch", "torch before 1.6", "pickle", "hdf5"]

LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
"""The number, as pickled, with which torch files began before they were zip archives."""
TEXT_PICKLES = (b"(dp", b"(d", b"}q", b"}(", b"}.", b"(lp", b"ccollections\nOrderedDict\n", b"]q")
"""How pickles of containers begin in protocols 0 and 1."""
FOREIGN = (
    (rb"version https://git-lfs", "is a Git LFS pointer, not the file itself: run git lfs pull"),
    (
        rb"\s*<(!doctype|html|\?xml|head)",
        "is a web page, not weights: download it again, from the link to the raw file",
    ),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "is compressed: unpack it and load what is in it"),
    (rb".{257}ustar", "is a tar archive: unpack it and load what is in it"),
    (rb"model_checkpoint_path:", "is the index of a TensorFlow checkpoint: convert it to Keras' .h5 or to safetensors"),
    (rb"\x08[\x01-\x20][\x12\x3a].*(onnx|pytorch|tf2)", "is an ONNX model: load the weights that it was exported from"),
    (rb"TFL3|.{4}TFL3", "is a TensorFlow Lite model: load the weights that it was converted from"),
    (rb"(\x89PNG|\xff\xd8\xff|GIF8)", "is an image, not weights"),
    (rb"\0+\Z", "holds only zeros: download it again"),
)
TENSORFLOW = re.compile(r"\.(data-\d{5}-of-\d{5}|index|meta|pb|ckpt)$")
ADVICE = "load a safetensors, PyTorch (.pth), pickle (.pkl) or Keras (.h5) file of weights"


def recognise(path: Path) -> Container:
    """Return the kind of container that a file is, whatever its name.

    Raises:
        CheckpointError: it is missing, or of no kind that can be read; the message says what it looks like.
    """
    try:
        if path.is_dir():
            kind = "a TensorFlow SavedModel" if (path / "saved_model.pb").exists() else "a folder"
            raise CheckpointError(f"{path} is {kind}: {ADVICE}.")
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is no regular file: {ADVICE}.")
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as e:
        raise CheckpointError(f"Cannot read {os_reason(path, e)}.") from None
    found = _container(head)
    if found is None:
        raise CheckpointError(f"{path} {_looks_like(path, head)}.")
    return found


def _container(head: bytes) -> Container | None:
    if head.startswith(b"PK\3\4"):
        return "torch"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head[5:9] == b"\0\0\0{":  # the size of a JSON header that follows
        return "safetensors"
    if head[2:].startswith(LEGACY_MAGIC):
        return "torch before 1.6"
    if re.match(rb"\x80[\x01-\x05]", head) or head.startswith(TEXT_PICKLES):
        return "pickle"
    return None


def _looks_like(path: Path, head: bytes) -> str:
    if not head:
        return "is empty: download it again"
    for pattern, words in FOREIGN:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return words
    if TENSORFLOW.search(path.name):
        return "looks like a TensorFlow model or checkpoint: convert it to Keras' .h5 or to safetensors"
    text = head[:40].decode("utf-8", "replace")
    if all(c.isprintable() or c.isspace() for c in text) and "\ufffd" not in text[:-1]:  # the last may be cut
        return f"is text, beginning {json.dumps(text)}: {ADVICE}"
    return f"is of no known kind, or damaged: {ADVICE}"
