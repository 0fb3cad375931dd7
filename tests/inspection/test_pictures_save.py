"""All pictures of a run in a folder, for every kind of run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.errors import InputError, WriteError
from maskrcnn.inspection import pictures
from maskrcnn.inspection.trace import Trace
from tiny import tiny_data, tiny_model

ALWAYS = ["input", "feature-energy", "p2", "p6", "anchors", "objectness", "proposals", "roi-align", "class-scores"]
FOUND = ["box-refinement", "roi-align-for-masks", "mask-logits", "pasted-mask"]


def names(files: list[Path]) -> list[str]:
    return [path.stem[3:] for path in files]


def test_files_are_numbered_in_the_order_of_the_figure(tmp_path: Path) -> None:
    model = tiny_model()
    photo, _ = tiny_data()[0]
    said: list[str] = []
    files = pictures.save_pictures(model.trace(photo), tmp_path / "new", model, said.append)
    assert [int(path.name[:2]) for path in files] == list(range(1, len(files) + 1))
    assert not said and set(names(files)) >= {*ALWAYS, *FOUND, "detections", "weights"}
    assert sorted(tmp_path.glob("new/*")) == files
    assert names(files).index("p2") < names(files).index("proposals") < names(files).index("detections")
    for path in files:
        with Image.open(path) as picture:
            assert picture.mode == "RGB"


def test_a_run_of_training_has_pictures_of_its_own(tmp_path: Path) -> None:
    photo, target = tiny_data()[0]
    files = names(pictures.save_pictures(tiny_model().trace(photo, targets=target), tmp_path))
    assert set(files) >= {*ALWAYS, "matched-anchors", "sampled-rois", "mask-targets"}
    assert not set(files) & {*FOUND, "detections", "weights"}


def test_what_is_left_out_is_told_with_the_reason(tmp_path: Path) -> None:
    photo, _ = tiny_data()[0]
    said: list[str] = []
    files = pictures.save_pictures(tiny_model(box__score_threshold=0.99).trace(photo), tmp_path, say=said.append)
    assert "detections" in names(files) and not set(names(files)) & set(FOUND)
    assert said == [f"{name} is left out. Nothing was found in this photo." for name in FOUND]


@pytest.mark.parametrize(
    ("size", "overrides"),
    [
        ((48, 30), {"masks": False}),
        ((20, 90), {"class_names": ["one"]}),
        ((48, 30), {"class_names": [f"class {k}" for k in range(1000)], "box__score_threshold": 0.0}),
        ((20, 90), {"fpn": None, "anchors__sizes": ((8, 16),)}),
        ((48, 30), {"backbone": {"kind": "vgg", "width": 8}, "fpn": None, "anchors__sizes": ((8, 16),)}),
        ((20, 90), {"image__padding": "square", "image__padding_place": "center", "box_corners": "centers"}),
        ((48, 30), {"keypoint_names": ("nose",), "keypoint__num_convs": 1, "keypoint__channels": 8}),
        ((20, 90), {"roi_align__method": "pool", "box_corners": "inclusive", "rpn__per_level": False}),
        ((48, 30), {"anchors__stride": "measured", "anchors__offset": 0.5, "image__channel_order": "bgr"}),
    ],
    ids=["no masks", "1 class", "1000 classes", "C4", "VGG", "letterboxed", "keypoints", "RoIPool", "measured"],
)
def test_every_kind_of_network_and_photo(tmp_path: Path, size: tuple[int, int], overrides: dict[str, Any]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    said: list[str] = []
    files = pictures.save_pictures(tiny_model(**overrides).trace(photo), tmp_path, say=said.append)
    assert len(files) > 14
    assert all("mask" in text for text in said) and bool(said) == (overrides.get("masks") is False)


def test_a_network_of_nan_has_pictures_too(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.backbone.conv1.weight.fill_(float("nan"))
    photo, _ = tiny_data()[0]
    said: list[str] = []
    assert names(pictures.save_pictures(model.trace(photo), tmp_path, model, said.append))[-1] == "weights"
    assert "proposals is left out. The RPN proposes nothing in this photo." in said


def test_half_precision(tmp_path: Path) -> None:
    photo, _ = tiny_data()[0]
    assert len(pictures.save_pictures(tiny_model().bfloat16().trace(photo), tmp_path)) > 18


def test_a_trace_of_few_stages_has_the_pictures_of_these(tmp_path: Path) -> None:
    photo, _ = tiny_data()[0]
    trace = tiny_model().trace(photo, ["p3", "backbone.layer1.0.conv1"])
    assert names(pictures.save_pictures(trace, tmp_path)) == [
        "input",
        "feature-energy",
        "p3",
        "detections",
        "backbone.layer1.0.conv1",
    ]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    photo, _ = tiny_data()[0]
    with pytest.raises(WriteError, match="file"):
        pictures.save_pictures(tiny_model().trace(photo), tmp_path / "file" / "folder")


def test_a_trace_of_tensors_alone_has_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model.trace"):
        pictures.save_pictures(Trace({"p2": torch.zeros(1, 1, 2, 2)}), tmp_path)
