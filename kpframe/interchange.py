"""Results in other libraries' forms: xarray, numpy, SciPy, curvlinops."""

from kpframe.study._reading.interchange import (
    dsa_arrays,
    named_array,
    netrep_array,
    to_curvlinops,
    to_numpy,
    to_xarray,
)

__all__ = ["dsa_arrays", "named_array", "netrep_array", "to_curvlinops", "to_numpy", "to_xarray"]
