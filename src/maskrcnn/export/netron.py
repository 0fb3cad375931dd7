"""The network as an ONNX graph for graph viewers: layers by their paths, steps as single nodes, shapes on all edges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby

import torch
from onnx import FunctionProto, ModelProto, helper

from maskrcnn import __version__
from maskrcnn.config import Config
from maskrcnn.errors import counted
from maskrcnn.export.layers import add_layer
from maskrcnn.export.scope import DOMAIN, IR_VERSION, OPSETS, Scope
from maskrcnn.export.steps import Steps
from maskrcnn.inspection.parts import PARTS
from maskrcnn.inspection.structure import Layer, Structure, read_structure
from maskrcnn.model import MaskRCNN
from maskrcnn.weights.importing import described

PURPOSE = (
    "For a graph viewer such as Netron, not for running: steps like NMS and RoIAlign are operators of the domain "
    "maskrcnn that no runtime knows."
)


def netron_graph(config: Config, model: MaskRCNN | None, photo: tuple[int, int] | None = None) -> ModelProto:
    """Return the graph of a network, for looking at.

    Args:
        config: the configuration.
        model: the network that it describes, for its weights; None leaves them out.
        photo: (height, width) of the photo to take shapes for; by default one that fills the input.
    """
    structure = read_structure(config, photo)
    if model is None:
        with torch.device("meta"):
            network = MaskRCNN(config.replace({"backbone_weights": None}))
    else:
        network = model
    graph = _Graph(network, structure, with_weights=model is not None)
    graph.build()
    return graph.file()


class _Graph:
    """Puts layers and steps together, in the order in which they run."""

    def __init__(self, model: MaskRCNN, structure: Structure, with_weights: bool) -> None:
        self.model = model
        self.structure = structure
        self.scope = Scope(with_weights)
        self.functions: dict[str, FunctionProto] = {}
        """Inner ones before those that call them."""

    def build(self) -> None:
        """Add everything."""
        config, layers = self.structure.config, list(self.structure.layers.values())
        names = {stage: stage for stage in ("image", "box_features", "mask_features", "keypoint_features")}
        steps = Steps(self.scope, self.structure, {})
        steps.prepare()
        self._add(self.scope, [layer for layer in layers if layer.part == "backbone"], names)
        levels = {level: names[self._maker(level)] for level in self.structure.strides}
        self._add(self.scope, [layer for layer in layers if layer.part == "rpn"], names)
        for what, stage in (("objectness", "rpn_objectness"), ("deltas", "rpn_deltas")):
            maps = [names[f"rpn.{what}{f'@{level}' * (len(levels) > 1)}"] for level in levels]
            self.functions[f"rpn/join_{what}"] = steps.join(what, maps, stage)
        steps.anchors()
        steps.propose()
        steps.levels = {level: value for level, value in levels.items() if level != "p6"}
        heads = [layer for layer in layers if layer.part == "heads"]
        proposals, found = (self.structure.shapes[stage][1] for stage in ("proposals", "detections"))
        steps.roi_align("box", "proposals", proposals, config.box.pool_size)
        self._add(self.scope, self._branch(heads, "box"), names)
        steps.reshape_deltas(names["box_head.box_deltas"])
        steps.detect()
        if config.masks:
            steps.roi_align("mask", "detections", found, config.mask.pool_size)
            self._add(self.scope, self._branch(heads, "mask"), names)
            steps.paste()
        if config.keypoint_names:
            steps.roi_align("keypoint", "detections", found, config.keypoint.pool_size)
            self._add(self.scope, self._branch(heads, "keypoint"), names)
            steps.read_keypoints()

    def file(self) -> ModelProto:
        """Return the whole file."""
        config, scope = self.structure.config, self.scope
        ends = [name for name in ("detections", "masks", "keypoints") if name in scope.values]
        inner = [value for name, value in scope.values.items() if name not in ("photo", *ends)]
        title = described(config)
        graph = helper.make_graph(
            scope.nodes, title, [scope.values["photo"]], [scope.values[name] for name in ends],
            list(scope.initializers.values()), PURPOSE, inner,
        )  # fmt: skip
        model = helper.make_model(
            graph, functions=list(self.functions.values()), opset_imports=OPSETS, ir_version=IR_VERSION,
            producer_name="maskrcnn", producer_version=__version__, doc_string=f"{title}. {PURPOSE}",
        )  # fmt: skip
        helper.set_model_props(
            model,
            {
                "purpose": PURPOSE,
                "weights": "as in the network" if scope.with_weights else "left out; their shapes are there",
                "class_names": json.dumps(config.class_names),
                "configuration": config.to_json(),
            },
        )
        return model

    def _maker(self, stage: str) -> str:
        """Return the key of the layer that gives a stage."""
        return next(key for key, layer in self.structure.layers.items() if stage in layer.tensors)

    @staticmethod
    def _branch(heads: Sequence[Layer], branch: str) -> list[Layer]:
        """Return the layers of one head; with C4, its run of stage five first."""
        calls = ("", {"box": "boxes", "mask": "masks", "keypoint": "keypoints"}[branch])
        stage5 = [layer for layer in heads if layer.path.startswith("stage5.") and layer.key.partition("@")[2] in calls]
        return stage5 + [layer for layer in heads if layer.path.startswith(f"{branch}_head")]

    def _add(self, scope: Scope, layers: Sequence[Layer], names: dict[str, str], depth: int = 0) -> None:
        """Add layers, those of a module that is a function inside one.

        Args:
            scope: where to.
            layers: in the order in which they run.
            names: the values that layers give, by the layers' keys; is added to.
            depth: how many functions are around them.
        """
        for (path, call), group in groupby(layers, lambda layer: _function_of(layer, depth)):
            members = list(group)
            if path:
                names[members[-1].key] = self._call(scope, path, call, members, names, depth)
                continue
            for layer in members:
                inputs = [names[key] for key in layer.inputs]
                names[layer.key] = add_layer(scope, self.model, layer, inputs, self._stage_of(layer))

    def _call(self, scope: Scope, path: str, call: str, members: list[Layer], names: dict[str, str], depth: int) -> str:
        """Add a call of a module's function, made at its first, and return the value that it gives."""
        name, last = path.replace(".", "/"), members[-1]
        inside = {layer.key for layer in members}
        before = dict.fromkeys(key for layer in members for key in layer.inputs if key not in inside)
        text = f"{PARTS[last.part].number} {PARTS[last.part].title}: {counted(len(members), 'layer')}, "
        text += f"{last.in_shape[1]} → {last.out_shape[1]} channels."
        if name not in self.functions:
            several = path.startswith("stage5")
            inner = Scope(scope.with_weights, is_function=True, rows="NR" if several else "")
            entry = {key: "crops" if several and not depth else names[key] for key in before}
            for key, value in entry.items():
                inner.value(value, scope.shapes[names[key]])
            given = list(entry.values())
            self._add(inner, members, entry, depth + 1)
            self.functions[name] = inner.function(name, given, [entry[last.key]], text)
        node = f"{name}/{call}" if call and not depth else name
        out = scope.value(self._stage_of(last) or node, last.out_shape, what=text)
        scope.add(name, [names[key] for key in before], [out], node, text, DOMAIN)
        return out

    def _stage_of(self, layer: Layer) -> str:
        """Return the stage that is just what a layer gives, if there is one."""
        shapes = self.structure.shapes
        return next((stage for stage in layer.tensors if shapes[stage] == layer.out_shape), "")


def _function_of(layer: Layer, depth: int) -> tuple[str, str]:
    """Return the module around a layer that is a function at this depth, and which call of it; empty for none."""
    parts = layer.path.split(".")
    if parts[0] == "stage5":
        modules = ["stage5", ".".join(parts[:2])]
    elif parts[0] == "backbone" and parts[1].startswith("layer"):
        modules = [".".join(parts[:2]), ".".join(parts[:3])]
    elif parts[0] == "backbone" and parts[1].startswith("block"):
        modules = [".".join(parts[:2])]
    else:
        modules = []
    return (modules[depth], layer.key.partition("@")[2]) if depth < len(modules) else ("", "")
