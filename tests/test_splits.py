"Splits of a data set: disjoint, seeded, whole groups, and the published one."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uncpaper import data


@given(st.integers(1, 200), st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(0, 2**31))
def test_split_is_disjoint_and_seeded(n, sizes, seed):
    if sum(sizes) > n:
        with pytest.raises(ValueError, match="sizes must"): data.shuffled_split(n, sizes, seed)
        return
    parts = data.shuffled_split(n, sizes, seed)
    every = torch.cat(parts)
    assert [len(part) for part in parts] == sizes and len(every.unique()) == len(every)
    assert ((every >= 0) & (every < n)).all()
    assert every.equal(torch.cat(data.shuffled_split(n, sizes, seed)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=120), st.integers(0, 2**31), st.data())
def test_grouped_split_keeps_groups_whole(groups, seed, draw):
    groups = torch.tensor(groups)
    sizes = groups.bincount()
    chosen = torch.tensor(draw.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))))
    first = int(sizes[chosen].sum())    # reachable with whole groups, for sure
    parts = data.shuffled_split(len(groups), (first, len(groups) - first), seed, groups)
    assert [len(part) for part in parts] == [first, len(groups) - first]
    assert len(torch.cat(parts).unique()) == len(groups)
    assert not set(groups[parts[0]].tolist()) & set(groups[parts[1]].tolist())


def test_split_errors():
    with pytest.raises(ValueError, match="sizes must be >= 0"): data.shuffled_split(5, (6, -1), 0)
    with pytest.raises(ValueError, match=r"groups must have shape \(4,\)"):
        data.shuffled_split(4, (2,), 0, torch.zeros(3))
    with pytest.raises(ValueError, match="sizes must be sums of whole groups"):
        data.shuffled_split(4, (3, 1), 0, torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize("seed", range(5))
def test_wine_splits_share_no_row(seed):
    x = data.load("wine-red", "all").x
    train, test = data.shuffled_split(1599, (1199, 400), seed, data.duplicate_groups(x))
    assert len(x[train].unique(dim=0)) + len(x[test].unique(dim=0)) == 1359


@pytest.mark.parametrize("n, seed, share", [
    (50_000, 1, 0.1), (120_000, 25, 0.1), (7, 0, 0.5), (10, 3, 0.0), (10, 3, 1.0),
])
def test_published_split_is_the_papers(n, seed, share):
    before = np.random.get_state()[1].tolist()
    train, validation = data.published_split(n, seed, share)
    assert np.random.get_state()[1].tolist() == before    # nobody else's numbers moved
    indices = list(range(n))
    state = np.random.get_state()
    np.random.seed(seed)
    np.random.shuffle(indices)
    np.random.set_state(state)
    cut = int(np.floor(share * n))
    assert train.tolist() == indices[cut:] and validation.tolist() == indices[:cut]


def test_published_split_refuses_other_shares():
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share must be between 0 and 1"): data.published_split(10, 0, share)
