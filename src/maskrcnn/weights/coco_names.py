"""The class names of COCO (Lin et al. 2014), with the category ids of its annotation files."""

from __future__ import annotations

_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,,"
    "backpack,umbrella,,,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,,wine glass,cup,fork,knife,spoon,"
    "bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,,dining table,,,toilet,,tv,laptop,mouse,remote,keyboard,cell phone,microwave,"
    "oven,toaster,sink,refrigerator,,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
"""In the order of category ids 1 to 90; ids that COCO left unused have no name."""


def coco_names(num_classes: int) -> tuple[str, ...]:
    """Return COCO's names for 80 classes, or for 90 with the ids that COCO left unused; else numbered ones.

    Example:
        >>> coco_names(80)[:2], coco_names(90)[11], coco_names(2)
        (('person', 'bicycle'), 'unused 12', ('class 0', 'class 1'))
    """
    by_id = _by_category_id()
    if num_classes == 80:
        return tuple(by_id.values())
    if num_classes == 90:
        return tuple(by_id.get(k, f"unused {k}") for k in range(1, 91))
    return tuple(f"class {k}" for k in range(num_classes))


def _by_category_id() -> dict[int, str]:
    """Return the 80 names by category id, 1 to 90."""
    return {k: name for k, name in enumerate(_NAMES.split(","), start=1) if name}
