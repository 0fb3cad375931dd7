"""Trains where no file may grow beyond the checkpoint's size, as on a full disk; see test_loop.py.

Usage: python limit_child.py FOLDER BYTES
"""

import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from maskrcnn.errors import WriteError
from maskrcnn.training import TrainOptions, train
from tiny import tiny_data, tiny_model

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, limit = Path(sys.argv[1]), int(sys.argv[2])
    options = TrainOptions(epochs=2, batch_size=2, evaluate_every=0)
    model = tiny_model()
    save = model.save

    def limited(path):  # the first epoch's checkpoint and weights are written, and nothing afterwards
        save(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    model.save = limited
    try:
        train(model, tiny_data(2), folder, options, device="cpu")
    except WriteError as e:
        print(e)
