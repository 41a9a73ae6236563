"""The compiled library and the structures that it takes; ``problem.h`` has the same."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

from kpframe.errors import UnsupportedError

_Long, _Pointer = ctypes.c_int64, ctypes.c_void_p


class Gain(ctypes.Structure):
    """How a preactivation moves a component of the state."""

    _fields_ = (("block", _Long), ("state", _Long), ("values", _Pointer))


class Site(ctypes.Structure):
    """A weight between a slope and gains."""

    _fields_ = (
        ("blocks", _Long),
        ("width", _Long),
        ("source", _Long),
        ("packed", _Pointer),
        ("packed_adjoint", _Pointer),
        ("slope", _Pointer),
        ("num_gains", _Long),
        ("gains", ctypes.POINTER(Gain)),
    )


class Direct(ctypes.Structure):
    """How an old component moves a new one, unit by unit."""

    _fields_ = (("target", _Long), ("source", _Long), ("values", _Pointer))


class Read(ctypes.Structure):
    """What weights that learn multiply."""

    _fields_ = (
        ("blocks", _Long),
        ("width", _Long),
        ("ones", _Long),
        ("rows", _Pointer),
        ("num_gains", _Long),
        ("gains", ctypes.POINTER(Gain)),
    )


class States(ctypes.Structure):
    """The sizes of states, where those that are read lie, and how many threads work on them."""

    _fields_ = (
        *((name, _Long) for name in ("steps", "batch", "probes", "units", "hidden")),
        *((name, _Long) for name in ("step_stride", "probe_stride", "row_stride")),
        ("threads", ctypes.c_int32),
        ("doubles", ctypes.c_int32),
    )

    @classmethod
    def of(cls, q: torch.Tensor, units: int, threads: int) -> States:
        """Return those of ``q`` ``[probes, B, T, H]``, the H entries of a step of a trial side by side."""
        probes, batch, time, hidden = q.shape
        return cls(
            steps=time,
            batch=batch,
            probes=probes,
            units=units,
            hidden=hidden,
            step_stride=q.stride(2),
            probe_stride=q.stride(0),
            row_stride=q.stride(1),
            threads=max(1, min(torch.get_num_threads(), threads)),
            doubles=q.dtype == torch.float64,
        )


class Kernel(ctypes.Structure):
    """A product with K."""

    _fields_ = (
        ("states", States),
        ("num_reads", _Long),
        ("reads", ctypes.POINTER(Read)),
        ("share_columns", ctypes.c_int32),
    )


class Problem(ctypes.Structure):
    """A scan."""

    _fields_ = (
        ("states", States),
        ("num_sites", _Long),
        ("sites", ctypes.POINTER(Site)),
        ("num_direct", _Long),
        ("direct", ctypes.POINTER(Direct)),
        ("share_columns", ctypes.c_int32),
        ("adjoint", ctypes.c_int32),
    )


@cache
def library() -> ctypes.CDLL:
    """Return the library, loaded once; a call lets other threads of Python go on.

    Raises:
        UnsupportedError: where it was not built.
    """
    folder = Path(__file__).parent
    found = [path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_scan{suffix}").exists()]
    if not found:
        raise UnsupportedError(
            "kpframe-native: expected its compiled library beside its Python files, got none; install it "
            "with pip install kpframe-native where there is a C++ compiler"
        )
    loaded = ctypes.CDLL(str(found[0]))
    loaded.kpn_vector_bytes.argtypes, loaded.kpn_vector_bytes.restype = [ctypes.c_int], ctypes.c_int
    for product, structure in ((loaded.kpn_scan, Problem), (loaded.kpn_kernel, Kernel)):
        product.argtypes = [ctypes.POINTER(structure), _Pointer, _Pointer, ctypes.c_int]
        product.restype = None
    return loaded


@cache
def vector_bytes() -> int:
    """Return the width of the processor's vector registers that the library uses [bytes]."""
    return int(library().kpn_vector_bytes(64))
