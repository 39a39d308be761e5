import warnings

import numpy as np
import pytest
from keras import ops

from kmtl.ops import factorize

pytestmark = pytest.mark.both_backends

METHODS = ["laf", "tucker", "tt"]
SHAPES = [(4, 5, 3), (2, 3, 4, 5, 3), (7, 1, 2)]


def stack(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def relative_error(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_unfold_matches_a_literal():
    tensor = np.arange(12).reshape(2, 3, 2)
    np.testing.assert_array_equal(
        factorize.unfold(tensor, 1), [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    )


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize("wrap", [np.asarray, ops.convert_to_tensor])
def test_fold_undoes_unfold(mode, wrap):
    tensor = stack(2, 3, 4, 5).astype("float32")
    matrix = factorize.unfold(wrap(tensor), mode)
    assert tuple(matrix.shape) == (tensor.shape[mode], tensor.size // tensor.shape[mode])
    again = factorize.fold(matrix, mode, tensor.shape)
    np.testing.assert_array_equal(ops.convert_to_numpy(again), tensor)


@pytest.mark.parametrize(
    ("shape", "method", "expected"),
    [
        ((4, 5, 3), "laf", (3,)),
        ((1, 2, 3), "laf", (2,)),
        ((4, 5, 3), "tucker", (4, 5, 3)),
        ((20, 2, 3), "tucker", (6, 2, 3)),
        ((4, 5, 3), "tt", (4, 3)),
        ((3, 3, 8, 16, 4), "tt", (3, 9, 64, 4)),
    ],
)
def test_max_ranks(shape, method, expected):
    assert factorize.max_ranks(shape, method) == expected
    assert factorize.num_ranks(method, len(shape)) == len(expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_maximal_ranks_rebuild_any_stack(method, shape):
    exact = stack(*shape)
    ranks = factorize.max_ranks(shape, method)
    factors = factorize.decompose(exact, method, ranks)
    shapes = [factor.shape for factor in factors]
    assert shapes == factorize.factor_shapes(shape, method, ranks)
    assert factorize.ranks_of(factors, method) == ranks
    np.testing.assert_allclose(factorize.synthesize(factors, method), exact, rtol=0, atol=1e-12)
    tensors = [ops.convert_to_tensor(factor.astype("float32")) for factor in factors]
    again = ops.convert_to_numpy(factorize.synthesize(tensors, method))
    assert relative_error(again, exact) < 1e-6


@pytest.mark.parametrize(
    ("method", "ranks", "shape", "formula"),
    [
        ("laf", (2,), (4, 5, 3), "iok,kt->iot"),
        ("laf", (2,), (2, 3, 4, 5, 3), "hwiok,kt->hwiot"),
        ("tucker", (2, 4, 3), (4, 5, 3), "abc,ia,ob,tc->iot"),
        ("tucker", (2, 1, 3, 4, 2), (2, 3, 4, 5, 3), "abcde,ha,wb,ic,od,te->hwiot"),
        ("tt", (4, 3), (4, 5, 3), "ia,aob,bt->iot"),
        ("tt", (2, 5, 3, 2), (2, 3, 4, 5, 3), "ha,awb,bic,cod,dt->hwiot"),
    ],
)
def test_synthesis_follows_the_definition(method, ranks, shape, formula):
    factors = [stack(*s, seed=9) for s in factorize.factor_shapes(shape, method, ranks)]
    expected = np.einsum(formula, *factors)
    np.testing.assert_allclose(factorize.synthesize(factors, method), expected, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_relative_error_chooses_the_ranks(method):
    exact = factorize.synthesize(
        [stack(*s, seed=n) for n, s in enumerate([(2, 2, 2), (8, 2), (9, 2), (6, 2)])], "tucker"
    )
    noisy = exact + 1e-3 * stack(*exact.shape) * np.std(exact)
    factors = factorize.decompose(noisy, method, rel_error=0.1)
    assert all(rank <= 2 for rank in factorize.ranks_of(factors, method))
    errors, sizes = [], []
    for bound in (0.5, 0.1, 1e-4, 0.0):
        factors = factorize.decompose(noisy, method, rel_error=bound)
        errors.append(relative_error(factorize.synthesize(factors, method), noisy))
        sizes.append(sum(factor.size for factor in factors))
        assert errors[-1] <= bound + 1e-12
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert factorize.ranks_of(factors, method) == factorize.max_ranks(noisy.shape, method)


def test_one_rank_less_misses_the_bound():
    left, _ = np.linalg.qr(stack(12, 4))
    right, _ = np.linalg.qr(stack(4, 4, seed=1))
    exact = ((left * [8.0, 4.0, 2.0, 1.0]) @ right.T).reshape(3, 4, 4)  # norm sqrt(85)
    for bound, rank in [(1.01 / 85**0.5, 3), (0.99 / 85**0.5, 4), (2.25 / 85**0.5, 2)]:
        factors = factorize.decompose(exact, "laf", rel_error=bound)
        assert factorize.ranks_of(factors, "laf") == (rank,)


@pytest.mark.parametrize("method", METHODS)
def test_a_stack_of_zeros_has_rank_one(method):
    factors = factorize.decompose(np.zeros((3, 4, 2)), method)
    assert set(factorize.ranks_of(factors, method)) == {1}
    np.testing.assert_array_equal(factorize.synthesize(factors, method), np.zeros((3, 4, 2)))


def test_orthonormal_tucker_bases_keep_the_norm():
    exact = stack(4, 5, 3)
    core, *bases = factorize.decompose(exact, "tucker", (3, 4, 2))
    for basis in bases:
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-12)
    rebuilt = factorize.synthesize([core, *bases], "tucker")
    np.testing.assert_allclose(np.linalg.norm(rebuilt), np.linalg.norm(core), rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_dropping_a_task_changes_no_other(method):
    factors = factorize.decompose(stack(4, 5, 3), method, rel_error=0.3)
    full = factorize.synthesize(factors, method)
    kept = np.delete(factors[-1], 1, axis=0 if method == "tucker" else -1)
    fewer = factorize.synthesize([*factors[:-1], kept], method)
    np.testing.assert_array_equal(fewer, np.delete(full, 1, axis=-1))


def test_last_rank_one_gives_multiples_of_one_kernel():
    for method, ranks in [("laf", (1,)), ("tt", (4, 1)), ("tucker", (4, 5, 1))]:
        kernels = factorize.synthesize(factorize.decompose(stack(4, 5, 3), method, ranks), method)
        assert np.linalg.matrix_rank(kernels.reshape(-1, 3)) == 1


def test_default_ranks_are_a_little_more_than_half():
    assert factorize.resolve_ranks(None, (8, 6, 2), "tucker") == (5, 4, 2)
    assert factorize.resolve_ranks(None, (8, 6, 4), "tt") == (5, 3)
    assert factorize.resolve_ranks(None, (1, 1, 5), "laf") == (1,)


def test_an_integer_rank_is_a_cap_for_all():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert factorize.resolve_ranks(4, (8, 6, 3), "tucker") == (4, 4, 3)
        assert factorize.resolve_ranks((4, 3), (4, 5, 3), "tt") == (4, 3)


@pytest.mark.parametrize(
    ("rank", "method", "used"),
    [(9, "tucker", (4, 5, 3)), ((4, 6, 3), "tucker", (4, 5, 3)), (4, "laf", (3,))],
)
def test_ranks_above_the_maximum_are_clipped_with_a_warning(rank, method, used):
    with pytest.warns(UserWarning, match="above the maximum.*Received: rank="):
        assert factorize.resolve_ranks(rank, (4, 5, 3), method) == used


def test_a_small_tensor_train_rank_bounds_the_next():
    with pytest.warns(UserWarning, match="is used"):
        ranks = factorize.resolve_ranks((1, 9), (9, 2, 9), "tt")
    assert ranks == (1, 2)
    factors = factorize.decompose(stack(9, 2, 9), "tt", ranks)
    assert factorize.ranks_of(factors, "tt") == ranks


@pytest.mark.parametrize("shape", [(6, 5, 3), (3, 3, 4, 5, 3)])
@pytest.mark.parametrize("method", METHODS)
def test_random_factors_give_the_wanted_variance(method, shape):
    """Mean square over independent draws; its standard error is about 2 %."""
    rng = np.random.default_rng(20170)
    ranks = factorize.resolve_ranks(None, shape, method)
    stddev = factorize.random_stddev(0.3, method, len(shape), ranks)
    shapes = factorize.factor_shapes(shape, method, ranks)
    squares = [
        np.mean(
            factorize.synthesize([rng.normal(scale=stddev, size=s) for s in shapes], method) ** 2
        )
        for _ in range(1500)
    ]
    np.testing.assert_allclose(np.mean(squares), 0.09, rtol=0.08)
