"""Pure functions of tensors: boxes, non-maximum suppression, masks."""
