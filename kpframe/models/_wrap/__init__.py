"""``wrap(cell)``: any ``torch.nn.Module`` cell as a ``Model``."""
