"""Checkpoints: a model and its settings in one safetensors file."""

from kpframe.study._networks.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_into,
    load_weights,
    save_checkpoint,
)

__all__ = ["Checkpoint", "load_checkpoint", "load_into", "load_weights", "save_checkpoint"]
