"""Classifiers as a backbone's start: every family gives the features that a plain computation gives."""

import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import maskrcnn
from maskrcnn import Config, MaskRCNN
from maskrcnn.errors import CheckpointError, ConfigError, InputError
from maskrcnn.weights import files
from reference import resnet as reference

WIDTH = 8
SMALL = {"backbone.width": WIDTH, "fpn.channels": 16, "rpn.channels": 16, "box.fc_channels": 16, "mask.channels": 16}


def network(path, preset="resnet50-fpn", **overrides):
    plain = preset in ("resnet50", "vgg16")
    small = {k: v for k, v in SMALL.items() if not (plain and k.startswith("fpn"))}
    return MaskRCNN(
        Config.preset(preset, class_names=["a"], overrides={**small, "backbone_weights": str(path), **overrides})
    )


def assert_features(model, theirs):
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = model.eval().backbone(x)
    for name, expected in zip(("c2", "c3", "c4", "c5"), theirs(x), strict=True):
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("depth", "groups", "per_group"), [(18, 1, 64), (50, 1, 64), (50, 4, 32)])
def test_torchvision_and_timm(tmp_path, depth, groups, per_group, suffix):
    state = reference.state(depth, WIDTH, groups, per_group)
    path = tmp_path / f"resnet{suffix}"
    (torch.save if suffix == ".pth" else save_file)(state, path)
    shape = {"backbone.groups": groups, "backbone.width_per_group": per_group} if groups > 1 else {}
    model = network(path, f"resnet{depth}-fpn", **shape)
    assert_features(model, lambda x: reference.features(state, x, depth, groups))
    assert model.config.backbone_weights is None and model.config.image.mean == (0.485, 0.456, 0.406)


def test_norms_may_be_trained_ones(tmp_path):
    torch.save(reference.state(50), tmp_path / "r.pth")
    model = network(tmp_path / "r.pth", **{"backbone.norm": "batch"})
    assert int(model.backbone.bn1.num_batches_tracked) == 7
    assert_features(model, lambda x: reference.features(reference.state(50), x, 50))


def test_a_group_norm_is_one(tmp_path):
    state = {
        key: tensor for key, tensor in reference.state(50).items() if "running" not in key and "tracked" not in key
    }
    torch.save(state, tmp_path / "gn.pth")
    assert torch.equal(
        network(tmp_path / "gn.pth", **{"backbone.norm": "group"}).backbone.bn1.weight, state["bn1.weight"]
    )
    with pytest.raises(CheckpointError, match=r"set backbone\.norm to group"):
        network(tmp_path / "gn.pth")


def caffe2(state, statistics):
    """Names and values as in Detectron's pickles; without statistics the norm is a scale and a shift."""
    renamed = {}
    for key, tensor in state.items():
        if key.startswith("fc"):
            continue
        name = (
            re.sub(r"^bn1\.", "res_conv1_bn_", key).replace("conv1.weight", "conv1_w")
            if key[:2] in ("co", "bn")
            else key
        )
        found = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)", key)
        if found:
            stage, block, kind, k, part = found.groups()
            branch = "1" if kind == "downsample." else f"2{'abc'[int(k) - 1]}"
            bn = "_bn" if kind == "bn" or (kind == "downsample." and k == "1") else ""
            name = f"res{int(stage) + 1}_{block}_branch{branch}{bn}_{part}"
        parts = {"weight": "s" if "bn" in name else "w", "bias": "b", "running_mean": "rm", "running_var": "riv"}
        for part, short in parts.items():
            name = re.sub(rf"_{part}$", f"_{short}", name)
        if "tracked" not in name and (statistics or not name.endswith(("_rm", "_riv"))):
            renamed[name] = tensor.numpy()
    renamed["conv1_b"] = np.ones(WIDTH, np.float32)  # MSRA's, which no Detectron uses
    return {**renamed, "pred_w": np.zeros((3, 2), np.float32), "pred_b": np.zeros(3, np.float32)}


@pytest.mark.parametrize("statistics", [True, False], ids=["with statistics", "scale and shift"])
@pytest.mark.parametrize(("groups", "per_group"), [(1, 64), (4, 32)], ids=["MSRA", "FAIR's ResNeXt"])
def test_detectrons_pickles(tmp_path, statistics, groups, per_group):
    state = reference.state(50, WIDTH, groups, per_group)
    if not statistics:
        for key in state:
            if "running" in key:
                state[key] = torch.full_like(state[key], 0.0 if "mean" in key else 1 - 1e-5)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": caffe2(state, statistics)}, protocol=2))
    shape = {"backbone.groups": groups, "backbone.width_per_group": per_group} if groups > 1 else {}
    model = network(path, **shape)
    config = model.config
    assert config.backbone.stride_in_1x1 == (groups == 1) and config.image.channel_order == "bgr"
    assert config.image.std == ((1.0, 1.0, 1.0) if groups == 1 else (57.375, 57.12, 58.395))
    assert_features(model, lambda x: reference.features(state, x, 50, groups, stride_in_1x1=groups == 1))
    if not statistics:  # to the last bit a scale and a shift: eps has no effect
        assert torch.equal(model.backbone.bn1.running_var + config.backbone.norm_eps, torch.ones(WIDTH))


def test_torchvisions_resnet_as_detectron2_converts_it(tmp_path):
    state = reference.state(50)
    renamed = {}
    for key, tensor in state.items():
        name = re.sub(r"^bn1\.", "stem.conv1.norm.", re.sub(r"^conv1\.", "stem.conv1.", key))
        name = re.sub(r"layer(\d)\.(\d+)\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}.", name)
        name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        name = re.sub(r"(res\d\.\d+)\.bn(\d)\.", r"\1.conv\2.norm.", name)
        if "tracked" not in name:
            renamed[name.replace("fc.", "stem.fc.")] = tensor.numpy()
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": renamed, "__author__": "torchvision", "matching_heuristics": True}))
    model = network(path)
    assert model.config.image.mean == (123.675, 116.28, 103.53) and not model.config.backbone.stride_in_1x1
    assert_features(model, lambda x: reference.features(state, x, 50))


KERAS_PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_std"}
KERAS_LATER_PARTS = {**KERAS_PARTS, "running_mean": "moving_mean", "running_var": "moving_variance"}


def keras_name(key):
    """The path of a dataset in fchollet's file of 2016."""
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)", key)
    layer, part = ("conv1" if key.startswith("conv1") else "bn_conv1"), key.rsplit(".", 1)[-1]
    is_conv = key.startswith("conv1")
    if found:
        stage, block, kind, k, part = found.groups()
        is_conv = kind == "conv" or (kind == "downsample." and k == "0")
        branch = "branch1" if kind == "downsample." else f"branch2{'abc'[int(k) - 1]}"
        layer = f"{'res' if is_conv else 'bn'}{int(stage) + 1}{'abcdef'[int(block)]}_{branch}"
    part = {"weight": "W", "bias": "b"}[part] if is_conv else KERAS_PARTS[part]
    return f"{layer}/{layer}_{part}_1:0"


def keras_later_name(key):
    """The path of a dataset in files of keras-applications' resnet_common, and of tf.keras."""
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)", key)
    layer, part = ("conv1_conv" if key.startswith("conv1") else "conv1_bn"), key.rsplit(".", 1)[-1]
    if found:
        stage, block, kind, k, part = found.groups()
        number, kind = ("0", ("conv", "bn")[int(k)]) if kind == "downsample." else (k, kind)
        layer = f"conv{int(stage) + 1}_block{int(block) + 1}_{number}_{kind}"
    part = {"weight": "kernel", "bias": "bias"}[part] if layer.endswith("conv") else KERAS_LATER_PARTS[part]
    return f"{layer}/{layer}/{part}:0"


def with_biases(state):
    """The datasets' values by torchvision's names: kernels in TensorFlow's layout, each with a bias."""
    generator = torch.Generator().manual_seed(3)
    values = {k: v for k, v in state.items() if not k.startswith("fc") and "tracked" not in k}
    for key in [key for key in values if values[key].dim() == 4]:
        values[key.replace("weight", "bias")] = torch.randn(len(state[key]), generator=generator)
        values[key] = state[key].permute(2, 3, 1, 0)
    return values


@pytest.mark.parametrize(
    ("name_of", "eps", "stem_padding"),
    [(keras_name, 1e-3, "end"), (keras_later_name, 1.001e-5, "around")],
    ids=["fchollet's of 2016", "keras-applications"],
)
def test_keras_resnet50(tmp_path, name_of, eps, stem_padding):
    h5py = pytest.importorskip("h5py", reason="reads Keras files")
    state = reference.state(50)
    values = with_biases(state)
    with h5py.File(tmp_path / "notop.h5", "w") as file:
        for key, value in values.items():
            file[name_of(key)] = value.numpy()
    model = network(tmp_path / "notop.h5")
    backbone, image = model.config.backbone, model.config.image
    assert (backbone.norm_eps, backbone.stem_padding, image.channel_order) == (eps, stem_padding, "bgr")
    shifted = dict(state)
    for key in state:  # a bias before a norm is a mean taken off
        if state[key].dim() == 4:
            conv = key.removesuffix(".weight")
            norm = re.sub(r"conv(\d)$", r"bn\1", conv).replace("downsample.0", "downsample.1")
            shifted[f"{norm}.running_mean"] = state[f"{norm}.running_mean"] - values[f"{conv}.bias"]
    model.backbone.maxpool = torch.nn.MaxPool2d(3, 2, 1)  # what the plain computation has
    assert_features(model, lambda x: reference.features(shifted, x, 50, stride_in_1x1=True, eps=eps))


def vgg(batch_norm):
    """A narrow VGG-16 as torchvision builds it, and its state dict."""
    plan = (8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M")
    layers, inputs = [], 3
    for step in plan:
        if step == "M":
            layers.append(torch.nn.MaxPool2d(2))
            continue
        layers.append(torch.nn.Conv2d(inputs, step, 3, padding=1))
        layers += [torch.nn.BatchNorm2d(step)] if batch_norm else []
        layers.append(torch.nn.ReLU())
        inputs = step
    theirs = torch.nn.Sequential(*layers).eval()
    state = {f"features.{key}": value for key, value in theirs.state_dict().items()}
    return theirs, {**state, "classifier.0.weight": torch.zeros(3, 3)}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("batch_norm", [False, True], ids=["vgg16", "vgg16_bn"])
def test_vgg(tmp_path, batch_norm, suffix):
    theirs, state = vgg(batch_norm)
    path = tmp_path / f"vgg{suffix}"
    (torch.save if suffix == ".pth" else save_file)(state, path)  # safetensors puts a layer's bias before its weight
    if batch_norm:
        with pytest.raises(CheckpointError, match=r"a VGG-16 with BatchNorm, .* set backbone\.norm to frozen_batch"):
            network(path, "vgg16-fpn", **{"backbone.norm": "none"})
    model = network(path, "vgg16-fpn", **({"backbone.norm": "frozen_batch"} if batch_norm else {}))
    pools = [i for i, layer in enumerate(theirs) if isinstance(layer, torch.nn.MaxPool2d)]

    def maps(x):
        return [theirs[: pools[k]](x) for k in (2, 3, 4)] + [theirs(x)]

    assert_features(model, maps)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"features.28.weight": None}, r"v\.pth has 12 convolutions of a VGG; VGG-16 has 13\."),
        ({"features.31.weight": torch.zeros(64, 64, 3, 3)}, r"has 14 convolutions of a VGG"),
        ({"features.3.squeeze.weight": torch.zeros(1)}, r"no part of a backbone corresponds to 'features\.3\.squeeze"),
        ({"features.1.weight": torch.zeros(8)}, r"has tensors without a place: backbone\.block1\.0\.norm\.weight"),
        ({"features.0.bias": None}, r"v\.pth lacks backbone\.block1\.0\.conv\.bias\."),
        ({"features.0.bias": torch.zeros(3)}, r"v\.pth does not fit in backbone\.block1\.0\.conv\.bias\."),
    ],
    ids=["VGG-13", "VGG-19", "a layer with parts", "half a norm", "missing", "shape"],
)
def test_another_vgg_is_refused(tmp_path, edit, said):
    state = {k: v for k, v in {**vgg(False)[1], **edit}.items() if v is not None}
    torch.save(state, tmp_path / "v.pth")
    with pytest.raises(CheckpointError, match=said):
        network(tmp_path / "v.pth", "vgg16-fpn")


@pytest.mark.parametrize(
    ("bias", "said"),
    [
        (None, r"v\.pth lacks: backbone\.block1\.0\.conv\.bias\.$"),
        (torch.tensor(1.0), r"running_mean is \[8\] and .*conv\.bias \[\]; they must be alike\."),
        (torch.zeros(3), r"running_mean is \[8\] and .*conv\.bias \[3\]; they must be alike\."),
    ],
    ids=["missing", "a number", "shape"],
)
def test_a_bias_that_a_norm_cannot_take_is_refused(tmp_path, bias, said):
    state = {k: v for k, v in {**vgg(True)[1], "features.0.bias": bias}.items() if v is not None}
    torch.save(state, tmp_path / "v.pth")
    with pytest.raises(CheckpointError, match=said):
        network(tmp_path / "v.pth", "vgg16-fpn", **{"backbone.norm": "frozen_batch"})


def test_a_published_detector_is_refused_before_it_is_fetched():
    with pytest.raises(InputError, match=r"is a detector; backbone_weights takes an image classifier"):
        network("torchvision/maskrcnn_resnet50_fpn")


def test_a_resnext_is_called_one(tmp_path):
    torch.save(reference.state(50, WIDTH, 4, 32), tmp_path / "r.pth")
    said = r"a ResNeXt-50-4x32d, .* set backbone\.groups to 4, backbone\.width_per_group to 32\."
    with pytest.raises(CheckpointError, match=said):
        network(tmp_path / "r.pth")


def test_the_fifth_stage_of_a_c4_network_is_its_head(tmp_path):
    state = reference.state(50)
    torch.save(state, tmp_path / "r.pth")
    model = network(tmp_path / "r.pth", "resnet50")
    assert torch.equal(model.stage5[2].conv2.weight, state["layer4.2.conv2.weight"])


@pytest.mark.parametrize(
    ("preset", "overrides", "said"),
    [
        ("resnet101-fpn", {}, r"holds a ResNet-50, not the configuration's backbone; set backbone\.depth to 50\."),
        ("resnet50-fpn", {"backbone.width": 16}, r"set backbone\.width to 8\."),
        ("resnet50-fpn", {"backbone.norm": "group"}, r"set backbone\.norm to frozen_batch\."),
        ("vgg16-fpn", {}, r"holds a ResNet, .*; take the preset resnet50 or resnet50-fpn\."),
    ],
    ids=["depth", "width", "norm", "kind"],
)
def test_another_backbone_is_refused_with_the_fields_to_set(tmp_path, preset, overrides, said):
    torch.save(reference.state(50), tmp_path / "r.pth")
    with pytest.raises(CheckpointError, match=said):
        network(tmp_path / "r.pth", preset, **overrides)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s.pop("layer2.1.bn2.bias"), r"r\.pth lacks backbone\.layer2\.1\.bn2\.bias\."),
        (
            lambda s: s.update({"layer1.0.se.weight": torch.zeros(1)}),
            r"without a place: backbone\.layer1\.0\.se\.weight",
        ),
        (
            lambda s: s.update({"conv1.weight": s.pop("conv1.weight")[:, :1]}),
            r"does not fit in backbone\.conv1\.weight",
        ),
        (lambda s: s.pop("conv1.weight"), "is no classifier that can start a backbone"),
    ],
    ids=["missing", "unknown", "shape", "no classifier"],
)
def test_files_that_do_not_fit_are_refused(tmp_path, edit, said):
    state = reference.state(50)
    edit(state)
    torch.save(state, tmp_path / "r.pth")
    with pytest.raises(CheckpointError, match=said):
        network(tmp_path / "r.pth")


def test_a_saved_network_never_looks_for_the_file_again(tmp_path):
    torch.save(reference.state(50), tmp_path / "r.pth")
    model = network(tmp_path / "r.pth")
    model.save(tmp_path / "w.safetensors")
    (tmp_path / "r.pth").unlink()
    assert torch.equal(maskrcnn.load(tmp_path / "w.safetensors").backbone.conv1.weight, model.backbone.conv1.weight)


def test_a_path_in_a_strangers_file_is_never_opened(tmp_path):
    torch.save(reference.state(50), tmp_path / "r.pth")
    model = network(tmp_path / "r.pth")
    config = model.config.replace({"backbone_weights": str(tmp_path / "trap")})
    files.write_tensors(tmp_path / "w.safetensors", model.state_dict(), {files.METADATA_KEY: config.to_json()})
    assert maskrcnn.load(tmp_path / "w.safetensors").config.backbone_weights is None


def test_weights_have_a_backbone_already(tmp_path):
    torch.save(reference.state(50), tmp_path / "r.pth")
    network(tmp_path / "r.pth").save(tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="these weights bring their own backbone"):
        maskrcnn.load(tmp_path / "w.safetensors", overrides={"backbone_weights": "r.pth"})


def test_frozen_stages_of_the_papers_stay_frozen(tmp_path):
    torch.save(reference.state(50), tmp_path / "r.pth")
    model = network(tmp_path / "r.pth")
    assert not model.backbone.conv1.weight.requires_grad and not model.backbone.layer1[0].conv1.weight.requires_grad
    assert model.backbone.layer2[0].conv1.weight.requires_grad
