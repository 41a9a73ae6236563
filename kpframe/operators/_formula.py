"""How operators print: as a formula with the brackets it needs, and as LaTeX for notebooks and papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

#: How tightly a formula binds: a sum is bracketed inside a product, a product inside an adjoint.
SUM, PRODUCT, ATOM = 1, 2, 3


class Printed(Protocol):
    """What has a formula: every operator."""

    def _formula(self) -> tuple[str, int]:
        """Return the text and how tightly it binds."""


def bracket(operator: Printed, binding: int) -> str:
    """Return the formula of ``operator``, in brackets when it binds less tightly than ``binding``."""
    text, own = operator._formula()
    return text if own >= binding else f"({text})"


def subscript(names: Sequence[str]) -> str:
    """Return names as they stand below a formula: ``time``, ``{time,batch}``."""
    return names[0] if len(names) == 1 else "{" + ",".join(names) + "}"


_TOKEN = re.compile(
    r"(?P<kron>\(x\))|(?P<sum>\(\+\))|(?P<inverse>\^-1)|(?P<star>\*)"
    r"|(?P<open><)|(?P<close>>)"
    r"|(?P<index>\[[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*\])"
    r"|(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
    r"|(?P<name>[A-Za-z][A-Za-z0-9]*)|(?P<sub>_(?:\{[^}]*\}|[A-Za-z0-9+]+))"
    r"|(?P<space>\s+)|(?P<other>.)"
)
_FIXED = {
    "kron": r"\otimes",
    "sum": r"\oplus",
    "inverse": "^{-1}",
    "star": "^{*}",
    "open": r"\langle ",
    "close": r" \rangle",
    "space": r"\, ",
}
_GREEK = ("Phi", "Theta", "Lambda", "Sigma", "Psi", "Omega")


def latex(formula: str) -> str:
    """Return the LaTeX of a printed formula: ``<P K P*>_time`` -> ``\\langle P K P^{*} \\rangle_{...}``."""
    return "".join(_token(match.lastgroup or "other", match.group()) for match in _TOKEN.finditer(formula))


def _token(kind: str, text: str) -> str:
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == "number" and "e" in text:
        mantissa, exponent = text.split("e")
        return rf"{mantissa}\times 10^{{{int(exponent)}}}"
    if kind == "name":
        if text == "sum":
            return r"\sum"
        if text in _GREEK:
            return f"\\{text}"
        return text if len(text) == 1 else rf"\mathrm{{{text}}}"
    if kind == "sub":
        inner = text[1:].strip("{}")
        return f"_{{{inner}}}" if len(inner) == 1 or inner.isdigit() else rf"_{{\mathrm{{{_escape(inner)}}}}}"
    if kind == "index":
        return rf"\left[\mathrm{{{_escape(text[1:-1])}}}\right]"
    return _escape(text)


def _escape(text: str) -> str:
    return re.sub(r"([_#%&${}])", r"\\\1", text).replace(" ", r"\ ")
