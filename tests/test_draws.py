"""Random numbers by address: what they depend on, and that they are random."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from gantk.draws import Draws, key_of

KEY = key_of(0, "test")
KINDS: dict[str, Callable[[Draws], Tensor]] = {
    "uniform": lambda d: d.uniform(3, 2),
    "normal": lambda d: d.normal(5),
    "integers": lambda d: d.integers(1000, 4),
    "categorical": lambda d: d.categorical(torch.full((50,), 0.02)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_whatever_the_cut(kind: str) -> None:
    draw = KINDS[kind]
    whole = draw(Draws(KEY, torch.arange(64)))
    alone = torch.cat([draw(Draws(KEY, torch.tensor([row]))) for row in range(64)])
    assert torch.equal(whole, alone)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(Draws(KEY, order)), whole[order])
    assert torch.equal(draw(Draws(KEY, torch.arange(48, 64))), whole[48:])


@pytest.mark.parametrize("kind", KINDS)
def test_shape(kind: str) -> None:
    shapes = {"uniform": (7, 3, 2), "normal": (7, 5), "integers": (7, 4), "categorical": (7,)}
    values = KINDS[kind](Draws(KEY, torch.arange(7)))
    assert values.shape == shapes[kind]
    assert KINDS[kind](Draws(KEY, torch.arange(0))).shape == (0, *shapes[kind][1:])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_keys_differ(kind: str) -> None:
    draw, index = KINDS[kind], torch.arange(200)
    one = draw(Draws(KEY, index)).flatten(1) if kind != "categorical" else draw(Draws(KEY, index))[:, None]
    for key in (KEY + 1, KEY - 1, KEY ^ (1 << 62), key_of(1, "test"), key_of(0, "tesu")):
        other = draw(Draws(key, index)).reshape(one.shape)
        assert (one == other).double().mean() < 0.1
    assert (one[1:] == one[:-1]).double().mean() < 0.1


def test_keys_tell_their_parts_apart() -> None:
    parts: list[tuple[int | str, ...]] = [
        (0, "z"), (1, "z"), ("0", "z"), (0, "zz"), (0, "z", 0), (0, "z", "0"), ("0z",), (0,), ("z", 0), (00, "", "z"), (-1,),
    ]  # fmt: skip
    keys = [key_of(*part) for part in parts]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 1 << 63 for key in keys)
    assert key_of(0, "z") == key_of(0, "z")


def test_values_are_pinned() -> None:
    """A change here changes every run's data, z and augmentation: it must be meant."""
    assert KEY == 9008455795664547441
    draws = Draws(KEY, torch.tensor([0, 1, 2**40]))
    assert draws._bits(2).tolist() == [
        [-7115936507571633201, 5658922979289747369],
        [3879200747781569643, 1097965732710434393],
        [5331989922604972078, -857801040085451400],
    ]
    assert draws.integers(10, 3).tolist() == [[7, 6, 6], [0, 9, 7], [4, 5, 3]]
    assert draws.uniform(2).tolist() == [
        [0.031961262226104736, 0.1532687544822693],
        [0.1846083402633667, 0.8674514889717102],
        [0.8101277351379395, 0.18007558584213257],
    ]
    assert draws.categorical(torch.full((5,), 0.2)).tolist() == [4, 3, 0]
    assert draws.of("category").integers(10, 2).tolist() == [[8, 4], [0, 8], [0, 0]]
    # The last bit of log and cos may be another on another processor.
    normal = torch.tensor([[-0.34474432468414307], [1.6438722610473633], [1.5087671279907227]])
    torch.testing.assert_close(draws.normal(1), normal, atol=1e-6, rtol=0)


def reference_bits(key: int, index: int, column: int) -> int:
    """splitmix64 with Python's own integers."""
    word = (1 << 64) - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & word
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & word
        return x ^ (x >> 31)

    gamma = 0x9E3779B97F4A7C15
    row = mix(((index + 1) * gamma + key * 2 + 1) & word)
    return mix((row + (column + 1) * gamma) & word)


def test_bits_are_splitmix64() -> None:
    index = torch.tensor([0, 1, 7, 2**31, 2**62])
    for key in (0, 1, KEY, (1 << 63) - 1):
        bits = Draws(key, index)._bits(3)
        for row, column in itertools.product(range(len(index)), range(3)):
            assert int(bits[row, column]) % (1 << 64) == reference_bits(key, int(index[row]), column)


# Statistics; the numbers are fixed, and so is the outcome of each test.


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (5.0, 6.0)])
def test_uniform_is_uniform(low: float, high: float) -> None:
    values = Draws(KEY, torch.arange(20_000)).uniform(4, low=low, high=high).double().numpy()
    assert stats.kstest(values.ravel(), stats.uniform(low, high - low).cdf).pvalue > 0.01
    assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * values.size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (5.0, 6.0), (1000.0, 1000.5), (-3.0, -2.0)])
def test_uniform_never_reaches_its_end(low: float, high: float, dtype: torch.dtype, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    # The largest and the smallest bits there are.
    monkeypatch.setattr(Draws, "_bits", lambda self, columns, kind: torch.tensor([[-1], [0]]))
    values = Draws(KEY, torch.arange(2), dtype).uniform(1, low=low, high=high)
    assert values.dtype == dtype
    assert low <= float(values[1]) < high
    assert low <= float(values[0]) < high


def test_normal_is_normal() -> None:
    values = Draws(KEY, torch.arange(20_000)).normal(4).double().numpy()
    assert stats.kstest(values.ravel(), "norm").pvalue > 0.01
    assert abs(values.mean()) < 4 / np.sqrt(values.size)
    assert abs(values.std() - 1) < 4 / np.sqrt(2 * values.size)
    assert abs(stats.skew(values.ravel())) < 4 * np.sqrt(6 / values.size)
    assert abs(stats.kurtosis(values.ravel())) < 4 * np.sqrt(24 / values.size)
    assert np.isfinite(values).all()


def test_normal_is_finite_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Draws, "_bits", lambda self, columns, kind="normal": torch.tensor([[0, 0], [-1, -1]]))
    assert Draws(KEY, torch.arange(2)).normal(1).isfinite().all()


@pytest.mark.parametrize("high", [2, 10, 1000])
def test_integers_are_even(high: int) -> None:
    values = Draws(KEY, torch.arange(50_000)).integers(high, 2).numpy()
    assert values.min() == 0
    assert values.max() == high - 1
    assert stats.chisquare(np.bincount(values.ravel(), minlength=high)).pvalue > 0.01


def test_classes_have_their_shares() -> None:
    shares = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    counts = np.bincount(Draws(KEY, torch.arange(50_000)).categorical(shares).numpy(), minlength=6)
    assert counts[[0, 2, 5]].sum() == 0
    assert stats.chisquare(counts[[1, 3, 4]], 50_000 * np.array([0.5, 0.3, 0.2])).pvalue > 0.01
    # Shares need not sum to one.
    again = Draws(KEY, torch.arange(50_000)).categorical(shares * 7)
    assert np.array_equal(np.bincount(again.numpy(), minlength=6), counts)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_neighbours_are_independent(kind: str) -> None:
    def draw(key: int, columns: int = 8) -> np.ndarray:
        draws = Draws(key, torch.arange(20_000), torch.float64)
        return (draws.uniform(columns, low=-1, high=1) if kind == "uniform" else draws.normal(columns)).numpy()

    values = draw(KEY)
    limit = 4.5 / np.sqrt(20_000)
    columns = np.corrcoef(values.T) - np.eye(8)
    assert np.abs(columns).max() < limit
    for lag in (1, 2, 3):
        rows = np.corrcoef(values[:-lag].ravel(), values[lag:].ravel())[0, 1]
        assert abs(rows) < limit
    for other in (KEY + 1, KEY ^ 1, KEY ^ (1 << 40), key_of(1, "test"), key_of(0, "test", 1)):
        assert abs(np.corrcoef(values.ravel(), draw(other).ravel())[0, 1]) < limit
    # Squares as well: normal draws made of one shared radius would pass the above.
    assert np.abs(np.corrcoef((values**2).T) - np.eye(8)).max() < limit


COLUMNS: dict[str, Callable[[Draws], Tensor]] = {
    "uniform": lambda d: d.uniform(8),
    "normal": lambda d: d.normal(8),
    "integers": lambda d: d.integers(10_007, 8),
    "categorical": lambda d: d.categorical(torch.full((10,), 0.1))[:, None],
}
"""Each kind as float64 [N, 8 or 1]."""


def assert_independent(one: Tensor, other: Tensor) -> None:
    """No column of one tells of a column of the other: not its size, nor its distance from the middle."""
    assert not torch.equal(one, other)
    limit = 4.5 / np.sqrt(len(one))
    for both in itertools.product(*([ranks, np.abs(ranks - 0.5)] for ranks in map(_ranks, (one, other)))):
        columns = both[0].shape[1]
        assert np.abs(np.corrcoef(*(values.T for values in both))[:columns, columns:]).max() < limit


def _ranks(values: Tensor) -> np.ndarray:
    return (stats.rankdata(values.double().numpy(), axis=0) - 0.5) / len(values)


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(COLUMNS, 2)])
def test_kinds_of_one_draws_are_independent(one: str, other: str) -> None:
    draws = Draws(KEY, torch.arange(20_000), torch.float64)
    assert_independent(COLUMNS[one](draws), COLUMNS[other](draws))


@pytest.mark.parametrize(("one", "other"), [*itertools.product(COLUMNS, COLUMNS)])
def test_children_are_independent_of_their_parents_and_of_each_other(one: str, other: str) -> None:
    parent = Draws(KEY, torch.arange(20_000), torch.float64)
    child = parent.of("category")
    for there, here in ((parent, child), (child, parent.of("noise")), (child, child.of("category"))):
        assert_independent(COLUMNS[one](there), COLUMNS[other](here))


def test_a_child_depends_on_its_name_and_its_parents_key_alone() -> None:
    index = torch.arange(5)
    child = Draws(KEY, index, torch.float64).of("category")
    assert torch.equal(child.normal(3), Draws(KEY, index, torch.float64).of("category").normal(3))
    assert torch.equal(child.normal(3)[2:], Draws(KEY, index[2:], torch.float64).of("category").normal(3))
    assert (child.dtype, child.key) == (torch.float64, key_of(KEY, "of", "category"))


def test_a_class_is_no_function_of_the_noise_beside_it() -> None:
    """A structured latent, written as anyone would: the first noise column told the class at a correlation of .995."""
    draws = Draws(KEY, torch.arange(20_000))
    noise, category = draws.uniform(62), draws.categorical(torch.full((10,), 0.1))
    assert abs(np.corrcoef(noise[:, 0].numpy(), category.numpy())[0, 1]) < 0.03
    means = [float(noise[category == number, 0].mean()) for number in range(10)]
    assert all(abs(mean - 0.5) < 0.04 for mean in means)


def test_every_bit_is_fair() -> None:
    bits = Draws(KEY, torch.arange(20_000))._bits(2).numpy().view(np.uint64)
    for position in range(64):
        ones = ((bits >> np.uint64(position)) & np.uint64(1)).mean()
        assert abs(ones - 0.5) < 4.5 * 0.5 / np.sqrt(bits.size), position
