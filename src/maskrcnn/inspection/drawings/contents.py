"""What stands in the boxes: every block and every step of the network, in words with its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from maskrcnn.inspection.drawings.sheet import Box, Kind
from maskrcnn.inspection.drawings.words import after, listed, millions, number, operation, sizes
from maskrcnn.inspection.parts import PartName
from maskrcnn.inspection.structure import Layer, Structure


@dataclass
class Content:
    """A box without a place."""

    part: PartName
    kind: Kind
    title: str
    lines: list[str] = field(default_factory=list)
    stages: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


class Contents(dict[str, Content]):
    """Contents by the key of their box."""

    def box(self, key: str, size: float = 12.0) -> Box:
        """Return the box of a content, as large as its text."""
        it = self[key]
        circle = it.title == "+"
        return Box(key, it.part, it.title, tuple(it.lines), it.kind, it.stages, it.layers, size=size, circle=circle)


def contents(structure: Structure) -> Contents:
    """Return everything that drawings of blocks and of layers show of a network."""
    found = Contents()
    _backbone(found, structure)
    _rpn(found, structure)
    _regions(found, structure)
    _box_head(found, structure)
    if structure.config.masks:
        _mask_head(found, structure)
    if structure.config.keypoint_names:
        _keypoint_head(found, structure)
    return found


def stage_layers(structure: Structure) -> dict[str, list[Layer]]:
    """Return the layers of each of the backbone's stages c1 … c5, by what they end in."""
    stages: dict[str, list[Layer]] = {}
    pending: list[Layer] = []
    for layer in structure.layers.values():
        if not layer.path.startswith("backbone."):
            continue
        pending.append(layer)
        ends = [name for name in layer.tensors if name in ("c1", "c2", "c3", "c4", "c5")]
        if ends:
            stages[ends[0]], pending = pending, []
    return stages


def of_module(structure: Structure, *paths: str) -> list[Layer]:
    """Return the layers of modules, in the order in which they run."""
    return [layer for layer in structure.layers.values() if _inside(layer.path, paths)]


def _inside(path: str, modules: tuple[str, ...]) -> bool:
    return any(path == module or path.startswith(module + ".") for module in modules)


def _parameters(layers: list[Layer]) -> str:
    return f"{millions(sum(layer.parameters for layer in layers))} parameters"


def _keys(layers: list[Layer]) -> tuple[str, ...]:
    return tuple(layer.key for layer in layers)


def _backbone(found: Contents, structure: Structure) -> None:
    height, width = structure.input_size
    found["input"] = Content("input", "tensor", "image", [f"3×{height}×{width}"], ("image", "image_meta"))
    for name, layers in stage_layers(structure).items():
        lines = [sizes(structure.shapes[name][1:]), *_described(layers), _parameters(layers)]
        found[name] = Content("backbone", "layer", name, lines, (name,), _keys(layers))
    for level in (2, 3, 4, 5):
        lateral = of_module(structure, f"fpn.lateral{level}")
        if not lateral:
            return
        [conv] = lateral
        words = [f"{conv.in_shape[1]} → {conv.out_shape[1]}", *filter(None, [after(conv)])]
        found[f"lateral{level}"] = Content("backbone", "layer", "conv 1×1", words, (), _keys(lateral))
        output = of_module(structure, f"fpn.output{level}")
        lines = [
            sizes(structure.shapes[f"p{level}"][1:]),
            "conv 3×3" + "".join(f", {after(c)}" for c in output if after(c)),
        ]
        found[f"p{level}"] = Content("backbone", "layer", f"p{level}", lines, (f"p{level}",), _keys(output))
    adds = [layer for layer in of_module(structure, "fpn") if layer.kind in ("add", "upsample")]
    for level, (up, add) in zip((4, 3, 2), zip(adds[::2], adds[1::2], strict=True), strict=True):
        found[f"add{level}"] = Content("backbone", "layer", "+", [], (), (up.key, add.key))
    last = [layer for layer in of_module(structure, "fpn") if layer.kind == "subsample"]
    lines = [sizes(structure.shapes["p6"][1:]), "every 2nd cell"]
    found["p6"] = Content("backbone", "step", "p6", lines, ("p6",), _keys(last))


def _described(layers: list[Layer]) -> list[str]:
    """Return what a stage of the backbone is made of."""
    blocks = {layer.path.split(".")[2] for layer in layers if layer.path.startswith("backbone.layer")}
    if blocks:
        deep = any(layer.path.endswith("conv3") for layer in layers)
        kind = "bottleneck" if deep else "basic block"
        dilated = any(layer.dilation > 1 for layer in layers)
        return [f"{len(blocks)} {kind}{'s' if len(blocks) > 1 else ''}{', dilated' if dilated else ''}"]
    convs = [layer for layer in layers if layer.kind == "conv"]
    if len(convs) == 1:
        return [", ".join(filter(None, (operation(convs[0]), after(convs[0]))))]
    pools = any(layer.kind == "pool" for layer in layers)
    if not convs:
        return [operation(layer) for layer in layers]
    return [f"{'max pool, ' if pools else ''}{len(convs)} convs {convs[0].kernel}×{convs[0].kernel}"]


def _rpn(found: Contents, structure: Structure) -> None:
    config, anchors = structure.config.rpn, structure.config.anchors
    per_cell = anchors.per_cell
    total = sum(structure.level_anchors.values())
    layers = of_module(structure, "rpn")
    convs = "conv 3×3" if config.num_convs == 1 else f"{config.num_convs} × conv 3×3"
    found["rpn_head"] = Content(
        "rpn",
        "layer",
        "RPN head",
        [
            f"{convs}, {config.channels}, ReLU",
            f"conv 1×1 → {per_cell} objectness",
            f"conv 1×1 → {per_cell} × 4 deltas",
            _parameters(layers),
        ],
        ("rpn_objectness", "rpn_deltas"),
        _keys(layers),
    )
    several = len(structure.strides) > 1
    per_level = [", ".join(number(size) for size in level) for level in anchors.sizes]
    span = listed([size for level in anchors.sizes for size in level])
    if several and len(anchors.sizes[0]) > 1:
        span = (
            f"{per_level[0]} … {per_level[-1]}" if len(anchors.sizes[0]) < 4 else f"{len(anchors.sizes[0])} per level"
        )
    found["anchors"] = Content(
        "rpn",
        "step",
        "Anchors",
        [f"sizes {span}", f"ratios {listed(anchors.ratios)}", f"{per_cell} per cell: {total:,}"],
        ("anchors",),
    )
    each = several and config.per_level
    sizes_of_lists = structure.level_anchors.values() if each else (total,)
    top = sum(min(config.pre_nms_top_n, size) for size in sizes_of_lists)  # free slots of small levels left out
    found["top_k"] = Content(
        "rpn",
        "step",
        "Top k",
        [f"best {config.pre_nms_top_n:,}", "of each level" if each else "by objectness", f"{top:,} boxes"],
        ("top_anchors", "top_scores", "proposals_before_refinement"),
    )
    clip = f"to the {'image' if config.clip == 'image' else 'padded input'}"
    drop = [f"drop sides < {number(config.min_size)} px"] if config.min_size else []
    done = ("proposals_before_nms",)
    found["rpn_decode"] = Content("rpn", "step", "Decode", ["anchor + deltas"])
    found["rpn_clip"] = Content("rpn", "step", "Clip", [clip, *drop], done)
    found["refine"] = Content("rpn", "step", "Decode", ["anchor + deltas", f"clip {clip}", *drop], done)
    kept = structure.shapes["proposals"][1]
    within = ["within each level"] if each else []
    found["nms"] = Content(
        "rpn",
        "step",
        "NMS",
        [f"IoU > {number(config.nms_threshold)}", *within, f"keep the best {kept:,}"],
        ("top_kept", "proposal_places"),
    )
    found["proposals"] = Content("rpn", "tensor", "proposals", [f"{kept}×4"], ("proposals", "proposal_scores"))


def _regions(found: Contents, structure: Structure) -> None:
    config = structure.config
    crops = [("box", "proposals", config.box.pool_size)]
    if config.masks:
        crops.append(("mask", "detections", config.mask.pool_size))
    if config.keypoint_names:
        crops.append(("keypoint", "detections", config.keypoint.pool_size))
    for name, boxes, size in crops:
        stages = {"box": ("roi_levels",), "mask": ("mask_roi_levels",), "keypoint": ()}[name]
        key = "roi_levels" if name == "box" else f"{name}_roi_levels"
        several = len(structure.strides) > 1
        if several:
            found[key] = Content("roi_align", "step", f"Level of each {boxes[:-1]}", _level_rule(structure), stages)
        method = {"align": "RoIAlign", "pool": "RoIPool", "crop_and_resize": "Crop and resize"}
        title = f"{method[config.roi_align.method]} {size}×{size}"
        shape = sizes(structure.shapes[f"{name}_features"])
        found[f"{name}_roi_align"] = Content(
            "roi_align",
            "step",
            title,
            [*_sampling(structure), shape],
            (*(() if several else stages), f"{name}_features"),
        )


def _level_rule(structure: Structure) -> list[str]:
    rule = structure.config.roi_align
    levels = [name for name in structure.strides if name != "p6"]
    inside = f"{rule.canonical_level} + log2(√(w·h) / {number(rule.canonical_size)})"
    formula = f"⌊{inside}⌋" if rule.level_rounding == "floor" else f"round({inside})"
    return [formula, f"within {levels[0]} … {levels[-1]}"]


def _sampling(structure: Structure) -> list[str]:
    rule = structure.config.roi_align
    if rule.method == "pool":
        return ["whole cells", "the largest of each bin"]
    if rule.method == "crop_and_resize":
        return ["1 sample per bin,", "from border to border"]
    count = rule.sampling_ratio
    samples = f"{count}×{count} samples per bin" if count else "as many samples as cells"
    return [samples, "aligned at cell centres" if rule.aligned else "not aligned: ½ cell off"]


def _stage5(found: Contents, structure: Structure, key: str, use: str) -> None:
    """Add the fifth stage of a C4 network, which runs on every crop."""
    others = tuple(f"@{other}" for other in ("masks", "keypoints") if other != use)
    layers = [layer for layer in of_module(structure, "stage5") if not layer.key.endswith(others)]
    if use != "boxes":
        layers = [layer for layer in layers if layer.key.endswith(f"@{use}")]
    if not layers:
        return
    blocks = {layer.path.split(".")[1] for layer in layers}
    deep = any(layer.path.endswith("conv3") for layer in layers)
    kind = "bottlenecks" if deep else "basic blocks"
    weights = _parameters(layers) if use == "boxes" else "the same weights"
    lines = [f"{len(blocks)} {kind}", sizes(layers[-1].out_shape), weights]
    found[key] = Content("heads", "layer", "c5 on every crop", lines, (), _keys(layers))


def _box_head(found: Contents, structure: Structure) -> None:
    config = structure.config.box
    _stage5(found, structure, "stage5", "boxes")
    layers = of_module(structure, "box_head")
    lines = []
    if config.num_convs:
        lines.append(f"{config.num_convs} × conv 3×3, {config.conv_channels}")
    if config.num_fcs:
        lines.append(
            f"{config.num_fcs} × fc {config.fc_channels}, ReLU"
            if config.num_fcs > 1
            else f"fc {config.fc_channels}, ReLU"
        )
    else:
        lines.append("mean over the crop")
    classes, boxes = structure.shapes["class_logits"][1], structure.shapes["box_deltas"][1]
    lines += [f"fc → {classes:,} class logits", f"fc → {boxes:,} × 4 deltas", _parameters(layers)]
    found["box_head"] = Content(
        "heads", "layer", "Class and box head", lines, ("class_logits", "box_deltas"), _keys(layers)
    )
    _detections(found, structure)


def _detections(found: Contents, structure: Structure) -> None:
    """Add the steps from class scores to detections, each by itself and as one box."""
    config = structure.config.box
    pairs = structure.shapes["detections_before_nms"][1]
    kept = structure.shapes["detections"][1]
    choice = "best class" if config.classes_per_roi == "best" else "softmax"
    scores = [f"{choice}, score > {number(config.score_threshold)}", f"best {pairs:,} pairs"]
    stages = ("candidate_rois", "candidate_labels", "candidate_scores")
    found["candidates"] = Content("heads", "step", "Best (RoI, class)", scores, stages)
    drop = [f"drop sides < {number(config.min_size)} px"] if config.min_size else []
    decode = ["RoI + deltas", "clip to the image", *drop]
    found["box_decode"] = Content("heads", "step", "Decode", decode, ("detections_before_nms",))
    keep = [f"IoU > {number(config.nms_threshold)} per class", f"keep the best {kept:,}"]
    last = ("candidates_kept", "detection_places")
    found["class_nms"] = Content("heads", "step", "NMS", keep, last)
    every = (*stages, "detections_before_nms", *last)
    found["select"] = Content("heads", "step", "Decode and NMS", [*scores, "RoI + deltas, clip", *keep], every)
    found["detections"] = Content("heads", "tensor", "detections", [f"{kept}×(box, label, score)"], ("detections",))


def _mask_head(found: Contents, structure: Structure) -> None:
    config = structure.config.mask
    _stage5(found, structure, "stage5_masks", "masks")
    layers = of_module(structure, "mask_head")
    count, masks, size = structure.shapes["mask_logits"][:3]
    lines = [f"{config.num_convs} × conv 3×3, {config.channels}"] if config.num_convs else []
    lines += [
        f"deconv 2×2 (2×), {config.channels}",
        f"conv 1×1 → {masks:,} mask{'s' if masks > 1 else ''}",
        f"{count}×{masks}×{size}×{size}",
        _parameters(layers),
    ]
    found["mask_head"] = Content("heads", "layer", "Mask head", lines, ("mask_logits",), _keys(layers))
    choose = ["the one mask"] if config.class_agnostic else ["mask of the found class"]
    where = "whole pixels" if config.paste == "integer_box" else "sub-pixel"
    lines = [*choose, "sigmoid", f"laid on the box, {where}", f"≥ {number(config.threshold)}"]
    found["paste"] = Content("heads", "step", "Paste", lines)
    found["masks"] = Content("output", "tensor", "masks", [f"{count}×height×width", "of the photo"], ("masks",))


def _keypoint_head(found: Contents, structure: Structure) -> None:
    config = structure.config.keypoint
    _stage5(found, structure, "stage5_keypoints", "keypoints")
    layers = of_module(structure, "keypoint_head")
    count, points, size = structure.shapes["keypoint_logits"][:3]
    lines = [
        f"{config.num_convs} × conv 3×3, {config.channels}",
        f"deconv 4×4 (2×) → {points}",
        "bilinear (2×)",
        f"{count}×{points}×{size}×{size}",
        _parameters(layers),
    ]
    found["keypoint_head"] = Content("heads", "layer", "Keypoint head", lines, ("keypoint_logits",), _keys(layers))
    found["locate"] = Content(
        "heads", "step", "Locate", ["highest cell of", "each heatmap", f"score: {config.scores}"], ()
    )
    found["keypoints"] = Content("output", "tensor", "keypoints", [f"{count}×{points}×(x, y, score)"], ("keypoints",))
