"""The whole network is one graph: compiled without a break, exported, and with the numbers of an eager run."""

import copy

import pytest
import torch

from maskrcnn import Config, MaskRCNN, TargetBatch

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings("default"),  # compilers warn of themselves
]

NETWORKS = {
    "fpn": ("small-fpn", {"backbone.width": 8, "fpn.channels": 16, "rpn.channels": 16}),
    "resnet50-c4": (
        "resnet50",
        {"backbone.width": 8, "backbone.norm": "group", "rpn.channels": 16, "mask.channels": 16},
    ),
    "vgg": ("vgg16", {"backbone.width": 8, "rpn.channels": 16, "box.fc_channels": 32, "mask.channels": 16}),
    "adaptive": ("small-fpn", {"backbone.width": 8, "fpn.channels": 16, "roi_align.sampling_ratio": 0}),
    "roi_pool": ("small-fpn", {"backbone.width": 8, "fpn.channels": 16, "roi_align.method": "pool"}),
    "matterport": (
        "small-fpn",
        {
            **{"backbone.width": 8, "fpn.channels": 16, "box_corners": "centers", "backbone.stem_padding": "end"},
            **{"roi_align.method": "crop_and_resize", "roi_align.level_rounding": "nearest"},
            **{"rpn.per_level": False, "rpn.clip": "input", "rpn.min_size": None, "rpn.max_log_scale": None},
            **{"box.classes_per_roi": "best", "box.min_size": None, "box.max_log_scale": None},
        },
    ),
    "dilated c5": (
        "resnet50-fpn",
        {
            **{"fpn": None, "anchors.sizes": ((32, 64),), "backbone.dilate_c5": True, "backbone.norm": "group"},
            **{"backbone.width": 8, "rpn.channels": 16, "box.fc_channels": 16, "mask.channels": 16},
            **{"box_corners": "inclusive", "anchors.rounding": "base"},
        },
    ),
    "keypoints": (
        "small-fpn",
        {"backbone.width": 8, "fpn.channels": 16, "keypoint_names": ("a", "b"), "keypoint.channels": 16},
    ),
    "boxes_only": ("small-fpn", {"backbone.width": 8, "fpn.channels": 16, "masks": False}),
}
SMALL = {
    "rpn.pre_nms_top_n": 50,
    "rpn.pre_nms_top_n_training": 50,
    "rpn.post_nms_top_n": 30,
    "rpn.post_nms_top_n_training": 30,
    "box.matching.samples_per_image": 16,
}


def network(name):
    """A network whose random predictors are strong enough to find something."""
    preset, overrides = NETWORKS[name]
    model = MaskRCNN(Config.preset(preset, class_names=["a", "b"], overrides={**overrides, **SMALL})).eval()
    with torch.no_grad():
        for layer in (model.rpn.deltas, model.rpn.objectness, model.box_head.class_logits):
            layer.weight.mul_(20)
    return model


def images(count):
    return torch.randn(count, 3, 96, 128)


def targets(count):
    boxes = torch.tensor([[10.0, 10, 60, 70], [30, 20, 100, 90], [5, 50, 40, 90], [0, 0, 0, 0]])
    masks = torch.zeros(count, 4, 96, 128, dtype=torch.bool)
    masks[:, :, 20:60, 20:50] = True
    labels = torch.tensor([0, 1, 0, 0])
    valid = torch.tensor([True, True, True, False])
    return TargetBatch(*(t.expand(count, *t.shape).clone() for t in (boxes, labels)), masks, valid.expand(count, 4))


def assert_same(ours, theirs):
    for name, a, b in zip(ours._fields, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["fpn", "resnet50-c4", "vgg"])
def test_inference_compiles_as_one_graph(name, count):
    model, batch = network(name), images(count)
    with torch.no_grad():
        eager = model(batch)
        compiled = torch.compile(model, fullgraph=True, backend="eager")(batch)
    assert int(eager.valid.sum()) > 0
    assert_same(eager, compiled)


@pytest.mark.parametrize("name", ["adaptive", "roi_pool", "matterport", "dilated c5", "keypoints", "boxes_only"])
def test_every_kind_of_pooling_compiles(name):
    model, batch = network(name), images(1)
    with torch.no_grad():
        assert_same(model(batch), torch.compile(model, fullgraph=True, backend="eager")(batch))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["fpn", "resnet50-c4", "vgg"])
def test_inference_exports(name, count):
    model, batch = network(name), images(count)
    program = torch.export.export(model, (batch,))
    with torch.no_grad():
        assert_same(model(batch), program.module()(batch))


@pytest.mark.parametrize("count", [1, 2])
def test_exported_program_serves_other_images_of_the_size(count):
    model = network("fpn")
    program = torch.export.export(model, (images(count),))
    other = images(count) * 2
    with torch.no_grad():
        assert_same(model(other), program.module()(other))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["fpn", "vgg"])
def test_training_step_compiles_as_one_graph(name, count):
    eager = network(name).train()
    compiled = copy.deepcopy(eager)
    batch, truth = images(count), targets(count)

    def step(model, images, targets):
        return model(images, targets).total

    torch.manual_seed(1)
    first = step(eager, batch, truth)
    first.backward()
    torch.manual_seed(1)
    second = torch.compile(step, fullgraph=True, backend="aot_eager")(compiled, batch, truth)
    second.backward()
    torch.testing.assert_close(first, second)
    for (name, a), b in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(
                a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
