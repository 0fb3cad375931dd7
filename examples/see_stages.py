"""What flows through the network for one picture: every stage by name, and one module's output."""

from __future__ import annotations

import maskrcnn
from maskrcnn.data import ShapesDataset

model = maskrcnn.MaskRCNN(maskrcnn.Config.preset("small-fpn", class_names=ShapesDataset.class_names))
image, _ = ShapesDataset(length=1)[0]

print(model.trace(image))  # a table of all stages

trace = model.trace(image, stages=["p*", "proposals", "backbone.layer3.1.conv2"])
print("p2 has", trace["p2"].shape[1], "channels at stride 4; Matterport calls it fpn_p2:", trace["fpn_p2"].shape)
