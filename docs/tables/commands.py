"""Write options, and the output of examples, into the pages of commands: ``python docs/tables/commands.py``.

Each page of ``docs/commands`` has its options from the command itself, and examples in blocks of the language
``console``: lines that begin with ``$`` are run, in a folder that all pages share, page by page in the order
of ``PAGES``, and what they write to standard output takes the place of the lines below them. A block with a
title is a file that lies in the folder. With names of commands as arguments
only their pages are run; a page that needs what another one leaves needs that name before its own.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import sysconfig
import tempfile
import termios
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from kpframe.cli._app import COMMANDS, cli

FOLDER = Path(__file__).parents[1] / "commands"
COLUMNS = 108
#: Of pages whose tables need more.
WIDE = {"bench": 190, "verify": 120}
#: Where the examples are said to be run.
HOME = "/home/you/work"
#: All commands, in the order in which their examples are run.
PAGES = [
    *("plugins", "show", "new-plugin", "verify"),
    *("run", "status", "resume", "report", "export", "plan"),
    *("train", "compare", "analyze", "bench", "demo"),
]
OPTIONS = re.compile(r"(?<=<!-- made by tables/commands.py -->\n).*?(?=<!-- end of options -->)", re.DOTALL)
EXAMPLE = re.compile(r"(?<=```console\n).*?(?=```\n)", re.DOTALL)
FILE = re.compile(r'```\w+ title="([\w.-]+)"\n(.*?)```\n', re.DOTALL)

#: What another run, or another machine, may say otherwise, and what takes its place where two are compared.
VARIES = {
    "times": (r"\b\d[\d.,]*(?: (?:us|ms|s|min|h|days?)\b)+(?: \d+ (?:s|min|h)\b)*", "TIME"),
    "dates": (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\+\d\d:\d\d|Z)?", "DATE"),
    "names of runs": (r"\brun [0-9a-f]{8,}(-[0-9a-f]+)*", "run ID"),
    "sizes in bytes": (r"\b\d[\d.,]* (?:kB|MB|GB)\b", "SIZE"),
    "rounding errors": (r"\b\d(?:\.\d)?e-[12]\d\b|\b0(?:\.0)?e\+00\b", "ROUNDING"),
    "widths of columns": (r"[ \t]+|─+", " "),
}
#: Of some pages also these: ratios and shares of measured times, and figures after a training in float32.
MEASURED = {"bench": r"\b\d+\.\d+\b|\b\d+%", "plan": r"\b\d+%", "demo": r"\b\d+\.\d+\b"}


def options(command: click.Command, name: str) -> Iterator[str]:
    """Yield the lines of a page that the command itself gives: its usage, what it does, its options."""
    context = click.Context(command, info_name=f"kpframe {name}")
    yield ""
    yield f"    {command.get_usage(context).removeprefix('Usage: ')}"
    yield ""
    for paragraph in (command.help or "").split("\n\n"):
        yield " ".join(map(as_code, paragraph.split()))
        yield ""
    yield "| option | meaning |"
    yield "|---|---|"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            found = re.fullmatch(r"(?:(.*)  )?(\[[^][]*\])", record[1])  # as in "[default: 24; x>=1]"
            words, facts = (found[1] or "", f"`{found[2]}`") if found else (record[1], "")
            meaning = " ".join([*map(as_code, words.split()), facts]).strip()
            name = record[0].replace("|", "&#124;")  # which tables take in no other way
            yield f"| <code>{name}</code> | {meaning} |"
    yield ""


def unknown_in(line: str) -> str | None:
    """Return what is wrong with a line for a shell that calls kpframe, None where it can be read."""
    _, name, *arguments = shlex.split(line, comments=True)
    command = cli.get_command(click.Context(cli), name)
    if command is None:
        return f"no command {name}"
    try:
        command.make_parser(click.Context(command)).parse_args(arguments)
    except click.UsageError as error:
        return error.format_message()
    return None


def as_code(word: str) -> str:
    """Return a word as code where Markdown would take it for emphasis, or a browser for a tag."""
    inside = re.fullmatch(r"([(\"']*)(.*?)([.,;:)\"']*)", word)
    if inside and inside[2].count("(") > inside[2].count(")"):
        inside = re.fullmatch(r"([(\"']*)(.*?\))([.,;:)\"']*)", word)
    if inside and re.search(r"[_*=<>\[\]^]|^--|/", inside[2]) and not re.search(r"[\[\]]", inside[2]):
        return f"{inside[1]}`{inside[2]}`{inside[3]}"
    return word.replace("[", chr(92) + "[").replace("<", "&lt;")


def listed() -> str:
    """Return the table of the index: every command with what it is for."""
    rows = [
        f"| [`kpframe {name}`]({name}.md) | {summary} |" for name, (_, summary) in sorted(COMMANDS.items())
    ]
    return "\n".join(["", "| command | what it does |", "|---|---|", *rows, "", ""])


def with_options(text: str, name: str) -> str:
    """Return a page with its options as they are, or the index with its table."""
    if name == "index":
        made = listed()
    else:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, name
        made = "\n".join(options(command, name)) + "\n"
    text, count = OPTIONS.subn(lambda _: made, text)
    assert count == 1, f"{name}.md has no place for its options"
    return text


def with_output(text: str, folder: Path, width: int = COLUMNS) -> str:
    """Return a page with what its examples say to a terminal of this width, run in a folder."""
    for title, content in FILE.findall(text):
        (folder / title).write_text(content, encoding="utf-8")
    return EXAMPLE.sub(lambda block: "".join(answered(block[0], folder, width)), text)


def answered(block: str, folder: Path, width: int) -> Iterator[str]:
    """Yield the commands of a block, each with what it says."""
    for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE):
        yield f"$ {command}\n"
        yield said(command, folder, width)


def said(command: str, folder: Path, width: int) -> str:
    """Return what a command line writes to a terminal; after an error, what it writes to standard error, too.

    Raises:
        SystemExit: when it is killed by a signal.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    settings = termios.tcgetattr(theirs)
    settings[1] &= ~termios.OPOST  # lines end as they are written
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {
        "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
        "PYTHONIOENCODING": "utf-8",
        "XDG_CACHE_HOME": str(folder.parent / "cache"),  # figures of this machine are not to be read
    }
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=folder,
            env=environment,
            stdout=theirs,
            stderr=errors,
            stdin=subprocess.DEVNULL,
        )
        os.close(theirs)
        parts = list(read_all(ours))
        os.close(ours)
        if process.wait() < 0:
            raise SystemExit(f"{command}: killed by signal {-process.returncode}")
        if process.returncode:
            errors.seek(0)
            parts.append(errors.read())
    text = b"".join(parts).decode("utf-8")
    text = text.replace(str(folder.resolve()), HOME).replace(str(folder), HOME)
    return "".join(f"{line.rstrip()}\n" for line in text.expandtabs(8).strip("\n").splitlines())


def read_all(descriptor: int) -> Iterator[bytes]:
    """Yield what comes from a terminal until nobody writes to it any more."""
    while True:
        select.select([descriptor], [], [])
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # how Linux says so
            return
        if not part:
            return
        yield part


def compared(text: str, name: str) -> list[str]:
    """Return the lines of a page's examples without what may vary from run to run."""
    lines = []
    for block in EXAMPLE.findall(text):
        for pattern, place in VARIES.values():
            block = re.sub(pattern, place, block)
        if name in MEASURED:
            block = re.sub(MEASURED[name], "MEASURED", block)
        lines += [line.strip() for line in block.splitlines() if line.strip()]
    return lines


def page(name: str) -> Path:
    """Return the file of a page."""
    return FOLDER / f"{name}.md"


def run(names: Iterable[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each of these pages with the output of its examples, run one after the other in a new folder."""
    work = folder / "work"
    work.mkdir(parents=True)
    for name in names:
        text = page(name).read_text(encoding="utf-8")
        yield name, with_output(text, work, WIDE.get(name, COLUMNS))


if __name__ == "__main__":
    for file in FOLDER.glob("*.md"):
        file.write_text(with_options(file.read_text(encoding="utf-8"), file.stem), encoding="utf-8")
    with tempfile.TemporaryDirectory() as made:
        for done, content in run(sys.argv[1:] or PAGES, Path(made)):
            page(done).write_text(content, encoding="utf-8")
            print(done)
