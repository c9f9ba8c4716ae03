"""Gradient-based sampling's arithmetic (Li et al., ICCV 2023): gradients of class logits, weights that balance them.

`C[k, i]` is what the RoIs of class k pull at logit i: C[k, k] <= 0 raises the own logit ("positive"), C[k, i] >= 0
lowers another ("negative"). Every row sums to 0. The paper's matrix has logits in rows: G~ = C^T (its orientation
matters: with the two mixed up the answer is w = 1). Class weights are not part of the gradients.

Balance (Eq. 1, 2):   w_i * G~_ii = - sum_{k != i} w_k * G~_ik for every i,   sum_i w_i = n + 1,   that is w^T C = 0

C is the generator of a Markov chain, so that w is its stationary distribution times n + 1. A class that was never met
has an empty row, to which all of the weight would flow: such classes are left out, and keep the weight 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

AT_A_TIME = 1024  # RoIs: with LVIS's 1,204 classes 5 MB of probabilities
EPSILON = 1e-6  # of the Jacobi step's denominator (published code); gradients come times `GRADIENT_SCALE`
FILLING = 1000  # detections of a class whose mean score is a plain one
GRADIENT_SCALE = 100.0  # keeps gradients of rare classes well above EPSILON; a common factor changes nothing else


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of class weights."""

    lowest: float = 1 / 3
    highest: float = 5.0
    background: int | None = 0  # index of the class that has no weight above 1, None: there is none

    def clamp(self, weights: Tensor) -> Tensor:
        """Return weights `[n + 1]` inside the limits."""
        found = weights.clamp(self.lowest, self.highest)
        if self.background is not None:
            found[self.background] = found[self.background].clamp(max=1.0)
        return found


def pull(logits: Tensor, labels: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """Return s * p_y `[R]` and the probabilities `[R, n + 1]` of RoIs, for the focal loss of that exponent.

    s = (1 - p_y)^g / p_y - g (1 - p_y)^(g - 1) ln p_y, so that dl/dz_y = -s p_y (1 - p_y) and dl/dz_j = s p_y p_j. With
    exponent 0, cross-entropy, s p_y = 1.
    """
    log_p = logits.log_softmax(dim=1)
    p = log_p.exp()
    if exponent == 0:
        return torch.ones_like(p[:, 0]), p
    own_log = log_p.gather(1, labels[:, None])[:, 0]
    own = own_log.exp()
    doubt = (-torch.expm1(own_log)).clamp(min=1e-12)  # 1 - p_y; exponents below 1 have an infinite slope at 0
    return doubt**exponent - exponent * own * doubt ** (exponent - 1) * own_log, p


def gradient_matrix(logits: Tensor, labels: Tensor, exponent: float, weights: Tensor | None = None) -> Tensor:
    """Return C `[n + 1, n + 1]` of RoIs with logits `[R, n + 1]` and labels `[R]`, summed over RoIs, in float32 or 64.

    `weights` `[R]` multiply an RoI's loss (1, or the teacher's background probability). Every RoI is a row that is
    added to its class's: R * (n + 1) additions, one product for class 0, as nearly all RoIs are background. Some RoIs
    at a time, whose probabilities stay in the cache. No sum depends on the order in which threads come.
    """
    matrix = torch.zeros(logits.shape[1], logits.shape[1], dtype=logits.dtype, device=logits.device)
    for first in range(0, len(labels), AT_A_TIME):
        part = slice(first, first + AT_A_TIME)
        own = labels[part]
        strength, p = pull(logits[part], own, exponent)
        strength = strength if weights is None else strength * weights[part]
        matrix[0] += (strength * (own == 0)) @ p
        rest = torch.where(own != 0)[0]
        _add_rows(matrix, own[rest], p[rest] * strength[rest, None])
        _add_rows(matrix.diagonal(), own, -strength)
    return matrix


def _add_rows(into: Tensor, places: Tensor, rows: Tensor) -> None:
    """Add `rows` `[R, ...]` to those of `into` at `places` `[R]`, in the same order every time."""
    if into.is_cuda:
        into.index_put_((places,), rows, accumulate=True)  # sorts; index_add_ adds as its threads come
    else:
        into.index_add_(0, places, rows)


def met(matrix: Tensor) -> Tensor:
    """Return which classes `[n + 1]` have gradients at all."""
    return matrix.diagonal() < 0


def jacobi_targets(matrix: Tensor, weights: Tensor, bounds: Bounds | None) -> Tensor:
    """Return one Jacobi step `[n + 1]` from weights `[n + 1]`: w_i <- sum_{k != i} w_k C[k, i] / -C[i, i].

    With `bounds` the background takes what the other classes leave of the sum, and all are clamped (published code).
    Classes that were never met stay where they are.
    """
    seen = met(matrix)
    off = weights @ matrix - weights * matrix.diagonal()
    found = torch.where(seen, off / (EPSILON - matrix.diagonal()), weights)
    if bounds is None:
        return found
    if (b := bounds.background) is not None and bool(seen[b]):
        others = seen.clone()
        others[b] = False
        found[b] = seen.sum() - found[others].sum()
    return torch.where(seen, bounds.clamp(found), weights)


def jacobi_loss(targets: Tensor, weight_logits: Tensor) -> Tensor:
    """Return L_jacobi = mean_i (log target_i - a_i)^2, differentiable in a `[n + 1]`."""
    return (targets.log().detach() - weight_logits).square().mean()


def softmax_weights(weight_logits: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return w = (n + 1) * softmax(a) `[n + 1]` over the classes that were met; the others have 1."""
    if seen is None:
        return len(weight_logits) * weight_logits.softmax(dim=0)
    if not bool(seen.any()):
        return torch.ones_like(weight_logits)
    shares = weight_logits.masked_fill(~seen, -torch.inf).softmax(dim=0)
    return torch.where(seen, seen.sum() * shares, torch.ones_like(shares))


def direct_weights(matrix: Tensor) -> Tensor:
    """Return the least-squares solution `[n + 1]` of balance and sum together; estimates can make it negative."""
    seen, own = _met_part(matrix)
    if len(own) < 2:
        return torch.ones_like(matrix[0])
    own = own / own.diagonal().abs().mean()  # else the sum would outweigh small gradients, or be outweighed
    wanted = torch.zeros(len(own) + 1, 1, dtype=own.dtype, device=own.device)
    wanted[-1] = len(own)
    equations = torch.cat([own.T, torch.ones_like(own[:1])])
    return _whole(matrix, seen, _least_squares(equations, wanted))


def stationary_weights(matrix: Tensor) -> Tensor:
    """Return the stationary distribution times n + 1 `[n + 1]`: not negative, whatever the estimates.

    Rows that do not sum to 0, by rounding or because a class was left out, get the diagonal that makes them.
    """
    seen, own = _met_part(matrix)
    if len(own) < 2:
        return torch.ones_like(matrix[0])
    off = (own - torch.diag(own.diagonal())).clamp(min=0)
    chain = off / (2 * off.sum(dim=1).amax().clamp(min=torch.finfo(off.dtype).tiny))  # uniformised, aperiodic
    chain = chain + torch.diag(1 - chain.sum(dim=1))
    values = torch.cat([(chain.T - torch.eye(len(own), dtype=own.dtype, device=own.device)), torch.ones_like(own[:1])])
    wanted = torch.zeros(len(own) + 1, 1, dtype=own.dtype, device=own.device)
    wanted[-1] = 1
    share = _least_squares(values, wanted).clamp(min=0)
    return _whole(matrix, seen, len(own) * share / share.sum())


def _least_squares(equations: Tensor, wanted: Tensor) -> Tensor:
    """Return the shortest x `[n]` with the smallest |equations x - wanted|, computed on the CPU.

    Classes in groups that never push each other leave it open; what GPUs solve with takes for granted that nothing is.
    """
    found: Tensor = torch.linalg.lstsq(equations.cpu(), wanted.cpu(), driver="gelsd").solution[:, 0]
    return found.to(equations.device)


def _met_part(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return which classes were met, and their part of the matrix in float64.

    What a class that was left out is pushed by goes to the diagonal, so that rows sum to 0 as they did.
    """
    seen = met(matrix)
    own = matrix.double()[seen][:, seen]
    return seen, own if bool(seen.all()) else own - torch.diag(own.sum(dim=1))


def _whole(matrix: Tensor, seen: Tensor, solved: Tensor) -> Tensor:
    found = torch.ones_like(matrix[0])
    found[seen] = solved.to(found)
    return found


def class_thresholds(theta: float, floor: float, weights: Tensor, scores: Tensor | None) -> Tensor:
    """Return theta_i `[n]` (GbT): clamp(min(theta s_i / mean_j s_j, theta / w_i), floor, theta).

    `weights` `[n]` and mean scores `[n]` of the classes without background; None: scores play no part.
    """
    found = theta / weights
    if scores is not None and bool(scores.any()):
        found = torch.minimum(found, theta * scores / scores.mean())
    return found.clamp(floor, theta)


def update_mean_scores(mean: Tensor, seen: Tensor, sums: Tensor, counts: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """Return mean scores `[n]` and detections so far `[n]` after `counts` `[n]` more, whose scores add up to `sums`.

    A class's first `FILLING` detections add score / `FILLING` each; from then on each moves the mean as an EMA. All
    detections of a step count as if each had their mean score, so that neither order nor ranks matter.
    """
    average = sums / counts.clamp(min=1)
    filling = torch.minimum(counts, (FILLING - seen).clamp(min=0))
    mean = mean + filling * average / FILLING
    kept = keep ** (counts - filling)
    return kept * mean + (1 - kept) * average, seen + counts
