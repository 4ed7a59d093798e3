"""The LightningModule, its clock, its callbacks and checkpoints."""
