"Energies: sizes, gradients, chains against the closed form of a discretised parabola, kept states, training."
import math

import pytest
import torch
from torch import nn

from uncpaper.models.energy import (Energy, EnergyModel, Langevin, Store, calibrated, convolutional_energy,
                                    divide_by_norm, downhill, energy_convolutions, energy_perceptron)
from uncpaper.numerics import generator


def weights(network: nn.Module) -> int: return sum(p.numel() for p in network.parameters())


def test_released_sizes():
    assert weights(EnergyModel(784, stored=1)) == 233_985
    assert weights(convolutional_energy(3, 32, stored=1)) == 84_865
    assert weights(energy_perceptron((784, 256, 128))) == 233_985
    assert weights(energy_convolutions(3, 32)) == 84_865


@pytest.mark.parametrize("conditioning, sigma", [(None, None), ((), 0.3), ((8, 5), torch.tensor([0.0, 0.2, 0.4]))])
def test_the_score_is_the_slope_by_finite_differences(conditioning, sigma):
    torch.manual_seed(0)
    model = EnergyModel(3, (8, 6), conditioning, stored=4).double().eval()
    x = torch.randn(3, 3, dtype=torch.float64, generator=generator(0, "x"))
    h = 1e-5
    steps = h * torch.eye(3, dtype=torch.float64)
    slopes = [(model.log_prob(x + e, sigma) - model.log_prob(x - e, sigma)) / (2 * h) for e in steps]
    torch.testing.assert_close(model.score(x, sigma), torch.stack(slopes, 1), rtol=0, atol=1e-8)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("step", [0.02, 0.3, 0.8])
def test_a_calibrated_chain_has_the_variance_of_the_discretised_parabola(step):
    "x' = (1 - step h) x + sqrt(2 step) eps in each of two coordinates, with curvatures 1 and 2."
    h = torch.tensor([1.0, 2.0], dtype=torch.float64)
    chain = calibrated(step, steps=300, limits=(-50, 50))
    start = torch.zeros(20_000, 2, dtype=torch.float64)
    *_, x = downhill(lambda x: h * x, start, chain, generator(1, "chain"))
    exact = 2 * step / (1 - (1 - step * h) ** 2)
    torch.testing.assert_close(x.var(0) / exact, torch.ones(2, dtype=torch.float64), rtol=0, atol=0.05)
    torch.testing.assert_close(x.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=0.05)


def test_the_released_step_is_as_printed():
    "x <- clamp(x + 0.005 eps - 10 clip(gradient, 0.03), 0, 1)."
    x = torch.tensor([[0.5, 0.1, 0.99]])
    slope = torch.tensor([[0.01, 0.5, -0.5]])
    eps = torch.randn(1, 3, generator=generator(0, "eps"))
    expected = (x + 0.005 * eps - torch.tensor([[0.1, 0.3, -0.3]])).clamp(0, 1)
    first = next(downhill(lambda _: slope, x, Langevin(), generator(0, "eps")))
    torch.testing.assert_close(first, expected)
    assert len(list(downhill(lambda _: slope, x, Langevin()))) == 60
    assert Langevin().temperature == pytest.approx(0.005**2 / 20)
    assert calibrated(0.3).temperature == pytest.approx(1)


@pytest.mark.parametrize("given, said", [
    (dict(steps=0), "steps must be between 1"), (dict(step=-1.0), "step must be > 0, got -1.0"),
    (dict(noise=math.nan), "noise must be between 0"), (dict(limits=(1.0, 1.0)), "limits must be low and high"),
])
def test_settings_that_no_chain_can_have(given, said):
    with pytest.raises(ValueError, match=said): Langevin(**given)


def fitted(conditioning: tuple[int, ...] | None = None, steps: int = 250, **settings) -> EnergyModel:
    "Standard deviation 0.4 in two dimensions, with noise of up to 1 where sigma is told."
    torch.manual_seed(0)
    settings = dict(langevin=calibrated(0.02, 20, (-4, 4)), spectral=False, stored=512, penalty=0.01) | settings
    model = EnergyModel(2, (24, 24), conditioning, **settings)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        sigma = None if conditioning is None else torch.rand(128)
        x = 0.4 * torch.randn(128, 2) + (0 if sigma is None else sigma[:, None] * torch.randn(128, 2))
        optimiser.zero_grad()
        model.loss(x, sigma).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def plain() -> EnergyModel: return fitted()


@pytest.fixture(scope="module")
def told() -> EnergyModel: return fitted((16, 4), steps=400)


@torch.no_grad()
def log_normaliser(model: EnergyModel, sigma: float | None = None, points: int = 161) -> float:
    axis = torch.linspace(-4, 4, points)
    log_sum = model.log_prob(torch.cartesian_prod(axis, axis), sigma).logsumexp(0).item()
    return log_sum + 2 * math.log(8 / (points - 1))


@torch.no_grad()
def test_a_calibrated_energy_is_a_log_density_once_normalised(plain):
    log_z = log_normaliser(plain)
    assert log_z == pytest.approx(log_normaliser(plain, points=301), abs=0.02)   # so that exp(-E) / Z adds up to one
    x = 0.4 * torch.randn(4000, 2, generator=generator(1, "x"))
    entropy = math.log(2 * math.pi * math.e * 0.16)
    cross = -(plain.log_prob(x) - log_z).mean().item()
    assert entropy - 0.05 < cross < entropy + 0.15                                 # uniform: 4.16, entropy: 1.01
    far = torch.tensor([[2.0, 0], [0, -2], [1.5, 1.5]])
    assert plain.log_prob(torch.zeros(1, 2)) - plain.log_prob(far).max() > 3       # 12.5 in truth


def test_samples_of_a_calibrated_energy_have_the_spread_of_data(plain):
    x = plain.sample(2000, generator=generator(0, "draw"))
    torch.testing.assert_close(x.std(0), torch.full((2,), 0.4), rtol=0, atol=0.12)


@torch.no_grad()
def test_an_energy_that_is_told_sigma_widens_with_it(told):
    cross, axis = {}, torch.linspace(-4, 4, 161)
    for sigma in (0.1, 0.9):
        x = (0.16 + sigma**2) ** 0.5 * torch.randn(4000, 2, generator=generator(2, "x"))
        cross[sigma] = -(told.log_prob(x, sigma).mean() - log_normaliser(told, sigma)).item()
        entropy = math.log(2 * math.pi * math.e * (0.16 + sigma**2))
        assert entropy - 0.1 < cross[sigma] < entropy + 0.35
    assert cross[0.9] > cross[0.1] + 0.5


def test_the_store_keeps_noise_levels_apart(told):
    assert not told.store.sigma.isnan().any() and told.store.states.isfinite().all()
    calm, noisy = (told.store.draw(2000, torch.full((2000,), sigma), generator(0, "store")) for sigma in (0.0, 1.0))
    assert noisy.std() > calm.std() + 0.2    # in truth 1.08 and 0.4
    levels = torch.linspace(0, 1, 512)
    store = Store(torch.zeros(512, 1), conditional=True)
    store.keep(levels[:, None], levels)
    asked = torch.rand(1000, generator=generator(0, "asked"))
    assert (store.draw(1000, asked, generator(1, "asked"))[:, 0] - asked).abs().mean() < 0.03


def test_the_oldest_states_make_room():
    store = Store(torch.full((5, 1), -1.0), conditional=False)
    for first in (0, 3): store.keep(torch.arange(first, first + 3)[:, None].float())
    assert sorted(store.states[:, 0].tolist()) == [1, 2, 3, 4, 5] and store.oldest == 6


def test_a_reloaded_model_samples_from_the_chains_it_was_saved_with(plain):
    "In the released code it began at uniform noise again."
    other = EnergyModel(2, (24, 24), langevin=plain.langevin, spectral=False, stored=512).eval()
    other.load_state_dict(plain.state_dict())
    drawn = [model.sample(50, generator=generator(3, "draw")) for model in (plain, other)]
    assert torch.equal(*drawn)
    assert plain.store.states.std() < 1.2    # uniform within the limits: 2.31


def test_chains_repeat_with_their_generator_and_leave_torchs_state_and_the_model_alone(plain):
    before = plain.store.states.clone()
    state = torch.get_rng_state()
    chains = [torch.stack(list(plain.chain(7, generator=generator(5, "chain"), fresh=0.5))) for _ in range(2)]
    assert torch.equal(*chains) and chains[0].shape == (20, 7, 2)
    assert torch.equal(plain.sample(7, generator=generator(6, "c")), plain.sample(7, generator=generator(6, "c")))
    assert not torch.equal(plain.sample(7, generator=generator(6, "c")), plain.sample(7, generator=generator(7, "c")))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(plain.store.states, before)


def test_the_loss_is_as_printed_and_keeps_chains_in_training_only():
    torch.manual_seed(0)
    model = EnergyModel(2, (8,), langevin=Langevin(steps=2), spectral=False, stored=16, fresh=0.0)
    x = torch.rand(4, 2, generator=generator(0, "x"))
    torch.manual_seed(1)
    loss = model.loss(x)
    low, high = -model.log_prob(x), -model.log_prob(model.store.states[:4])   # the chains' ends have replaced these
    torch.testing.assert_close(loss, (low - high).mean() + (low**2 + high**2).mean())
    kept = model.eval().store.states.clone()
    model.loss(x)
    assert torch.equal(kept, model.store.states) and model.store.oldest == 4


def test_weights_are_divided_by_their_largest_singular_value():
    torch.manual_seed(0)
    network = divide_by_norm(energy_perceptron((20, 16, 8)))
    for _ in range(100): network(torch.zeros(1, 20))
    norms = torch.stack([torch.linalg.matrix_norm(layer.weight, 2) for layer in network.eval()[::2]])
    torch.testing.assert_close(norms, torch.ones(3), rtol=0, atol=1e-3)
    model = Energy(20, network=network, spectral=False)
    x = 5 * torch.randn(500, 20, generator=generator(0, "x"))
    assert model.score(x).norm(dim=1).max() <= 1.0998**2 + 1e-3


def test_pictures_that_are_told_sigma_read_it_as_a_channel():
    torch.manual_seed(0)
    model = convolutional_energy(2, 10, (4, 100), stored=4).eval()
    x = torch.rand(3, 200, generator=generator(0, "x"))
    told = model.conditioner(torch.full((3,), 0.3)).view(3, 1, 10, 10)
    seen = torch.cat((x.view(3, 2, 10, 10), told), 1)
    torch.testing.assert_close(model.log_prob(x, 0.3), -model.network[1:](seen)[:, 0])
    with pytest.raises(ValueError, match="conditioning must end in 100, the pixels of a channel, got"):
        convolutional_energy(2, 10, (4, 99))
    with pytest.raises(ValueError, match="size must be at least 9, got 8"): convolutional_energy(2, 8)
