"""The command line. It needs the extra ``kpframe[study]``; without it, it says so in one line."""

from __future__ import annotations

import sys

from kpframe.cli._extra import EXTRA, needs


def main() -> None:
    """Run the command line and exit: 0 when all is well, 2 after an error."""
    from kpframe.cli._terminal import end_output, open_output

    open_output()
    try:
        from kpframe.cli._app import run
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print(f"Error: {needs(error.name)}", file=sys.stderr)
        sys.exit(2)
    code = run()
    end_output()
    sys.exit(code)
