"""Names for the calls of a module that runs several times: the RPN's on every level, stage five of C4 in two heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskrcnn.model import MaskRCNN


def call_name(model: MaskRCNN, path: str, number: int) -> str:
    """Return the name of a module's output: its path, with `@` and what this call is for where there are several.

    Args:
        model: the network.
        path: the module's dotted path.
        number: which call it is, from 0.

    Example:
        >>> from maskrcnn import Config, MaskRCNN
        >>> model = MaskRCNN(Config.preset("small-fpn", class_names=["cat"]))
        >>> call_name(model, "rpn.convs.0", 1), call_name(model, "backbone.conv1", 0)
        ('rpn.convs.0@p3', 'backbone.conv1')
    """
    uses: list[str] = []
    if path.endswith(".relu"):  # runs several times in each block
        pass
    elif path.startswith("rpn."):
        uses = list(model.rpn.strides)
    elif path.split(".", 1)[0] == "stage5":
        config = model.config
        uses = ["boxes", *["masks"] * config.masks, *["keypoints"] * bool(config.keypoint_names)]
    if len(uses) > 1 and number < len(uses):
        return f"{path}@{uses[number]}"
    return f"{path}@{number}" if number else path
