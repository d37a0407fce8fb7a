import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rankjax.matrix import schatten_power
from rankjax.network import View, describe
from rankjax.training import lora_pairs, lora_schatten_penalty


def tree(seed=0):
    keys = jax.random.split(jax.random.key(seed), 6)
    normal = jax.random.normal
    return {
        "q": {"lora_a": normal(keys[0], (7, 3)), "lora_b": normal(keys[1], (3, 5))},
        "v": {"lora_a": normal(keys[2], (7, 3)), "lora_b": normal(keys[3], (3, 5))},
        "stack": {"lora_a": normal(keys[4], (2, 7, 2)), "lora_b": normal(keys[5], (2, 2, 4))},
        "dense": {"kernel": jnp.eye(4)},
    }


VIEW = View(out=(2,), in_=(1,), stacked=(0,))
PARAMS = tree()
STRUCTURE = describe(PARAMS, axes={"stack/lora_a": VIEW, "stack/lora_b": VIEW})


def formed(params, p, weight):
    out = 0.0
    for name in ("q", "v", "stack"):
        product = jnp.matmul(params[name]["lora_a"], params[name]["lora_b"])
        powers = schatten_power(product, p=p, eps=0.05, method="svd")
        out = out + weight.get(f"{name}/lora_b", 1.0) * jnp.sum(powers)
    return out


@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("weight", [{}, {"v/lora_b": 0.2, "stack/lora_b": 3.0}])
def test_value_and_gradient_of_the_products(p, weight):
    def penalty(params):
        return lora_schatten_penalty(STRUCTURE, params, p=p, weight=weight, eps=0.05, method="svd")

    value, found = jax.jit(jax.value_and_grad(penalty))(PARAMS)
    expected, slopes = jax.value_and_grad(lambda q: formed(q, p, weight))(PARAMS)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    jax.tree.map(
        lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-7, atol=1e-10), found, slopes
    )
    np.testing.assert_array_equal(found["dense"]["kernel"], 0)


def test_named_pairs_and_traced_numbers():
    params = {"up": {"kernel": jnp.ones((4, 2))}, "down": {"kernel": jnp.ones((2, 9))}}
    structure = describe(params)
    pairs = [("down/kernel", "up/kernel")]
    value = jax.jit(
        lambda p, w: lora_schatten_penalty(structure, params, p=p, weight=w, pairs=pairs)
    )(1.0, 0.5)
    np.testing.assert_allclose(value, 0.5 * 12 * (np.sqrt(1.0001) - 0.01), rtol=1e-4)


def test_nnx_lora_from_its_zero_start_lowers_the_rank_of_the_update():
    layer = nnx.LoRA(6, 4, 5, rngs=nnx.Rngs(0), param_dtype=jnp.float32)
    graph, params = nnx.split(layer)
    structure = describe(params)
    assert lora_pairs(structure) == (("lora_b", "lora_a"),)

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 6)), jnp.float32)
    target = x @ jnp.asarray(np.outer(rng.normal(size=6), rng.normal(size=5)), jnp.float32)
    target = target + 0.1 * jnp.asarray(rng.normal(size=target.shape), jnp.float32)

    def final(weight):
        def loss(params):
            error = jnp.mean((nnx.merge(graph, params)(x) - target) ** 2)
            return error + weight * lora_schatten_penalty(structure, params, p=0.5, eps=0.01)

        optimizer = optax.adam(0.02)

        @jax.jit
        def run(params):
            def step(carry, _):
                params, state = carry
                updates, state = optimizer.update(jax.grad(loss)(params), state, params)
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, optimizer.init(params)), None, length=400)[0][0]

        trained = nnx.merge(graph, run(params))
        s = np.linalg.svd(np.asarray(trained.lora_a[...] @ trained.lora_b[...]))[1]
        return np.sum(s > 0.01 * s[0])

    with jax.numpy_dtype_promotion("standard"):  # NNX and Optax themselves mix dtypes
        free, penalised = final(0.0), final(0.1)
    assert free > penalised == 1


@pytest.mark.parametrize(
    ("left", "right", "torch"),
    [
        ("q/kernel_lora_b", "q/kernel_lora_a", False),
        ("q/lora_kernel_b", "q/lora_kernel_a", False),
        ("q.lora_B.default.weight", "q.lora_A.default.weight", True),
        ("q.lora_up.weight", "q.lora_down.weight", True),
        ("q.lora.up.weight", "q.lora.down.weight", True),
    ],
)
def test_pairs_under_all_names(left, right, torch):
    a, b = PARAMS["q"]["lora_a"], PARAMS["q"]["lora_b"]
    params = {left: b.T, right: a.T} if torch else {left: b, right: a}
    structure = describe(params)
    assert lora_pairs(structure) == ((left, right),)
    value = lora_schatten_penalty(structure, params, p=1.0, eps=0.0)
    np.testing.assert_allclose(value, jnp.linalg.norm(a @ b, "nuc"), rtol=1e-6)


def test_pairs_in_stacks_need_no_axes():
    structure = describe(PARAMS)
    assert structure == STRUCTURE


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"without a partner: \['lora_a'\]"):
        lora_pairs(describe({"lora_a": jnp.ones((4, 2)), "kernel": jnp.ones((4, 2))}))
    with pytest.raises(ValueError, match="must hold pairs of factors"):
        lora_pairs(describe({"kernel": jnp.ones((4, 2))}))
    with pytest.raises(ValueError, match=r"pairs names unknown paths \['x'\]"):
        lora_schatten_penalty(STRUCTURE, PARAMS, p=1.0, pairs=[("x", "q/lora_a")])
    with pytest.raises(ValueError, match="same batch"):
        lora_schatten_penalty(STRUCTURE, PARAMS, p=1.0, pairs=[("q/lora_b", "stack/lora_a")])
    with pytest.raises(ValueError, match=r"weight names unknown paths \['q/lora_a'\]"):
        lora_schatten_penalty(STRUCTURE, PARAMS, p=1.0, weight={"q/lora_a": 1.0})
