"""Singular values of a long product of matrices, close ones and wide ranges alike, by Jacobi rotations.

J. Demmel, K. Veselic, "Jacobi's method is more accurate than QR", SIAM J. Matrix Anal. Appl. 1992: one-sided
rotations of rows that differ by any factors in length keep each singular value's relative accuracy.

Rotations that make the rows of a matrix orthogonal leave its singular values, which then are the lengths of
the rows. For rows a and b the tangent t of the angle that makes a - t b and b + t a orthogonal solves
t^2 + 2 zeta t - 1 = 0 with zeta = (|b|^2 - |a|^2) / (2 <a, b>), of which the smaller root is taken,
t = sign(zeta) / (|zeta| + sqrt(1 + zeta^2)) (Rutishauser 1966). Here a = exp(l) x and b = exp(m) y with
m <= l, and only r = exp(m - l) is formed: with zeta' = r zeta =
(r^2 |y|^2 - |x|^2) / (2 <x, y>) and t = r u all is finite however small r is,

    u = sign(zeta') / (|zeta'| + sqrt(r^2 + zeta'^2)),    x <- c (x - r^2 u y),    y <- c (y + u x).
"""

from __future__ import annotations

import torch

#: Bound on the sweeps over all pairs; the method needs fewer than ten.
SWEEPS = 30


class Rows:
    """Matrices ``[B, H, H]`` by their rows, ``exp(logs[:, i]) directions[:, i]``; nothing overflows."""

    def __init__(self, batch: int, size: int, like: torch.Tensor) -> None:
        self.logs = like.new_zeros(batch, size)
        self.directions = torch.eye(size, dtype=like.dtype, device=like.device).repeat(batch, 1, 1)

    def multiply(self, triangle: torch.Tensor) -> None:  # [B, H, H], upper
        """Put another factor on the left, the rows in about descending order."""
        diagonal = triangle.diagonal(dim1=1, dim2=2).abs()
        weights = triangle / diagonal[:, :, None]
        weights = (weights * (self.logs[:, None] - self.logs[:, :, None]).exp()).triu()
        self.directions = weights @ self.directions
        self.logs = self.logs + diagonal.log()

    def singular_logs(self) -> torch.Tensor:  # [B, H]
        """Return the logarithms of the singular values, those of the rows where a matrix is singular."""
        good = torch.isfinite(self.logs).all(1) & torch.isfinite(self.directions).flatten(1).all(1)
        found = self.logs.clone()
        if bool(good.any()):
            found[good] = _rotated(self.logs[good], self.directions[good])
        return found


def _rotated(logs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:  # [B, H], [B, H, H] -> [B, H]
    """Turn pairs of rows until all are orthogonal, and return the logarithms of their lengths."""
    size, eps = logs.shape[1], torch.finfo(rows.dtype).eps
    for _ in range(SWEEPS):
        lengths = torch.linalg.vector_norm(rows, dim=2)
        logs, order = (logs + lengths.log()).sort(dim=1, descending=True)
        rows = (rows / lengths[:, :, None]).gather(1, order[:, :, None].expand_as(rows))
        overlaps = (rows @ rows.mT).triu(1).abs()
        if float(overlaps.max()) <= 4 * eps * size**0.5:
            break
        for i in range(size - 1):
            for j in range(i + 1, size):
                first, second = rows[:, i].clone(), rows[:, j].clone()
                inner = (first * second).sum(1)
                ratio = (logs[:, j] - logs[:, i]).exp()
                still = inner.abs() <= eps
                zeta = (ratio**2 * (second**2).sum(1) - (first**2).sum(1)) / (2 * inner.masked_fill(still, 1))
                turn = torch.where(zeta < 0, -1.0, 1.0) / (zeta.abs() + (ratio**2 + zeta**2).sqrt())
                turn = turn.masked_fill(still, 0)
                cosine = (1 + (ratio * turn) ** 2).rsqrt()[:, None]
                rows[:, i] = cosine * (first - (ratio**2 * turn)[:, None] * second)
                rows[:, j] = cosine * (second + turn[:, None] * first)
    return logs
