"""The LightningModule, losses, schedules, callbacks, W&B logging."""
