"""Builds the library: one source, compiled for each set of vector instructions that a processor may have."""

from __future__ import annotations

import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = "src/kpframe_native"
X86 = platform.machine().lower() in ("x86_64", "amd64")
FLAGS = {"baseline": [], **({"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mfma"]} if X86 else {})}
COMMON = ["-O3", "-std=c++17", "-ffp-contract=fast", *(["-DKPN_X86"] if X86 else [])]


class Build(build_ext):
    """A shared library that Python loads by ctypes: no module, hence no init function to export."""

    def build_extension(self, ext: Extension) -> None:
        """Compile each set of instructions with its own flags; with OpenMP where the compiler has it."""
        threads = ["-fopenmp"] if self._compiles("-fopenmp") else []
        objects = []
        for name, flags in FLAGS.items():
            objects += self.compiler.compile(
                [f"{SOURCES}/{name}.cpp"],
                output_dir=self.build_temp,
                depends=ext.depends,
                extra_postargs=[*COMMON, *threads, *flags],
            )
        target = self.get_ext_fullpath(ext.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, target, extra_postargs=threads, target_lang="c++")

    def _compiles(self, flag: str) -> bool:
        probe = Path(self.build_temp) / "probe.cpp"
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("int main() { return 0; }\n", encoding="utf-8")
        try:
            self.compiler.compile([str(probe)], output_dir=str(probe.parent), extra_postargs=[flag])
        except Exception:  # distutils' errors have no common public base
            return False
        return True


setup(
    ext_modules=[
        Extension(
            "kpframe_native._scan",
            sources=[f"{SOURCES}/{name}.cpp" for name in FLAGS],
            depends=[f"{SOURCES}/{name}" for name in ("tiles.hpp", "scan.hpp", "kernel.hpp", "problem.h")],
        )
    ],
    cmdclass={"build_ext": Build},
)
