"Ensembles: oracle O4, one pass over the data, and a temperature for each member."

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn

from uncpaper.ensembles import Ensemble, Frozen, mean_probabilities, member_logits, member_probabilities
from uncpaper.metrics import expected_entropy, mutual_information, predictive_entropy
from uncpaper.training import Minibatches, copied, fit, nothing

LN2 = math.log(2)


def logits(members, n, classes, seed=0):
    return 4 * torch.randn(members, n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_o4_one_hot_members():
    apart, alike = (member_probabilities(torch.tensor([[[1e4, 0.0]], [second]])) for second in ([0.0, 1e4], [1e4, 0.0]))
    assert mutual_information(apart).item() == pytest.approx(LN2, abs=1e-15) and expected_entropy(apart).item() == 0
    assert mutual_information(alike).item() == predictive_entropy(alike).item() == 0
    torn = member_probabilities(torch.zeros(2, 1, 2))
    assert predictive_entropy(torn).item() == expected_entropy(torn).item() == pytest.approx(LN2, abs=1e-15)
    assert mutual_information(torn).item() == pytest.approx(0, abs=1e-15)


@given(members=st.integers(1, 6), classes=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_o4_identity_and_bounds(members, classes, seed):
    p = member_probabilities(logits(members, 20, classes, seed))
    total, own, between = predictive_entropy(p), expected_entropy(p), mutual_information(p)
    assert torch.allclose(total, own + between, rtol=0, atol=1e-12)
    assert (between >= -1e-12).all() and (between <= total.clamp(max=math.log(members)) + 1e-12).all()


def test_agrees_with_scipy():
    x, t = logits(3, 50, 10), [0.5, 1.0, 3.0]
    p = softmax(x.numpy() / torch.tensor(t).view(-1, 1, 1).numpy(), axis=-1)
    torch.testing.assert_close(member_probabilities(x, t), torch.tensor(p), rtol=1e-12, atol=0)
    torch.testing.assert_close(mean_probabilities(x, t), torch.tensor(p.mean(0)), rtol=1e-12, atol=0)
    ours = member_probabilities(x, t)
    torch.testing.assert_close(predictive_entropy(ours), torch.tensor(entropy(p.mean(0), axis=-1)), rtol=1e-12,
                               atol=1e-15)
    torch.testing.assert_close(expected_entropy(ours), torch.tensor(entropy(p, axis=-1).mean(0)), rtol=1e-12,
                               atol=1e-15)


def test_temperatures():
    x = logits(2, 30, 4)
    assert mean_probabilities(x, [1, 1]).equal(mean_probabilities(x))
    assert mean_probabilities(x.float()).dtype == torch.float64
    assert member_probabilities(x, torch.tensor([1.0, 2.0]))[1].equal((x[1] / 2).softmax(-1))
    for wrong in ([1.0], [1.0, -1.0], [1.0, math.nan], 1.0):
        with pytest.raises(ValueError, match="2 values > 0, one per member"):
            mean_probabilities(x, wrong)


class Counted(nn.Linear):
    seen = 0

    def forward(self, x):
        self.seen += len(x)
        assert not self.training and not torch.is_grad_enabled()
        return super().forward(x)


def test_every_member_sees_every_sample_once_in_evaluation_mode():
    ensemble = Ensemble([Counted(4, 3) for _ in range(3)])
    ensemble.members[1].eval()
    x = torch.randn(25, 4)
    found = member_logits(ensemble, x, size=10)
    assert found.shape == (3, 25, 3) and [m.seen for m in ensemble.members] == [25] * 3
    assert [m.training for m in ensemble.members] == [True, False, True] and ensemble.training
    torch.testing.assert_close(found[2], nn.functional.linear(x, ensemble.members[2].weight,
        ensemble.members[2].bias).detach())


def test_a_shared_backbone_runs_once_for_a_batch_and_is_never_trained():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    calls, before = [], copied(backbone.state_dict())
    backbone.register_forward_hook(lambda *_: calls.append(1))
    ensemble, x = Ensemble([nn.Linear(6, 2) for _ in range(3)], backbone), torch.randn(20, 4)
    heads = copied(ensemble.members.state_dict())
    def loss(model, x): return model(x).square().mean()
    list(fit(ensemble, (x,), loss, Minibatches(20, 10, 0),
             torch.optim.SGD(ensemble.parameters(), 0.1, weight_decay=0.1), 6, nothing, 6))
    assert len(calls) == 6 and not backbone.training and ensemble.training
    assert all(value.equal(before[name]) for name, value in backbone.state_dict().items())
    assert all(not value.equal(heads[name]) for name, value in ensemble.members.state_dict().items())
    assert member_logits(ensemble, x, 7).shape == (3, 20, 2) and len(calls) == 6 + 3


def test_tables_of_the_members_learn_through_one_frozen_network():
    "Each member has embeddings of its own, and all of them the same network behind these."
    torch.manual_seed(0)
    network = Frozen(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)))
    ensemble = Ensemble([nn.Sequential(nn.Embedding(3, 4), network) for _ in range(2)])
    before, tables = copied(network.state_dict()), [copied(member[0].state_dict()) for member in ensemble.members]
    def loss(model, y): return (model(y) - y[:, None]).square().mean()
    y = torch.arange(3).repeat(4)
    rows = list(fit(ensemble, (y,), loss, Minibatches(12, 12, 0), torch.optim.Adam(ensemble.parameters(), 0.1), 200,
                    nothing, 100))
    assert rows[-1]["train_loss"] < 1e-2
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert all(not member[0].weight.equal(table["weight"]) for member, table in zip(ensemble.members, tables))
    assert sum(p.numel() for p in ensemble.parameters() if p.requires_grad) == 2 * 3 * 4


def test_refused():
    with pytest.raises(ValueError, match="at least one network"):
        Ensemble([])
    with pytest.raises(ValueError, match=r"one shape, got \[\(2, 3\), \(2, 5\)\]"):
        Ensemble([nn.Linear(4, 3), nn.Linear(4, 5)])(torch.randn(2, 4))
