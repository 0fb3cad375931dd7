"""Data sets: readers of annotation files, and made images.

A data set has `class_names`, a length, `image_name(i)`, and items of a uint8 [H, W, 3] RGB image with
its `Target`, both in the frame of the original photo.
"""

from maskrcnn.data.coco import CocoDataset
from maskrcnn.data.coco_write import Labelled, save_as_coco
from maskrcnn.data.shapes import ShapesDataset

__all__ = ["CocoDataset", "Labelled", "ShapesDataset", "save_as_coco"]
