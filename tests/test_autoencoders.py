"Autoencoders with and without a critic: their losses against closed forms, and that each learns what it says."
import copy

import pytest
import torch
from torch.distributions import Normal
from torch.nn import functional as F

from uncpaper.models.autoencoders import AVB, WAE, Autoencoder, BiGAN, alternate, gradient_penalty, told_apart
from uncpaper.models.vae import Convolutions, log_normal
from uncpaper.numerics import generator

ALONG = torch.linspace(-1.5, 1.5, 256)[:, None]
CURVE = torch.cat([ALONG, (1.5 * ALONG).sin()], 1)


def off(x: torch.Tensor) -> float:
    "Root mean square distance to the curve."
    return torch.cdist(x, CURVE).min(1).values.square().mean().sqrt().item()


def train(model, data, rounds, critics=1, rate=2e-3, batch=64):
    random = generator(0, "batches")
    def some(): return data[torch.randint(len(data), (batch,), generator=random)],
    pair = torch.optim.Adam([*model.encoder.parameters(), *model.decoder.parameters()], rate, betas=(0.5, 0.9))
    critic = torch.optim.Adam(model.critic.parameters(), rate, betas=(0.5, 0.9))
    for _ in range(rounds): losses = alternate(model, [some() for _ in range(critics)], critic, pair)
    return losses


@pytest.mark.parametrize("model, count", [
    (lambda: Autoencoder(784), 412_964), (lambda: Autoencoder(3072, hidden=Convolutions(3, 32)), 412_039),
    (lambda: WAE(784, hidden=Convolutions(1, 28, (64, 64, 32, 32))), 726_774),
    (lambda: WAE(3072, hidden=Convolutions(3, 32, (64, 64, 32, 32))), 959_992),
    (lambda: BiGAN(784), 685_093), (lambda: BiGAN(3072, hidden=Convolutions(3, 32)), 1_269_896),
    (lambda: AVB(784, noise=128), 718_118), (lambda: AVB(784), 750_886),
    (lambda: AVB(3072, hidden=Convolutions(3, 32)), 1_276_330)])
def test_published_sizes(model, count):
    assert sum(p.numel() for p in model().parameters()) == count


# losses

def test_squared_error_is_a_sum_over_numbers_and_a_mean_over_the_batch():
    model, x = Autoencoder(3, 2, (5,)), torch.randn(4, 3)
    again = model.decode(model.encode(x))
    assert model.loss(x).item() == pytest.approx(F.mse_loss(again, x).item() * 3, rel=1e-6)


def test_the_critic_s_loss_is_binary_cross_entropy():
    first, second = torch.randn(5, 1), torch.randn(5, 1)
    expected = (F.binary_cross_entropy_with_logits(first, torch.ones(5, 1))
                + F.binary_cross_entropy_with_logits(second, torch.zeros(5, 1)))
    assert told_apart(first, second).item() == pytest.approx(expected.item(), rel=1e-6)


def test_what_the_wasserstein_autoencoder_adds_to_squared_error():
    torch.manual_seed(0)
    model, x = WAE(3, 2, (5,), weight=7.0), torch.randn(4, 3)
    wrong = F.binary_cross_entropy_with_logits(model.critic(model.encode(x)), torch.zeros(4, 1))
    assert model.loss(x).item() == pytest.approx(Autoencoder.loss(model, x).item() + 7 * wrong.item(), rel=1e-6)
    torch.manual_seed(1)
    loss = model.critic_loss(x)
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    assert loss.item() == pytest.approx(told_apart(model.critic(model.encode(x)), model.critic(z)).item(), rel=1e-6)


def test_the_penalty_of_a_quadratic_critic():
    "f(u) = |u|^2 / 2 has the slope |u|: with both ends at one place the penalty is (|u| - 1)^2."
    ends = torch.tensor([[3.0, 4.0], [0.6, 0.8]])
    assert gradient_penalty(lambda u: (u**2).sum(1, keepdim=True) / 2, ends, ends).item() == pytest.approx(8, rel=1e-6)
    steep = torch.nn.Parameter(torch.tensor(2.0))
    gradient_penalty(lambda u: steep * u[:, :1], ends, ends).backward()
    assert steep.grad.item() == pytest.approx(2 * (2 - 1), rel=1e-6) # it can be trained by


def test_bigan_s_losses_for_a_linear_critic():
    torch.manual_seed(0)
    model, x = BiGAN(3, 2, (5,)), torch.randn(4, 3)
    model.critic, model.reconstruction = torch.nn.Linear(5, 1), 0.5
    torch.manual_seed(1)
    critic_loss = model.critic_loss(x)
    z = 2 * torch.rand(4, 2, generator=torch.Generator().manual_seed(1)) - 1
    data, drawn = torch.cat([x, model.encode(x)], 1), torch.cat([model.decode(z), z], 1)
    distance = model.critic(data).mean() - model.critic(drawn).mean()
    slope = model.critic.weight.norm()
    assert critic_loss.item() == pytest.approx((10 * (slope - 1) ** 2 - distance).item(), rel=1e-5)
    torch.manual_seed(1)
    assert model.loss(x).item() == pytest.approx((distance + 0.5 * Autoencoder.loss(model, x)).item(), rel=1e-5)


@pytest.mark.parametrize("model", [lambda: WAE(3, 2, (5,)), lambda: BiGAN(3, 2, (5,)),
                                   lambda: AVB(3, 2, (5,), noise=4)])
def test_a_critic_learns_without_moving_the_pair_and_the_pair_without_moving_the_critic(model):
    torch.manual_seed(0)
    model, x = model(), torch.randn(8, 3)
    model.critic_loss(x).backward()
    assert all(p.grad is None for part in (model.encoder, model.decoder) for p in part.parameters())
    assert all(p.grad is not None for p in model.critic.parameters())
    before = copy.deepcopy(model.state_dict())
    pair = torch.optim.SGD([*model.encoder.parameters(), *model.decoder.parameters()], 0.1)
    alternate(model, [(x,)], torch.optim.SGD(model.critic.parameters(), 0.0), pair)
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert moved == {"encoder", "decoder"}


def test_a_round_is_a_step_of_the_critic_a_batch_and_one_of_the_pair_on_the_last():
    asked = []
    class Recorded(WAE):
        def critic_loss(self, x): return asked.append(("critic", x[0, 0].item())) or super().critic_loss(x)
        def loss(self, x): return asked.append(("pair", x[0, 0].item())) or super().loss(x)
    model = Recorded(2, 1, (3,))
    optimisers = [torch.optim.SGD(model.parameters(), 0.0) for _ in range(2)]
    alternate(model, [(torch.full((4, 2), 1.0),), (torch.full((4, 2), 2.0),)], *optimisers)
    assert asked == [("critic", 1), ("critic", 2), ("pair", 2)]


# adversarial variational Bayes

def gaussian() -> AVB:
    "x = .8 z + .6 eps, and an encoder that proposes from the posterior N(.8 x, .36)."
    model = AVB(1, 1, (), noise=1).double()
    with torch.no_grad():
        model.encoder.layers[0].weight.copy_(torch.tensor([[0.8, 0.2]], dtype=torch.float64))
        model.decoder.layers[0].weight.copy_(torch.tensor([[0.8], [0.0]], dtype=torch.float64))
        model.encoder.layers[0].bias.zero_()
        model.decoder.layers[0].bias.copy_(torch.tensor([0, 0.6], dtype=torch.float64).log().nan_to_num(neginf=0))
    return model


class Perfect(torch.nn.Module):
    "log q(z|x) - log p(z) of that model."
    def forward(self, both, sigma=None):
        x, z = both[..., :1], both[..., 1:]
        return Normal(0.8 * x, 0.6).log_prob(z) - Normal(0.0, 1.0).log_prob(z)


def test_with_the_best_critic_every_draw_is_the_density():
    model, x = gaussian(), torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
    model.critic = Perfect()
    expected = Normal(0.0, 1.0).log_prob(x[:, 0])
    for draws in (1, 7):
        assert torch.allclose(model.log_prob(x, draws=draws, generator=generator(0)), expected, atol=1e-12)
    for by in ("iwae", "elbo"): assert torch.allclose(model.score(x, by=by, generator=generator(0)), -x, atol=1e-12)
    fisher = model.score(x, by="fisher", draws=100_000, generator=generator(0))
    assert torch.allclose(fisher, -x, atol=0.03)
    assert torch.allclose(model.denoise(x, 0.6, generator=generator(0)), 0.64 * x, atol=1e-12)


def test_the_critic_learns_the_ratio():
    torch.manual_seed(0)
    model, adam = gaussian(), None
    points = torch.cartesian_prod(*2 * [torch.linspace(-1, 1, 9, dtype=torch.float64)])
    def missed(): return (model.critic(points) - Perfect()(points)).square().mean().sqrt().item()
    before, adam = missed(), torch.optim.Adam(model.critic.parameters(), 3e-3)
    for _ in range(200):
        adam.zero_grad()
        model.critic_loss(torch.randn(512, 1, dtype=torch.float64)).backward()
        adam.step()
    assert missed() < 0.25 < 0.6 < before


def test_deaf_to_sigma_a_conditional_model_is_the_vanilla_one():
    torch.manual_seed(0)
    options = {"latent": 2, "hidden": (8,), "noise": 3}
    told, plain = AVB(4, conditioning=((5, 3), (5, 2), ()), **options), AVB(4, **options)
    with torch.no_grad():
        for name in ("encoder", "decoder", "critic"):
            ours, theirs = getattr(told, name).layers, getattr(plain, name).layers
            width = theirs[0].in_features
            ours[0].weight[:, width:] = 0
            theirs.load_state_dict({k: v[:, :width] if k == "0.weight" else v for k, v in ours.state_dict().items()})
    x = torch.randn(5, 4)
    assert torch.allclose(told.log_prob(x, 0.3, 4, generator(1)), plain.log_prob(x, None, 4, generator(1)), atol=1e-5)
    torch.manual_seed(1)
    loss = told.critic_loss(x, 0.3)
    torch.manual_seed(1)
    assert loss.item() == pytest.approx(plain.critic_loss(x).item(), rel=1e-5)


def test_convolutions_take_the_noise_before_their_last_layer():
    torch.manual_seed(0)
    model = AVB(50, 2, Convolutions(2, 5, (3,)), ((4, 25), (4, 2), (4, 2)), noise=3)
    x, noise, sigma = torch.rand(4, 50), torch.randn(6, 4, 3), torch.full((4,), 0.1)
    z, surplus = model.propose(x, noise, 0.1)
    alone = model.encoder(torch.cat([x, 3 * noise[2]], 1), sigma)
    assert torch.allclose(z[2], alone, atol=1e-6)
    assert torch.allclose(surplus[2], model.critic(torch.cat([x, alone], 1), sigma)[:, 0], atol=1e-6)


# learning

def test_an_autoencoder_of_digits_beats_the_mean_picture():
    from sklearn.datasets import load_digits
    x = torch.tensor(load_digits().data[:600] / 16, dtype=torch.float32)
    torch.manual_seed(0)
    model = Autoencoder(64, 8, (64,))
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        adam.zero_grad()
        model.loss(x).backward()
        adam.step()
    spread = (x - x.mean(0)).square().sum(1).mean().item()
    assert model.loss(x).item() < 0.4 * spread


def test_a_wasserstein_autoencoder_s_latents_become_normal_and_its_samples_lie_on_the_curve():
    torch.manual_seed(0)
    model = WAE(2, 1, (64,), weight=0.1)
    before = off(model.sample(256, generator=generator(2)))
    train(model, CURVE, 400)
    with torch.no_grad(): z = model.encode(CURVE)
    drawn = model.sample(256, generator=generator(2))
    assert abs(z.mean().item()) < 0.25 and z.std().item() == pytest.approx(1, abs=0.2)
    assert off(drawn) < 0.15 and off(drawn) < before / 2
    assert drawn.std(0).tolist() == pytest.approx(CURVE.std(0).tolist(), abs=0.25)


def test_bigan_draws_near_the_data_and_undoes_its_encoder():
    def energy_distance(x):
        return (2 * torch.cdist(x, CURVE).mean() - torch.cdist(x, x).mean() - torch.cdist(CURVE, CURVE).mean()).item()
    torch.manual_seed(0)
    model = BiGAN(2, 1, (64,))
    def measured():
        return energy_distance(model.sample(256, generator=generator(3))), Autoencoder.loss(model, CURVE).item()
    before = measured()
    train(model, CURVE, 250, critics=2, rate=1e-3)
    after = measured()
    assert after[0] < before[0] / 8 and after[1] < before[1] / 5, (before, after)


def test_avb_brings_the_density_up():
    torch.manual_seed(0)
    model, x = AVB(2, 1, (64,), noise=4), CURVE + 0.1 * torch.randn(256, 2, generator=generator(4))
    z = torch.linspace(-7, 7, 501)[:, None]
    @torch.no_grad()
    def density():
        mean, log_std = model.decode(z)
        joint = log_normal(x[:, None], mean, log_std) + Normal(0.0, 1.0).log_prob(z[:, 0])
        return (joint.logsumexp(1) + (z[1] - z[0]).log()).mean().item()
    before = density()
    train(model, x, 250)
    assert density() > before + 0.7


# refusals

@pytest.mark.parametrize("call, error, message", [
    (lambda: Autoencoder(2, 1).sample(3), NotImplementedError, "^sample needs a law of z"),
    (lambda: Autoencoder(2, 1).log_prob(CURVE), NotImplementedError, "^log_prob needs a density"),
    (lambda: WAE(2, 1).score(CURVE), NotImplementedError, "^log_prob needs a density"),
    (lambda: BiGAN(2, 1).denoise(CURVE, 0.1), NotImplementedError, "^log_prob needs a density"),
    (lambda: WAE(2, 1).loss(CURVE, 0.1), ValueError, "^sigma must be None"),
    (lambda: BiGAN(2, 1).sample(3, 0.1), ValueError, "^sigma must be None"),
    (lambda: BiGAN(2, 1).critic_loss(CURVE, 0.1), ValueError, "^sigma must be None"),
    (lambda: AVB(2, 1, conditioning=((4,), (4,))), ValueError, "networks in conditioning must be one of 3; got 2"),
    (lambda: AVB(2, 1, conditioning=((4,),) * 3).loss(CURVE), ValueError, "^sigma must be given"),
    (lambda: WAE(784, hidden=Convolutions(3, 32)), ValueError, "^dimension must be one of 3072; got 784")])
def test_what_cannot_be_done_is_said(call, error, message):
    with pytest.raises(error, match=message): call()


def test_samples_are_decided_by_the_generator():
    for model in (WAE(3, 2, (4,)), BiGAN(3, 2, (4,)), AVB(3, 2, (4,), noise=2)):
        a, b = (model.sample(5, generator=generator(5)) for _ in range(2))
        assert torch.equal(a, b) and not torch.equal(a, model.sample(5, generator=generator(6)))
    assert BiGAN(3, 2).prior(2000, generator(7)).aminmax()[1].item() == pytest.approx(1, abs=0.01)
