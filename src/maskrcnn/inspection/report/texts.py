"""What every place of the map is, in two or three plain sentences, with the numbers of this very network."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from maskrcnn.config import Config, ResNetConfig
from maskrcnn.inspection.structure import Layer, Structure


class Text(NamedTuple):
    """A heading, two or three sentences, and where the papers say it."""

    title: str
    body: str
    paper: str


def number(value: int) -> str:
    """Return a number with its thousands apart.

    Example:
        >>> number(261888)
        '261,888'
    """
    return f"{value:,}"


def explain(key: str, structure: Structure) -> Text:
    """Return the text for a place of the map: a part, a block, a stage or a single layer.

    Args:
        key: the key of a box in a drawing, the name of a stage, or the key of a layer.
        structure: the network.
    """
    if key in structure.layers:
        return _layer(structure.layers[key])
    facts = Facts(structure)
    if key in _TEXTS:
        return _TEXTS[key](facts)
    family, digit = key.rstrip("0123456789"), key[-1:]
    if digit.isdigit() and family in _FAMILIES:
        return _FAMILIES[family](facts, int(digit))
    return Text(key.replace("_", " "), "", "")


class Facts:
    """Numbers of a network, ready to stand in a sentence."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.config: Config = structure.config
        self.fpn = self.config.fpn is not None
        self.height, self.width = structure.input_size
        self.anchors = number(sum(structure.level_anchors.values()))
        self.per_cell = self.config.anchors.per_cell
        self.proposals = number(structure.shapes["proposals"][1])
        self.slots = structure.shapes["detections"][1]
        self.classes = self.config.num_classes
        self.levels = list(structure.strides)
        self.c4_head = isinstance(self.config.backbone, ResNetConfig) and not self.fpn and "c5" not in self.levels

    def channels(self, stage: str) -> int:
        """Return the channels of a feature map or a crop."""
        return self.structure.shapes[stage][1]

    def cells(self, stage: str) -> str:
        """Return the height and width of a feature map."""
        *_, height, width = self.structure.shapes[stage]
        return f"{height} × {width}"

    @property
    def backbone(self) -> str:
        """The backbone's name."""
        backbone = self.config.backbone
        if isinstance(backbone, ResNetConfig):
            return f"{'ResNeXt' if backbone.groups > 1 else 'ResNet'}-{backbone.depth}"
        return "VGG-16"

    @property
    def backbone_paper(self) -> str:
        """Where the backbone is from."""
        if isinstance(self.config.backbone, ResNetConfig):
            return "Xie et al. 2016" if self.config.backbone.groups > 1 else "He et al. 2015, section 3"
        return "Simonyan and Zisserman 2014"

    @property
    def anchor_sum(self) -> str:
        """How the number of anchors comes about."""
        cells = " + ".join("{} × {}".format(*self.map_size(level)) for level in self.structure.strides)
        brackets = f"({cells})" if len(self.structure.strides) > 1 else cells
        return f"{brackets} cells × {self.per_cell} = {self.anchors}"

    def map_size(self, level: str) -> tuple[int, int]:
        """Return (rows, columns) of a level that the RPN looks at."""
        *_, rows, columns = self.structure.shapes[level]
        return rows, columns


def _image(f: Facts) -> Text:
    image = f.config.image
    rule = (
        f"padded to a square of {f.width} × {f.height} pixels"
        if image.padding == "square"
        else f"padded to sides that {image.size_divisor} divides"
    )
    scaled = (
        f"scaled so that its longer side has at most {image.max_size} pixels"
        if image.resize == "skimage"
        else f"scaled so that its shorter side has {image.min_size} pixels, its longer at most {image.max_size}"
    )
    spread = "" if image.std == (1.0, 1.0, 1.0) else ", and divided by their spread"
    return Text(
        "The image as the network sees it",
        f"The photo is {scaled}, and {rule}. From each colour the mean of the images that the backbone first learned "
        f"from is taken off{spread}. Everything up to the detections happens in this frame; what is found goes back to "
        "the photo at the end.",
        "He et al. 2017, section 3.1",
    )


def _backbone(f: Facts) -> Text:
    if f.fpn:
        second = (
            "The Feature Pyramid Network then walks back from the coarsest map to the finest and adds what the "
            "coarse maps "
            f"know to the detail of the fine ones. Out come five maps of {f.channels('p2')} channels each, p2 … p6, "
            "one for every size of object."
        )
    else:
        second = f"Proposals and crops all come from one map, {f.levels[0]}, at stride 16: there is no pyramid here."
    return Text(
        f"Backbone: {f.backbone}{' + FPN' if f.fpn else ''}",
        f"{f.backbone} turns pixels into features. Stage by stage the map becomes coarser and deeper, so that a cell "
        "of c4 looks at "
        f"a large piece of the image and says in hundreds of numbers what is there. {second}",
        f"{f.backbone_paper}; {'Lin et al. 2016, section 3' if f.fpn else 'Ren et al. 2015'}",
    )


def _c(f: Facts, k: int) -> Text:
    resnet = isinstance(f.config.backbone, ResNetConfig)
    stride = f.height // f.structure.shapes[f"c{k}"][2] if f"c{k}" in f.structure.shapes else 2**k
    shape = f"{f.cells(f'c{k}')} cells of {f.channels(f'c{k}')} channels" if f"c{k}" in f.structure.shapes else ""
    if k == 1 and resnet:
        what = (
            "The stem: one 7 × 7 convolution that moves two pixels at a time. Its channels answer to edges and colours."
        )
    elif k == 1:
        what = "The first two blocks of 3 × 3 convolutions. Their channels answer to edges and colours."
    elif resnet:
        what = (
            f"Stage {k} of {f.backbone} is a chain of residual blocks: each adds a small correction to what it is "
            "given, "
            "which is why so many can be stacked and still be trained."
        )
    elif k == 5:
        what = "The maxima of c4 over 2 × 2 cells, for the pyramid alone; nothing is learnt here."
    else:
        what = f"Block {k + 1} of {f.backbone}: three 3 × 3 convolutions."
    if k == 5 and resnet and stride == 16:
        what += " Its convolutions are dilated instead of halving the map."
    return Text(
        f"c{k}: the backbone's map at stride {stride}",
        f"{what} One cell stands for {stride} × {stride} pixels of the input: {shape}.",
        "He et al. 2015, table 1" if resnet else "Simonyan and Zisserman 2014",
    )


def _lateral(f: Facts, k: int) -> Text:
    then = "; the pyramid begins with it" if k == 5 else ", so that it can be added to the coarser level above it"
    return Text(
        f"Lateral connection of c{k}",
        f"A 1 × 1 convolution brings the {f.channels(f'c{k}')} channels of c{k} to the {f.channels(f'p{k}')} that all "
        f"levels share{then}.",
        "Lin et al. 2016, section 3, figure 3",
    )


def _p(f: Facts, k: int) -> Text:
    stride = 2**k
    head = f"{f.cells(f'p{k}')} cells of {f.channels(f'p{k}')} channels, one for {stride} × {stride} pixels."
    if k == 6:
        return Text(
            "p6: for the largest anchors",
            f"{head} It is p5 with every second row and column left out: no weights. It exists so that the RPN also "
            "has a "
            f"level for the largest anchors ({_sizes(f, 'p6')} pixels), whose cells on p5 would be needlessly many. "
            "No crop "
            "is ever cut from it: RoIs that large are served by p5.",
            "Lin et al. 2016, section 4.1",
        )
    above = f"plus p{k + 1}'s sum enlarged to twice its size" if k < 5 else "the coarsest, with nothing above to add"
    return Text(
        f"p{k}: the pyramid at stride {stride}",
        f"{head} It is c{k} through its lateral convolution, {above}, smoothed by a 3 × 3 convolution. The RPN looks "
        "for "
        f"objects of about {_sizes(f, f'p{k}')} pixels here, and RoIs of {_served(f, k)} are cut from it.",
        "Lin et al. 2016, section 3",
    )


def _sizes(f: Facts, level: str) -> str:
    sizes = f.config.anchors.sizes[f.levels.index(level)] if level in f.levels else ()
    return " and ".join(f"{size:g}" for size in sizes)


def _served(f: Facts, k: int) -> str:
    align = f.config.roi_align
    lower = align.canonical_size * 2.0 ** (k - align.canonical_level)
    if align.level_rounding == "nearest":
        lower /= 2**0.5
    upper = 2 * lower
    if k == 2:
        return f"up to {upper:.0f}² pixels"
    return f"{lower:.0f}² pixels and more" if k == 5 else f"{lower:.0f}² to {upper:.0f}² pixels"


def _topdown(f: Facts) -> Text:
    return Text(
        "Top-down path",
        "The coarser sum is enlarged to twice its size by repeating cells, and added to the lateral map. What a "
        "coarse level "
        "knows about the whole scene so reaches the levels that still see detail.",
        "Lin et al. 2016, section 3",
    )


def _rpn(f: Facts) -> Text:
    where = f"the {len(f.levels)} levels {f.levels[0]} … {f.levels[-1]}" if len(f.levels) > 1 else f.levels[0]
    return Text(
        "Region Proposal Network",
        f"One small network with one set of weights slides over {where} and asks at each of {f.anchors} anchors: is "
        "there an "
        f"object, and where exactly? The best answers, near-duplicates removed, are the {f.proposals} proposals.",
        "Ren et al. 2015, section 3.1",
    )


def _rpn_head(f: Facts) -> Text:
    convs = f.config.rpn.num_convs
    first = "A 3 × 3 convolution" if convs == 1 else f"{convs} convolutions of 3 × 3, each"
    several = len(f.levels) > 1
    shared = (
        " The weights are the same on every level; that works since an object of p5's size looks there as one of p2's "
        "size looks on p2."
        if several
        else ""
    )
    return Text(
        "RPN head, shared by all levels" if several else "RPN head",
        f"{first} of {f.config.rpn.channels} channels, then two 1 × 1 convolutions: {f.per_cell} objectness "
        f"logits and {4 * f.per_cell} deltas at every cell, for its {f.per_cell} anchors.{shared}",
        "Ren et al. 2015, figure 3" + ("; Lin et al. 2016, section 4.1" if several else ""),
    )


def _anchors(f: Facts) -> Text:
    ratios = ", ".join(f"{ratio:g}" for ratio in f.config.anchors.ratios)
    several = f.config.anchors.sizes[0] if len(f.config.anchors.sizes[0]) > 1 else ()
    sizes = f"{len(several)} sizes, each with " if several else ""
    return Text(
        f"Anchors: {f.anchors} boxes to start from",
        f"At every cell{' of every level' if len(f.levels) > 1 else ''} stand {f.per_cell} boxes of fixed shape "
        f"({sizes}height over width {ratios}), the same whatever the image shows: {f.anchor_sum}. The RPN need not "
        "invent boxes: it scores these and moves them a little.",
        "Ren et al. 2015, section 3.1.1",
    )


def _objectness(f: Facts) -> Text:
    return Text(
        "Objectness of every anchor",
        f"One logit for each of the {f.anchors} anchors: is there an object of any class? Its sigmoid is a "
        "probability.",
        "Ren et al. 2015, section 3.1",
    )


def _deltas(f: Facts) -> Text:
    return Text(
        "Deltas of every anchor",
        "Four numbers for each anchor: move the centre by dx and dy of its width and height, and scale the sides by "
        "the "
        "exponentials of dw and dh.",
        "Girshick et al. 2014, appendix C; Ren et al. 2015, equation 2",
    )


def _top_k(f: Facts) -> Text:
    several = f.config.rpn.per_level and len(f.levels) > 1
    top, per = f.config.rpn.pre_nms_top_n, "level" if several else "image"
    fair = " and no level can crowd out another" if several else ""
    return Text(
        f"The best {number(top)} of each {per}",
        f"Of {f.anchors} anchors only the {number(top)} with the highest objectness of each {per} go on, so that the "
        f"next steps stay cheap{fair}. An object whose anchors score lower than that is lost here.",
        "Ren et al. 2015, section 3.3; Lin et al. 2016, section 4.1",
    )


def _decode(f: Facts) -> Text:
    return Text(
        "Refinement: deltas applied",
        "Each chosen anchor is moved and scaled by its deltas, and cut off at the border of the "
        f"{'image' if f.config.rpn.clip == 'image' else 'padded input'}. What comes out are the boxes that NMS "
        "compares.",
        "Ren et al. 2015, equation 2",
    )


def _nms(f: Facts) -> Text:
    others = "those of its level" if f.config.rpn.per_level and len(f.levels) > 1 else "those"
    return Text(
        "NMS: near-duplicates removed",
        f"From the best box downwards, each box deletes {others} that overlap it by more than IoU "
        f"{f.config.rpn.nms_threshold:g}. One object that many anchors found keeps one or a few boxes. The "
        f"{f.proposals} best that are left become proposals.",
        "Ren et al. 2015, section 3.3",
    )


def _proposals(f: Facts) -> Text:
    return Text(
        "Proposals",
        f"Up to {f.proposals} boxes that may hold an object of any class, best first. They are the regions of interest "
        "(RoIs) that everything after looks at; what no proposal covers can no longer be found.",
        "Ren et al. 2015, section 3.3",
    )


def _roi_align(f: Facts) -> Text:
    here = {
        "align": "",
        "pool": " This network uses RoIPool.",
        "crop_and_resize": " This network uses TensorFlow's crop_and_resize: one sample a bin, from border to border.",
    }[f.config.roi_align.method]
    return Text(
        "RoIAlign",
        "Heads need crops of one size, proposals have any size and lie between cells. RoIAlign divides the RoI into "
        "equal bins, samples the map at exact points inside each bin by bilinear interpolation, and averages. Nothing "
        "is rounded. RoIPool before it took whole cells: it rounded the corners of the box, read its last cell whole, "
        "and rounded the bins too. So its region begins up to half a cell and ends up to one and a half cells away, at "
        f"stride 16 that is 8 and 24 pixels of the input, which a class survives but a mask does not.{here}",
        "He et al. 2017, section 3",
    )


def _roi_levels(f: Facts) -> Text:
    if not f.fpn:
        return Text("One level for all", f"All RoIs are cut from {f.levels[0]}.", "Ren et al. 2015")
    align = f.config.roi_align
    return Text(
        "Which level serves which RoI",
        f"A RoI of {align.canonical_size:g} × {align.canonical_size:g} pixels is cut from p{align.canonical_level}, "
        "one of "
        "half the side from one level finer: k = "
        f"{align.canonical_level} + log₂(√(w·h) / {align.canonical_size:g}), rounded "
        f"{'down' if align.level_rounding == 'floor' else 'to the nearest'}. So a RoI covers about the same number "
        "of cells "
        "whatever its size. p6 serves none.",
        "Lin et al. 2016, equation 1",
    )


def _box_features(f: Facts) -> Text:
    size = f.config.box.pool_size
    channels = f.channels("box_features")
    reader = (
        "which stage five of the ResNet then reads"
        if f.c4_head
        else "small and of one size, so that fully connected layers can read it"
    )
    return Text(
        f"Crops for class and box: {size} × {size}",
        f"Every proposal becomes a crop of {size} × {size} cells with {channels} channels, {reader}.",
        "He et al. 2017, section 3",
    )


def _mask_features(f: Facts) -> Text:
    size = f.config.mask.pool_size
    channels = f.channels("mask_features")
    boxes = f.config.box.pool_size
    finer = (
        f"The crop is finer than the one for classes ({boxes} × {boxes}) because a mask must keep the layout of the "
        "object, pixel by pixel, where a class needs only its gist. "
        if size > boxes
        else ""
    )
    return Text(
        f"Crops for masks: {size} × {size} × {channels}",
        f"For masks the final boxes, not the proposals, are cut out: {f.slots} slots of {size} × {size} × {channels}. "
        f"{finer}The head keeps it a map, for convolutions, instead of making it a vector.",
        "He et al. 2017, section 3 and figure 4",
    )


def _heads(f: Facts) -> Text:
    mask = ", and the mask head which of its pixels belong to it" if f.config.masks else ""
    points = ", the keypoint head where its keypoints are" if f.config.keypoint_names else ""
    return Text(
        "Heads",
        f"The class and box head says of every crop which of {f.classes} {'class' if f.classes == 1 else 'classes'} it "
        f"shows, or background, and where the object ends exactly{points}{mask}. In training all losses are added up "
        "and everything learns together.",
        "He et al. 2017, section 3 and figure 4",
    )


def _stage5(f: Facts) -> Text:
    return Text(
        "Stage five, on every crop",
        "In the network without FPN the ResNet's fifth stage is part of the head: it runs on every crop"
        f"{', for all heads with the same weights' if f.config.masks or f.config.keypoint_names else ''}. That is "
        "thorough and slow, since it runs for each proposal anew.",
        "He et al. 2017, figure 4, left",
    )


def _box_head(f: Facts) -> Text:
    box = f.config.box
    layers = (
        f"{box.num_fcs} fully connected layers of {box.fc_channels} units read the crop"
        if box.num_fcs
        else "The crop is averaged to one vector"
    )
    if box.num_convs:
        layers = f"{box.num_convs} convolutions of 3 × 3 come first. {layers}"
    return Text(
        "Class and box head",
        f"{layers}; from what they say two layers give {f.classes + 1} class logits (background is the last) and "
        f"{'4 deltas' if box.class_agnostic else f'{f.classes} × 4 deltas, a box for every class'}.",
        "He et al. 2017, figure 4; Girshick 2015",
    )


def _class_logits(f: Facts) -> Text:
    return Text(
        "Class of every RoI",
        f"{f.classes + 1} logits for each RoI; their softmax gives probabilities that sum to one over the classes and "
        "background. Most RoIs are background.",
        "Girshick 2015, section 2.3",
    )


def _box_deltas(f: Facts) -> Text:
    knowing = "" if f.config.box.class_agnostic else ", now by deltas that know the class"
    return Text(
        "Box of every RoI",
        f"The proposal is moved once more{knowing}. Twice refined, from anchor to proposal to detection, the box ends "
        "close to the object.",
        "Girshick 2015, section 2.3",
    )


def _box_decode(f: Facts) -> Text:
    only = ", of each RoI its likeliest class alone" if f.config.box.classes_per_roi == "best" else ""
    whose = "the RoI" if f.config.box.class_agnostic else "this class"
    return Text(
        "Boxes of the likeliest classes",
        f"Pairs of RoI and class that score more than {f.config.box.score_threshold:g} go on"
        f"{only}, each with the box that the head gives {whose}.",
        "Girshick 2015, section 2.3",
    )


def _detections(f: Facts) -> Text:
    return Text(
        "Detections",
        "Within each class NMS deletes boxes that overlap a better one by more than IoU "
        f"{f.config.box.nms_threshold:g}; "
        f"the best {f.slots} of the image are kept.{' Only these get masks.' if f.config.masks else ''}",
        "He et al. 2017, section 3.1",
    )


def _select(f: Facts) -> Text:
    box = f.config.box
    return Text(
        "From answers to detections",
        "Softmax turns the logits into probabilities. Pairs of RoI and class that score more than "
        f"{box.score_threshold:g} go on (where shapes must be fixed, as on a GPU, the {number(box.candidates)} best), "
        f"each box moved by its deltas and cut off at the border. NMS within each class leaves the best {f.slots}.",
        "He et al. 2017, section 3.1; Girshick 2015, section 2.3",
    )


def _mask_head(f: Facts) -> Text:
    mask = f.config.mask
    convs = f"{mask.num_convs} convolutions of 3 × 3" if mask.num_convs else "No convolutions of its own"
    shape = f.structure.shapes.get("mask_logits", (0, 0, 28, 28))
    whose = "the object" if mask.class_agnostic else "every class"
    choice = (
        "One mask serves all classes here."
        if mask.class_agnostic
        else "Classes do not compete for a pixel: the class head has decided, and its class's mask is taken. In the "
        "paper that was worth 5.5 points of mask AP."
    )
    return Text(
        "Mask head",
        f"{convs}, one deconvolution that doubles the side, and a 1 × 1 convolution: {shape[2]} × {shape[3]} logits "
        "for "
        f"{whose}. {choice}",
        "He et al. 2017, section 3 and table 2b",
    )


def _mask_logits(f: Facts) -> Text:
    shape = f.structure.shapes.get("mask_logits", (0, 0, 28, 28))
    return Text(
        f"Mask logits: {shape[2]} × {shape[3]}",
        "A logit for every cell of the detection's box; above zero the cell more likely belongs to the object. "
        + (
            "There is one such map, whatever the class."
            if f.config.mask.class_agnostic
            else "There is one such map for every class, and the one of the detected class is used."
        ),
        "He et al. 2017, section 3",
    )


def _masks(f: Facts) -> Text:
    return Text(
        "Masks on the photo",
        "The small mask is stretched over the detection's box on the photo by bilinear interpolation, and cut at "
        f"probability {f.config.mask.threshold:g}.",
        "He et al. 2017, section 3.1",
    )


def _keypoints(f: Facts) -> Text:
    return Text(
        "Keypoint head",
        f"Like the mask head, but one heatmap for each of {len(f.config.keypoint_names)} keypoints, in which a "
        "single cell "
        "is the answer.",
        "He et al. 2017, section 5",
    )


_TEXTS: dict[str, Callable[[Facts], Text]] = {
    "image": _image, "input": _image, "image_meta": _image,
    "backbone": _backbone, "fpn": _backbone,
    "rpn": _rpn, "rpn_head": _rpn_head, "anchors": _anchors,
    "rpn_objectness": _objectness, "rpn_deltas": _deltas,
    "top_k": _top_k, "top_anchors": _top_k, "top_scores": _top_k, "proposals_before_refinement": _top_k,
    "decode": _decode, "rpn_decode": _decode, "rpn_clip": _decode, "refine": _decode,
    "proposals_before_nms": _decode, "nms": _nms, "top_kept": _nms,
    "proposals": _proposals, "proposal_scores": _proposals, "proposal_places": _proposals,
    "roi_align": _roi_align, "roi_levels": _roi_levels, "mask_roi_levels": _roi_levels,
    "keypoint_roi_levels": _roi_levels,
    "box_roi_align": _box_features, "box_features": _box_features,
    "mask_roi_align": _mask_features, "mask_features": _mask_features,
    "heads": _heads, "stage5": _stage5, "stage5_masks": _stage5, "stage5_keypoints": _stage5,
    "box_head": _box_head, "class_logits": _class_logits, "box_deltas": _box_deltas,
    "box_decode": _box_decode, "candidates": _box_decode, "detections_before_nms": _box_decode,
    "class_nms": _detections, "select": _select, "detections": _detections, "output": _detections,
    "mask_head": _mask_head, "mask_logits": _mask_logits, "masks": _masks, "paste": _masks,
    "keypoint_head": _keypoints, "locate": _keypoints, "keypoint_roi_align": _keypoints,
    "keypoint_features": _keypoints,
    "keypoint_logits": _keypoints, "keypoints": _keypoints,
}  # fmt: skip
_FAMILIES: dict[str, Callable[[Facts, int], Text]] = {
    "c": _c,
    "p": _p,
    "lateral": _lateral,
    "add": lambda f, k: _topdown(f),
}


def _layer(layer: Layer) -> Text:
    """Return the text for a single layer."""
    channels = f"{layer.in_shape[1]} to {layer.out_shape[1]} channels"
    side = f"{layer.kernel} × {layer.kernel}"
    then = " · ".join(t for t in (layer.norm, layer.activation) if t)
    then = f" Then {then}." if then else ""
    halves = " It moves two cells at a time, which halves the map." if layer.stride == 2 else ""
    bodies = {
        "conv": f"Convolution {side}, {channels}"
        + (f", in {layer.groups} groups" if layer.groups > 1 else "")
        + (f", dilated by {layer.dilation}" if layer.dilation > 1 else "")
        + ": "
        + (
            "each cell's channels are mixed, neighbours are not looked at."
            if layer.kernel == 1
            else f"each output cell is a weighted sum over the {side} cells around it."
        )
        + halves,
        "deconv": f"Transposed convolution {side}, {channels}: every cell is spread over {side}, which doubles the "
        "side.",
        "linear": f"Fully connected layer, {layer.in_shape[1]} numbers in and {layer.out_shape[1]} out, for every RoI.",
        "pool": f"Maximum of {side} cells, moved by {layer.stride}: the map shrinks, the strongest answers stay.",
        "add": "Addition of two maps of one shape, cell by cell: what the block computes, plus what it was given."
        if layer.part != "backbone" or "fpn" not in layer.key
        else "Addition of the lateral map and the enlarged coarser one.",
        "upsample": "Enlarged to twice the side.",
        "subsample": "Every second row and column is taken; there are no weights.",
        "mean": "The mean over all cells of the crop.",
    }
    return Text(layer.key, bodies[layer.kind] + then, "")
