"""Ground truth is checked with sentences, resized with its image and padded to one number of objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from maskrcnn.batching import batch_targets, resize_target
from maskrcnn.config import ImageConfig
from maskrcnn.errors import InputError
from maskrcnn.structures import ImageBatch, Target, TargetBatch
from maskrcnn.targets import check_batch, check_target

SIZE = (480, 640)
BOX = (10.0, 20.0, 110.0, 220.0)


def dotted(count: int) -> torch.Tensor:
    """Masks of one pixel each."""
    masks = torch.zeros(count, *SIZE, dtype=torch.bool)
    masks[:, 30, 20] = True
    return masks


def given(count: int = 1, **changes: Any) -> dict[str, Any]:
    """A good target with something changed; None removes it."""
    values: dict[str, Any] = {
        "boxes": torch.tensor([BOX] * count).reshape(count, 4),
        "labels": torch.zeros(count, dtype=torch.int64),
        "masks": dotted(count),
        "image_id": 7,
    }
    return {k: v for k, v in {**values, **changes}.items() if v is not None}


def numbered(shape: tuple[int, ...], value: int) -> np.ndarray:
    masks = np.zeros(shape, np.uint8)
    masks.flat[0] = value
    return masks


def with_box(*box: float) -> dict[str, Any]:
    """A target of six objects, the last with this box."""
    return given(6, boxes=torch.tensor([BOX] * 5 + [box]))


NAN = float("nan")
XYWH = "If this is (x, y, width, height), convert with xywh_to_xyxy."
INSIDE = "targets[3].boxes[5] must lie inside images[3], 640 pixels wide and 480 high; got "
ORDER = "targets[3].boxes[5] must satisfy x1 < x2 and y1 < y2; got "
BAD: dict[str, tuple[Any, str]] = {
    "masks 0 and 255": (
        given(masks=numbered((1, *SIZE), 255)),
        "targets[3].masks must be bool, or hold only 0 and 1; got uint8 [1, 480, 640] with the value 255. "
        "It looks like a picture of 0 and 255; pass masks > 127.",
    ),
    "masks of object numbers": (
        given(masks=numbered((1, *SIZE), 3)),
        "make one mask of each: ids == number.",
    ),
    "masks of probabilities": (given(masks=torch.full((1, *SIZE), 0.7)), "pass masks >= 0.5."),
    "mask of nothing": (
        given(2, masks=dotted(2) & torch.tensor([True, False])[:, None, None]),
        "targets[3].masks[1] must have at least one pixel; got none. Drop the object.",
    ),
    "area nan": (given(area=torch.tensor([NAN])), "targets[3].area must be finite; got [nan]."),
    "masks with nan": (given(masks=torch.full((1, *SIZE), NAN)), "must be bool, or hold only 0 and 1"),
    "masks swapped": (
        given(2, masks=np.zeros((2, 640, 480), np.uint8)),
        "targets[3].masks must be bool [2, 480, 640], two like its boxes and the size of images[3]; "
        "got uint8 [2, 640, 480]. Height and width look swapped.",
    ),
    "masks of another size": (
        given(masks=torch.zeros(1, 240, 320)),
        "Masks must be in the frame of the photo",
    ),
    "masks [N, 1, H, W]": (
        given(masks=torch.zeros(1, 1, *SIZE)),
        "got float32 [1, 1, 480, 640]. Drop the channel axis with masks.squeeze(1).",
    ),
    "masks [H, W, G]": (
        given(2, masks=np.zeros((*SIZE, 2), bool)),
        "It looks like [H, W, G]; pass masks.transpose",
    ),
    "one mask [H, W]": (given(masks=torch.zeros(*SIZE)), "For a single mask pass masks[None]"),
    "three masks for one box": (
        given(masks=torch.zeros(3, *SIZE, dtype=torch.bool)),
        "one like its boxes and the size of images[3]; got bool [3, 480, 640]. There are 3 masks for 1 box.",
    ),
    "masks missing": (
        given(masks=None),
        "targets[3].masks is missing, and this network learns masks; it must be bool [1, 480, 640]. "
        "For boxes alone, configure the network with masks=False.",
    ),
    "two labels for one box": (
        given(labels=[0, 1]),
        "targets[3].labels must be int64 [1], one like its boxes; got int64 [2]. There are 2 for 1 box.",
    ),
    "labels [G, 1]": (given(labels=[[0]]), "got int64 [1, 1]. Drop the last axis with labels.squeeze(1)."),
    "label -1": (
        given(labels=[-1]),
        "targets[3].labels[0] must be 0 to 2 for 3 classes; got -1. "
        "Labels are 0-based and background is not a class. Leave the object out if it has no class.",
    ),
    "label K": (
        given(2, labels=[1, 3]),
        "targets[3].labels[1] must be 0 to 2 for 3 classes; got 3. "
        "Labels are 0-based and background is not a class. If your labels count from 1, subtract 1.",
    ),
    "label beyond K": (given(labels=[90]), "got 90. Labels are 0-based and background is not a class."),
    "float labels": (
        given(labels=[1.0]),
        "targets[3].labels must be integers, int64 [1]; got float64 [1]. Convert with labels.to(torch.int64).",
    ),
    "bool labels": (
        given(labels=[True]),
        "labels must be integers, int64 [1]; got bool [1]. Pass class numbers.",
    ),
    "labels missing": (given(labels=None), "targets[3].labels is missing; it must be int64 [G]"),
    "text labels": (
        given(labels=["cat"]),
        "targets[3].labels must be a tensor or an array of numbers; got list of",
    ),
    "boxes missing": (
        given(boxes=None),
        "targets[3].boxes is missing; it must be float32 [G, 4], (x1, y1, x2, y2) in pixels; "
        "there is: labels, masks, image_id.",
    ),
    "boxes misnamed": (given(boxes=None, bboxes=[BOX]), "If bboxes holds them, rename it."),
    "one box [4]": (given(boxes=torch.tensor(BOX)), "got float32 [4]. For a single box pass boxes[None]."),
    "boxes [G, 5]": (
        given(boxes=torch.zeros(1, 5)),
        "must be float32 [G, 4], (x1, y1, x2, y2) in pixels; got",
    ),
    "boxes [3, 0]": (given(3, boxes=torch.zeros(3, 0)), "got float32 [3, 0]."),
    "boxes of bool": (given(boxes=torch.ones(1, 4, dtype=torch.bool)), "got bool [1, 4]."),
    "ragged boxes": (given(boxes=[[1, 2, 3, 4], [5]]), "got list whose rows differ in length."),
    "box with nan": (
        with_box(1, 2, NAN, 4),
        "targets[3].boxes[5] must be four finite numbers; got (1, 2, nan, 4). Drop the object or repair its box.",
    ),
    "box with infinity": (
        with_box(1, 2, float("inf"), 4),
        "must be four finite numbers; got (1, 2, inf, 4).",
    ),
    "box inverted": (with_box(60, 60, 20, 20), f"{ORDER}(60, 60, 20, 20). {XYWH}"),
    "box without area": (
        with_box(60, 60, 60, 80),
        f"{ORDER}(60, 60, 60, 80). Its area is zero; drop the object.",
    ),
    "box outside": (with_box(600, 470, 700, 479), f"{INSIDE}(600, 470, 700, 479). Clip it, or check"),
    "box that may be xywh": (with_box(600, 470, 700, 479), XYWH),
    "box left of the image": (with_box(-3, 0, 20, 20), f"{INSIDE}(-3, 0, 20, 20). Clip it, or check that"),
    "box with x and y swapped": (
        with_box(10, 500, 20, 600),
        f"{INSIDE}(10, 500, 20, 600). x and y look swapped.",
    ),
    "box on the border": (with_box(640, 0, 641, 20), f"{INSIDE}(640, 0, 641, 20)."),
    "boxes normalised": (
        given(boxes=[[0.1, 0.2, 0.5, 0.75]]),
        "targets[3].boxes must be in pixels of images[3]; got values from 0.1 to 0.75. "
        "They look normalised; multiply x by 640 and y by 480.",
    ),
    "two crowds for one box": (
        given(iscrowd=[0, 1]),
        "targets[3].crowd must be bool [1], one like its boxes; got",
    ),
    "area [G, 1]": (given(area=[[4.0]]), "targets[3].area must be float32 [1], one like its boxes; got"),
    "list of annotations": (
        [{"bbox": BOX}],
        "got list. Put the boxes of all objects of an image in one tensor",
    ),
    "none": (None, "targets[3] must be a Target or a mapping with boxes, labels and masks; got NoneType."),
}


@pytest.mark.parametrize(("target", "words"), BAD.values(), ids=BAD.keys())
def test_bad_target_is_refused_with_a_sentence(target: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_target(target, SIZE, 3, masks=True, name="targets[3]")
    message = str(caught.value)
    assert words in message and message.startswith("targets[3]") and message.endswith(".")


def padded(count: int = 2, **changes: Any) -> TargetBatch:
    """A good batch of targets for images of 64 × 96, with something changed."""
    values = {
        "boxes": torch.tensor([1.0, 2, 30, 40]).expand(count, 4, 4),
        "labels": torch.zeros(count, 4, dtype=torch.int64),
        "masks": torch.zeros(count, 4, 64, 96, dtype=torch.bool),
        "valid": torch.tensor([True, True, False, False]).expand(count, 4),
    }
    return TargetBatch(**{**values, **changes})


def label(value: int, slot: int) -> torch.Tensor:
    labels = torch.zeros(2, 4, dtype=torch.int64)
    labels[1, slot] = value
    return labels


BAD_BATCHES: dict[str, tuple[Any, str]] = {
    "torchvision's": ([{"boxes": torch.zeros(1, 4)}] * 2, "must be a TargetBatch; got list. batching.batch_targets"),
    "one too many": (padded(3), "got 3 targets for 2 images. An image without objects"),
    "one too few": (padded(1), "got 1 target for 2 images."),
    "no slots": (padded(boxes=torch.zeros(2, 0, 4)), r"must be \[N, G, 4\] with G at least 1; got \[2, 0, 4\]"),
    "labels": (padded(labels=torch.zeros(2, 3, dtype=torch.int64)), r"labels must be \[2, 4\]; got \[2, 3\]"),
    "masks of the photo": (
        padded(masks=torch.zeros(2, 4, 480, 640, dtype=torch.bool)),
        r"masks must be \[2, 4, 64, 96\], the size of the padded images; got \[2, 4, 480, 640\]",
    ),
    "float labels": (padded(labels=torch.zeros(2, 4)), "labels must be torch.int64; got torch.float32"),
    "masks of 0 and 255": (
        padded(masks=torch.zeros(2, 4, 64, 96, dtype=torch.uint8)),
        "masks must be torch.bool; got torch.uint8",
    ),
    "box inverted": (
        padded(boxes=torch.tensor([9.0, 9, 2, 20]).expand(2, 4, 4)),
        r"boxes\[0, 0\] must satisfy x1 < x2 and y1 < y2; got \(9, 9, 2, 20\)\. If this is",
    ),
    "box with NaN": (padded(boxes=torch.tensor([NAN, 9, 20, 20]).expand(2, 4, 4)), r"got \(nan, 9, 20, 20\)"),
    "no masks": (padded(masks=torch.zeros(2, 4, 0, 0, dtype=torch.bool)), "the size of the padded images"),
    "label K": (padded(labels=label(3, 0)), r"labels\[1, 0\] must be 0 to 2 for 3 classes; got 3. Labels are 0-based"),
    "label -1": (padded(labels=label(-1, 1)), r"labels\[1, 1\] must be .*; got -1. .* Leave the object out"),
}


@pytest.mark.parametrize(("targets", "words"), BAD_BATCHES.values(), ids=BAD_BATCHES.keys())
def test_a_batch_that_does_not_fit_is_refused(targets: Any, words: str) -> None:
    images = ImageBatch.of(torch.zeros(2, 3, 64, 96), ImageConfig())
    with pytest.raises(InputError, match=words):
        check_batch(targets, images, 3, masks=True)


def test_a_batch_that_fits_passes() -> None:
    images = ImageBatch.of(torch.zeros(2, 3, 64, 96), ImageConfig())
    check_batch(padded(), images, 3, masks=True)
    check_batch(padded(labels=label(99, 2)), images, 3, masks=True)  # a slot without an object
    check_batch(padded(masks=torch.zeros(2, 4, 0, 0, dtype=torch.bool)), images, 3, masks=False)


GOOD = {
    "tensors": given(2),
    "target": Target(torch.tensor([BOX] * 2), torch.tensor([0, 0]), dotted(2)),
    "arrays": {k: v.numpy() for k, v in given(2).items() if k != "image_id"},
    "lists": given(2, boxes=[list(BOX)] * 2, labels=[0, 0], masks=list(dotted(2))),
    "other types": given(
        2,
        boxes=np.array([BOX] * 2, ">f8"),
        labels=np.array([0, 0], np.uint16),
        masks=np.asfortranarray(dotted(2).numpy().astype(np.uint8)),
    ),
    "read-only arrays": given(2, masks=np.broadcast_to(dotted(1).numpy(), (2, *SIZE))),
    "float masks": given(2, masks=dotted(2).float()),
}


@pytest.mark.parametrize("target", GOOD.values(), ids=GOOD.keys())
def test_good_target_is_converted(target: object) -> None:
    checked = check_target(target, SIZE, 1, masks=True)
    assert checked.boxes.dtype == torch.float32 and checked.boxes.tolist() == [list(BOX)] * 2
    assert checked.labels.dtype == torch.int64 and checked.labels.tolist() == [0, 0]
    assert checked.masks is not None and checked.masks.dtype == torch.bool and checked.masks.shape == (2, *SIZE)
    assert checked.crowd is None and checked.area is None


EMPTY = {
    "shaped": given(0),
    "flat": {"boxes": torch.zeros(0), "labels": torch.zeros(0), "masks": torch.zeros(0)},
    "lists": {"boxes": [], "labels": [], "masks": []},
    "without masks": {"boxes": [], "labels": []},
    "list in list": {"boxes": [[]], "labels": []},
}


@pytest.mark.parametrize("target", EMPTY.values(), ids=EMPTY.keys())
def test_no_objects_are_fine(target: object) -> None:
    checked = check_target(target, SIZE, 3, masks=True)
    assert checked.boxes.shape == (0, 4) and checked.labels.shape == (0,) and checked.labels.dtype == torch.int64
    assert checked.masks is not None and checked.masks.shape == (0, *SIZE) and checked.masks.dtype == torch.bool


def test_crowd_and_area_are_kept_under_both_names() -> None:
    for key in ("crowd", "iscrowd"):
        checked = check_target(given(2, area=[4, 5], **{key: [0, 1]}), SIZE, 3, masks=True)
        assert checked.crowd is not None and checked.crowd.tolist() == [False, True]
        assert checked.area is not None and checked.area.tolist() == [4.0, 5.0]


def test_masks_are_left_out_for_a_network_without_masks() -> None:
    assert check_target(given(masks="anything"), SIZE, 3, masks=False).masks is None


def test_box_up_to_one_pixel_outside_is_clipped() -> None:
    checked = check_target(given(boxes=[[-1, -0.5, 641, 480.25]]), SIZE, 3, masks=True)
    assert checked.boxes.tolist() == [[0, 0, 640, 480]]


def test_what_was_given_is_not_changed() -> None:
    target = given(boxes=torch.tensor([[-1.0, 0.0, 640.0, 480.0]]))
    check_target(target, SIZE, 3, masks=True)
    assert target["boxes"][0, 0] == -1


# Resizing and batching


def test_boxes_are_scaled_by_each_axis() -> None:
    target = Target(torch.tensor([[10.0, 20.0, 30.0, 40.0]]), torch.tensor([1]), area=torch.tensor([7.0]))
    resized = resize_target(target, (100, 200), (50, 400))
    assert resized.boxes.tolist() == [[20, 10, 60, 20]] and resized.masks is None
    assert resized.area is not None and resized.area.tolist() == [7]


def masks_of(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((2, height, width)) > 0.5)


SIZES = [
    ((13, 17), (13, 17)),
    ((13, 17), (26, 34)),
    ((13, 17), (31, 8)),
    ((40, 35), (7, 111)),
    ((1, 1), (3, 2)),
]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_masks_are_resized_as_the_references_do(old: tuple[int, int], new: tuple[int, int]) -> None:
    target = Target(torch.zeros(2, 4), torch.tensor([0, 0]), masks_of(*old))
    expected = F.interpolate(masks_of(*old)[:, None].float(), size=new, mode="nearest")[:, 0].bool()
    assert torch.equal(resize_target(target, old, new).masks, expected)
    pillow = [
        np.asarray(Image.fromarray(m.astype(np.uint8)).resize(new[::-1], Image.Resampling.NEAREST)).astype(bool)
        for m in masks_of(*old).numpy()
    ]
    assert torch.equal(resize_target(target, old, new, "pil").masks, torch.from_numpy(np.stack(pillow)))


def some(count: int, height: int = 6, width: int = 5) -> Target:
    return Target(torch.ones(count, 4), torch.full((count,), 2), torch.ones(count, height, width, dtype=torch.bool))


def test_targets_are_padded_to_a_multiple_of_four() -> None:
    batch = batch_targets([some(5), some(1, 8, 8), some(0)], (8, 8), masks=True)
    assert batch.boxes.shape == (3, 8, 4) and batch.masks.shape == (3, 8, 8, 8)
    assert batch.valid.sum(1).tolist() == [5, 1, 0] and batch.valid[0, :5].all()
    assert batch.labels[0].tolist() == [2] * 5 + [0] * 3
    assert batch.masks[0, 0, :6, :5].all() and batch.masks[0, 0].sum() == 30 and not batch.masks[0, 5:].any()


def test_no_objects_at_all_give_slots_that_are_not_valid() -> None:
    batch = batch_targets([some(0), Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))], (8, 8), True)
    assert batch.boxes.shape == (2, 4, 4) and not batch.valid.any() and batch.masks.shape == (2, 4, 8, 8)


def test_crowds_are_left_out() -> None:
    target = some(2)
    target.crowd = torch.tensor([True, False])
    target.boxes[1] = 3.0
    batch = batch_targets([target], (8, 8), masks=True)
    assert batch.valid.sum() == 1 and batch.boxes[0, 0].tolist() == [3, 3, 3, 3]


def test_masks_have_no_pixels_for_a_network_without_masks() -> None:
    assert batch_targets([some(2)], (8, 8), masks=False).masks.shape == (1, 4, 0, 0)


def test_missing_masks_and_missing_targets_are_refused() -> None:
    with pytest.raises(InputError, match=r"targets\[1\].masks is missing"):
        batch_targets([some(1), Target(torch.ones(1, 4), torch.tensor([0]))], (8, 8), masks=True)
    with pytest.raises(InputError, match="at least one target"):
        batch_targets([], (8, 8), masks=True)


# Keypoints


@pytest.mark.parametrize(
    ("keypoints", "said"),
    [
        (None, r"targets\[0\]\.keypoints is missing, and this network learns 2 of them"),
        (torch.zeros(1, 6), r"got float32 \[1, 6\]\. Reshape it with keypoints\.reshape\(-1, 2, 3\)"),
        (torch.zeros(1, 2, 2), "Add the visibility: 0 not labelled, 1 hidden, 2 visible"),
        (torch.full((1, 2, 3), 5.0), "visibility 0, 1 or 2; got 5"),
        (torch.full((1, 2, 3), float("nan")), "must be finite"),
        (torch.full((1, 2, 3), 1.5), "visibility 0, 1 or 2; got 1.5"),
        (torch.zeros(1, 3, 3), r"must be float32 \[1, 2, 3\].* got float32 \[1, 3, 3\]"),
        (torch.tensor([[[0.2, 0.4, 2], [0, 0, 0]]]), "look normalised; multiply x by 30 and y by 20"),
    ],
    ids=["missing", "flat", "no visibility", "visibility", "nan", "between", "another number", "normalised"],
)
def test_keypoints_that_are_refused(keypoints, said):
    given = {"boxes": [[1.0, 1, 9, 9]], "labels": [0]}
    if keypoints is not None:
        given["keypoints"] = keypoints
    with pytest.raises(InputError, match=said):
        check_target(given, (20, 30), 1, masks=False, num_keypoints=2)


def test_keypoints_are_resized_and_batched_with_their_boxes():
    points = torch.tensor([[[2.0, 3, 2], [4, 5, 1]]])
    target = check_target(
        {"boxes": [[1.0, 1, 9, 9]], "labels": [0], "keypoints": points}, (20, 20), 1, masks=False, num_keypoints=2
    )
    resized = resize_target(target, (20, 20), (40, 60))
    assert resized.keypoints.tolist() == [[[6, 6, 2], [12, 10, 1]]]
    empty = check_target({"boxes": [], "labels": []}, (20, 20), 1, masks=False, num_keypoints=2)
    batch = batch_targets([resized, empty], (64, 64), masks=False, offsets=torch.tensor([[5, 7], [0, 0]]))
    assert batch.keypoints.shape == (2, 4, 2, 3)
    assert batch.keypoints[0, 0].tolist() == [[13, 11, 2], [19, 15, 1]]
    assert batch.to("cpu").keypoints is not None


def test_targets_without_objects_need_no_keypoints_and_others_do():
    none = Target(torch.zeros(0, 4), torch.zeros(0).long())
    one = Target(torch.ones(1, 4), torch.zeros(1).long(), keypoints=torch.ones(1, 2, 3))
    assert batch_targets([none, one], (8, 8), masks=False).keypoints.shape == (2, 4, 2, 3)
    bare = Target(torch.ones(1, 4), torch.zeros(1).long())
    with pytest.raises(InputError, match=r"targets\[1\]\.keypoints must hold 2 for each object"):
        batch_targets([one, bare], (8, 8), masks=False)
