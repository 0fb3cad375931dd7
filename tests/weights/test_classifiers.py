"""Classifiers as a backbone's start: every family gives the features that a plain computation gives."""

import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import maskrcnn
from maskrcnn import Config, MaskRCNN
from maskrcnn.errors import CheckpointError, ConfigError
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
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-3)


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
                state[key] = torch.zeros_like(state[key]) if "mean" in key else torch.ones_like(state[key])
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": caffe2(state, statistics)}, protocol=2))
    shape = {"backbone.groups": groups, "backbone.width_per_group": per_group} if groups > 1 else {}
    model = network(path, **shape)
    config = model.config
    assert config.backbone.stride_in_1x1 == (groups == 1) and config.image.channel_order == "bgr"
    assert config.image.std == ((1.0, 1.0, 1.0) if groups == 1 else (57.375, 57.12, 58.395))
    assert_features(model, lambda x: reference.features(state, x, 50, groups, stride_in_1x1=groups == 1))


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


def test_keras_resnet50(tmp_path):
    h5py = pytest.importorskip("h5py", reason="reads Keras files")
    state = reference.state(50)
    bias = {
        k: torch.randn(len(v), generator=torch.Generator().manual_seed(3)) for k, v in state.items() if v.dim() == 4
    }
    parts = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_std"}
    with h5py.File(tmp_path / "notop.h5", "w") as file:

        def write(layer, part, tensor):
            file[f"{layer}/{layer}_{part}_1:0"] = tensor.numpy()

        for key, tensor in state.items():
            found = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)", key)
            layer, part = ("conv1" if key.startswith("conv1") else "bn_conv1"), key.rsplit(".", 1)[-1]
            if found:
                stage, block, kind, k, part = found.groups()
                branch = "branch1" if kind == "downsample." else f"branch2{'abc'[int(k) - 1]}"
                prefix = "bn" if kind == "bn" or (kind == "downsample." and k == "1") else "res"
                layer = f"{prefix}{int(stage) + 1}{'abcdef'[int(block)]}_{branch}"
            if tensor.dim() == 4:
                write(layer, "W", tensor.permute(2, 3, 1, 0))
                write(layer, "b", bias[key])
            elif part in parts and not key.startswith("fc"):
                write(layer, parts[part], tensor)
    model = network(tmp_path / "notop.h5")
    config = model.config
    assert (config.backbone.norm_eps, config.backbone.stem_padding, config.image.channel_order) == (1e-3, "end", "bgr")
    shifted = dict(state)
    for key, value in bias.items():  # a bias before a norm is a mean taken off
        name = key.removesuffix(".weight")
        name = re.sub(r"conv(\d)$", r"bn\1", name).replace("downsample.0", "downsample.1")
        shifted[f"{name}.running_mean"] = state[f"{name}.running_mean"] - value
    model.backbone.maxpool = torch.nn.MaxPool2d(3, 2, 1)  # what the plain computation has
    assert_features(model, lambda x: reference.features(shifted, x, 50, stride_in_1x1=True, eps=1e-3))


@pytest.mark.parametrize("batch_norm", [False, True], ids=["vgg16", "vgg16_bn"])
def test_vgg(tmp_path, batch_norm):
    plan = (8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M")
    torch.manual_seed(0)
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
    torch.save({**state, "classifier.0.weight": torch.zeros(3, 3)}, tmp_path / "vgg.pth")
    if batch_norm:
        with pytest.raises(CheckpointError, match=r"a VGG-16 with BatchNorm, .* set backbone\.norm to frozen_batch"):
            network(tmp_path / "vgg.pth", "vgg16-fpn", **{"backbone.norm": "none"})
    model = network(tmp_path / "vgg.pth", "vgg16-fpn", **({"backbone.norm": "frozen_batch"} if batch_norm else {}))
    pools = [i for i, step in enumerate(layers) if isinstance(step, torch.nn.MaxPool2d)]

    def maps(x):
        return [theirs[: pools[k]](x) for k in (2, 3, 4)] + [theirs(x)]

    assert_features(model, maps)


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
        ("vgg16-fpn", {}, r"holds a ResNet; take a preset of that kind, or set backbone\.kind to resnet\."),
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
