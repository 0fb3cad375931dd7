"""Which device to run on."""

from __future__ import annotations

import torch

from maskrcnn.errors import InputError


def choose_device(name: str | None) -> torch.device:
    """Return the device of this name, or the best there is.

    Raises:
        InputError: there is no such device here.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        reason = str(e).splitlines()[0]
        if "Expected one of" in reason:
            reason = "it is none of cpu, cuda, cuda:1 … and mps."
        raise InputError(f"The device {name!r} cannot be used here: {reason}") from None
    return device
