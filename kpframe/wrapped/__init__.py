"""``wrap(cell)``: any ``torch.nn.Module`` cell as a ``Model``."""

from kpframe.wrapped.cell import WrappedCell, wrap

__all__ = ["WrappedCell", "wrap"]
