"""Files for graph viewers: names, shapes and types of everything, and the numbers of the standard operators."""

import json
import math
import sys

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.utils import Extractor  # noqa: E402

from maskrcnn import Config, MaskRCNN, export  # noqa: E402
from maskrcnn.errors import InputError  # noqa: E402
from maskrcnn.export import export_for_netron  # noqa: E402
from maskrcnn.export.netron import netron_graph  # noqa: E402
from maskrcnn.layers import FrozenBatchNorm  # noqa: E402
from maskrcnn.presets import PRESETS  # noqa: E402
from maskrcnn.stages import recording  # noqa: E402
from tiny import TINY, tiny_model  # noqa: E402

NARROW = {
    "image.min_size": 64, "image.max_size": 64, "backbone.width": 8, "rpn.channels": 8, "rpn.pre_nms_top_n": 12,
    "rpn.post_nms_top_n": 6, "box.fc_channels": 8, "box.detections_per_image": 3, "mask.channels": 4,
    "keypoint.channels": 4, "keypoint.num_convs": 2,
}  # fmt: skip
"""Overrides of any preset: everything is there, and nothing is wide."""
DIALECTS = {
    "torchvision": ("resnet50-fpn", {"anchors.rounding": "corners", "anchors.stride": "measured",
                                     "roi_align.aligned": False, "mask.paste": "integer_box"}),
    "torchvision v2": ("resnet50-fpn", {"backbone.norm": "batch", "fpn.norm": "batch", "rpn.num_convs": 2,
                                        "box.num_convs": 4, "box.num_fcs": 1, "box.norm": "batch",
                                        "box.conv_channels": 8, "mask.norm": "batch"}),
    "detectron2": ("resnet50-fpn", {"backbone.stride_in_1x1": True, "roi_align.sampling_ratio": 0,
                                    "box.min_size": None}),
    "detectron2 DC5": ("resnet50", {"backbone.dilate_c5": True, "box.num_fcs": 2, "box.pool_size": 7}),
    "detectron1": ("resnet50-fpn", {"box_corners": "inclusive", "anchors.rounding": "base", "rpn.min_size": None}),
    "matterport": ("resnet101-fpn", {"box_corners": "centers", "backbone.stem_padding": "end", "rpn.per_level": False,
                                     "rpn.max_log_scale": None, "rpn.clip": "input", "box.classes_per_roi": "best",
                                     "box.max_log_scale": None, "roi_align.method": "crop_and_resize",
                                     "roi_align.level_rounding": "nearest", "image.padding": "square"}),
    "RoIPool": ("vgg16", {"roi_align.method": "pool"}),
}  # fmt: skip
EXTRAS = {
    "no masks": {"masks": False},
    "keypoints": {"keypoint_names": ["head", "tail"]},
    "keypoints alone": {"masks": False, "keypoint_names": ["head"]},
    "class-agnostic": {"box.class_agnostic": True, "mask.class_agnostic": True},
    "no fully connected layer": {"box.num_fcs": 0},
}


def config_of(preset="resnet18-fpn", classes=3, **changes):
    names = [f"class {k}" for k in range(classes)]
    return Config.preset(preset, class_names=names, overrides={**NARROW, **changes})


def filled(config):
    """A network with weights of all sizes in every layer, norms included, in eval mode."""
    torch.manual_seed(0)
    model = MaskRCNN(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.BatchNorm2d, FrozenBatchNorm, torch.nn.GroupNorm)):
                for tensor in module.state_dict().values():
                    if tensor.is_floating_point():
                        tensor.uniform_(0.5, 1.5)
        for name, bias in model.named_parameters():
            if name.endswith("bias"):
                bias.uniform_(-0.5, 0.5)
    return model


def checked(graph):
    onnx.checker.check_model(graph, full_check=True)
    return graph


def parts_of(graph):
    """The graph and its functions: name, nodes, what enters, what leaves, initializers, value_info."""
    top = graph.graph
    infos = [*top.value_info, *top.input, *top.output]
    weights = [*top.initializer, *(tensor.values for tensor in top.sparse_initializer)]
    yield "graph", top.node, [v.name for v in top.input], [v.name for v in top.output], weights, infos
    for function in graph.functions:
        yield function.name, function.node, function.input, function.output, [], function.value_info


def all_nodes(graph, constants=False):
    nodes = [node for _, nodes, *_ in parts_of(graph) for node in nodes]
    return [node for node in nodes if constants or node.op_type != "Constant"]


def node_of(graph, name):
    [node] = [node for node in all_nodes(graph) if node.name == name]
    return node


def attributes(graph, name):
    return {a.name: helper.get_attribute_value(a) for a in node_of(graph, name).attribute}


def run(graph, inputs, outputs):
    """Run the part of a graph between values, by onnx's own reference implementation."""
    part = Extractor(graph).extract_model(list(inputs), list(outputs))
    order = [function.name for function in graph.functions]  # inner ones first, as the evaluator wants them
    functions = sorted(part.functions, key=lambda function: order.index(function.name))
    del part.functions[:]
    part.functions.extend(functions)
    given = {name: tensor.numpy() for name, tensor in inputs.items()}
    found = ReferenceEvaluator(part).run(None, given)
    return {name: torch.from_numpy(np.asarray(array)) for name, array in zip(outputs, found, strict=True)}


def assert_same_numbers(model, size=(64, 64)):
    """What standard operators compute between the steps is what the network computes."""
    graph = checked(netron_graph(model.config, model, size))
    image = torch.randn(1, 3, *size)
    with torch.inference_mode(), recording() as stages:
        model(image)
    levels = list(model.fpn.strides)
    parts = {"image": [*levels, "rpn_objectness", "rpn_deltas"], "box_features": ["class_logits", "box_deltas"]}
    parts |= {f"{kind}_features": [f"{kind}_logits"] for kind in ("mask", "keypoint") if f"{kind}_logits" in stages}
    for start, ends in parts.items():
        found = run(graph, {start: stages[start]}, ends)
        for name in ends:
            largest = float(stages[name].abs().max())
            assert largest > 1e-3, name
            torch.testing.assert_close(found[name], stages[name], rtol=1e-4, atol=1e-4 * min(largest, 1.0))


@pytest.mark.parametrize("norm", ["none", "batch", "frozen_batch", "group"])
def test_numbers_with_every_norm(norm):
    parts = ("backbone", "fpn", "box", "mask")
    norms = {f"{part}.norm": norm for part in parts} | {f"{part}.norm_eps": 0.2 for part in parts}
    assert_same_numbers(filled(config_of(**norms, **{"box.num_convs": 1, "box.conv_channels": 8, "mask.num_convs": 1})))


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("resnet18-fpn", {"backbone.stem_padding": "end", "rpn.num_convs": 2}),
        ("resnet50-fpn", {"backbone.groups": 2, "backbone.width_per_group": 32, "backbone.stride_in_1x1": True}),
        ("resnet50", {"backbone.dilate_c5": True}),
        ("resnet18", {"keypoint_names": ["head", "tail"]}),
        ("vgg16", {}),
        ("vgg16-fpn", {"mask.class_agnostic": True, "box.class_agnostic": True, "keypoint_names": ["head"]}),
    ],
    ids=["stem padded at the end", "groups", "dilated c5", "C4 with keypoints", "VGG", "VGG with FPN"],
)
def test_numbers_of_every_kind_of_layer(preset, changes):
    assert_same_numbers(filled(config_of(preset, **changes)))


def test_numbers_of_a_photo_that_is_no_square():
    assert_same_numbers(filled(config_of(**{"image.max_size": 96, "image.padding": "batch"})), size=(64, 96))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_passes_the_checker_in_less_than_a_megabyte(preset, tmp_path):
    names = [f"class {k}" for k in range(80)]
    export_for_netron(Config.preset(preset, class_names=names), tmp_path / "model.onnx", weights=False)
    assert (tmp_path / "model.onnx").stat().st_size < 1_000_000
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    graph = onnx.load(tmp_path / "model.onnx")
    assert len([node for node in graph.graph.node if node.op_type != "Constant"]) < 100


@pytest.mark.parametrize("weights", [True, False], ids=["with weights", "weights left out"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_passes_the_checker(dialect, weights):
    preset, changes = DIALECTS[dialect]
    config = config_of(preset, **changes)
    checked(netron_graph(config, MaskRCNN(config) if weights else None))


@pytest.mark.parametrize("preset", ["resnet18-fpn", "resnet18", "vgg16"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_every_choice_of_heads_passes_the_checker(preset, extra):
    graph = checked(netron_graph(config_of(preset, **EXTRAS[extra]), None))
    changes = EXTRAS[extra]
    wanted = ["detections", *["masks"] * changes.get("masks", True), *["keypoints"] * ("keypoint_names" in changes)]
    assert [output.name for output in graph.graph.output] == wanted


@pytest.mark.parametrize("classes", [1, 1000])
def test_few_and_many_classes(classes, tmp_path):
    config = Config.preset("resnet152-fpn", class_names=[f"class {k}" for k in range(classes)])
    export_for_netron(config, tmp_path / "model.onnx", weights=False)
    graph = checked(onnx.load(tmp_path / "model.onnx"))
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.value_info}
    assert shapes["class_logits"] == [1000, classes + 1] and shapes["box_deltas"] == [1000, classes, 4]
    assert shapes["mask_logits"] == [100, classes, 28, 28]
    assert (tmp_path / "model.onnx").stat().st_size < 1_000_000


@pytest.mark.parametrize("preset", ["resnet50-fpn", "resnet18", "vgg16", "small-fpn"])
def test_every_edge_has_a_type_and_a_shape(preset):
    config = config_of(preset, keypoint_names=["head"])
    for graph in (netron_graph(config, None), netron_graph(config, MaskRCNN(config))):
        for part, nodes, inputs, outputs, weights, infos in parts_of(graph):
            typed = {v.name for v in infos if v.type.tensor_type.elem_type and v.type.tensor_type.HasField("shape")}
            named = {v.name for v in infos if all(d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim)}
            edges = {name for node in nodes for name in [*node.input, *node.output] if name}
            assert edges | set(inputs) | set(outputs) <= (typed & named) | {tensor.name for tensor in weights}, part


@pytest.mark.parametrize("preset", ["resnet50-fpn", "vgg16"])
def test_shapes_inside_functions_are_those_that_onnx_infers(preset):
    graph = netron_graph(config_of(preset), None)
    for function in graph.functions:
        infos = {v.name: v for v in function.value_info}
        body = helper.make_graph(
            function.node, "body", [infos[n] for n in function.input], [infos[n] for n in function.output]
        )
        alone = helper.make_model(
            body, functions=graph.functions, opset_imports=function.opset_import, ir_version=graph.ir_version
        )
        inferred = onnx.shape_inference.infer_shapes(alone, check_type=True, strict_mode=True).graph
        assert [*inferred.value_info]
        for value in (*inferred.value_info, *inferred.output):
            assert value.type == infos[value.name].type, (function.name, value.name)


@pytest.mark.parametrize("preset", ["resnet18-fpn", "resnet18", "vgg16"])
def test_names_are_paths_and_differ(preset):
    graph = netron_graph(config_of(preset, keypoint_names=["head"]), None)
    names = [node.name for node in all_nodes(graph)]
    assert len(set(names)) == len(names)
    first = {name.split("/")[0] for name in names}
    modules = {"backbone", "rpn", "box_roi_align", "mask_roi_align", "keypoint_roi_align"}
    modules |= {"box_head", "mask_head", "keypoint_head"}
    assert modules <= first
    assert first - modules <= {"fpn", "stage5", "prepare", "paste_masks", "read_heatmaps"}
    assert all(node.doc_string for node in all_nodes(graph))


def test_layers_have_the_names_of_their_modules():
    graph = netron_graph(config_of("resnet50-fpn"), None)
    top = {node.name: node.op_type for node in graph.graph.node}
    for name in ("fpn/lateral4", "rpn/conv/p3", "rpn/objectness/p6", "mask_head/convs/3", "box_head/class_logits"):
        assert top[name] in ("Conv", "Gemm"), name
    assert top["backbone/layer3"] == "backbone/layer3"
    inside = {f.name: {node.name for node in f.node} for f in graph.functions}
    assert "backbone/layer3/5" in inside["backbone/layer3"]
    assert {"backbone/layer3/5/conv2", "backbone/layer3/5/bn2", "backbone/layer3/5/add"} <= inside["backbone/layer3/5"]


def test_what_data_decides_is_one_node_each_with_the_configurations_numbers():
    config = config_of("resnet50-fpn", **{"rpn.nms_threshold": 0.5, "roi_align.sampling_ratio": 3})
    graph = netron_graph(config, None)
    steps = {node.name for node in graph.graph.node if node.domain == "maskrcnn" and node.op_type[0].isupper()}
    assert steps == {
        "prepare", "rpn/anchors", "rpn/top_anchors", "rpn/decode", "rpn/nms", "rpn/top_proposals",
        "box_roi_align/levels", "box_roi_align", "box_head/candidates", "box_head/decode", "box_head/nms",
        "box_head/top_detections", "mask_roi_align/levels", "mask_roi_align", "mask_head/of_class", "paste_masks",
    }  # fmt: skip
    assert attributes(graph, "rpn/nms")["iou_threshold"] == 0.5
    assert attributes(graph, "mask_roi_align") == {"aligned": 1, "output_size": [14, 14], "sampling_ratio": 3}
    assert attributes(graph, "rpn/anchors")["ratios"] == [0.5, 1.0, 2.0]
    assert math.isclose(attributes(graph, "rpn/decode")["max_log_scale"], math.log(1000 / 16), rel_tol=1e-6)


def test_rois_are_cut_from_all_levels_but_p6():
    graph = netron_graph(config_of("resnet50-fpn"), None)
    assert list(node_of(graph, "box_roi_align").input) == ["p2", "p3", "p4", "p5", "proposals", "roi_levels"]
    single = netron_graph(config_of("resnet50"), None)
    assert list(node_of(single, "box_roi_align").input) == ["c4", "proposals"]


def test_the_rpns_weights_stand_in_the_file_once():
    model = tiny_model()
    graph = netron_graph(model.config, model)
    users = [node.name for node in graph.graph.node if "rpn.convs.0.weight" in node.input]
    assert users == [f"rpn/conv/p{k}" for k in range(2, 7)]
    [stored] = [tensor for tensor in graph.graph.initializer if tensor.name == "rpn.convs.0.weight"]
    assert np.array_equal(onnx.numpy_helper.to_array(stored), model.rpn.convs[0].weight.detach().numpy())


def test_stage_five_stands_in_the_file_once_and_is_called_for_each_head():
    config = config_of("resnet18")
    model = MaskRCNN(config)
    graph = netron_graph(config, model)
    assert [node.name for node in graph.graph.node if node.op_type == "stage5"] == ["stage5/boxes", "stage5/masks"]
    weights = 4 * sum(p.numel() for p in model.state_dict().values())
    assert graph.ByteSize() < weights + 200_000
    assert 4 * sum(p.numel() for p in model.stage5.parameters()) > 200_000


def test_files_without_weights_hold_none():
    graph = netron_graph(config_of("resnet18-fpn"), None)
    assert all(tensor.data_type == TensorProto.INT64 for tensor in graph.graph.initializer)
    constants = [node for node in all_nodes(graph, constants=True) if node.op_type == "Constant"]
    sparse = [node.attribute[0].sparse_tensor for node in constants if node.attribute[0].name == "sparse_value"]
    assert sparse and all(list(tensor.values.dims) == [0] for tensor in sparse)
    assert [8, 3, 7, 7] in [list(tensor.dims) for tensor in sparse]
    whole = [node.attribute[0].t for node in constants if node.attribute[0].name == "value"]
    assert all(tensor.data_type == TensorProto.INT64 for tensor in whole)


def test_half_precision_is_written_as_single(tmp_path):
    model = tiny_model().half()
    export_for_netron(model, tmp_path / "model.onnx")
    graph = checked(onnx.load(tmp_path / "model.onnx"))
    assert {tensor.data_type for tensor in graph.graph.initializer} == {TensorProto.FLOAT, TensorProto.INT64}


def test_the_file_tells_what_it_is():
    config = config_of("resnet50-fpn")
    graph = netron_graph(config, None)
    told = {entry.key: entry.value for entry in graph.metadata_props}
    assert Config.from_json(told["configuration"]) == config
    assert json.loads(told["class_names"]) == list(config.class_names)
    assert "not for running" in told["purpose"] and "left out" in told["weights"]
    assert graph.graph.name == "Mask R-CNN on ResNet-50-FPN with 3 classes"


def test_shapes_are_those_of_the_photo_that_is_asked_for():
    graph = netron_graph(Config.preset("small-fpn", class_names=["cat"]), None, (240, 320))
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.value_info}
    assert shapes["image"] == [1, 3, 320, 448] and shapes["p5"] == [1, 64, 10, 14]


def test_the_network_is_left_as_it_was(tmp_path):
    model = tiny_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_for_netron(model, tmp_path / "model.onnx")
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_of_a_configuration_are_refused(tmp_path):
    with pytest.raises(InputError, match="A configuration has no weights to export"):
        export_for_netron(Config.preset("small-fpn", class_names=["a"], overrides=TINY), tmp_path / "model.onnx")


def test_more_than_a_file_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(InputError, match=r"model.onnx would hold .* leave the weights out .*--weights-free"):
        export_for_netron(tiny_model(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnx_one_sentence_tells_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'maskrcnn\[export\]'"):
        export_for_netron(tiny_model(), tmp_path / "model.onnx")
