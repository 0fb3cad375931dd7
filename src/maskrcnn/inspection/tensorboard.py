"""The network as a graph for TensorBoard, with the four parts as its top-level scopes.

TensorBoard folds nodes by the slashes in their names. What torch's tracer gives it are thousands of operations; here
the nodes are the layers of `read_structure` and, between them, the steps that are no layers: anchors, top-k, decoding,
NMS, RoIAlign, pasting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from maskrcnn.inspection.structure import Layer, Structure

ENTRIES = {
    "box_features": "roi_align/boxes",
    "mask_features": "roi_align/masks",
    "keypoint_features": "roi_align/keypoints",
}
"""Nodes that cut the crops of each head."""

_OPS = {
    "conv": "Conv2d",
    "deconv": "ConvTranspose2d",
    "linear": "Linear",
    "pool": "MaxPool2d",
    "add": "Add",
    "upsample": "Upsample",
    "subsample": "Subsample",
    "mean": "Mean",
}


def graph_def(structure: Structure) -> Any:
    """Return TensorBoard's `GraphDef` of a network.

    Its top-level nodes are `image` and the scopes `backbone` (with the FPN), `rpn`, `roi_align` and `heads`. Every
    node has the shape of what comes out of it; layers have kernel, stride, norm, activation, parameters and
    multiply-adds as attributes.

    Example:
        >>> from maskrcnn import Config
        >>> from maskrcnn.inspection.structure import read_structure
        >>> graph = graph_def(read_structure(Config.preset("small-fpn", class_names=["cat"])))
        >>> sorted({node.name.split("/")[0] for node in graph.node})
        ['backbone', 'heads', 'image', 'roi_align', 'rpn']
    """
    return _Graph(structure).proto


def write_graph(writer: Any, structure: Structure) -> None:
    """Write the graph of a network into a `SummaryWriter`'s file."""
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

    event = Event(graph_def=graph_def(structure).SerializeToString())
    writer.file_writer.add_event(event)


class _Graph:
    """The nodes, in the order in which they run."""

    def __init__(self, structure: Structure) -> None:
        from tensorboard.compat.proto.graph_pb2 import GraphDef  # type: ignore[import-untyped]
        from tensorboard.compat.proto.versions_pb2 import VersionDef  # type: ignore[import-untyped]

        self.structure = structure
        self.proto = GraphDef(versions=VersionDef(producer=22))
        self.nodes = {"image": "image"}
        """Names of nodes by the key of their layer, or by what enters a part."""
        self.shapes = structure.shapes
        self._add("image", "Image", (), self.shapes["image"])
        layers = list(structure.layers.values())
        self._layers(layer for layer in layers if layer.part == "backbone")
        self._layers(layer for layer in layers if layer.part == "rpn")
        self._propose(layers)
        self._crops("box_features", "rpn/proposals", "roi_levels")
        heads = [layer for layer in layers if layer.part == "heads"]
        masks = {layer.key for layer in _after(heads, "mask_features")}
        keypoints = {layer.key for layer in _after(heads, "keypoint_features")}
        self._layers(layer for layer in heads if layer.key not in masks | keypoints)
        self._detect()
        for entry, of_head in (("mask_features", masks), ("keypoint_features", keypoints)):
            if of_head:
                self._crops(entry, "heads/detections", entry.replace("features", "roi_levels"))
                self._layers(layer for layer in heads if layer.key in of_head)
                self._result(entry)

    def _add(self, name: str, op: str, inputs: Sequence[str], shape: Sequence[int], **told: Any) -> None:
        """Add a node; a side of −1 is one that depends on what is found or on the photo."""
        node = self.proto.node.add(name=name, op=op, input=list(dict.fromkeys(inputs)), device="")
        dims = node.attr["_output_shapes"].list.shape.add()
        for size in shape:
            dims.dim.add(size=size)
        for key, value in told.items():
            if isinstance(value, int):
                node.attr[key].i = value
            elif value:
                node.attr[key].s = str(value).encode()

    def _layers(self, layers: Iterable[Layer]) -> None:
        for layer in layers:
            name = node_name(layer)
            told: dict[str, Any] = {"norm": layer.norm, "activation": layer.activation, "module": layer.path}
            if layer.kernel:
                told |= {"kernel": f"{layer.kernel} × {layer.kernel}", "stride": layer.stride}
            if layer.dilation > 1:
                told["dilation"] = layer.dilation
            if layer.groups > 1:
                told["groups"] = layer.groups
            if layer.kind in ("conv", "deconv", "linear"):
                told |= {"parameters": layer.parameters, "multiply_adds": layer.multiply_adds}
            inputs = [self.nodes[key] for key in layer.inputs]
            self._add(name, _OPS[layer.kind], inputs, layer.out_shape, **told)
            self.nodes[layer.key] = name
            for stage in layer.tensors:
                if stage in ("c1", "c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6"):
                    # Numbered nodes of one kind TensorBoard would draw as one.
                    named = f"backbone/fpn/{stage}" if stage.startswith("p") else f"backbone/{stage}"
                    self._add(named, f"Stride{2 ** int(stage[1])}", [name], layer.out_shape)
                    self.nodes[layer.key] = self.nodes[stage] = named

    def _propose(self, layers: Sequence[Layer]) -> None:
        """Add what the RPN does with its convolutions' answers."""
        shapes = self.shapes
        top, proposals = shapes["proposals_before_nms"], shapes["proposals"]
        for stage, path in (("rpn_objectness", "rpn.objectness"), ("rpn_deltas", "rpn.deltas")):
            answers = [self.nodes[layer.key] for layer in layers if layer.path == path]
            self._add(f"rpn/{stage}", "Concat", answers, shapes[stage])
        maps = [self.nodes[level] for level in self.structure.strides]
        self._add("rpn/anchors", "Anchors", maps, shapes["anchors"])
        self._add("rpn/top_k", "TopK", ["rpn/rpn_objectness"], top[:2])
        self._add("rpn/decode", "DecodeBoxes", ["rpn/anchors", "rpn/rpn_deltas", "rpn/top_k"], top)
        self._add("rpn/nms", "NMS", ["rpn/decode", "rpn/top_k"], top[:2])
        self._add("rpn/proposals", "TopK", ["rpn/nms", "rpn/decode"], proposals)

    def _crops(self, entry: str, boxes: str, levels: str) -> None:
        """Add RoIAlign for a head: which level serves each box, and the crops."""
        shape = self.shapes[entry]
        maps = [self.nodes[level] for level in self.structure.strides if level != "p6"]
        self._add(f"roi_align/{levels}", "AssignLevels", [boxes], (1, shape[0]))
        self._add(ENTRIES[entry], "RoIAlign", [*maps, boxes, f"roi_align/{levels}"], shape)
        self.nodes[entry] = ENTRIES[entry]

    def _detect(self) -> None:
        """Add what becomes of the box head's answers."""
        logits, deltas = (self._maker(stage) for stage in ("class_logits", "box_deltas"))
        before, found = self.shapes["detections_before_nms"], self.shapes["detections"]
        self._add("heads/candidates", "SoftmaxTopK", [logits], before[:2])
        self._add("heads/decode", "DecodeBoxes", ["heads/candidates", deltas, "rpn/proposals"], before)
        self._add("heads/nms", "NMS", ["heads/decode", "heads/candidates"], before[:2])
        self._add("heads/detections", "TopK", ["heads/nms", "heads/decode", "heads/candidates"], found)

    def _result(self, entry: str) -> None:
        """Add what brings a head's answers onto the photo."""
        if entry == "mask_features":
            self._add("heads/paste", "PasteMasks", [self._maker("mask_logits"), "heads/detections"], (-1, -1, -1))
        else:
            points = len(self.structure.config.keypoint_names)
            inputs = [self._maker("keypoint_logits"), "heads/detections"]
            self._add("heads/read_heatmaps", "ReadHeatmaps", inputs, (-1, points, 3))

    def _maker(self, stage: str) -> str:
        """Return the node whose output a stage is."""
        return next(self.nodes[key] for key, layer in self.structure.layers.items() if stage in layer.tensors)


def node_name(layer: Layer) -> str:
    """Return a layer's name in the graph: its module's path below its part, under the level or head that it runs for.

    Example:
        >>> layer = Layer("rpn.convs.0@p3", "rpn.convs.0", "rpn", "conv", (), (1, 8, 4, 4), (1, 8, 4, 4))
        >>> node_name(layer)
        'rpn/p3/convs/0'
    """
    path, _, use = layer.key.partition("@")
    names = path.split(".")
    if names[-1] == "conv":  # a convolution with its norm is one module, and one node
        names.pop()
    if names[0] == layer.part:
        names.pop(0)
    return "/".join([layer.part, *([use] if use else []), *names])


def _after(layers: Sequence[Layer], entry: str) -> list[Layer]:
    """Return the layers that follow what enters a part."""
    known, found = {entry}, []
    for layer in layers:
        if known & set(layer.inputs):
            known.add(layer.key)
            found.append(layer)
    return found
