"""Spectra: traces, norms, ranks, eigenpairs and densities of operators from their products."""

from kpframe.spectra._alignment import alignment
from kpframe.spectra._density import SpectralDensity, spectral_density
from kpframe.spectra._eigsh import EigenPairs, eigsh
from kpframe.spectra._estimate import Estimate
from kpframe.spectra._estimate_table import EstimateTable
from kpframe.spectra._frobenius import frobenius_norm
from kpframe.spectra._lyapunov import LyapunovSpectrum, finite_time_exponents, lyapunov_exponents
from kpframe.spectra._numerics.probes import probes
from kpframe.spectra._partial import MatrixEstimate, partial_trace
from kpframe.spectra._randomized import randomized_svd
from kpframe.spectra._rank import effective_rank
from kpframe.spectra._svd import SingularTriplets, svd
from kpframe.spectra._trace import trace

__all__ = [
    "EigenPairs",
    "Estimate",
    "EstimateTable",
    "LyapunovSpectrum",
    "MatrixEstimate",
    "SingularTriplets",
    "SpectralDensity",
    "alignment",
    "effective_rank",
    "eigsh",
    "finite_time_exponents",
    "frobenius_norm",
    "lyapunov_exponents",
    "partial_trace",
    "probes",
    "randomized_svd",
    "spectral_density",
    "svd",
    "trace",
]
