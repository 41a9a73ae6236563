"""``python -m kpframe``."""

from __future__ import annotations

from kpframe.cli import main

main()
