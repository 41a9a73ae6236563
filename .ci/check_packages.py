"""Compare unpacked source distributions and wheels with the files of the repository.

Usage: check_packages.py REPOSITORY SOURCES WHEELS.
SOURCES holds a folder, and WHEELS a wheel, of the core and of each bundled plugin.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

#: What the core's source distribution leaves out: other distributions, and what only the repository needs.
REPOSITORY_ONLY = (
    ".ci/",
    ".github/",
    ".gitignore",
    ".pre-commit-config.yaml",
    "plugins/",
    "requirements.txt",
    "requirements-dev.txt",
)

#: What a build adds.
ADDED = ("PKG-INFO", "setup.cfg")


def tracked(folder: Path) -> set[str]:
    """Return the files below a folder that git holds."""
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=folder, text=True)
    return set(names.split("\0")) - {""}


def check_source(unpacked: Path, expected: set[str]) -> None:
    """Raise unless a source distribution has the expected files, and only these."""
    found = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    found = {name for name in found if name not in ADDED and ".egg-info/" not in name}
    _same(f"source distribution {unpacked.name}", found, expected)


def check_wheel(wheel: Path, expected: set[str], license_text: bytes) -> None:
    """Raise unless a wheel has the expected files of its package, and only these, and the license."""
    with zipfile.ZipFile(wheel) as file:
        found = {name for name in file.namelist() if ".dist-info/" not in name and not name.endswith("/")}
        found = {name for name in found if not name.endswith((".so", ".pyd"))}  # what a build compiles
        info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
        if file.read(f"{info}/licenses/LICENSE") != license_text:
            raise SystemExit(f"{wheel.name}: its license is not the repository's")
        metadata = Parser().parsestr(file.read(f"{info}/METADATA").decode())
    _same(f"wheel {wheel.name}", found, expected)
    told = (metadata["License-Expression"], metadata.get_all("License-File"))
    if told != ("MIT", ["LICENSE"]):
        raise SystemExit(f"{wheel.name}: expected the license MIT in LICENSE, got {told}")


def _same(what: str, found: set[str], expected: set[str]) -> None:
    for verb, names in (("misses", expected - found), ("should not have", found - expected)):
        if names:
            raise SystemExit(f"{what} {verb} {', '.join(sorted(names))}")


def main(repository: Path, sources: Path, wheels: Path) -> None:
    """Check the core and every plugin."""
    license_text = (repository / "LICENSE").read_bytes()
    files = {name for name in tracked(repository) if not name.startswith(REPOSITORY_ONLY)}
    package = {name for name in files if name.startswith("kpframe/")}
    expected = {"kpframe": (files, package)}
    for plugin in sorted((repository / "plugins").glob("kpframe-*")):
        files = tracked(plugin)
        package = {name.removeprefix("src/") for name in files if name.startswith("src/")}
        expected[plugin.name.replace("-", "_")] = (files, package)
    for folder, kind in ((sources, "source distribution"), (wheels, "wheel")):
        _same(f"the list of {kind}s", {path.name.split("-")[0] for path in folder.iterdir()}, set(expected))
    for name, (files, package) in expected.items():
        (unpacked,) = sources.glob(f"{name}-*")
        (wheel,) = wheels.glob(f"{name}-*.whl")
        check_source(unpacked, files)
        check_wheel(wheel, package, license_text)
    print(f"{len(expected)} source distributions and wheels have every file of the repository that is theirs")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
