"""A guarantee by way of a surrogate: how often two networks disagree needs no labels."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from typing import Any

import numpy as np

from rankjax.certificates._guarantee import Guarantee, check_confidence, check_integer, shown, sure
from rankjax.certificates._inputs import check_inputs, check_values
from rankjax.certificates._lengths import Length, one_of
from rankjax.certificates._near import NearCertificate
from rankjax.certificates._one_example import Apply
from rankjax.certificates.any_network._binomial import CONTEXT, binomial_upper
from rankjax.certificates.any_network._predictions import predictions
from rankjax.certificates.any_network._statement import (
    AS_COMPUTED,
    StoredGuarantee,
    among,
    statement,
)
from rankjax.certificates.theorem import Certificate
from rankjax.network.internal import number_of_inputs

ASSUMPTIONS = (
    "the unlabeled examples are independent draws from the distribution that new ones come from",
    "nothing that made or chose the network or its surrogate has seen them",
    AS_COMPUTED,
    "the certificate that was passed is that of the surrogate (verify it with its own data)",
)
_EXACT_ARITHMETIC = (
    "the surrogate, whose certificate is about exact arithmetic, classifies the unlabeled examples "
    "in floating point as it does exactly"
)


@dataclass(frozen=True, kw_only=True)
class DisagreementCertificate(StoredGuarantee):
    """What ``certify_by`` guarantees: on ``errors`` of ``n`` examples the networks disagree.

    Attributes:
        surrogate_value: the bound on the true error of the surrogate.
        surrogate_delta: the share of ``delta`` with which that bound may fail.
    """

    surrogate_value: float
    surrogate_delta: float
    assumptions: tuple[str, ...] = ASSUMPTIONS

    def length(self) -> Length:
        """``log tried``: which of the pairs."""
        return one_of(self.tried)

    def check(self) -> None:
        """Raise ``ValueError`` unless every field is of the stated form."""
        super().check()
        if type(self.surrogate_value) is not float or not 0 < self.surrogate_value <= 1:
            raise ValueError(
                f"surrogate_value: got {self.surrogate_value!r}, must be a float in (0, 1]"
            )
        if type(self.surrogate_delta) is not float or not 0 < self.surrogate_delta < self.delta:
            raise ValueError(
                f"surrogate_delta: got {self.surrogate_delta!r}, must be a float between 0 and "
                f"delta = {self.delta}: what is left of delta is for the disagreement"
            )

    def _exact(self) -> Decimal:
        with localcontext(CONTEXT) as context:
            context.rounding = ROUND_FLOOR
            left = Decimal(self.delta) - Decimal(self.surrogate_delta)
            differ = binomial_upper(self.errors, self.n, self.length(), left)
            context.rounding = ROUND_CEILING
            return min(Decimal(1), Decimal(self.surrogate_value) + differ)

    def __str__(self) -> str:
        rows = [
            f"true error of the surrogate <= {shown(self.surrogate_value)} with probability >= "
            f"{sure(self.surrogate_delta)}, by its own certificate",
            f"different answers on {self.errors} of {self.n} unlabeled examples "
            f"({self.empirical:.4f})",
        ]
        rows += among(self.tried, "pairs of networks")
        return statement(self, "this network, unchanged,", rows)


def certify_by(
    params: Any,
    x: Any,
    /,
    *,
    apply: Apply,
    surrogate: Any,
    certificate: Guarantee,
    surrogate_apply: Apply | None = None,
    delta: float = 0.01,
    tried: int = 1,
    batch_size: int = 1024,
) -> DisagreementCertificate:
    r"""A bound on the true error of any network, through a certified one that mostly agrees.

    Where the network f errs and the surrogate g does not, they give different answers::

        true error of f <= (true error of g) + P(f and g give different answers)

    The certificate of g bounds the first term and fails with probability ``certificate.delta``; the
    second needs no labels: Clopper and Pearson's limit of the share of different answers on fresh
    inputs, at the rest of ``delta``. A network that has a tie or NaN gives no answer, which differs
    from every one.

    Args:
        params: the parameters of the network that the guarantee is about.
        x: fresh inputs without labels, with a leading example axis. Nothing that made or chose
            one of the two networks may have seen them.
        apply: ``apply(params, x) -> logits (batch, classes)``, in inference mode.
        surrogate: the parameters of the surrogate.
        certificate: of the surrogate, by any route of this library, at a ``delta`` below the one
            here, such as one half of it.
        surrogate_apply: the forward function of the surrogate; ``None``: that of the network.
        delta: probability that the bound fails, that of ``certificate`` included; in (0, 1/2].
        tried: how many pairs of networks were compared on these examples, if the best one is
            quoted. The certificates must pay for choosing among surrogates themselves.
        batch_size: examples per call.

    Returns:
        A ``DisagreementCertificate``: printable, ``to_json``.

    Raises:
        ValueError: for arguments out of range, for a certificate that does not follow from its
            integers or whose ``delta`` leaves nothing, for inputs or outputs that do not fit.

    Not differentiable. Cost: one forward pass of each network.

    Source: Bazinet, Zantedeschi, Germain 2026, "Bound to Disagree"; the union over both
    confidences and ``tried`` is stated here.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from rankjax.certificates import certify_by, hold_out
        >>> x = jax.random.normal(jax.random.key(0), (9000, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> apply = lambda params, x: x @ params["kernel"]
        >>> small = {"kernel": jnp.array([[-1.0, 1.0], [0.0, 0.0]])}
        >>> known = hold_out(small, x[:4000], y[:4000], apply=apply, delta=0.005)
        >>> params = {"kernel": jnp.array([[-1.0, 1.0], [0.0, 0.02]])}
        >>> found = certify_by(
        ...     params, x[4000:], apply=apply, surrogate=small, certificate=known, delta=0.01
        ... )
        >>> found.value < 0.01
        True
    """
    check_confidence(delta, tried)
    if not isinstance(certificate, Guarantee):
        raise ValueError(
            f"certificate: got {type(certificate).__name__}, must be a certificate of the surrogate"
        )
    certificate.verify()
    if certificate.delta >= delta:
        raise ValueError(
            f"certificate: got delta = {certificate.delta}, must be below the delta of both, "
            f"{delta}: certify the surrogate with a part of it"
        )
    check_values(params, "params")
    check_values(surrogate, "surrogate")
    check_inputs(x)
    check_integer(batch_size, "batch_size", 1, numpy=True)
    n = number_of_inputs(x, int(batch_size))
    ours = predictions(apply, params, x, n, batch_size)
    other = predictions(surrogate_apply or apply, surrogate, x, n, batch_size)
    if ours.classes != other.classes:
        raise ValueError(
            f"surrogate: got {other.classes} classes, must be those of apply, {ours.classes}"
        )
    same = (ours.chosen == other.chosen) & (ours.chosen >= 0)
    exact = isinstance(certificate, Certificate | NearCertificate)
    assumptions = ASSUMPTIONS + ours.held.assumptions() + (_EXACT_ARITHMETIC,) * exact
    return DisagreementCertificate(
        value=1.0,
        errors=int(np.sum(~same)),
        n=n,
        delta=float(delta),
        tried=tried,
        surrogate_value=certificate.value,
        surrogate_delta=certificate.delta,
        assumptions=assumptions + tuple(f"surrogate: {a}" for a in certificate.assumptions),
    ).settled()
