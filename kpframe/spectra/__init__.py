"""Spectra: traces, norms, ranks, eigenpairs and densities of operators from their products."""

from kpframe.spectra.alignment import alignment
from kpframe.spectra.density import SpectralDensity, spectral_density
from kpframe.spectra.eigsh import EigenPairs, eigsh
from kpframe.spectra.estimate import Estimate
from kpframe.spectra.frobenius import frobenius_norm
from kpframe.spectra.partial import MatrixEstimate, partial_trace
from kpframe.spectra.randomized import randomized_svd
from kpframe.spectra.rank import effective_rank
from kpframe.spectra.rng import probes
from kpframe.spectra.svd import SingularTriplets, svd
from kpframe.spectra.trace import trace

__all__ = [
    "EigenPairs",
    "Estimate",
    "MatrixEstimate",
    "SingularTriplets",
    "SpectralDensity",
    "alignment",
    "effective_rank",
    "eigsh",
    "frobenius_norm",
    "partial_trace",
    "probes",
    "randomized_svd",
    "spectral_density",
    "svd",
    "trace",
]
