"""What the devices of a run have to agree on."""

import torch.distributed as dist
from torch import Tensor


def mean_over_devices(value: Tensor) -> Tensor:
    """The mean of a value over all devices, without gradient; in a run on one device the value itself.

    Every device has to call it, the same number of times.
    """
    value = value.detach()
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
