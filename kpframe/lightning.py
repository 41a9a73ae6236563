"""The tracker of studies as a callback of Lightning, ``lightning`` or ``pytorch_lightning``."""

from kpframe.study._tracking.lightning import TrackerCallback

__all__ = ["TrackerCallback"]
