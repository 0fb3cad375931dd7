"""A network optimized for a CUDA GPU: one compiled program, recorded as a CUDA graph for each size of input."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maskrcnn.export.graph import ExportedGraph, as_detection_batch, output_names
from maskrcnn.images import ImageLike
from maskrcnn.memory import explain_out_of_memory
from maskrcnn.model import MaskRCNN
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.triton import can_start
from maskrcnn.optimized.captured import Buffers, Capture, Graphs, Pool, bucket, bucket_side, capture, usual_sides
from maskrcnn.optimized.photos import prepare_on
from maskrcnn.optimized.precision import POLICY, choose_dtype, compiler_options
from maskrcnn.prediction import Predictor, unbatch
from maskrcnn.structures import DetectionBatch, Detections, ImageBatch, MaskForm

logger = logging.getLogger("maskrcnn")
NOTE = {"note": True}
TF32_OFF = "ieee"


class CudaModel(Predictor):
    """What `MaskRCNN.optimize` returns for a GPU: predicts as the network does, faster; made for inference alone.

    Its weights are a copy, so training the network afterwards does not change it. It is for one thread at a time.
    """

    def __init__(
        self,
        model: MaskRCNN,
        dtype: torch.dtype,
        compile: bool = True,
        graphs: bool = True,
        backend: str = "inductor",
        capture: Capture = capture,
        new_pool: Any = Pool.of,
    ) -> None:
        """Copy a network.

        Args:
            model: on the device to run on.
            dtype: of weights and feature maps, float32 or bfloat16.
            compile: whether it runs as a compiled program.
            graphs: whether runs are recorded.
            backend: of `torch.compile`.
            capture: records a run.
            new_pool: gives memory for recorded runs.
        """
        self.config = model.config
        self.device, self.dtype, self.policy = model.device, dtype, POLICY[dtype]
        self._names = output_names(self.config)
        self._network = ExportedGraph(model).to(  # type: ignore[call-overload]
            model.device, dtype, memory_format=torch.channels_last
        )
        self._program: Any = None
        if compile:
            if self.device.type == "cuda":
                can_start()
            self._program = torch.compile(self._network, fullgraph=True, **compiler_options(backend))
        self.graphs: Graphs | None = Graphs(self._run, capture=capture, new_pool=new_pool) if graphs else None
        """Recorded runs; None where they are not wanted, or could not be recorded."""
        self.side = bucket_side(self.config, dtype)
        """Sides of padded images are multiples of this, in pixels."""

    @property
    def compiled(self) -> bool:
        """Whether it runs as a compiled program; else it runs eagerly."""
        return self._program is not None

    def prepare(self, photos: Sequence[ImageLike], first: int = 0) -> ImageBatch:
        """Return photos as the network wants them, prepared on the device; see `images.prepare`."""
        with torch.inference_mode(False), torch.no_grad():
            return prepare_on(photos, self.config.image, self.device, first, self._bucket)

    def detect(self, images: ImageBatch) -> DetectionBatch:
        """Return what is found in prepared images, on the device; boxes in the input frame. Nothing waits for it.

        Raises:
            DeviceMemoryError: they do not fit in its memory; the message names what would.
        """
        # Memory that recorded runs keep would be missing in another mode.
        with torch.inference_mode(False), torch.no_grad(), exact_float32():
            try:
                return self._detected(images)
            except torch.OutOfMemoryError as e:
                count, _, height, width = images.tensor.shape
                told = explain_out_of_memory(e, self.device, count, (height, width), self._probe)
        raise told

    def found_in(
        self, photos: Sequence[ImageLike], first: int, score_threshold: float, masks: MaskForm
    ) -> list[Detections]:
        """Return what is found in the photos of one batch; pixels of masks are pasted on the device if they fit."""
        try:
            batch = self.prepare(photos, first)
        except torch.OutOfMemoryError:
            self._make_room()
            batch = self.prepare(photos, first)
        found = self.detect(batch)
        if masks == "pixels" and self.config.masks:
            try:
                return unbatch(found, batch, self.config, score_threshold, masks)
            except torch.OutOfMemoryError:
                self._make_room()
        found, batch = fetched(found, batch)  # run lengths are made on the CPU, and pixels where the GPU is too small
        return unbatch(found, batch, self.config, score_threshold, masks)

    def _make_room(self) -> None:
        """Let go of what recorded runs hold of the device's memory."""
        if self.graphs:
            self.graphs.clear()
        torch.cuda.empty_cache()

    def _detected(self, images: ImageBatch) -> DetectionBatch:
        """Return what is found; where memory is short, once more without what other sizes' graphs hold."""
        try:
            return self._detect(images)
        except torch.OutOfMemoryError:
            if not self.graphs:
                raise
        self._make_room()
        return self._detect(images)

    def _detect(self, images: ImageBatch) -> DetectionBatch:
        count, _, *sides = images.tensor.shape
        size = self._bucket(sides[0], sides[1])
        batch = count if self.graphs is None else self.graphs.batch_for(count, size)
        buffers = self._buffers(batch, size)
        buffers.fill(images, self._padding())
        outputs = self._outputs(buffers)
        return as_detection_batch({name: tensor[:count] for name, tensor in zip(self._names, outputs, strict=True)})

    def _bucket(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that images of a padded height and width run in."""
        return bucket(height, width, self.side, usual_sides(self.config))

    def _buffers(self, batch: int, size: tuple[int, int]) -> Buffers:
        def make() -> Buffers:
            centred = self.config.image.padding_place == "center"
            return Buffers.of(batch, size, centred, self.dtype, self.device)

        return make() if self.graphs is None else self.graphs.buffers((batch, *size), make)

    def _outputs(self, buffers: Buffers) -> tuple[Tensor, ...]:
        if self.graphs is None:
            return self._run(*buffers.given())
        try:
            return self.graphs.run(buffers)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:  # where CUDA itself is broken, the run below fails too
            logger.warning("No CUDA graph can be recorded, so the GPU waits for the host more: %s", _reason(e))
            self.graphs = None
        return self._run(*buffers.given())

    def _run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the network's outputs in the order of their names."""
        if self._program is not None:
            try:
                return tuple(self._program(*inputs).values())
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise
            except Exception as e:  # a compiler fails in many ways, and the network runs without it
                if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                    raise  # it is compiled by now: what fails is the recording
                logger.warning("The network is not compiled and runs eagerly, slower: %s", _reason(e))
                logger.debug("Compiling failed.", exc_info=True)
                self._program = None
        return tuple(self._network(*inputs).values())

    def _padding(self) -> Float[Tensor, "3 1 1"]:
        """Return what padding holds, as `images.batch_images` fills it."""
        image = self.config.image
        dark = 0.0 if image.padding_fill == "black" else None
        colour = [0.0 if dark is None else (dark - m) / s for m, s in zip(image.mean, image.std, strict=True)]
        return box_ops.vector(colour, self.device, torch.float32)[:, None, None]

    def _probe(self, side: int) -> None:
        size = self._bucket(side, side)
        buffers = Buffers.of(1, size, self.config.image.padding_place == "center", self.dtype, self.device)
        buffers.sizes.fill_(side)
        self._network(*buffers.given())


def optimize_for_cuda(model: MaskRCNN, dtype: str, compile: bool) -> CudaModel:
    """Return a copy of the network for fast inference on the GPU it is on; see `MaskRCNN.optimize`."""
    chosen = choose_dtype(dtype, model.device)
    logger.warning("%s", POLICY[chosen], extra=NOTE)
    return CudaModel(model, chosen, compile)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Let a GPU multiply float32 as float32 inside the block, without TF32's 10 bits.

    PyTorch lets convolutions use TF32 unless told otherwise, which moves scores in the fourth digit.
    """
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = TF32_OFF
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def fetched(found: DetectionBatch, images: ImageBatch) -> tuple[DetectionBatch, ImageBatch]:
    """Return detections and what is known of their images on the CPU, waiting once for all of them."""
    device = found.boxes.device
    fields = [t.to("cpu", non_blocking=True) for t in found]
    pairs = [t.to("cpu", non_blocking=True) for t in (images.sizes, images.original_sizes, images.starts)]
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    pixels = torch.empty(0, 3, *images.tensor.shape[2:])  # nobody looks at them any more
    offsets = None if images.offsets is None else pairs[2]
    return DetectionBatch(*fields), ImageBatch(pixels, pairs[0], pairs[1], offsets)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
