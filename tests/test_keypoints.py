"""What the names of keypoints tell: sides, and partners in a mirror."""

import pytest

from maskrcnn.keypoints import COCO_KEYPOINTS, COCO_SKELETON, mirrored_order, side_of


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ((), []),
        (("nose", "tail"), [0, 1]),
        (("left_eye", "nose", "right_eye"), [2, 1, 0]),
        (("left_eye", "Right_eye"), [0, 1]),
        (("eyeLeft", "eyeRight"), [1, 0]),
        (("left_eye", "left_ear", "right_ear"), [0, 2, 1]),
    ],
    ids=["none", "no sides", "around the middle", "case that differs", "capitals", "one without its partner"],
)
def test_partners_in_a_mirror(names, order):
    assert mirrored_order(names) == order


def test_cocos_keypoints_mirrored_twice_are_in_order():
    order = mirrored_order(COCO_KEYPOINTS)
    assert [order[k] for k in order] == list(range(17))
    assert order[:3] == [0, 2, 1] and sum(k != place for place, k in enumerate(order)) == 16


def test_cocos_limbs_are_the_same_in_a_mirror():
    order = mirrored_order(COCO_KEYPOINTS)
    assert {frozenset((order[a], order[b])) for a, b in COCO_SKELETON} == {frozenset(limb) for limb in COCO_SKELETON}


@pytest.mark.parametrize(
    ("name", "side"), [("nose", None), ("left_eye", "left"), ("handRight", "right"), ("LEFT KNEE", "left")]
)
def test_sides(name, side):
    assert side_of(name) == side
