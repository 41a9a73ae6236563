"""What gradient descent does next, as Phi says: forecasts of outputs and losses, the largest stable rate."""

from kpframe.forecast._forecast import Forecast, forecast
from kpframe.forecast._output_kernel import OutputKernel, output_kernel
from kpframe.forecast._sharpness import Sharpness, sharpness
from kpframe.forecast._stable_rate import StableRate, stable_rate

__all__ = [
    "Forecast",
    "OutputKernel",
    "Sharpness",
    "StableRate",
    "forecast",
    "output_kernel",
    "sharpness",
    "stable_rate",
]
