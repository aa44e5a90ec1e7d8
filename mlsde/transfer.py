"""Small arrays of the host on their way to the device of a run, without waiting for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def sent(array: np.ndarray, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return an array as a tensor on a device; to CUDA it goes from pinned memory, and the host goes on at once.

    Args:
        array: on the host.
        device: where to.
        dtype: of the tensor, that of the array by default.
    """
    tensor = torch.as_tensor(array, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
