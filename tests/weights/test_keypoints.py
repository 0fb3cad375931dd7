"""Fine-tuning on other keypoints: what both know is kept, what is new starts anew, heads come and go."""

import pytest
import torch

import maskrcnn
from maskrcnn import MaskRCNN
from maskrcnn.errors import CheckpointError
from maskrcnn.weights.files import METADATA_KEY, write_tensors
from maskrcnn.weights.keypoints import carry_keypoints
from tiny import tiny_model

HANDS = {"keypoint_names": ("nose", "left_hand", "right_hand"), "keypoint.skeleton": ((0, 1), (1, 2))}
FEW = {"keypoint.num_convs": 1, "keypoint.channels": 8}


def with_hands():
    model = tiny_model(**HANDS, **FEW)
    torch.nn.init.normal_(model.keypoint_head.deconv.bias)
    return model


@pytest.mark.parametrize(
    ("names", "kept", "skeleton"),
    [
        (("nose", "left_hand", "right_hand"), (0, 1, 2), ((0, 1), (1, 2))),
        (("right_hand", "left_hand", "nose"), (2, 1, 0), ((2, 1), (1, 0))),
        (("tail", "right_hand", "nose", "left_hand"), (None, 2, 0, 1), ((2, 3), (3, 1))),
        (("nose",), (0,), ()),
        (("tail", "ear"), (None, None), ()),
    ],
    ids=["the same", "another order", "one more", "fewer", "none shared"],
)
def test_heatmaps_of_shared_keypoints_are_kept_and_others_start_anew(names, kept, skeleton):
    model = with_hands()
    old = model.state_dict()
    config, tensors, started = carry_keypoints(model.config, old, names)
    assert config.keypoint_names == names and config.keypoint.skeleton == skeleton
    assert started == tuple(n for n, k in zip(names, kept, strict=True) if k is None)
    weight, bias = (tensors[f"keypoint_head.deconv.{suffix}"] for suffix in ("weight", "bias"))
    for place, k in enumerate(kept):
        if k is None:
            assert 0 < float(weight[:, place].std()) < 0.01 and not bias[place]
        else:
            assert torch.equal(weight[:, place], old["keypoint_head.deconv.weight"][:, k])
            assert bias[place] == old["keypoint_head.deconv.bias"][k]
    MaskRCNN(config).load_state_dict(tensors)


def test_names_for_keypoints_that_are_only_numbered():
    model = tiny_model(keypoint_names=("keypoint 0", "keypoint 1"), **FEW)
    config, tensors, started = carry_keypoints(model.config, model.state_dict(), ("head", "tail"))
    assert config.keypoint_names == ("head", "tail") and not started
    assert torch.equal(tensors["keypoint_head.deconv.weight"], model.keypoint_head.deconv.weight)


def test_a_network_gets_and_loses_a_keypoint_head(tmp_path, caplog):
    model = tiny_model()
    model.save(tmp_path / "a.safetensors")
    taught = maskrcnn.load(tmp_path / "a.safetensors", keypoint_names=("nose", "tail"), overrides=FEW)
    assert "keypoints: nose, tail start anew" in caplog.text
    assert taught.keypoint_head.deconv.weight.shape == (8, 2, 4, 4)
    assert torch.equal(taught.mask_head.predictor.weight, model.mask_head.predictor.weight)
    assert float(taught.keypoint_head.convs[0].conv.weight.detach().std()) > 0
    taught.save(tmp_path / "b.safetensors")
    without = maskrcnn.load(tmp_path / "b.safetensors", keypoint_names=())
    assert not without.config.keypoint_names and not hasattr(without, "keypoint_head")


def test_a_damaged_head_is_told_as_such(tmp_path):
    model = with_hands()
    tensors = {k: v for k, v in model.state_dict().items() if k != "keypoint_head.deconv.bias"}
    damaged = tmp_path / "a.safetensors"
    write_tensors(damaged, tensors, {METADATA_KEY: model.config.to_json()})
    with pytest.raises(CheckpointError, match=r"lacks: keypoint_head\.deconv\.bias"):
        maskrcnn.load(damaged, keypoint_names=("nose", "tail"))
