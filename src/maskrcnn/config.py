"""The configuration: every number of the network, and every difference between implementations.

A `Config` is a plain, immutable value. Change one with `config.replace({"rpn.nms_threshold": 0.6})`.
Field names follow the papers; where implementations disagree, the field names the alternatives.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from maskrcnn.errors import ConfigError, did_you_mean, printable
from maskrcnn.fields import Fields, checked, set_dotted

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Layers = Annotated[int, Field(ge=0, le=100)]
"""How many layers of a kind follow each other. The bound keeps a stranger's file from asking for a billion."""
SomeLayers = Annotated[int, Field(ge=1, le=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Resize = Literal["pil", "pil_floor", "float", "skimage"]
BoxCorners = Literal["edges", "inclusive", "centers"]
RoIMethod = Literal["align", "pool", "crop_and_resize"]
Norm = Literal["none", "batch", "frozen_batch", "group"]
"""`frozen_batch` is BatchNorm with fixed statistics and fixed scale and shift, the habit of the papers."""


class ImageConfig(Fields):
    """How a photograph becomes the network's input, and where the padding goes.

    The image is scaled by min(min_size / shorter side, max_size / longer side), normalised as
    (pixel · pixel_scale − mean) / std, and padded.
    """

    min_size: Positive = 800
    max_size: Positive = 1333
    resize: Resize = "pil"
    """How pixels are interpolated and sides rounded. `pil`: antialiased bilinear on uint8, sides rounded
    (Detectron2). `pil_floor`: the same pixels, sides rounded down (maskrcnn-benchmark). `float`: bilinear without
    antialiasing on the normalised image, sides rounded down (torchvision). `skimage`: bilinear in float64 without
    antialiasing, black outside the photo, cut to uint8; never shrinks to reach min_size (Matterport)."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    pixel_scale: PositiveFloat = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    padding: Literal["batch", "square"] = "batch"
    """`batch`: to the largest image of the batch; `square`: always to max_size × max_size (Matterport)."""
    padding_place: Literal["corner", "center"] = "corner"
    """Where the image lies in the padded input: `corner` at the top left, `center` in the middle (Matterport)."""
    padding_fill: Literal["mean", "black"] = "mean"
    """What the padding holds: `mean` zeros after normalisation, `black` zeros before it (Matterport)."""
    size_divisor: Positive = 32
    """Padded sides are rounded up to a multiple of this."""

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size must not exceed max_size; got {self.min_size} and {self.max_size}")
        return self


class ResNetConfig(Fields):
    """ResNet and ResNeXt (He et al. 2015, Xie et al. 2016)."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 101
    width: Positive = 64
    """Channels of the stem; stage k has width · 2^(k − 2), times 4 after a bottleneck."""
    groups: Positive = 1
    width_per_group: Positive = 64
    """Channels of one group of a bottleneck's 3 × 3 in c2, at width 64. ResNeXt-101-32x8d: groups 32, this 8."""
    stride_in_1x1: bool = False
    """Where a bottleneck halves the map: its first 1 × 1 (the paper, MSRA weights) or its 3 × 3 (torchvision)."""
    stem_padding: Literal["around", "end"] = "around"
    """Where the stem's pooling pads: one cell on every side, or what is needed at the right and the bottom
    (TensorFlow's SAME; Matterport)."""
    dilate_c5: bool = False
    """Keep c5 at stride 16 with dilated convolutions, and give it to the RPN and the RoIs in place of c4 (Detectron2's
    DC5). For a network without FPN."""
    norm: Norm = "frozen_batch"
    norm_eps: Annotated[float, Field(ge=0)] = 1e-5
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """Stages that are not trained: 1 is the stem, 2 the stem and c2, … 0 trains everything."""

    @model_validator(mode="after")
    def _groups(self) -> Self:
        if self.depth < 50 and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError("groups and width_per_group need a network with bottlenecks: depth 50, 101 or 152")
        if self.width * self.width_per_group < 64:
            raise ValueError(
                f"width {self.width} is too narrow for width_per_group {self.width_per_group}: their product must be "
                "at least 64 to leave every group a channel"
            )
        return self


class VGGConfig(Fields):
    """VGG-16 (Simonyan and Zisserman 2014), configuration D."""

    kind: Literal["vgg"] = "vgg"
    width: Positive = 64
    """Channels of the first block; later blocks have 2, 4, 8 and 8 times as many."""
    norm: Norm = "none"
    norm_eps: Annotated[float, Field(ge=0)] = 1e-5
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """Blocks that are not trained, as Fast R-CNN leaves conv1 and conv2."""


class FPNConfig(Fields):
    """Feature Pyramid Network (Lin et al. 2016): p2 … p5, and p6 for the RPN alone."""

    channels: Positive = 256
    norm: Norm = "none"
    norm_eps: Annotated[float, Field(ge=0)] = 1e-5


class AnchorConfig(Fields):
    """Anchors: boxes of every size and ratio at every cell of a feature map (Faster R-CNN, section 3.1.1)."""

    sizes: tuple[tuple[PositiveFloat, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    """Square root of the area in input pixels, one tuple per level of the features."""
    ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    offset: Fraction = 0.0
    """Position of the centre inside its cell: 0 the corner (all known weights), 0.5 the middle."""
    rounding: Literal["none", "corners", "base"] = "none"
    """`corners`: cell anchors in whole pixels (torchvision). `base`: sides of the anchor of one cell's area rounded,
    then enlarged (Detectron 1, maskrcnn-benchmark)."""
    stride: Literal["nominal", "measured"] = "nominal"
    """`nominal`: 4, 8, 16, 32, 64. `measured`: padded image side // map side, which is 61 for p6 of an
    800-pixel side (torchvision)."""

    @property
    def per_cell(self) -> int:
        """Anchors at each cell; the same on every level."""
        return len(self.sizes[0]) * len(self.ratios)

    @model_validator(mode="after")
    def _same_on_every_level(self) -> Self:
        if not self.ratios or not self.sizes or not self.sizes[0] or len({len(s) for s in self.sizes}) > 1:
            raise ValueError(
                "sizes must hold the same number (at least 1) of sizes for every level, and ratios one or more"
            )
        return self


class MatchingConfig(Fields):
    """Which boxes learn what, and how many of each are drawn (Faster R-CNN, section 3.1.2)."""

    positive_iou: Fraction
    """IoU with a ground truth from which a box is positive."""
    negative_iou: Fraction
    """IoU below which it is negative; in between it is left out."""
    low_quality_matches: bool
    """Also take every ground truth's best box as positive, whatever the IoU."""
    samples_per_image: Positive
    positive_fraction: Fraction

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.negative_iou > self.positive_iou:
            raise ValueError(f"negative_iou {self.negative_iou} must not exceed positive_iou {self.positive_iou}")
        return self


class BoxLossConfig(Fields):
    """The loss on box deltas (Fast R-CNN, equation 3)."""

    beta: Annotated[float, Field(ge=0)] = 1 / 9
    """Where smooth L1 turns from quadratic to linear; 0 is plain L1 (Detectron2)."""
    normalizer: Literal["sampled", "configured"] = "sampled"
    """Divide the RPN's losses by the number drawn, or by samples_per_image · N (Detectron2)."""


class RPNConfig(Fields):
    """Region Proposal Network (Faster R-CNN, section 3.1)."""

    num_convs: SomeLayers = 1
    channels: Positive = 256
    delta_weights: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = (1.0, 1.0, 1.0, 1.0)
    max_log_scale: PositiveFloat | None = math.log(1000 / 16)
    """Upper bound of dw and dh before the exponential; None for no bound (Matterport)."""
    per_level: bool = True
    """Choose the best anchors of each level, and compare boxes of one level alone in NMS. False: all levels in one
    list (Matterport)."""
    clip: Literal["image", "input"] = "image"
    """Cut proposals to the image, or to the padded input (Matterport)."""
    pre_nms_top_n: Positive = 1000
    """Best anchors of each level (or of all, see per_level) that enter NMS."""
    pre_nms_top_n_training: Positive = 2000
    post_nms_top_n: Positive = 1000
    """Proposals of each image, over all levels."""
    post_nms_top_n_training: Positive = 2000
    nms_threshold: Fraction = 0.7
    min_size: Annotated[float, Field(ge=0)] | None = 1e-3
    """Proposals with a shorter side, in input pixels, are dropped, and so are empty ones; None keeps all
    (Matterport, maskrcnn-benchmark)."""
    matching: MatchingConfig = MatchingConfig(
        positive_iou=0.7,
        negative_iou=0.3,
        low_quality_matches=True,
        samples_per_image=256,
        positive_fraction=0.5,
    )
    loss: BoxLossConfig = BoxLossConfig()


class RoIAlignConfig(Fields):
    """RoIAlign (Mask R-CNN, section 3), and the RoIPool it replaced (Fast R-CNN, section 2.1)."""

    method: RoIMethod = "align"
    """`crop_and_resize` is TensorFlow's op: one sample per bin, the first and the last on the RoI's own border
    (Matterport)."""
    aligned: bool = True
    """Take pixel centres at half coordinates. False: the first released version, off by half a cell (torchvision)."""
    sampling_ratio: Natural = 2
    """Sampling points along each axis of a bin; 0 adapts: ceil(RoI side / output side)."""
    canonical_size: PositiveFloat = 224.0
    canonical_level: Natural = 4
    """FPN, equation 1: a RoI of canonical_size² is served by this level."""
    level_rounding: Literal["floor", "nearest"] = "floor"
    """How equation 1 becomes a level: rounded down (the paper), or to the nearest, halves to even (Matterport)."""
    level_epsilon: Annotated[float, Field(ge=0, lt=0.5)] = 1e-6
    """Added to the level before rounding (torchvision; Detectron2 adds nothing)."""


class BoxHeadConfig(Fields):
    """Class and box head (Mask R-CNN, figure 4), with what becomes of its output."""

    pool_size: Positive = 7
    num_convs: Layers = 0
    conv_channels: Positive = 256
    num_fcs: Layers = 2
    """0 averages over the crop instead (ResNet C4, whose head is the fifth stage)."""
    fc_channels: Positive = 1024
    norm: Norm = "none"
    """`batch` keeps its statistics while the head is trained, as in the mask head: slots without a RoI must not
    enter them."""
    norm_eps: Annotated[float, Field(ge=0)] = 1e-5
    delta_weights: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = (
        10.0,
        10.0,
        5.0,
        5.0,
    )
    max_log_scale: PositiveFloat | None = math.log(1000 / 16)
    class_agnostic: bool = False
    """One box per RoI instead of one per class."""
    classes_per_roi: Literal["all", "best"] = "all"
    """`all`: a RoI may be found as several classes. `best`: only as the likeliest, and not at all if that is
    background; slots without a proposal take part as boxes without area (Matterport)."""
    score_threshold: Fraction = 0.05
    nms_threshold: Fraction = 0.5
    """NMS among detections of one class."""
    min_size: Annotated[float, Field(ge=0)] | None = 1e-2
    """Detections with a shorter side, in input pixels, are dropped; None keeps all (Detectron2, Matterport)."""
    round_boxes: bool = False
    """Round the boxes to whole pixels of the photo before masks are laid into them (Matterport)."""
    candidates: Positive = 2000
    """(RoI, class) pairs, best first, that enter NMS where the graph's shapes must be fixed. On an eager CPU all that
    pass score_threshold do."""
    detections_per_image: Positive = 100
    matching: MatchingConfig = MatchingConfig(
        positive_iou=0.5,
        negative_iou=0.5,
        low_quality_matches=False,
        samples_per_image=512,
        positive_fraction=0.25,
    )
    loss: BoxLossConfig = BoxLossConfig()


class MaskHeadConfig(Fields):
    """Mask head (Mask R-CNN, figure 4): one M × M mask per class.

    M is 2 · pool_size; for the single-scale ResNet, whose fifth stage halves the crop, pool_size (if even).
    """

    pool_size: Positive = 14
    num_convs: Layers = 4
    channels: Positive = 256
    norm: Norm = "none"
    norm_eps: Annotated[float, Field(ge=0)] = 1e-5
    class_agnostic: bool = False
    binary_targets: bool = True
    """Round mask targets to 0 and 1 (the paper, Detectron2). False: the covered share of each bin (torchvision)."""
    threshold: Fraction = 0.5
    """Probability from which a pixel belongs to the object."""
    paste: Literal["continuous", "integer_box"] = "continuous"
    """How a mask is laid on the photo. `continuous`: sampled at pixel centres, to the sub-pixel (Detectron2).
    `integer_box`: resized to the box rounded to whole pixels (torchvision)."""


class KeypointHeadConfig(Fields):
    """Keypoint head (Mask R-CNN, section 5): a heatmap of 4 · pool_size per keypoint, 56 × 56.

    For the single-scale ResNet, whose fifth stage halves the crop, it is 2 · pool_size.
    """

    pool_size: Positive = 14
    num_convs: SomeLayers = 8
    channels: Positive = 512
    skeleton: tuple[tuple[Natural, Natural], ...] = ()
    """Which keypoints are joined by a line in pictures, as pairs of places in `keypoint_names`."""
    pixel_offset: Fraction = 0.5
    """What is added to the coordinates of COCO's files, which count pixels from 0, to give the point that the network
    learns, and taken off again in results: 0.5 is the pixel's centre (Detectron2), 0 its corner (torchvision)."""
    scores: Literal["logit", "softmax"] = "softmax"
    """`softmax`: the share of the highest cell in the heatmap, which enlarging can lift a little over 1 (Detectron2).
    `logit`: its value (torchvision)."""


def check_names(names: object) -> None:
    """Raise `ConfigError` for a single text where a list of names is wanted: it would be taken letter by letter."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        hint = f", as [{names!r}]" if isinstance(names, str) else ""
        raise ConfigError(f"class_names must be a list of names{hint}; got {names!r}.")


class Config(Fields):
    """Everything that determines a network except its weights."""

    class_names: tuple[str, ...]
    masks: bool = True
    """False is Faster R-CNN."""
    keypoint_names: tuple[str, ...] = ()
    """Keypoints that every object of every class may have; with any, the network has a keypoint head. Names with
    `left` and `right` change places in mirrored images."""
    backbone_weights: str | None = None
    """Start the backbone from an image classifier: a file, or a name of `maskrcnn pretrained` as torchvision/resnet50.
    The network takes over what belongs to these weights (backbone.stride_in_1x1, norm_eps and stem_padding; image
    channel_order, pixel_scale, mean and std), and its own `config` shows these values and None here: from then on the
    weights are its own."""
    box_corners: BoxCorners = "edges"
    """What the corners of boxes mean inside the network. `edges`: pixel k reaches from k to k + 1. `inclusive`: the
    same boxes, but RoIs are cut out up to the corner x2 − 1, y2 − 1 of the last pixel, and clipping leaves one pixel
    (Detectron 1, maskrcnn-benchmark). `centers`: pixel k is at k, and a box reaches from the centre of its first to
    that of its last pixel, so that it is one shorter (Matterport). What `predict` returns is always `edges`."""
    image: ImageConfig = ImageConfig()
    backbone: Annotated[ResNetConfig | VGGConfig, Field(discriminator="kind")] = ResNetConfig()
    fpn: FPNConfig | None = FPNConfig()
    """None is the papers' single-scale network: ResNet with the RPN on c4 and stage five as the head (or on a dilated
    c5), or VGG with the RPN on its last convolution."""
    anchors: AnchorConfig = AnchorConfig()
    rpn: RPNConfig = RPNConfig()
    roi_align: RoIAlignConfig = RoIAlignConfig()
    box: BoxHeadConfig = BoxHeadConfig()
    mask: MaskHeadConfig = MaskHeadConfig()
    keypoint: KeypointHeadConfig = KeypointHeadConfig()

    @property
    def num_classes(self) -> int:
        """K: classes, background not counted."""
        return len(self.class_names)

    @classmethod
    def preset(
        cls,
        name: str = "resnet101-fpn",
        *,
        class_names: Sequence[str],
        masks: bool = True,
        overrides: Mapping[str, Any] | None = None,
    ) -> Config:
        """Return a named starting point, with dotted fields changed by `overrides`.

        Raises:
            ConfigError: no preset has this name, or an override is unknown or out of range.

        Example:
            >>> config = Config.preset("resnet50-fpn", class_names=["cat"], overrides={"image.min_size": 640})
            >>> config.backbone.depth, config.image.min_size
            (50, 640)
        """
        from maskrcnn.presets import PRESETS

        if name not in PRESETS:
            hint = did_you_mean(name.lower(), list(PRESETS))
            raise ConfigError(f"Unknown preset {name!r}.{hint} There are: {', '.join(PRESETS)}.")
        check_names(class_names)
        values = {**PRESETS[name], "class_names": tuple(class_names), "masks": masks}
        return cls.build(values).replace(overrides or {})

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Config:
        """Return a configuration from nested plain values, with readable errors."""
        return checked(cls, values)

    def replace(self, changes: Mapping[str, Any]) -> Config:
        """Return a copy with dotted fields changed, all checks made anew.

        Raises:
            ConfigError: a field is unknown, or its value is out of range.

        Example:
            >>> Config.preset(class_names=["cat"]).replace({"rpn.nms_threshold": 0.6}).rpn.nms_threshold
            0.6
        """
        values = self.model_dump(mode="python")
        for dotted, value in changes.items():
            set_dotted(values, dotted, value)
        return Config.build(values)

    def to_json(self) -> str:
        """Return the configuration as JSON text."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Return the configuration that `to_json` wrote.

        Raises:
            ConfigError: the text is not JSON, or not a configuration.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as e:  # no JSON, or absurdly nested, or with numbers of thousands of digits
            raise ConfigError(f"The configuration is not valid JSON: {e}.") from None
        return cls.build(values)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        blank = [name for name in (*self.class_names, *self.keypoint_names) if not name.strip()]
        if blank:
            raise ValueError(f"names of classes and keypoints must not be blank; got {blank[0]!r}")
        if not self.class_names:
            raise ValueError("class_names must name at least one class; background is not a class")
        twice = sorted(name for name, count in Counter(self.class_names).items() if count > 1)
        if twice:
            some = ", ".join(printable(name) for name in twice[:3])
            raise ValueError(f"class_names must differ from each other; {some} stands more than once")
        if len(set(self.keypoint_names)) < len(self.keypoint_names):
            raise ValueError("keypoint_names must differ from each other")
        limbs = [k for limb in self.keypoint.skeleton for k in limb]
        if self.keypoint_names and limbs and max(limbs) >= len(self.keypoint_names):
            raise ValueError(f"keypoint.skeleton joins keypoint {max(limbs)}; there are {len(self.keypoint_names)}")
        levels = 1 if self.fpn is None else 5
        if len(self.anchors.sizes) != levels:
            raise ValueError(
                f"anchors.sizes must hold {levels} tuple{'s' * (levels > 1)}, one per level "
                f"({'p2 … p6' if levels == 5 else 'the single one'}); got {len(self.anchors.sizes)}"
            )
        if self.fpn is not None and getattr(self.backbone, "dilate_c5", False):
            raise ValueError("backbone.dilate_c5 is for a network without FPN: set fpn to None")
        if self.image.size_divisor % 32 and self.fpn is not None:
            raise ValueError("image.size_divisor must be a multiple of 32 with FPN, whose p5 has stride 32")
        return self
