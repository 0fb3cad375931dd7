"""The network's graph as TensorBoard reads it: names under the four parts, shapes, and edges that end on nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from maskrcnn import Config
from maskrcnn.inspection.structure import Structure, read_structure
from maskrcnn.inspection.tensorboard import graph_def, write_graph

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet101-fpn": ("resnet101-fpn", {}),
    "resnet50": ("resnet50", {}),
    "vgg16": ("vgg16", {}),
    "vgg16-fpn": ("vgg16-fpn", {}),
    "keypoints": ("small-fpn", {"keypoint_names": ("nose", "tail")}),
    "boxes only": ("small-fpn", {"masks": False}),
    "convolutions in the box head": ("resnet18-fpn", {"box.num_convs": 4, "box.num_fcs": 1, "box.norm": "group"}),
}


def structure_of(network: str) -> Structure:
    preset, overrides = NETWORKS[network]
    return read_structure(Config.preset(preset, class_names=["a", "b", "c", "d", "e", "f"], overrides=overrides))


def shape_of(node: Any) -> list[int]:
    [shape] = node.attr["_output_shapes"].list.shape
    return [dim.size for dim in shape.dim]


@pytest.fixture(scope="module")
def structure() -> Structure:
    return structure_of("resnet101-fpn")


@pytest.fixture(scope="module")
def nodes(structure: Structure, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The nodes by name, written to a file and read by TensorBoard."""
    folder = tmp_path_factory.mktemp("board")
    with SummaryWriter(str(folder)) as writer:
        write_graph(writer, structure)
    return {node.name: node for node in EventAccumulator(str(folder)).Reload().Graph().node}


def test_a_file_holds_one_graph(structure: Structure, tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        write_graph(writer, structure)
    read = EventAccumulator(str(tmp_path)).Reload()
    assert read.Tags()["graph"] and not read.Tags()["scalars"]
    assert read.Graph() == graph_def(structure)


def test_every_layer_is_a_node_with_its_shape(nodes: dict[str, Any], structure: Structure) -> None:
    by_module: dict[str, list[list[int]]] = {}
    for node in nodes.values():
        by_module.setdefault(node.attr["module"].s.decode(), []).append(shape_of(node))
    for layer in structure.layers.values():
        assert list(layer.out_shape) in by_module[layer.path], layer.key
    assert sum(len(shapes) for module, shapes in by_module.items() if module) == len(structure.layers)


@pytest.mark.parametrize(
    ("name", "op", "shape"),
    [
        ("image", "Image", [1, 3, 1024, 1024]),
        ("backbone/conv1", "Conv2d", [1, 64, 512, 512]),
        ("backbone/layer3/5/conv2", "Conv2d", [1, 256, 64, 64]),
        ("backbone/layer3/22/add", "Add", [1, 1024, 64, 64]),
        ("backbone/c4", "Stride16", [1, 1024, 64, 64]),
        ("backbone/fpn/lateral4", "Conv2d", [1, 256, 64, 64]),
        ("backbone/fpn/p6", "Stride64", [1, 256, 16, 16]),
        ("rpn/p3/convs/0", "Conv2d", [1, 256, 128, 128]),
        ("rpn/p3/objectness", "Conv2d", [1, 3, 128, 128]),
        ("rpn/anchors", "Anchors", [261888, 4]),
        ("rpn/rpn_deltas", "Concat", [1, 261888, 4]),
        ("rpn/nms", "NMS", [1, 5000]),
        ("rpn/proposals", "TopK", [1, 1000, 4]),
        ("roi_align/boxes", "RoIAlign", [1000, 256, 7, 7]),
        ("roi_align/masks", "RoIAlign", [100, 256, 14, 14]),
        ("heads/box_head/class_logits", "Linear", [1000, 7]),
        ("heads/detections", "TopK", [1, 100, 6]),
        ("heads/mask_head/deconv", "ConvTranspose2d", [100, 256, 28, 28]),
        ("heads/paste", "PasteMasks", [-1, -1, -1]),
    ],
)
def test_names_kinds_and_shapes(nodes: dict[str, Any], name: str, op: str, shape: list[int]) -> None:
    assert (nodes[name].op, shape_of(nodes[name])) == (op, shape)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("backbone/layer4/0/conv1", ["backbone/c4"]),
        ("backbone/fpn/add", ["backbone/fpn/lateral4", "backbone/fpn/upsample"]),
        ("rpn/p6/convs/0", ["backbone/fpn/p6"]),
        ("rpn/decode", ["rpn/anchors", "rpn/rpn_deltas", "rpn/top_k"]),
        (
            "roi_align/boxes",
            [*(f"backbone/fpn/p{k}" for k in (2, 3, 4, 5)), "rpn/proposals", "roi_align/roi_levels"],
        ),
        ("heads/mask_head/convs/0", ["roi_align/masks"]),
        ("heads/paste", ["heads/mask_head/predictor", "heads/detections"]),
    ],
)
def test_edges(nodes: dict[str, Any], name: str, inputs: list[str]) -> None:
    assert list(nodes[name].input) == inputs


def test_a_layer_tells_of_itself(nodes: dict[str, Any]) -> None:
    told = nodes["backbone/layer3/5/conv2"].attr
    assert told["kernel"].s.decode() == "3 × 3" and told["stride"].i == 1
    assert (told["norm"].s.decode(), told["activation"].s.decode()) == ("frozen BatchNorm", "ReLU")
    assert told["multiply_adds"].i == 256 * 256 * 9 * 64 * 64
    assert told["parameters"].i >= 256 * 256 * 9


def test_parameters_are_counted_once_for_all_levels(nodes: dict[str, Any], structure: Structure) -> None:
    own = [node.attr["parameters"].i for name, node in nodes.items() if name.startswith("rpn/")]
    assert sum(own) == structure.parameters["rpn"]


@pytest.mark.parametrize("network", NETWORKS)
def test_any_network_is_whole(network: str) -> None:
    graph = graph_def(structure_of(network))
    names = [node.name for node in graph.node]
    scopes = {name[:i] for name in names for i, letter in enumerate(name) if letter == "/"}
    assert {name.split("/")[0] for name in names} == {"image", "backbone", "rpn", "roi_align", "heads"}
    assert len(names) == len(set(names)) and not scopes & set(names), "a name is one node, and no scope"
    assert [(n.name, i) for n in graph.node for i in n.input if i not in names] == []
    assert all(len(node.attr["_output_shapes"].list.shape) == 1 for node in graph.node)
    unused = set(names) - {i for node in graph.node for i in node.input}
    assert unused <= {"heads/paste", "heads/read_heatmaps", "heads/detections"}, "all else leads to the result"


def test_heads_that_are_not_there_are_not_drawn() -> None:
    names = {node.name for node in graph_def(structure_of("boxes only")).node}
    assert not any("mask" in name for name in names) and "heads/paste" not in names
    assert "heads/read_heatmaps" in {node.name for node in graph_def(structure_of("keypoints")).node}
