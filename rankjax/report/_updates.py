"""Updates of low rank (LoRA) among the leaves: measured as scale * B A, which is never formed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rankjax.network import Layer, LeftOut, Reason, Structure
from rankjax.network.internal import factors_of, joined
from rankjax.report._adapter_config import Configs
from rankjax.report._spectra import Spectrum, in_float64

# What a config of PEFT may say, and the names of what must be beside the factors then.
_FLAGS = {"use_dora": "lora_magnitude_vector", "use_qalora": "", "use_bdlora": ""}
_SIDE = re.compile(r"lora_(embedding_)?[AB]\b|lora_(up|down)\b|lora\w*[./](up|down)\b")


@dataclass(frozen=True)
class Update:
    """Two factors whose product, times ``scale``, is added to a weight.

    Attributes:
        path: the weight that is updated.
        left: the factor ``(out, r)``.
        right: the factor ``(r, in)``.
        scale: alpha / r (of rsLoRA: alpha / sqrt(r)), ``None`` where nothing tells alpha.
    """

    path: str
    left: Layer
    right: Layer
    scale: float | None

    @property
    def rank(self) -> int:
        """The rank that the factors allow."""
        return self.left.matrix_shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the product."""
        return self.left.matrix_shape[0], self.right.matrix_shape[1]


def take_updates(
    structure: Structure, leaves: Mapping[str, Any], configs: Configs
) -> tuple[list[Update], Structure]:
    """The updates of a structure, and the structure without their factors.

    Args:
        structure: matrices by name, the factors among them.
        leaves: arrays by path.
        configs: from ``adapter_configs``.

    Raises:
        ValueError: a config with entries of another form.
    """
    entries = joined([*structure.layers, *structure.left_out])
    found, rest = [], []
    left_out = [x for x in entries if isinstance(x, LeftOut)]
    factors = factors_of(x for x in entries if isinstance(x, Layer))
    for layer in entries:
        if isinstance(layer, LeftOut):
            continue
        if layer.path not in factors:
            rest.append(layer)
            continue
        left, right = factors[layer.path]
        rank = left.matrix_shape[1]
        place = factor_place(left.path)
        config = next((c for start, c in configs.items() if left.path.startswith(start)), {})
        why, scale = _why_none(place, rank, config), None
        if not why and place is None:
            scale = _scale_of_mlx(config)
        elif not why and place is not None:
            scale = _scale(place, right, leaves, config)
        if scale is not None and not math.isfinite(scale):
            why = f"its alpha is {scale * rank}"
        if not why:
            found.append(Update(layer.path, left, right, scale))
            continue
        paths = {left.path, right.path}
        left_out = [x for x in left_out if x.path not in paths]
        left_out += [LeftOut(x.path, x.shape, Reason.OTHER_USE, why) for x in (left, right)]
    of_updates = {x.path for one in found for x in (one.left, one.right)}
    left_out = [x for x in left_out if x.path not in of_updates]
    return found, replace(structure, layers=tuple(rest), left_out=tuple(left_out))


def _why_none(place: str | None, rank: int, config: Mapping[str, Any]) -> str:
    """Why two factors are no plain product, by the config of the adapter."""
    for key in ("peft_type", "fine_tune_type"):  # of PEFT, of MLX
        if str(config.get(key) or "lora").lower() != "lora":
            return f"its config says {key} {config[key]}: not the update B A alone"
    for flag, needed in _FLAGS.items():
        if config.get(flag):
            missing = f", and the file holds no {needed} for it" if needed else ""
            return f"its config says {flag}{missing}: not the update B A alone"
    if place is not None and _of_parameter(place, config) and rank != config.get("r"):
        return "updates a parameter of several matrices (target_parameters): no plain product"
    return ""


def _scale(
    place: str, right: Layer, leaves: Mapping[str, Any], config: Mapping[str, Any]
) -> float | None:
    rank = right.matrix_shape[0]
    alpha = leaves.get(f"{place}alpha")  # of kohya, beside the factors
    if alpha is not None and np.size(alpha) == 1:
        return float(np.asarray(alpha).reshape(())) / rank
    kind = "conv_" if max(right.shape[2:], default=1) > 1 and "conv_alpha" in config else ""
    if config.get(f"{kind}rank", rank) != rank:
        return None  # of metadata, which tell the alpha of another rank
    default = config.get("conv_alpha" if kind else "lora_alpha")
    alpha = _of_module(place, config.get("alpha_pattern") or {}, default)
    if alpha is None:
        return None
    return _number(alpha, "lora_alpha") / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _scale_of_mlx(config: Mapping[str, Any]) -> float | None:
    """MLX keeps the scale itself, of factors lora_a and lora_b."""
    given = config.get("lora_parameters")
    scale = given.get("scale") if isinstance(given, Mapping) else None
    return None if scale is None else float(_number(scale, "scale"))


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ValueError(f"config of the adapter: {name} is {value!r}, must be a number")
    return value


def _of_parameter(place: str, config: Mapping[str, Any]) -> bool:
    """Whether PEFT updates a parameter of that module, not its weight."""
    module = module_of(place).removesuffix(".base_layer")
    named = config.get("target_parameters") or []
    if not isinstance(named, list):
        raise ValueError(f"config of the adapter: target_parameters is {named!r}, must be a list")
    parents = [str(name).rpartition(".")[0] for name in named]
    return any(module == name or module.endswith(f".{name}") for name in parents)


def factor_place(path: str) -> str | None:
    """What comes before the factor in a path of PEFT or kohya; ``None`` for other names."""
    found = _SIDE.search(path)
    return None if found is None else path[: found.start()]


def module_of(place: str) -> str:
    """PEFT's name of a module: of the path of a factor, what comes before the factor."""
    return place.removeprefix("base_model.model.").rstrip("./")


def _of_module(place: str, pattern: Any, default: Any) -> Any:
    """As PEFT does it: the first key, an expression, that is the module's name or its end."""
    if not isinstance(pattern, Mapping):
        raise ValueError(f"config of the adapter: alpha_pattern is {pattern!r}, must be an object")
    module = module_of(place)
    for key, value in pattern.items():
        if module == key or module.endswith(f".{key}"):
            return value
        # Python's engine can take for ever over repeated groups and many repetitions.
        if re.search(r"\)[*+?{]", key) or len(re.findall(r"[*+{]", key)) > 3 or len(module) > 500:
            raise ValueError(f"config of the adapter: alpha_pattern names {key!r}: too complicated")
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error as error:
            raise ValueError(
                f"config of the adapter: alpha_pattern names {key!r}: {error}"
            ) from None
    return default


def matrices_of(layer: Layer, leaf: Any) -> np.ndarray:
    """``(stacked, parallel, out, in)``, a view in NumPy (``Layer.matrix`` compiles per shape)."""
    return (
        np.asarray(leaf)
        .transpose(layer.view.order)
        .reshape(layer.stacked, layer.parallel, *layer.matrix_shape)
    )


def core_of(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """A square matrix of the inner size with the singular values of ``b @ a`` that are not 0.

    With ``B = Q_1 R_1`` and ``A^T = Q_2 R_2`` it is ``R_1 R_2^T``.
    """
    left, right = (np.asarray(np.linalg.qr(x, "r")) for x in (b, a.T))
    return left @ right.T


def spectrum_of_product(
    scale: float,
    b: np.ndarray,
    a: np.ndarray,
    reference: tuple[float, np.ndarray, np.ndarray] | None = None,
) -> Spectrum:
    """The spectrum of ``scale * b @ a``, or of its difference from another product.

    Cost: ``O((out + in) r^2)``.
    """
    b, a = scale * in_float64(b), in_float64(a)
    size = min(b.shape[0], a.shape[1])
    if reference is None:
        return Spectrum(np.linalg.svd(core_of(b, a), compute_uv=False)[:size])
    other, d, c = reference
    d, c = other * in_float64(d), in_float64(c)
    norm = float(np.linalg.norm(core_of(d, c)))
    # B A - D C is the product of (B, -D) and (A; C).
    core = core_of(np.concatenate([b, -d], 1), np.concatenate([a, c]))
    # What rounding leaves of two equal products; their entries are exact, as they are stored.
    noise = 64 * np.finfo(float).eps * (norm + float(np.linalg.norm(core_of(b, a))))
    return Spectrum(np.linalg.svd(core, compute_uv=False)[:size], noise, norm)
