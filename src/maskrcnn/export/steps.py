"""What is no layer, as single nodes: anchors, the choice of boxes, RoIAlign, what becomes of the heads' answers.

The nodes are operators of our own domain with the configuration's numbers as attributes. They have no body: what they
do is in their text. Joining the RPN's maps into lists is a function of standard operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx import FunctionProto

from maskrcnn.config import Config
from maskrcnn.export.scope import BOOL, DOMAIN, FLOAT, INT64, UINT8, Scope
from maskrcnn.inspection.glossary import STAGES
from maskrcnn.inspection.parts import PARTS, PartName
from maskrcnn.inspection.structure import Structure

Output = tuple[str, Sequence[int | str], int]
"""Name, shape and type of a value that a step gives."""


class Steps:
    """Adds the steps of one network to its graph."""

    def __init__(self, scope: Scope, structure: Structure, levels: Mapping[str, str]) -> None:
        """Begin.

        Args:
            scope: the graph.
            structure: the network's.
            levels: the feature maps that RoIs are cut from, finest first, with the names of their values.
        """
        self.scope = scope
        self.structure = structure
        self.config: Config = structure.config
        self.levels = levels

    def prepare(self) -> None:
        """Add what makes the network's input of a photo."""
        image, photo = self.config.image, ("height", "width", 3)
        self.scope.value("photo", photo, UINT8, "The photograph: rows, columns, red, green and blue.")
        attributes = image.model_dump(exclude={"min_size", "max_size"}) | {"sizes": [image.min_size, image.max_size]}
        self._step(
            "Prepare", "prepare", {"photo": "photo"}, [self._stage("image"), self._stage("image_meta")],
            "input", "Resizes, normalises and pads the photo.", attributes,
        )  # fmt: skip

    def anchors(self) -> None:
        """Add the RPN's anchors."""
        anchors = self.config.anchors
        sizes = [size for level in anchors.sizes for size in level]
        attributes = {
            "sizes": sizes, "ratios": anchors.ratios, "strides": list(self.structure.strides.values()),
            "offset": anchors.offset, "rounding": anchors.rounding, "stride_rule": anchors.stride,
        }  # fmt: skip
        counts = ", ".join(f"{name} {count}" for name, count in self.structure.level_anchors.items())
        text = f"Boxes of every size and ratio at every cell of every level: {counts}."
        self._step("Anchors", "rpn/anchors", {}, [self._stage("anchors")], "rpn", text, attributes)

    def join(self, what: str, maps: Sequence[str], stage: str) -> FunctionProto:
        """Add what lays the RPN's maps of all levels out as one list, and return it as a function.

        Args:
            what: objectness or deltas.
            maps: the values to join, finest level first.
            stage: what comes out.
        """
        name = f"rpn/join_{what}"
        text = f"{STAGES[stage].what}: maps to lists, cell by cell, level after level.".capitalize()
        inner = Scope(self.scope.with_weights, is_function=True)
        lists = []
        for number, value in enumerate(maps):
            sides = self.scope.shapes[value]
            batch, channels, rows, columns = (int(side) for side in sides)
            inner.value(value, sides)
            moved = inner.value(f"{value}/cells", (batch, rows, columns, channels))
            inner.add("Transpose", [value], [moved], moved, "Channels last.", perm=[0, 2, 3, 1])
            last = [4] if what == "deltas" else []
            length = rows * columns * channels // (4 if last else 1)
            shape = inner.integers(f"{value}/shape", [batch, length, *last])
            lists.append(inner.value(stage if len(maps) == 1 else f"{value}/list", (batch, length, *last)))
            inner.add("Reshape", [moved, shape], [lists[-1]], f"{name}/list/{number}", "Anchor by anchor.")
        if len(maps) > 1:
            inner.value(stage, self.structure.shapes[stage])
            inner.add("Concat", lists, [stage], f"{name}/concat", "Finest level first.", axis=1)
        self.scope.value(stage, self.structure.shapes[stage], what=STAGES[stage].what)
        self.scope.add(name, maps, [stage], name, f"2 RPN: {text}", DOMAIN)
        return inner.function(name, maps, [stage], text)

    def propose(self) -> None:
        """Add the way from the RPN's answers to proposals."""
        rpn = self.config.rpn
        slots = self.structure.shapes["proposals_before_nms"][1]
        per_level = int(rpn.per_level)
        chosen = {"scores": "top_scores", "boxes": "proposals_before_nms"}
        self._step(
            "TopAnchors", "rpn/top_anchors", {"objectness": "rpn_objectness"},
            [("top_anchors", (1, slots), INT64), ("top_scores", (1, slots), FLOAT)],
            "rpn", f"Chooses the {rpn.pre_nms_top_n} likeliest anchors of {'each' if per_level else 'any'} level.",
            {"top_n": rpn.pre_nms_top_n, "per_level": per_level},
        )  # fmt: skip
        self._step(
            "DecodeBoxes", "rpn/decode",
            {"anchors": "anchors", "deltas": "rpn_deltas", "chosen": "top_anchors", "image": "image_meta"},
            [self._stage("proposals_before_nms")],
            "rpn", "Moves the chosen anchors by their deltas, and clips them.",
            {"delta_weights": rpn.delta_weights, "max_log_scale": rpn.max_log_scale, "clip": rpn.clip},
        )  # fmt: skip
        self._step(
            "NMS", "rpn/nms", chosen, [("top_kept", (1, slots), BOOL)],
            "rpn", "Keeps a box unless a better one that is kept overlaps it more than the threshold.",
            {"iou_threshold": rpn.nms_threshold, "min_size": rpn.min_size, "per_level": per_level},
        )  # fmt: skip
        self._step(
            "TopProposals", "rpn/top_proposals", {**chosen, "kept": "top_kept"},
            [self._stage("proposals"), self._stage("proposal_scores")],
            "rpn", "The best of all levels; free slots hold zeros.", {"top_n": rpn.post_nms_top_n},
        )  # fmt: skip

    def roi_align(self, branch: str, boxes: str, rois: int, size: int) -> None:
        """Add the choice of levels and RoIAlign for one branch, whose crops are `{branch}_features`.

        Args:
            branch: box, mask or keypoint.
            boxes: the value that holds the RoIs.
            rois: how many slots it has.
            size: the crop's sides.
        """
        settings, name = self.config.roi_align, f"{branch}_roi_align"
        given = {**self.levels, "rois": boxes}
        if len(self.levels) > 1:
            stage = "roi_levels" if branch == "box" else f"{branch}_roi_levels"
            self._step(
                "ChooseLevels", f"{name}/levels", {"rois": boxes}, [(stage, (1, rois), INT64)],
                "roi_align", "Which level of the pyramid serves each RoI (Lin et al. 2016, equation 1).",
                settings.model_dump(include={"canonical_size", "canonical_level", "level_rounding"}),
            )  # fmt: skip
            given["levels"] = stage
        op = {"align": "RoIAlign", "pool": "RoIPool", "crop_and_resize": "CropAndResize"}[settings.method]
        own = {"aligned": int(settings.aligned), "sampling_ratio": settings.sampling_ratio}
        attributes = {"output_size": [size, size], **(own if settings.method == "align" else {})}
        text = "Cuts every RoI out of the level that serves it, as a crop of fixed size."
        self._step(op, name, given, [self._stage(f"{branch}_features")], "roi_align", text, attributes)

    def detect(self) -> None:
        """Add the way from class logits and box deltas to detections."""
        box, shapes = self.config.box, self.structure.shapes
        logits, pairs = shapes["class_logits"], shapes["detections_before_nms"][1]
        self._standard("Softmax", "box_head/softmax", ["class_logits"], ("class_scores", logits), axis=1)
        self._step(
            "TopCandidates", "box_head/candidates", {"scores": "class_scores"},
            [
                ("candidate_rois", (1, pairs), INT64), ("candidate_labels", (1, pairs), INT64),
                ("candidate_scores", (1, pairs), FLOAT),
            ],
            "heads", "Chooses the best (RoI, class) pairs, background left out.",
            {"top_n": box.candidates, "classes_per_roi": box.classes_per_roi},
        )  # fmt: skip
        self._step(
            "DecodeBoxes", "box_head/decode",
            {
                "boxes": "proposals", "deltas": "box_deltas", "rois": "candidate_rois", "labels": "candidate_labels",
                "image": "image_meta",
            },
            [self._stage("detections_before_nms")],
            "heads", "Moves each candidate's proposal by the deltas of its class, and clips it to the image.",
            {"delta_weights": box.delta_weights, "max_log_scale": box.max_log_scale},
        )  # fmt: skip
        candidates = {"boxes": "detections_before_nms", "scores": "candidate_scores", "labels": "candidate_labels"}
        self._step(
            "NMS", "box_head/nms", candidates, [("candidates_kept", (1, pairs), BOOL)],
            "heads", "Keeps what scores enough, unless a better box of the same class overlaps it too much.",
            {
                "iou_threshold": box.nms_threshold, "score_threshold": box.score_threshold, "min_size": box.min_size,
                "per_class": 1,
            },
        )  # fmt: skip
        self._step(
            "TopDetections", "box_head/top_detections", {**candidates, "kept": "candidates_kept"},
            [self._stage("detections")],
            "heads", "The best over all classes.", {"top_n": box.detections_per_image},
        )  # fmt: skip

    def paste(self) -> None:
        """Add the way from mask logits to masks on the photo."""
        mask = self.config.mask
        slots, _, height, width = self.structure.shapes["mask_logits"]
        self._step(
            "MaskOfClass", "mask_head/of_class", {"logits": "mask_logits", "detections": "detections"},
            [("mask_of_class", (slots, height, width), FLOAT)],
            "heads", "Takes of each detection's masks the one of its class.", {},
        )  # fmt: skip
        self._step(
            "PasteMasks", "paste_masks",
            {"masks": "mask_of_class", "detections": "detections", "image_meta": "image_meta"},
            [("masks", ("D", "height", "width"), BOOL)],
            "output", "Lays each mask into its box on the photo, and cuts it at the threshold.",
            {"threshold": mask.threshold, "rule": mask.paste},
        )  # fmt: skip

    def read_keypoints(self) -> None:
        """Add the way from heatmaps to keypoints on the photo."""
        points = len(self.config.keypoint_names)
        self._step(
            "ReadHeatmaps", "read_heatmaps",
            {"logits": "keypoint_logits", "detections": "detections", "image_meta": "image_meta"},
            [("keypoints", ("D", points, 3), FLOAT)],
            "output", "Takes the highest cell of each heatmap to its place on the photo.",
            {"scores": self.config.keypoint.scores},
        )  # fmt: skip

    def reshape_deltas(self, deltas: str) -> None:
        """Add what gives the box head's deltas their axis of classes."""
        shape = self.structure.shapes["box_deltas"]
        name = "box_head/box_deltas/per_class"
        sizes = self.scope.integers(f"{name}.shape", shape)
        self._standard("Reshape", name, [deltas, sizes], ("box_deltas", shape))

    def _stage(self, name: str) -> Output:
        return name, self.structure.shapes[name], FLOAT

    def _standard(
        self, op: str, name: str, inputs: list[str], out: tuple[str, Sequence[int]], **attributes: Any
    ) -> None:
        what = STAGES[out[0]].what if out[0] in STAGES else "the probability of every class, background last"
        self.scope.value(*out, what=what)
        self.scope.add(op, inputs, [out[0]], name, f"4 Heads: {what}.", **attributes)

    def _step(
        self,
        op: str,
        name: str,
        inputs: Mapping[str, str],
        outputs: Sequence[Output],
        part: PartName,
        text: str,
        attributes: Mapping[str, Any],
    ) -> None:
        """Add an operator of our own; inputs are values by what they are to it."""
        for value, shape, kind in outputs:
            self.scope.value(value, shape, kind, STAGES[value].what if value in STAGES else "")
        title = f"{PARTS[part].number} {PARTS[part].title}".strip()
        self.scope.add(
            op, list(inputs.values()), [value for value, _, _ in outputs], name, f"{title}: {text}", DOMAIN,
            list(inputs), **attributes,
        )  # fmt: skip
