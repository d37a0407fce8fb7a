"""A guarantee from labeled examples that nothing has seen."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from rankjax.certificates._guarantee import check_confidence
from rankjax.certificates._inputs import check_values, checked_sample
from rankjax.certificates._lengths import Length, one_of
from rankjax.certificates._one_example import Apply
from rankjax.certificates.any_network._binomial import binomial_upper
from rankjax.certificates.any_network._predictions import predictions
from rankjax.certificates.any_network._statement import (
    AS_COMPUTED,
    INDEPENDENT,
    StoredGuarantee,
    among,
    statement,
)
from rankjax.network.internal import check_labels

ASSUMPTIONS = (
    INDEPENDENT,
    "nothing that made the network has seen these examples: not its training, not the choice of "
    "its settings or of when to stop, not its preprocessing",
    AS_COMPUTED,
)


@dataclass(frozen=True, kw_only=True)
class HoldOutCertificate(StoredGuarantee):
    """What ``hold_out`` guarantees: ``errors`` of ``n`` fresh examples are misclassified."""

    assumptions: tuple[str, ...] = ASSUMPTIONS

    def length(self) -> Length:
        """``log tried``: which of the networks."""
        return one_of(self.tried)

    def _exact(self) -> Decimal:
        return binomial_upper(self.errors, self.n, self.length(), Decimal(self.delta))

    def __str__(self) -> str:
        rows = [f"{self.errors} errors on {self.n} fresh labeled examples ({self.empirical:.4f})"]
        return statement(self, "this network", rows + among(self.tried, "networks"))


def hold_out(
    params: Any,
    x: Any,
    y: Any,
    /,
    *,
    apply: Apply,
    delta: float = 0.01,
    tried: int = 1,
    batch_size: int = 1024,
) -> HoldOutCertificate:
    r"""A bound on the true error of any network, from labeled examples that nothing has seen.

    The number of errors on n fresh examples is binomial, so with probability ``1 - delta``::

        true error <= sup {p : P(Bin(n, p) <= errors) >= delta / tried}

    This is Clopper and Pearson's exact limit. It needs no structure, no margin and no code; the
    price is paid in examples that training must do without.

    Args:
        params: the trained parameters.
        x: fresh inputs, with a leading example axis.
        y: integer labels ``(n,)``.
        apply: ``apply(params, x) -> logits (batch, classes)``, in inference mode; each example is
            evaluated as a batch of one.
        delta: probability, over the draw of the examples, that the bound fails; in (0, 1/2].
        tried: how many networks were measured on these examples, if the best one is quoted.
        batch_size: examples per call.

    Returns:
        A ``HoldOutCertificate``: printable, ``to_json``.

    Raises:
        ValueError: for arguments out of range, for labels, inputs or outputs that do not fit
            together.

    Not differentiable. Cost: one forward pass, and a second of arithmetic per million examples.

    Source: Clopper, Pearson 1934; Langford 2005, Theorem 3.3, for classifiers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jax.random.normal(jax.random.key(0), (1000, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> params = {"kernel": jnp.array([[-1.0, 1.0], [0.0, 0.01]])}
        >>> found = hold_out(params, x, y, apply=lambda params, x: x @ params["kernel"])
        >>> found.empirical < found.value < 0.02
        True
    """
    check_confidence(delta, tried)
    check_values(params, "params")
    y, batch_size = checked_sample(x, y, batch_size)
    n = len(y)
    seen = predictions(apply, params, x, n, batch_size)
    check_labels(y, seen.classes)
    return HoldOutCertificate(
        value=1.0,
        errors=int(np.sum(seen.chosen != y)),
        n=n,
        delta=float(delta),
        tried=tried,
        assumptions=ASSUMPTIONS + seen.held.assumptions(),
    ).settled()
