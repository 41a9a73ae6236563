"""Multi-plasticity networks for kpframe."""

import math
from collections.abc import Iterator
from itertools import chain

from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import ModelSpec, hookimpl, setting

SHAPES = ("scalar", "pre", "post", "matrix")

#: One number, one for each entry row by row, or rows of them.
Values = float | tuple[float, ...] | tuple[tuple[float, ...], ...]


def _entries(name: str, values: Values) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return the entries of a rate, row by row, and the shape in which they were given."""
    if not isinstance(values, tuple):
        return (values,), ()
    rows = [row for row in values if isinstance(row, tuple)]
    if not rows:
        return tuple(value for value in values if not isinstance(value, tuple)), (len(values),)
    if len({len(row) for row in rows}) > 1:
        raise ArgumentError(mismatch(name, "rows of one length", values))
    return tuple(chain(*rows)), (len(rows), len(rows[0]))


@frozen
class MPNSettings:
    """Settings of the model ``mpn``."""

    input_size: int = setting(ge=1, help="inputs per step, k")
    hidden_size: int = setting(ge=1, help="number of neurons n; the state is h and M, n + n k wide")
    form: str = setting(
        "multiplicative",
        choices=("multiplicative", "additive"),
        help="modulated weights: multiplicative W o (1 + M), additive W + M",
    )
    rule: str = setting(
        "hebbian",
        choices=("hebbian", "presynaptic", "oja"),
        help="what eta multiplies: h x^T; 1/sqrt(n) x^T; h x^T with the stabilising term -|eta| h^2 M",
    )
    normalization: str = setting(
        "none",
        choices=("none", "row", "tanh"),
        help="what is done to the new M: nothing; each neuron's row to unit length; tanh of each entry",
    )
    nonlinearity: str = setting(
        "tanh", choices=("tanh", "sigmoid", "relu", "identity"), help="pointwise function phi"
    )
    bias: bool = setting(True, help="a bias vector")
    eta: Values = setting(
        0.1,
        gt=-math.inf,
        lt=math.inf,
        help="initial plasticity rate eta, one number or one for each entry of its shape, row by row",
    )
    eta_shape: str = setting(
        "scalar", choices=SHAPES, help="one eta; one for each input, each neuron, or each synapse"
    )
    eta_constraint: str = setting(
        "free", choices=("free", "positive"), help="positive: eta = softplus(raw) while it trains"
    )
    train_eta: bool = setting(True, help="eta is a parameter")
    lam: Values = setting(
        0.95, ge=0, lt=math.inf, help="initial decay lambda of M a step, as eta; at most lam_max"
    )
    lam_max: float = setting(
        1.0, gt=0, lt=math.inf, help="bound of lambda, which trains as lam_max * sigmoid(raw)"
    )
    lam_shape: str = setting(
        "scalar", choices=SHAPES, help="one lambda; one for each input, each neuron, or each synapse"
    )
    train_lam: bool = setting(True, help="lambda is a parameter")
    trainable_initial_state: bool = setting(False, help="h_0 and M_0 are a parameter, zero at first")
    seed: int | None = setting(
        None, ge=0, lt=2**32, help="seed of the initial weights; unset: torch's own generator"
    )

    def __attrs_post_init__(self) -> None:
        least = 0.0 if self.eta_constraint == "positive" else -math.inf
        self._check_rate("eta", self.eta, self.eta_shape, (least, math.inf), self.train_eta)
        self._check_rate("lam", self.lam, self.lam_shape, (0.0, self.lam_max), self.train_lam)

    def _check_rate(
        self, name: str, values: Values, shape: str, bounds: tuple[float, float], trained: bool
    ) -> None:
        """Raise ``ArgumentError`` for another number of entries, or values out of bounds.

        These are open while the rate trains, closed while it is fixed.
        """
        n, k = self.hidden_size, self.input_size
        size = {"scalar": (), "pre": (k,), "post": (n,), "matrix": (n, k)}[shape]
        entries, given = _entries(name, values)
        flat = len(given) == 1 and len(entries) == math.prod(size)
        if given and not (size and (flat or given == size)):
            expected = (
                f"one number, or {math.prod(size)} for its shape {list(size)}" if size else "one number"
            )
            raise ArgumentError(mismatch(name, expected, f"shape {list(given)}"))
        low, high = min(entries), max(entries)
        got = f"{low:g}" if len(entries) == 1 else f"values from {low:g} to {high:g}"
        least, most = bounds
        if trained and not least < low <= high < most:
            below = "" if math.isinf(most) else f" and < {most:g}"
            raise ArgumentError(mismatch(name, f"numbers > {least:g}{below}, where it trains", got))
        if not least <= low <= high <= most:
            raise ArgumentError(mismatch(name, f"numbers from {least:g} to {most:g}", got))


@hookimpl
def kpframe_models() -> Iterator[ModelSpec]:
    """Offer the model ``mpn``."""
    yield ModelSpec(
        name="mpn",
        factory="kpframe_mpn.model:MPN",
        settings=MPNSettings,
        api=1,
        summary="multi-plasticity network: weights modulated by Hebbian plasticity (Aitken & Mihalas 2023)",
    )
