"""Data sets as tensors: read once, kept on the training device, indexed a whole batch at a time."""
