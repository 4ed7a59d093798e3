"""What devices that train together have to agree on."""

from torch import Tensor, distributed


def mean_over_devices(value: Tensor) -> Tensor:
    """The mean of a value over all devices, without its gradient; the value itself on one device."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value.detach()
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
