"""Networks out of .pt2 files, ready to predict."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from maskrcnn.config import Config
from maskrcnn.errors import CheckpointError, InputError, MaskRCNNError, os_reason, printable
from maskrcnn.export.exported import ExportedModel
from maskrcnn.export.graph import Sizes, told_by
from maskrcnn.export.pt2 import ABOUT
from maskrcnn.export.pt2_check import LARGEST_TEXT, Archive, UnexpectedError, checked_copy

PROCESSORS = ("DEFAULT", "NO AVX", "AVX2", "AVX512")
"""What torch calls the processors of a family, each able to run what those before it do."""


class Pt2Model(ExportedModel):
    """A network that `maskrcnn export --format pt2` wrote, as a program or compiled."""

    def __init__(self, config: Config, sizes: Sizes, device: torch.device, call: Callable[..., Any]) -> None:
        super().__init__(config, sizes)
        self.device = device
        self._call = call

    def run(
        self, images: Float[Tensor, "N 3 H W"], sizes: Int64[Tensor, "N 2"], offsets: Int64[Tensor, "N 2"] | None
    ) -> Mapping[str, Tensor]:
        """Return the program's outputs by name, on the CPU."""
        inputs = (images, sizes) if offsets is None else (images, sizes, offsets)
        try:
            found = self._call(*(tensor.to(self.device) for tensor in inputs))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as e:
            raise InputError(f"The file's program cannot run on {[list(t.shape) for t in inputs]}: {_line(e)}.") from e
        return {name: tensor.cpu() for name, tensor in found.items()}


def load_pt2(path: str | Path, trust: bool = False) -> Pt2Model:
    """Return the network of a .pt2 file.

    A program is read as data: what is in it is checked before torch loads it, and nothing in it can run but
    the network. A compiled network is native code, which a file from a stranger could make do anything; it is loaded
    only with `trust`.

    Args:
        path: of the file.
        trust: you know where the file comes from. Loads compiled networks, and programs that hold what is not known.

    Raises:
        CheckpointError: the file is damaged, or another program's, or of another version of PyTorch.
        InputError: it is compiled and not trusted, or for another kind of machine than this.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            about, compiled = _about(path, file)
            config, sizes, device = _described(path, about)
            if device.type == "cuda" and not torch.cuda.is_available():
                raise InputError(f"{path} is for a CUDA GPU, and there is none here. Export it anew, for the CPU.")
            if not compiled:
                return Pt2Model(config, sizes, device, _program(path, file, about, trust))
    except OSError as e:
        raise CheckpointError(f"Cannot read {os_reason(path, e)}.") from None
    if not trust:
        raise InputError(
            f"{path} is compiled: loading it runs native code that is in it, which may be anybody's. If you know where "
            "it comes from, give --trust (trust=True). The program that it was compiled from is data, and needs none."
        )
    return Pt2Model(config, sizes, device, _compiled(path, about))


def _about(path: Path, file: IO[bytes]) -> tuple[dict[str, Any], bool]:
    """Return what a file tells of itself, and whether there is compiled code in it."""
    if not zipfile.is_zipfile(file):
        raise CheckpointError(f"{path} is no .pt2 file, or only a part of one: it does not end as such files do.")
    try:
        archive = Archive(file)
        text = archive.read(f"extra/{ABOUT}", LARGEST_TEXT) if f"extra/{ABOUT}" in archive.names else None
    except CheckpointError as e:
        raise CheckpointError(f"{path} is no .pt2 file, or a damaged one ({_line(e)}).") from None
    if text is None:
        what = "was not written by maskrcnn export --format pt2: it does not tell a configuration."
        raise CheckpointError(f"{path} {what}")
    try:
        about = json.loads(text)
        compiled = any(name.startswith("data/aotinductor/") for name in archive.names)
        return {**about, "torch": str(about["torch"]), "device": str(about["device"])}, compiled
    except (ValueError, TypeError, KeyError, RecursionError):
        raise CheckpointError(f"{path} is damaged: what it tells of itself cannot be read.") from None


def _described(path: Path, about: Mapping[str, Any]) -> tuple[Config, Sizes, torch.device]:
    """Return the configuration, the sizes of input and the device that a file tells of."""
    try:
        if about["device"] not in ("cpu", "cuda"):
            raise ValueError(f"there is no device {about['device']!r}")
        return *told_by(about), torch.device(about["device"])
    except (MaskRCNNError, KeyError, TypeError, ValueError, RecursionError) as e:
        raise CheckpointError(f"{path} is damaged, or of another version of maskrcnn: {_line(e)}.") from None


def _program(path: Path, file: IO[bytes], about: Mapping[str, Any], trust: bool) -> Callable[..., Any]:
    """Return the program in a file that is open, checked if it is not trusted."""
    if not trust:
        try:
            file = checked_copy(file)
        except UnexpectedError as e:
            raise CheckpointError(
                f"{path} is not loaded, since it holds {e}, which maskrcnn export does not write. If you know where "
                "the file comes from, give --trust (trust=True)."
            ) from None
        except Exception as e:  # noqa: BLE001 - whatever a file that is made to mislead is tripped over by
            raise CheckpointError(f"{path} is damaged: {_line(e)}.") from None
    file.seek(0)
    try:
        with _quiet():
            return torch.export.load(file).module()
    except Exception as e:  # noqa: BLE001 - torch raises whatever it trips over
        raise CheckpointError(
            f"{path} cannot be loaded by PyTorch {torch.__version__}: {_line(e)}. It was written by PyTorch "
            f"{printable(str(about['torch']))}; export it anew, or use that version."
        ) from None


def _compiled(path: Path, about: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the compiled network in a file."""
    made, here = str(about.get("processor")), torch.backends.cpu.get_cpu_capability()
    if made in PROCESSORS and here in PROCESSORS and PROCESSORS.index(made) > PROCESSORS.index(here):
        raise InputError(f"{path} is compiled for a processor with {made}; this one has {here}. Export it anew here.")
    try:
        with _quiet():
            return torch._inductor.aoti_load_package(str(path))
    except Exception as e:  # noqa: BLE001 - torch raises whatever it trips over
        raise CheckpointError(
            f"{path} cannot be loaded by PyTorch {torch.__version__} here: {_line(e)}. It was compiled with PyTorch "
            f"{printable(about['torch'])}, and fits that version, system and processor alone; export it anew here."
        ) from None


def _line(error: BaseException) -> str:
    """Return the first sentence of an error."""
    text = str(error).strip() or type(error).__name__
    return printable(text.splitlines()[0].split(". ")[0].rstrip("."), 200)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch logs before it raises."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
