"""Models: settings, folders, released checkpoints, and how a model is put on a device."""
