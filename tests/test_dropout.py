"Dropout as a posterior: masks, one zeta and equal zetas (oracle O5), the probit predictive (O6), a loop over masks."

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from uncpaper.losses import eiv_loss
from uncpaper.models.classifiers import dropout_mlp, resnet9
from uncpaper.models.dropout import (DropoutClassifier, SharedDropout, Thinned, linear_layers, masks, mean_predictive,
                                     predictions, predictive)

MODELS = {"ResNet-9, dropout": lambda: resnet9(channels=1, dropout=0.5, width=4, size=28),
          "ResNet-9": lambda: resnet9(channels=1, width=4, size=28),
          "perceptron": lambda: dropout_mlp(pixels=784, width=32),
          "perceptron, p = 0.2": lambda: dropout_mlp(pixels=784, width=32, dropout=0.2)}


def built(name):
    "A network whose running statistics have moved, in evaluation mode."
    torch.manual_seed(0)
    model = MODELS[name]().train()
    with torch.no_grad(): model(torch.randn(16, 1, 28, 28))
    return model.eval()


def pictures(*shape, seed=0):
    return torch.randn(*shape, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def seeded(call, seed=1):
    torch.manual_seed(seed)
    return call()


# masks in training

@given(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9]), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_zetas_of_a_picture_share_a_mask(p, n, zetas):
    rows = SharedDropout(p)(torch.ones(n, zetas, 200))
    assert rows.eq(rows[:, :1]).all()
    assert ((rows == 0) | torch.isclose(rows, torch.tensor(1 / (1 - p)))).all()


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_share_of_zeros_and_mean(p):
    torch.manual_seed(0)
    for h in (torch.ones(2000, 100), torch.ones(2000, 3, 100)):
        out = SharedDropout(p)(h)
        error = 5 * math.sqrt(p * (1 - p) / 200_000)
        assert abs((out == 0).float().mean().item() - p) <= error
        assert abs(out.mean().item() - 1) <= error / (1 - p) + 1e-6
    rows = SharedDropout(0.5)(torch.ones(50, 3, 100))[:, 0]
    assert len(rows.unique(dim=0)) == 50 # pictures have masks of their own


def test_evaluation_mode_and_torchs_own():
    h, layer = torch.randn(5, 1, 7), SharedDropout(0.3)
    assert layer.eval()(h) is h and layer.train()(h).shape == h.shape
    assert seeded(lambda: layer(h)).equal(seeded(lambda: F.dropout(h, 0.3)))
    assert seeded(lambda: layer(h[:, 0])).equal(seeded(lambda: F.dropout(h[:, 0], 0.3)))
    assert not nn.Sequential(layer).eval()[0].training and "p=0.3" in repr(layer)


def test_gradient_goes_through_what_is_kept():
    h = torch.randn(4, 3, 50, requires_grad=True)
    out = SharedDropout(0.5)(h)
    out.sum().backward()
    assert h.grad.equal(2 * (out != 0))


class TileOrder(DropoutClassifier):
    "Zetas grouped the wrong way round: pictures of a zeta lie together, though zetas of a picture were put together."
    def features(self, x):
        return self.trunk(x.flatten(0, 1)).unflatten(0, (x.shape[1], x.shape[0])).transpose(0, 1)


class TileMasks(DropoutClassifier):
    "Masks repeated in tile order."
    def forward(self, x):
        n, zetas = x.shape[:2]
        h = self.features(x).flatten(0, 1)
        for layer in self.head:
            if isinstance(layer, SharedDropout): h = h * layer(torch.ones(n, h.shape[1])).tile(zetas, 1)
            else: h = layer(h)
        return h.unflatten(0, (n, zetas))


@pytest.mark.parametrize("kind, right", [(DropoutClassifier, True), (TileOrder, False), (TileMasks, False)])
def test_equal_zetas_have_equal_logits_unless_the_grouping_is_wrong(kind, right):
    model = built("perceptron")
    model = kind(model.trunk, model.head).train()
    same = pictures(6, 1).expand(6, 5, 1, 28, 28)
    logits = model(same)
    assert logits.shape == (6, 5, 10)
    assert torch.allclose(logits, logits[:, :1].expand_as(logits), atol=1e-5) == right


# O5: limits

@pytest.mark.parametrize("name", MODELS)
def test_o5_one_zeta_is_cross_entropy_bit_by_bit(name):
    zeta, labels, model = pictures(12, 1), torch.arange(12) % 10, built(name).train()
    gradients = []
    for loss in (lambda: eiv_loss(model(zeta), labels), lambda: F.cross_entropy(model(zeta.mean(1)), labels),
                 lambda: F.cross_entropy(model(zeta[:, 0]), labels)):
        model.zero_grad()
        value = seeded(loss)
        value.backward()
        gradients.append([value.detach(), *[p.grad.clone() for p in model.parameters()]])
    for other in gradients[1:]: assert all(a.equal(b) for a, b in zip(gradients[0], other))


@pytest.mark.parametrize("name", MODELS)
def test_o5_equal_zetas_and_permuted_zetas(name):
    model, labels = built(name).train(), torch.arange(8) % 10
    zeta = pictures(8, 5)
    loss = lambda x: seeded(lambda: eiv_loss(model(x), labels)).item()
    assert loss(zeta[:, :1].expand(8, 5, 1, 28, 28)) == pytest.approx(loss(zeta[:, :1]), rel=1e-5)
    assert loss(zeta[:, [3, 1, 4, 0, 2]]) == pytest.approx(loss(zeta), rel=1e-5)
    model.eval()
    ours, permuted = predictive(model, zeta, 10), predictive(model, zeta[:, [3, 1, 4, 0, 2]], 10)
    assert torch.allclose(ours[:, :, [3, 1, 4, 0, 2]], permuted, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_logit_does_not_move_when_the_batch_is_halved(name):
    model, x = built(name), pictures(8, 4)
    with torch.no_grad():
        assert torch.allclose(model(x)[:4], model(x[:4]), atol=2e-6)
        assert torch.allclose(model(x)[:, 0], model(x[:, 0]), atol=2e-6)
    whole = predictive(model, x, 7)
    assert torch.allclose(whole[:4], predictive(model, x[:4], 7), atol=1e-6)
    for size in (1, 5, 1000): assert torch.allclose(whole, predictive(model, x, 7, size=size), atol=1e-6)


# predictions

class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, h):
        return h * self.mask


def plain_loop(model, x, draws, seed=0):
    "Draw after draw and zeta after zeta, each linear layer behind its mask."
    answers = []
    for theta in masks(model, draws, seed):
        each = iter(theta)
        head = [part for layer in model.head if not isinstance(layer, SharedDropout)
                for part in ([Masked(next(each)), layer] if isinstance(layer, nn.Linear) else [layer])]
        net = nn.Sequential(model.trunk, *head)
        with torch.no_grad(): answers.append(torch.stack([net(x[:, k]).softmax(-1) for k in range(x.shape[1])], 1))
    return torch.stack(answers, 1)


@pytest.mark.parametrize("name", MODELS)
def test_predictive_is_the_plain_loop(name):
    model, x = built(name), pictures(5, 3)
    ours, theirs = predictive(model, x, 12, seed=3), plain_loop(model, x, 12, seed=3)
    assert ours.shape == (5, 12, 3, 10) and ours.dtype == torch.float32 and ours.is_contiguous()
    assert (ours - theirs).abs().max() <= 1e-6 and torch.allclose(ours.sum(-1), torch.ones(5, 12, 3))
    mean = mean_predictive(model, x, 12, seed=3, size=4)
    assert mean.shape == (5, 10) and mean.dtype == torch.float32
    assert (mean - theirs.double().mean((1, 2))).abs().max() <= 1e-6
    assert sum(part.shape[0] for part in predictions(model, x, 12, 3, 4)) == 15


@pytest.mark.parametrize("name", MODELS)
def test_one_draw_is_dropout_off(name):
    model, x = built(name), pictures(5, 3)
    with torch.no_grad(): off = model(x).softmax(-1)
    assert torch.allclose(predictive(model, x, 1)[:, 0], off, atol=1e-6)
    assert torch.allclose(mean_predictive(model, x, 1), off.mean(1), atol=1e-6)
    two = predictive(model, x, 2)
    assert (two[:, 0] - two[:, 1]).abs().max() > 1e-4 or name == "ResNet-9"


def test_draws_belong_to_their_seed_and_number():
    model, x = built("perceptron"), pictures(2, 2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    many = predictive(model, x, 6)
    assert torch.get_rng_state().equal(before) # no global random number is drawn
    assert many[:, :3].equal(predictive(model, x, 3))
    assert not many[:, :3].allclose(predictive(model, x, 3, seed=1), atol=1e-4)
    assert not any(a.requires_grad for a in (many, mean_predictive(model, x, 2)))


def test_mode_is_set_back_and_nothing_is_moved():
    model = built("ResNet-9, dropout").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    predictive(model, pictures(2, 2), 3)
    assert model.training and all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_many_draws_agree_with_torchs_dropout():
    model, x = built("perceptron"), pictures(2, 1)
    peer = nn.Sequential(*[nn.Dropout(layer.p) if isinstance(layer, SharedDropout) else layer
                           for layer in model.head]).train()
    torch.manual_seed(0)
    with torch.no_grad(): passes = peer(model.features(x[:, 0]).expand(800, 2, 784)).softmax(-1)
    ours = predictive(model, x, 800)[:, :, 0]
    error = 5 * (passes.var(0) * 2 / 800).sqrt()
    assert ((ours.mean(1) - passes.mean(0)).abs() < error).all()
    assert torch.allclose(ours.std(1), passes.std(0), rtol=0.2)


def test_masks_of_layers_and_thinned_heads():
    head = nn.Sequential(SharedDropout(0.5), nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 100), SharedDropout(0.2),
                         nn.ReLU(), SharedDropout(0.5), nn.Linear(100, 3, bias=False))
    model = DropoutClassifier(nn.Flatten(), head)
    assert [kept for _, kept in linear_layers(head)] == pytest.approx([0.5, 1.0, 0.4])
    theta, h = masks(model, 4)[3], torch.randn(20, 300)
    assert [m.shape[0] for m in theta] == [300, 200, 100] and theta[1].eq(1).all()
    assert sorted(set(theta[2].tolist())) == pytest.approx([0, 2.5])
    with torch.no_grad():
        a = F.relu(F.linear(h * theta[0], head[1].weight, head[1].bias))
        b = F.linear(F.relu(F.linear(a, head[3].weight, head[3].bias)) * theta[2], head[7].weight)
    thin = Thinned(head, theta)
    assert torch.allclose(thin(h), b, atol=1e-6)
    assert ([tuple(layer.weight.shape) for layer in thin.layers if isinstance(layer, nn.Linear)]
            == [(200, int(theta[0].gt(0).sum())), (int(theta[2].gt(0).sum()), 200), (3, int(theta[2].gt(0).sum()))])


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_everything_dropped_leaves_the_biases():
    model = DropoutClassifier(nn.Flatten(), nn.Sequential(SharedDropout(0.99), nn.Linear(2, 3)))
    answers = predictive(model, torch.randn(4, 1, 1, 1, 2), 5)
    biases = model.head[1].bias.softmax(0)
    assert torch.allclose(answers, biases.expand_as(answers)) # of these five draws, none keeps a feature
    assert all(theta[0].eq(0).all() for theta in masks(model, 5))


# O6

class Probit(nn.Module):
    "One pixel z -> logits whose softmax is (Phi(3 z + 0.2), its complement)."
    def forward(self, z):
        u = 3 * z.flatten(1) + 0.2
        return torch.special.log_ndtr(torch.cat([u, -u], 1))


def probit(z):
    head = nn.Linear(2, 2).double()
    nn.init.eye_(head.weight), nn.init.zeros_(head.bias)
    return mean_predictive(DropoutClassifier(Probit(), nn.Sequential(head)), z.view(1, -1, 1, 1, 1), 1)[0, 0].item()


def test_o6_probit_predictive():
    mean, var = 0.322038, 0.101127
    z = mean + math.sqrt(var) * torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    assert probit(z) == pytest.approx(0.800592, abs=2e-6)
    assert probit(z.mean()) == pytest.approx(0.878216, abs=1e-6)
    assert probit(torch.tensor(0.5, dtype=torch.float64)) == pytest.approx(0.955435, abs=1e-6)
    torch.manual_seed(0)
    fifty = [probit(mean + math.sqrt(var) * torch.randn(50, dtype=torch.float64)) for _ in range(200)]
    scatter = torch.tensor(fifty)
    assert abs(scatter.mean() - 0.800592) < 4 * scatter.std() / math.sqrt(200)


# what is refused

@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_p_outside_its_range_is_refused(p):
    for make in (SharedDropout, lambda p: dropout_mlp(pixels=4, width=2, dropout=p),
                 lambda p: resnet9(channels=1, width=2, size=8, dropout=p)):
        with pytest.raises(ValueError, match=r"^p must be in \[0, 1\), got .*$"): make(p)


def test_what_does_not_fit_is_refused():
    model, x = built("perceptron"), pictures(2, 2)
    for call in (lambda d: masks(model, d), lambda d: predictive(model, x, d), lambda d: mean_predictive(model, x, d)):
        with pytest.raises(ValueError, match="^draws must be >= 1, got 0$"): call(0)
    with pytest.raises(ValueError, match="^size must be >= 1, got 0$"): predictive(model, x, 2, size=0)
    with pytest.raises(ValueError, match=r"^x: shape \(2, 1, 28, 28\) must be \(n, zeta, channel, height, width\)$"):
        predictive(model, x[:, 0], 2)
    with pytest.raises(ValueError, match=r"^x: shape \(28, 28\) must be \(batch, channel"): model(x[0, 0, 0])
    with pytest.raises(ValueError, match=r"^h: shape \(2, 2, 1, 28\) must be \(batch, feature\) or"):
        SharedDropout(0.5)(x[..., 0, :])
    with pytest.raises(ValueError, match="^head: layers must be SharedDropout, Linear or ReLU, got Dropout$"):
        DropoutClassifier(nn.Flatten(), nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)))
    for empty in ([], [nn.Linear(2, 2), SharedDropout(0.5)]):
        with pytest.raises(ValueError, match="^head: the last layer must be Linear$"):
            DropoutClassifier(nn.Flatten(), nn.Sequential(*empty))
