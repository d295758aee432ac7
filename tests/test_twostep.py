"Two steps: volumes and densities against closed forms of planes, circles, ellipses and spheres."
import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, VonMises

from uncpaper.models.generative import Generative
from uncpaper.models.twostep import TwoStep, log_volume
from uncpaper.numerics import generator


class Law(Generative):
    "A law of torch's."
    density = "exact"

    def __init__(self, dimension, law, conditioning=None):
        super().__init__(dimension, conditioning)
        self.law, self.shift = law, nn.Parameter(torch.zeros(dimension).double())

    def log_prob(self, x, sigma=None):
        told = self.told(len(x), sigma)
        return self.law.log_prob(x - self.shift).view(len(x)) - (0 if told is None else told)

    @torch.no_grad()
    def sample(self, n, sigma=None, generator=None):
        return self.shift + torch.randn(n, self.dimension, generator=generator).double()


class Plane(nn.Module):
    def __init__(self, W, b):
        super().__init__()
        self.W, self.b = nn.Parameter(W), nn.Parameter(b)

    def encode(self, x): return (x - self.b) @ torch.linalg.pinv(self.W).T
    def decode(self, z): return z @ self.W.T + self.b


class Ellipse(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b

    def encode(self, x): return torch.atan2(x[:, 1:] / self.b, x[:, :1] / self.a)
    def decode(self, z): return torch.cat((self.a * z.cos(), self.b * z.sin()), 1)


W = torch.tensor([[1.0, 0.5], [0, 2], [1, -1], [0.3, 0]]).double()
B = torch.tensor([0.1, -0.2, 0.3, 0]).double()
COVARIANCE = torch.tensor([[1.0, 0.4], [0.4, 0.5]]).double()


def plane(conditioning=None) -> TwoStep:
    law = MultivariateNormal(torch.tensor([0.5, -1.0]).double(), COVARIANCE)
    return TwoStep(4, Plane(W.clone(), B.clone()), Law(2, law, conditioning)).double()


def test_a_linear_decoder_of_gaussian_codes_is_a_gaussian_in_its_plane():
    model, Q = plane(), torch.linalg.qr(W).Q
    x = torch.randn(20, 4, generator=generator(0, "x")).double()   # not on the plane: brought to it
    closed = MultivariateNormal(Q.T @ W @ model.law.law.loc, Q.T @ W @ COVARIANCE @ W.T @ Q).log_prob((x - B) @ Q)
    torch.testing.assert_close(model.log_prob(x), closed)


def test_whitening_is_part_of_the_volume():
    "Codes in another unit, whitened: the same density of data where the law is standard normal."
    x = MultivariateNormal(torch.zeros(2).double(), COVARIANCE).sample((4000,)) @ W.T + B
    standard = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    found = []
    for unit in (1.0, 100.0):
        model = TwoStep(4, Plane(W * unit, B.clone()), Law(2, standard)).double()
        model.codes.measure(x)
        torch.testing.assert_close(model.codes.encode(x).mean(0), torch.zeros(2).double(), rtol=0, atol=1e-9)
        torch.testing.assert_close(model.codes.encode(x).std(0), torch.ones(2).double())
        found.append(model.log_prob(x))
    torch.testing.assert_close(*found)
    z = model.codes.autoencoder.encode(x)
    closed = standard.log_prob((z - z.mean(0)) / z.std(0)) - z.std(0).log().sum() - torch.linalg.slogdet(
        model.codes.autoencoder.W.T @ model.codes.autoencoder.W).logabsdet / 2
    torch.testing.assert_close(found[1], closed)


@pytest.mark.parametrize("radius", [1.0, 2.5])
def test_a_circle_has_the_density_of_arc_length(radius):
    law = VonMises(torch.tensor(0.3).double(), torch.tensor(1.5).double())
    model = TwoStep(2, Ellipse(radius, radius), Law(1, law)).double()
    t = torch.linspace(-3, 3, 50, dtype=torch.float64)[:, None]
    x = model.codes.decode(t)
    torch.testing.assert_close(model.log_prob(x), law.log_prob(t[:, 0]) - math.log(radius))
    torch.testing.assert_close(model.log_prob(1.7 * x), model.log_prob(x))   # brought back along the ray


def test_the_density_on_an_ellipse_adds_up_to_one_along_it():
    law = VonMises(torch.tensor(0.3).double(), torch.tensor(1.5).double())
    model = TwoStep(2, Ellipse(2.0, 0.5), Law(1, law)).double()
    t = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:, None]
    x = model.codes.decode(t)
    lengths, middle = (x[1:] - x[:-1]).norm(dim=1), model.codes.decode((t[1:] + t[:-1]) / 2)
    assert (model.log_prob(middle).exp() * lengths).sum().item() == pytest.approx(1, abs=1e-6)


def test_the_volume_of_a_nonlinear_decoder_is_that_of_its_jacobian_by_finite_differences():
    torch.manual_seed(0)
    decode = nn.Sequential(nn.Linear(2, 9), nn.Tanh(), nn.Linear(9, 5)).double()
    z = torch.randn(300, 2, generator=generator(0, "z")).double()   # more than one part of the pass
    steps = 1e-6 * torch.eye(2, dtype=torch.float64)
    J = torch.stack([(decode(z + e) - decode(z - e)) / 2e-6 for e in steps], -1)
    torch.testing.assert_close(log_volume(decode, z), torch.linalg.svdvals(J).log().sum(1), rtol=0, atol=1e-7)


def test_the_score_is_the_slope_and_points_along_the_surface():
    law = VonMises(torch.tensor(0.3).double(), torch.tensor(1.5).double())
    model = TwoStep(2, Ellipse(2.0, 0.5), Law(1, law)).double()
    x = torch.tensor([[1.0, 0.4], [-0.5, 0.3]]).double()
    steps = 1e-5 * torch.eye(2, dtype=torch.float64)
    slopes = [(model.log_prob(x + e) - model.log_prob(x - e)) / 2e-5 for e in steps]
    torch.testing.assert_close(model.score(x), torch.stack(slopes, 1).detach(), rtol=0, atol=1e-7)
    normal = torch.linalg.svd(W.T).Vh[2:]
    flat = plane()
    points = torch.randn(5, 4, generator=generator(1, "x")).double()
    torch.testing.assert_close(flat.score(points) @ normal.T, torch.zeros(5, 2).double(), rtol=0, atol=1e-9)


def test_training_moves_the_law_alone():
    model = plane()
    x = torch.randn(50, 4, generator=generator(0, "x")).double()
    loss = model.loss(x)
    torch.testing.assert_close(loss, -model.law.log_prob(model.codes.encode(x)).mean())
    loss.backward()
    assert model.law.shift.grad.norm() > 0 and all(p.grad is None for p in model.codes.autoencoder.parameters())


def test_samples_are_decoded_codes_and_sigma_is_told_to_the_law():
    model = plane(conditioning=())
    x = model.sample(7, 0.2, generator(0, "draw"))
    codes = model.law.sample(7, 0.2, generator(0, "draw"))
    torch.testing.assert_close(x, codes @ W.T + B)
    torch.testing.assert_close(model.log_prob(x, 0.0) - model.log_prob(x, 0.2), torch.full((7,), 0.2).double())
    with pytest.raises(ValueError, match="sigma must be given"): model.log_prob(x)
    with pytest.raises(ValueError, match="sigma must be None"): plane().log_prob(x, 0.2)


def test_whitening_is_saved_with_the_weights():
    model, other = plane(), plane()
    x = torch.randn(50, 4, generator=generator(0, "x")).double()
    model.codes.measure(x)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.log_prob(x), model.log_prob(x), rtol=0, atol=0)
    assert (other.codes.std != 1).all()


def test_tweedies_step_is_refused():
    with pytest.raises(NotImplementedError, match="denoise needs a density in all dimensions"):
        plane().denoise(torch.zeros(1, 4).double(), 0.1)
