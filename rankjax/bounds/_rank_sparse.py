"""The rank-sparse generalization bound of Ledent, Alves and Lei (NeurIPS 2025)."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax._arguments import concrete, non_negative, one_of
from rankjax._linear_algebra import largest
from rankjax.bounds._facts import Facts, exp, log, total
from rankjax.bounds._rank_sparse_chained import rank_sparse_chained
from rankjax.bounds._rank_sparse_code import SOURCE
from rankjax.bounds._rank_sparse_explicit import rank_sparse_explicit
from rankjax.bounds._result import BoundResult, Kind
from rankjax.matrix import EpsMode, spectrum
from rankjax.network import Measured, Sample

# Past this power only the largest singular value is left, in any floating point type.
_LARGEST_POWER = 1e6
Form = Literal["plain", "augmented", "tail"]
_PUBLISHED = "Ledent, Alves, Lei, NeurIPS 2025 (arXiv 2510.21945), Theorem {}"
_SOURCES: dict[Form, str] = {
    "plain": _PUBLISHED.format("3.6"),
    "augmented": _PUBLISHED.format("3.7"),
    "tail": SOURCE,
}


def rank_sparse(
    measured: Measured,
    sample: Sample,
    /,
    *,
    p: ArrayLike | None = None,
    gamma: ArrayLike | None = None,
    kind: Kind = "dominant",
    form: Form | Literal["chained"] = "plain",
    last_width: int | None = None,
    eps: ArrayLike = 0.0,
    eps_mode: EpsMode = "relative",
    delta: float = 0.05,
) -> BoundResult:
    r"""The rank-sparse bound: its dominant term, or a form with every constant.

    ``dominant``: ``sqrt(L / n) R`` (constants and logarithms dropped), not a guarantee. With
    ``w_l = 2 / (p_l + 2)``::

        R^2 = sum_l T_l^{2 (1 - w_l)}  [|A_l - M_l|_{S_p}^p / |A_l|^p]^{w_l}
                    (m_l + n_l)^{w_l}  W_l^{1 - w_l}

        T_l = B prod_i rho_i |A_i| / gamma                    (form="plain")
        T_l = B_{l-1} prod_{i >= l} rho_i |A_i| / gamma       (form="augmented")

    ``B_{l-1}`` is the largest 2-norm, over the sample, of a vector that the matrix of layer l is
    applied to (its input, or a patch). ``|A_l|`` in the products is the norm of the layer as a
    linear map (``Measured.operator_norm``); it cancels from the layer's own term. ``p -> 0`` gives
    ``sqrt(L sum_l rank_l (m_l + n_l) / n)``, ``p -> inf`` the limit without the matrix' size.

    ``form="tail"`` is the dominant term of the chained form below. It covers the small singular
    values by their Frobenius norm, with ``T_l`` of the plain form and the patch operator ``P_l``
    (norm 1 for a dense layer)::

        R^2 = sum_l [|A_l - M_l|_{S_p}^p / |A_l|^p]  (m_l + n_l)^{1 - p_l/2}
                    (T_l^2 |P_l|^2 m_l)^{p_l/2}  L^{max(p_l - 1, 0)}

    ``explicit``: with probability ``1 - delta``, for all weights, exponents and margins at once::

        true error <= kl^{-1}(margin error at gamma, (sum_l C_l + ln(1/delta) + ...) / n)

    ``C_l`` nats describe layer l up to the error ``e_l`` that the margin allows it, as a net of all
    matrices of its size, or of those of rank ``k_l``, where the singular values below a share
    ``theta`` of the error are dropped (the better of the two, and the best of five ``theta``)::

        prod_l (1 + |P_l| e_l / |A_l|) = 1 + gamma / (2 sqrt(2) B prod_i rho_i |A_i|)

        C_l = k_l (m_l + n_l) ln(1 + 4 |A_l - M_l| / ((1 - theta) e_l)) + ...
        k_l = floor(|A_l - M_l|_{S_p}^p / (theta e_l)^p)

    The dots are the nats of the numbers that were chosen after training. Without ``p``, ``k_l`` is
    the number of singular values itself, which is smaller than its bound by any p.

    ``explicit``, ``form="chained"``: with probability ``1 - delta``, for all weights and margins::

        true error - margin error at gamma
            <= 2 Rad + 3 sqrt((ln(1/delta) + ...) / (2 n))
        Rad = min  e_K + sqrt(2/n) (sqrt(C(e_1)) / 2 + sum_{k>1} (e_{k-1} + e_k) sqrt(C(e_k)))

    over all ``1/2 > e_1 > ... > e_K`` of a grid of 40 scales. ``C(e) = sum_l C_l`` nats cover the
    margin losses of all networks of these norms, on the sample, at ``e``; layer l has the share
    ``omega_l`` of the error, ``u_l = |P_l| B prod_i rho_i |A_i| sqrt(2) / (omega_l gamma e |A_l|)``
    and ``a_l = |A_l - M_l|``. ``B`` is the root of the mean square of the inputs' norms. ``C_l`` is
    the smallest of a net of all matrices, ``m_l n_l ln(1 + 2 a_l u_l)``, the nats of a ball, and
    for many thresholds ``t_l`` those of a net for what is above, and a ball for what is below (0
    nats, if ``t_l u_l <= theta``)::

        k_l (m_l + n_l) ln(1 + 4 a_l u_l / (1 - theta)) + 2 Q_l + 1 + ln(1 + 2 Q_l)
        k_l = floor(|A_l - M_l|_{S_p}^p / t_l^p)
        Q_l = m_l (u_l / theta)^2 t_l^{2-p} |A_l - M_l|_{S_p}^p

    Without ``p`` the class has bounds for ``p`` = 0, 1/2, 1 and 2 at once, and pays for all; a
    given ``p`` must have been fixed before the data were seen.

    The theorems are about chains of layers. For residual networks, attention and networks with
    normalization the formula is evaluated as if their layers were a chain: a number to compare
    such networks by, beyond what the theorem says.

    Args:
        measured: from ``measure(structure, params, reference=...)``.
        sample: from ``Sample.from_data`` or ``Sample.of_size``.
        p: Schatten exponent, a scalar or one per layer, in ``[0, inf]``, for the tail and the
            chained form in ``[0, 2]``; may be traced. ``None``: the exact minimum per layer over
            ``[0, 2]``, see ``optimal_p``.
        gamma: the margin; ``None``: ``sample.margin_at(0.01)``, and the best one for the plain
            explicit form.
        kind: ``"dominant"`` or ``"explicit"``.
        form: ``"plain"``, ``"augmented"`` or ``"tail"``, of the dominant term; ``"plain"`` or
            ``"chained"``, of the explicit kind.
        last_width: ``W_L``; the published sources disagree (1 or the number of classes).
            ``None``: the number of outputs. With 1, the value at p = 2 can fall under a known
            lower bound.
        eps: smooths the Schatten power (see ``schatten_power``); for training. May be traced.
        eps_mode: ``"relative"`` to each matrix' largest singular value, or ``"absolute"``.
        delta: confidence of the explicit forms.

    Returns:
        ``BoundResult``. Dominant: ``per_layer`` are the summands of ``R^2``; a matrix that is used
        several times is as many layers. ``terms`` holds ``p``, ``margin_factor`` (``T_l``),
        ``soft_rank`` (``|A_l - M_l|_{S_p}^p / |A_l|^p``) and ``R``. Explicit: ``per_layer`` is
        ``C_l / n``, and ``terms`` holds ``margin``, ``margin_error``, ``rank`` (``k_l``), ``error``
        (``e_l``) and ``rest``. Chained: ``per_layer`` is what the layers have in the sum of roots,
        and ``terms`` holds ``margin`` (``gamma``, rounded down to a power of ``2^{1/8}``),
        ``rademacher``, ``radius`` (``e_K``) and ``rest``.

    Raises:
        ValueError: for an unknown kind or form, a form of the other kind, ``p`` outside of its
            range, ``gamma <= 0``, ``p`` of a wrong length, a convolution whose number of positions
            is unknown, the augmented form for a sample without layer norms, ``last_width`` with the
            tail form; for the explicit forms with options of the dominant one and for ``delta``
            outside of (0, 1), and for the plain one with a sample without margins.

    Differentiable once in the weights (``p`` chosen by minimization adds nothing to the gradient,
    by the envelope theorem), and in ``gamma``, ``eps`` and a given ``p``. The explicit forms round
    to integers; their derivative is that of the formula without this rounding, so give ``p`` to
    train with them. Cost: O(number of singular values), times 56 margins for the plain explicit
    form; the decompositions were made by ``measure``.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": jnp.eye(8)}
        >>> measured = measure(describe(params), params)
        >>> bound = rank_sparse(measured, Sample.of_size(400), p=0.0, gamma=0.5)
        >>> round(float(bound.value), 4)  # sqrt(rank (m + n) / n) = sqrt(8 * 16 / 400)
        0.5657
    """
    non_negative(eps, "eps")
    one_of(eps_mode, "eps_mode", EpsMode)
    one_of(kind, "kind", Kind)
    one_of(form, "form", Form if kind == "dominant" else ("plain", "chained"))
    facts = Facts(measured, sample, gamma)
    if kind == "explicit":
        dominant = (last_width, None), (eps, 0.0), (eps_mode, "relative")
        if any(given is not default and given != default for given, default in dominant):
            raise ValueError(
                "kind: got 'explicit'; then last_width, eps and eps_mode must be left out"
            )
        top = 2.0 if form == "chained" else math.inf
        exponents = None if p is None else _exponent(p, measured.operator_norm, top)
        if form == "chained":
            return rank_sparse_chained(measured, sample, exponents, facts.gamma, delta)
        return rank_sparse_explicit(measured, sample, exponents, gamma, delta)
    form = cast(Form, form)
    _check_width(form, last_width)
    gamma = facts.gamma
    if p is None:
        p = optimal_p(measured, sample, gamma=gamma, form=form, last_width=last_width)
    p = _exponent(p, measured.operator_norm, 2.0 if form == "tail" else math.inf)
    return _rank_sparse(measured, sample, p, gamma, eps, form, eps_mode, last_width)


@partial(jax.jit, static_argnames=("form", "eps_mode", "last_width"))
def _rank_sparse(
    measured: Measured,
    sample: Sample,
    p: Array,
    gamma: Array,
    eps: ArrayLike,
    form: Form,
    eps_mode: EpsMode,
    last_width: int | None,
) -> BoundResult:
    logs = _Logs(measured, sample, gamma, form, last_width)
    log_soft, log_term = logs.terms(p, eps, eps_mode)
    facts = logs.facts
    # A matrix that is used several times is as many layers.
    log_root, per_layer = total((log_term + jnp.log(facts.times)) / 2, 2)
    depth = facts.number(facts.depth)
    return facts.result(
        log_root + (jnp.log(depth) - jnp.log(facts.n)) / 2,
        per_layer,
        terms={
            "p": p,
            "margin_factor": jnp.exp(logs.margin_factor),
            "soft_rank": jnp.exp(log_soft),
            "R": exp(log_root),
        },
        name="rank_sparse" if form == "plain" else f"rank_sparse_{form}",
        kind="dominant",
        source=_SOURCES[form],
        parts="value = sqrt(L/n) sqrt(sum of parts)",
    )


def optimal_p(
    measured: Measured,
    sample: Sample,
    /,
    *,
    gamma: ArrayLike | None = None,
    form: Form = "plain",
    last_width: int | None = None,
    p_max: float = 2.0,
) -> Array:
    """The exponent in ``[0, p_max]`` that minimizes each layer's term of ``rank_sparse``, exactly.

    In ``w = 2 / (p + 2)`` the logarithm of a layer's term is convex: it is linear in w plus
    ``w log sum_i u_i^{2/w - 2}``, the perspective of a log-sum-exp, along a line. In the tail form
    it is convex in p: linear pieces plus ``log sum_i u_i^p``. Its minimum is
    where the derivative, known in closed form, changes sign: found by bisection to the last digit,
    so no grid can do better. A layer's term depends on its own exponent alone.

    The choice is made after training, which the theorem allows. The result is held constant under
    differentiation; at a minimum that is the derivative of the bound.

    Returns:
        ``(layers,)``; 0 for a layer equal to its reference.

    Raises:
        ValueError: as ``rank_sparse``, and if ``p_max`` is not in ``(0, inf)``.
    """
    one_of(form, "form", Form)
    if not 0 < p_max < math.inf or (form == "tail" and p_max > 2):
        allowed = "(0, 2]" if form == "tail" else "(0, inf)"
        raise ValueError(f"p_max: got {p_max}, must be in {allowed}")
    _check_width(form, last_width)
    gamma = Facts(measured, sample, gamma).gamma
    return _optimal_p(measured, sample, gamma, form, last_width, p_max)


@partial(jax.jit, static_argnames=("form", "last_width", "p_max"))
def _optimal_p(
    measured: Measured,
    sample: Sample,
    gamma: Array,
    form: Form,
    last_width: int | None,
    p_max: float,
) -> Array:
    logs = _Logs(measured, sample, gamma, form, last_width)
    low = jnp.full_like(logs.margin_factor, 2 / (p_max + 2))
    high = jnp.ones_like(low)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        rising = logs.slope(middle) > 0
        return jnp.where(rising, low, middle), jnp.where(rising, middle, high)

    steps = jnp.finfo(low.dtype).nmant + 3
    low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
    w = jnp.where(high >= 1, high, low)  # where the derivative never turns positive: p = 0 itself
    w = jnp.where(logs.slope(jnp.full_like(w, 2 / (p_max + 2))) >= 0, 2 / (p_max + 2), w)
    p = jnp.where(w >= 1, 0, 2 / w - 2)
    return jax.lax.stop_gradient(jnp.where(logs.moved > -jnp.inf, p, 0))


class _Logs:
    """Logarithms of everything in the formula, ``(layers,)`` each; -inf stands for 0."""

    def __init__(
        self, measured: Measured, sample: Sample, gamma: Array, form: Form, last_width: int | None
    ):
        self.measured, self.facts, self.form = measured, Facts(measured, sample), form
        norm = measured.operator_norm
        dtype = norm.dtype
        self.norm = log(norm)
        index = np.arange(norm.shape[0])
        if form != "augmented":
            others = index[:, None] != index[None, :]
            reach = log(self.facts.number(sample.radius))
        else:
            others = index[:, None] < index[None, :]
            reach = log(self.facts.layer_norms())
        #: log of T_l / |A_l|: everything but the layer's own norm, which cancels from its term
        self.without_own = reach + self.facts.log_rest(others)
        self.without_own -= jnp.log(gamma)
        self.margin_factor = self.without_own + self.norm
        out, in_ = (measured.static(lambda layer, i=i: layer.matrix_shape[i]) for i in (0, 1))
        self.size = jnp.log(jnp.asarray(out + in_, dtype))
        width = self.facts.outputs
        if last_width is not None:
            width[-1] = last_width
        if form == "tail":
            width = out * measured.static(lambda layer: layer.gather_norm) ** 2
        self.width = jnp.log(jnp.asarray(width, dtype))
        self.log_depth = jnp.log(jnp.asarray(self.facts.depth, dtype))
        tops = tuple(largest(s, -1) for s in measured.sigma_moved)
        #: log |A_l - M_l|
        self.moved = log(measured.per_layer(tops, largest))

    def power(self, p: Array, eps: ArrayLike = 0.0, eps_mode: EpsMode = "relative") -> Array:
        """``log sum_i u_i^p`` with ``u_i`` the singular values of A - M over the largest."""
        parts, start = [], 0
        for sigma in self.measured.sigma_moved:
            mine = jnp.minimum(p[start : start + sigma.shape[0]], _LARGEST_POWER)[:, None]
            start += sigma.shape[0]
            scale = largest(sigma, (1, 2))[:, None]
            # A power of two where the reciprocal would be subnormal and flushed to 0.
            shrink = jnp.where(scale > spectrum.divisor(scale), 1 / 16, 1).astype(sigma.dtype)
            scale = jnp.where(scale == 0, 1, scale) * shrink
            e = jnp.asarray(eps, sigma.dtype)
            if eps_mode == "relative":
                # Constant under differentiation, while the scale is not.
                e = e * jax.lax.stop_gradient(spectrum.largest(sigma))
            unit = sigma * shrink[..., None] / scale[..., None]
            sums = spectrum.power_sum(unit, p=mine, eps=e * shrink / scale, eps_mode="absolute")
            parts.append(jnp.sum(sums, axis=1))
        return log(jnp.concatenate(parts))

    def terms(self, p: Array, eps: ArrayLike, eps_mode: EpsMode) -> tuple[Array, Array]:
        """Logarithms of the soft rank and of the layer's summand."""
        power = self.power(p, eps, eps_mode)
        alive = self.moved != -jnp.inf  # not >, which would turn NaN into 0
        moved = jnp.where(alive, self.moved, 0)
        ratio = jnp.minimum(p, _LARGEST_POWER) * (moved - self.norm)
        if self.form == "tail":
            linear = self.without_own + moved + (self.width - self.size) / 2
            term = power + self.size + p * linear + jnp.maximum(p - 1, 0) * self.log_depth
            term = jnp.where(p <= 2, term, jnp.nan)
        else:
            w = 2 / (p + 2)
            term = 2 * (1 - w) * (self.without_own + moved) + (1 - w) * self.width
            term = term + w * (power + self.size)
        return jnp.where(alive, ratio + power, -jnp.inf), jnp.where(alive, term, -jnp.inf)

    def slope(self, w: Array) -> Array:
        """d(log term)/dw, closed form, for ``w`` in (0, 1]; of the tail form -d(log term)/dp."""
        parts, start = [], 0
        for sigma in self.measured.sigma_moved:
            mine = w[start : start + sigma.shape[0]][:, None, None]
            start += sigma.shape[0]
            top = largest(sigma, (1, 2), keepdims=True)
            rtol = spectrum.default_rtol(sigma.shape[-1], sigma.dtype)
            # Relative to each matrix, as in ``power``.
            keep = sigma > rtol * largest(sigma, -1, keepdims=True)
            log_unit = jnp.where(keep, log(sigma) - log(top), 0)
            weight = jnp.where(keep, jnp.exp((2 / mine - 2) * log_unit), 0)
            total = jnp.sum(weight, axis=(1, 2))
            total = jnp.where(total > 0, total, 1)
            mean = jnp.sum(weight * log_unit, axis=(1, 2)) / total
            parts.append(
                -mean if self.form == "tail" else jnp.log(total) - 2 * mean / mine[:, 0, 0]
            )
        linear = self.size - self.width - 2 * (self.without_own + self.moved)
        if self.form == "tail":
            linear = linear / 2 - jnp.where(w < 2 / 3, self.log_depth, 0)
        return linear + jnp.concatenate(parts)


def _check_width(form: Form, last_width: int | None) -> None:
    if form == "tail" and last_width is not None:
        raise ValueError(f"last_width: got {last_width}, must be left out of form='tail'")


def _exponent(p: ArrayLike, like: Array, most: float = math.inf) -> Array:
    p = jnp.asarray(p, like.dtype)
    if p.shape not in {(), like.shape}:
        raise ValueError(f"p: got shape {p.shape}, must be a scalar or one per layer {like.shape}")
    known = concrete(p)
    if known is not None and not ((known >= 0) & (known <= most)).all():
        raise ValueError(f"p: got {known}, must be in [0, {most}]")
    return jnp.broadcast_to(p, like.shape)
