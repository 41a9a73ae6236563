"""What MkDocs calls while it builds the site: notebooks of ``tutorials`` become pages.

They are Python files with text in comments (jupytext's percent format). With ``KPFRAME_RUN_NOTEBOOKS=1`` each
is run in a kernel of its own, in an empty folder, and its outputs stand under its cells; an error ends the
build. Without, which takes no time, a page has the cells alone and says so.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from traitlets.config import Config

RUN = os.environ.get("KPFRAME_RUN_NOTEBOOKS", "") not in ("", "0")
NOT_RUN = "\n!!! note\n    This page was built without running its cells: their outputs are missing.\n"
#: Longest time that a cell may take [s].
LIMIT = 600


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put a page in the place of each notebook, with the figures that its cells draw."""
    for file in list(files):
        source = Path(file.src_uri)
        if source.parent.name != "tutorials" or source.suffix != ".py":
            continue
        files.remove(file)
        text, figures = page(Path(str(file.abs_src_path)))
        files.append(File.generated(config, str(source.with_suffix(".md")), content=text))
        for name, content in figures.items():
            files.append(File.generated(config, str(source.with_name(name)), content=content))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Let a page ask no server for anything, and name the search for those who hear the page.

    Raises:
        PluginError: when a page would load a script from elsewhere.
    """
    own = get_relative_url("javascripts/worker.js", page.url)
    output = output.replace("https://unpkg.com/iframe-worker/shim", own)
    output = output.replace(
        'component="search" role="dialog"', 'component="search" role="dialog" aria-label="Search"'
    )
    outside = re.findall(r'<(?:script|link|img)[^>]* (?:src|href)="(https?:[^"]*)"', output)
    if outside:
        raise PluginError(f"{page.file.src_uri} loads {', '.join(outside)}")
    return output


def page(path: Path, *, run: bool = RUN) -> tuple[str, dict[str, bytes]]:
    """Return the page of a notebook as Markdown, and its figures by name.

    Raises:
        nbclient.exceptions.CellExecutionError: when a cell raises.
    """
    notebook: Any = jupytext.read(path)
    if run:
        with tempfile.TemporaryDirectory() as folder:
            client = NotebookClient(
                notebook,
                timeout=LIMIT,
                kernel_name="python3",
                coalesce_streams=True,
                resources={"metadata": {"path": folder}},
            )
            commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
            client.execute(env={**os.environ, "PATH": commands})  # those of this environment
    settings = Config()
    settings.NbConvertBase.display_data_priority = [
        "text/html",
        "image/svg+xml",
        "image/png",
        "text/markdown",
        "text/plain",
    ]
    body, resources = MarkdownExporter(config=settings).from_notebook_node(
        notebook, {"unique_key": path.stem, "output_files_dir": ""}
    )
    title, _, rest = body.strip().partition("\n")
    return f"{title}\n{'' if run else NOT_RUN}{rest}\n", dict(resources.get("outputs", {}))
