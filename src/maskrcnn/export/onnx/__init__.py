"""The network as an ONNX file to run, in standard operators alone; what ONNX Runtime finds with it; smaller variants.

Needs the packages onnx, onnxscript and onnxruntime, which the extra `export` brings.
"""

from __future__ import annotations

from importlib.util import find_spec

from maskrcnn.errors import InputError

WRITERS = ("onnx", "onnxscript", "onnxruntime")
"""Packages that an export needs; running a file takes the last alone."""


def check_packages(needed: tuple[str, ...] = WRITERS) -> None:
    """Raise `InputError` where a package is missing."""
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        plural = "package" if len(missing) == 1 else "packages"
        raise InputError(f'ONNX files need the {plural} {" and ".join(missing)}: pip install "maskrcnn[export]"')
