"""What Hypothesis takes for the code under test, in which it looks for constants to draw."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec


def look_for_constants_in_own_code() -> None:
    """Let Hypothesis take no installed package for the code under test, and read its thousands of files.

    It goes by the name of the folder ``site-packages``; what lies beside torch is installed, however named.
    """
    from hypothesis.internal.conjecture import providers

    torch = find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    installed = os.path.join(os.path.dirname(os.path.dirname(torch.origin)), "")
    name = "is_local_module_file"
    is_local: Callable[[str], bool] | None = getattr(providers, name, None)
    if is_local is not None and not hasattr(is_local, "installed"):

        def beside(path: str) -> bool:
            return not path.startswith(installed) and is_local(path)

        beside.installed = installed  # type: ignore[attr-defined]
        setattr(providers, name, beside)
