"""A guarantee for a network trained on few of its examples: those that it needed to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from rankjax.certificates._guarantee import check_confidence, check_integer
from rankjax.certificates._inputs import check_values, checked_sample
from rankjax.certificates._lengths import Length, one_of
from rankjax.certificates._one_example import Apply
from rankjax.certificates.any_network._binomial import compression_upper
from rankjax.certificates.any_network._picking import Loss, Picking, PickState, Rounds
from rankjax.certificates.any_network._statement import (
    AS_COMPUTED,
    INDEPENDENT,
    StoredGuarantee,
    among,
    statement,
)

if TYPE_CHECKING:
    import optax

ASSUMPTIONS = (
    INDEPENDENT,
    "the first network, apply, the loss, the optimizer and the settings of picking were fixed "
    "before the examples were seen",
    "training is reproducible: from the same picked examples in the same order it makes the same "
    "network",
    AS_COMPUTED,
)


@dataclass(frozen=True, kw_only=True)
class PickedCertificate(StoredGuarantee):
    """What ``pick_to_learn`` guarantees.

    ``errors`` are the examples that were not picked and are wrong all the same; 0 unless the rounds
    ran out.

    Attributes:
        picked: examples that the network was trained on.
    """

    picked: int
    assumptions: tuple[str, ...] = ASSUMPTIONS

    def length(self) -> Length:
        """``log tried``: which of the settings."""
        return one_of(self.tried)

    def check(self) -> None:
        """Raise ``ValueError`` unless every field is of the stated form."""
        super().check()
        check_integer(self.picked, "picked", 0)
        if self.picked + self.errors > self.n:
            raise ValueError(
                f"picked: got {self.picked}, must be at most n - errors = {self.n - self.errors}"
            )

    def _exact(self) -> Decimal:
        kept = self.picked + self.errors
        return compression_upper(kept, self.n, self.length(), Decimal(self.delta))

    def __str__(self) -> str:
        rows = [
            f"trained on {self.picked} picked examples of {self.n}; {self.errors} of the others "
            "are wrong and count as if picked"
        ]
        return statement(self, "this network", rows + among(self.tried, "settings of picking"))


@dataclass(frozen=True, eq=False)
class Picked:
    """What ``pick_to_learn`` returns.

    Attributes:
        params: the trained network.
        certificate: about it.
        picked: the examples that it was trained on, in the order in which they were picked.
        left: the other examples that it gets wrong.
        state: after the last round.
    """

    params: Any
    certificate: PickedCertificate
    picked: np.ndarray
    left: np.ndarray
    state: PickState

    def __str__(self) -> str:
        return str(self.certificate)


def pick_to_learn(
    params: Any,
    x: Any,
    y: Any,
    /,
    *,
    apply: Apply,
    optimizer: optax.GradientTransformation,
    picking: Picking = Picking(),  # noqa: B008 - frozen
    loss: Loss | None = None,
    delta: float = 0.01,
    tried: int = 1,
    batch_size: int = 1024,
    resume: PickState | None = None,
    progress: Callable[[PickState, int], Any] | None = None,
) -> Picked:
    r"""Train a network on few examples of the sample, with a guarantee from all of them.

    Each round picks the examples that the network gets most wrong among those not picked yet, and
    trains on all that are picked, until every other one is right. Let k examples be picked in the
    end (wrong ones that are left when the rounds run out included). With probability ``1 - delta``
    the true error is at most the root eps of ::

        sum_{m=k}^{n-1} C(m, k) / C(n, k) (1 - eps)^(m-n) = n tried / delta

    The network may have any structure and any number of weights.

    Args:
        params: the first network, which these examples have not influenced: an initialization, or
            weights that were trained on others. Its floating point arrays are trained.
        x: the training inputs, with a leading example axis.
        y: integer labels ``(n,)``.
        apply: ``apply(params, x) -> logits (batch, classes)``, in inference mode.
        optimizer: any Optax transformation; its state is carried from round to round.
        picking: how many examples a round picks, and how long it trains.
        loss: ``loss(params, x, y, key) -> scalar`` on a minibatch of picked examples, for weight
            decay, augmentation or dropout; ``None``: the mean cross-entropy of ``apply``.
        delta: probability, over the draw of the sample, that the bound fails; in (0, 1/2].
        tried: how many settings (first networks, losses, optimizers, ``picking``) were tried on
            this sample, if the best one is quoted.
        batch_size: examples per call where all are evaluated.
        resume: the state of an earlier run with the same arguments; the result is the same as
            without the interruption.
        progress: called before each round and at the end with the state so far and the number of
            examples that are wrong and not picked; a place to print, or to store the state.

    Returns:
        ``Picked``: the network, its certificate, the picked examples.

    Raises:
        ValueError: for arguments out of range, for labels, inputs or outputs that do not fit
            together, for a ``resume`` of another sample, first network or ``picking``.

    Not differentiable. Cost: one forward pass of the sample and ``picking.steps`` training steps
    per round; three compilations.

    Source: Paccagnan, Campi, Garatti 2023, "The Pick-to-Learn algorithm", with the bound of Campi,
    Garatti 2023, "Compression, generalization and learning", Theorem 7; groups and wrong examples
    that are left are covered by the proof in the documentation.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from rankjax.certificates import Picking, pick_to_learn
        >>> x = jax.random.normal(jax.random.key(0), (2000, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> found = pick_to_learn(
        ...     {"kernel": jnp.zeros((2, 2))}, x, y, apply=lambda params, x: x @ params["kernel"],
        ...     optimizer=optax.sgd(1.0), picking=Picking(steps=100),
        ... )
        >>> found.certificate.errors, found.certificate.value < 0.05
        (0, True)
    """
    check_confidence(delta, tried)
    check_values(params, "params")
    if progress is not None and not callable(progress):
        raise ValueError(f"progress: got {progress!r}, must be a function of a state and a number")
    y, batch_size = checked_sample(x, y, batch_size)
    rounds = Rounds(
        apply, params, x, y, optimizer=optimizer, loss=loss, picking=picking, batch_size=batch_size
    )
    state = rounds.start(resume)
    while True:
        scores, left = rounds.scores(state)
        if progress is not None:
            progress(state, int(left))
        if int(left) == 0 or int(state.round) >= picking.rounds:
            break
        state = rounds.advance(state, scores, left)
    certificate = PickedCertificate(
        value=1.0,
        errors=int(left),
        n=rounds.n,
        delta=float(delta),
        tried=tried,
        picked=int(state.count),
        assumptions=ASSUMPTIONS + rounds.held.assumptions(),
    ).settled()
    return Picked(
        params=rounds.network(state),
        certificate=certificate,
        picked=np.asarray(state.picked)[: int(state.count)],
        left=np.flatnonzero(np.asarray(scores) < np.inf),
        state=state,
    )
