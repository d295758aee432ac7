"Points of known sets: with a model that is the truth, every measurement has to find nothing wrong."
import math

import pytest
import torch

from uncpaper.generation import DrawnNoise, FixedNoise
from uncpaper.manifolds import Circle, SineCurve
from uncpaper.models.generative import Generative, denoised_variance, noise_ceiling
from uncpaper.numerics import generator
from uncpaper.papers.dgm import Drawing, Points, TrainGenerator
from uncpaper.papers.dgm.points import (STEPS, Corrections, Directions, Likelihood, Steps, Variances, law_where_seen,
                                        placed_for, point_generator_for, points_for, stepped, steps_for,
                                        with_shrinking_noise)
from uncpaper.preprocessing import Preprocessing, fitted

SMALL = dict(points=500, point_layers=1, point_hidden=8, point_steps=1, point_lr=1e-3, point_batch=64,
             point_vae_hidden=8, point_vae_steps=1, point_vae_lr=1e-3, samples=3000, draws=3)


class Truth(Generative):
    "The law of noisy points, as if it had been learned."
    density = "exact"

    def __init__(self, law, clean):
        super().__init__(clean.shape[1])
        self.law, self.clean = law, clean

    def log_prob(self, x, sigma=None): return self.law.log_prob(x.double())

    def sample(self, n, sigma=None, generator=None):
        rows = torch.randint(len(self.clean), (n,), generator=generator)
        return self.clean[rows] + self.law.sigma * torch.randn(n, self.dimension, generator=generator)


class Normal(Generative):
    "Independent normal numbers."
    density = "exact"

    def __init__(self, variances):
        super().__init__(len(variances))
        self.std = variances.sqrt()

    def log_prob(self, x, sigma=None): return -((x / self.std) ** 2).sum(1) / 2

    def sample(self, n, sigma=None, generator=None):
        return self.std * torch.randn(n, self.dimension, generator=generator)


def trained(task: str, sigma: float) -> TrainGenerator:
    return point_generator_for(SMALL, points_for(SMALL, task, 3), "NF", FixedNoise(sigma), 3)


@pytest.fixture
def learned(monkeypatch):
    "Every model of points is the truth."
    def load(self):
        known, T = (SineCurve if self.source.name == "curve" else Circle)(), self.preprocessing()
        clean = T.apply(known.sample(20_000, generator(0, "test")).float()).values
        return Truth(law_where_seen(known, T, self.noise.sigma), clean)
    monkeypatch.setattr(TrainGenerator, "load", load)


@pytest.mark.parametrize("task", ["curve", "circle"])
def test_the_law_where_a_model_sees_it_is_a_density_and_its_score_a_gradient(task):
    known = SineCurve() if task == "curve" else Circle()
    T = fitted(known.sample(500, generator(0, "test")), "whiten")
    law = law_where_seen(known, T, 0.3)
    edge = torch.linspace(-7, 7, 225).double()
    density = law.log_prob(torch.cartesian_prod(edge, edge)).exp().view(225, 225)
    assert torch.trapezoid(torch.trapezoid(density, edge), edge).item() == pytest.approx(1, abs=1e-4)
    at = torch.randn(30, 2, dtype=torch.float64, generator=generator(1, "test")).requires_grad_()
    slope, = torch.autograd.grad(law.log_prob(at).sum(), at)
    torch.testing.assert_close(law.score(at.detach()), slope, atol=1e-9, rtol=1e-9)


def test_the_law_is_the_circles_where_preparation_keeps_its_shape():
    shift, scale = torch.tensor([0.3, -0.2]).double(), torch.full((2,), 0.5, dtype=torch.float64)
    law = law_where_seen(Circle(), Preprocessing((2,), shift, scale, (-1, 1)), 0.1)
    z = torch.randn(100, 2, dtype=torch.float64, generator=generator(2, "test"))
    closed = Circle().noisy(0.05)
    torch.testing.assert_close(law.log_prob(z), closed.log_prob(0.5 * z + shift) + 2 * math.log(0.5), atol=1e-8, rtol=0)


@pytest.mark.parametrize("task", ["curve", "circle"])
def test_a_model_that_is_the_truth_takes_the_true_step(learned, task):
    stage = Steps(trained(task, 0.1), 3000)
    built = stage.build(None)
    found = built["numbers"].set_index(["from", "step"])
    for origin in ("truth", "model"):
        right, exact = built["points"][f"{origin}, model"], built["points"][f"{origin}, exact"]
        torch.testing.assert_close(right, exact, atol=1e-4, rtol=0)
        assert found.off[origin, "released"] > 3 * found.off[origin, "exact"]
    for step in STEPS: assert found.off["truth", step] == pytest.approx(found.off["model", step], rel=0.06)
    assert found["size"]["truth", "exact"] == pytest.approx(math.sqrt(2 / math.pi), rel=0.05)


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_the_correction_is_as_long_as_the_noise_across_the_curve(learned, sigma):
    lengths = Corrections(trained("curve", sigma), 3000).build(None)["right"]
    assert lengths.square().mean().sqrt().item() == pytest.approx(1, rel=0.04) # sqrt(D - d) = 1


def test_the_truth_is_as_likely_as_it_can_be_and_below_the_ceiling(learned):
    numbers = Likelihood(trained("circle", 0.2)).build(None)["numbers"]
    assert numbers["noisy"] == pytest.approx(numbers["true"], abs=1e-6)
    assert numbers["true"] < numbers["ceiling"] == noise_ceiling(0.2)


def test_what_is_not_known_is_not_said():
    told = point_generator_for(SMALL, points_for(SMALL, "circle", 0), "NF", DrawnNoise(0.5), 0)
    sphere = point_generator_for(SMALL, points_for(SMALL, "sphere", 0), "NF", FixedNoise(0.5), 0)
    clean = point_generator_for(SMALL, points_for(SMALL, "circle", 0), "NF", FixedNoise(0.0), 0)
    assert [Likelihood(t).true(torch.zeros(3, 2)) for t in (told, sphere, clean)] == [None] * 3
    assert Likelihood(clean).ceiling is None and Likelihood(told).ceiling == noise_ceiling(0.5, drawn=True)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_variances_after_a_step_are_those_of_the_formula(monkeypatch, share):
    variances = torch.tensor([1.0, 0.25, 0.0])
    monkeypatch.setattr(TrainGenerator, "load", lambda self: Normal(variances + 0.25))
    source = Directions(tuple(variances.tolist()), 100, 10, 10, 0)
    drawing = Drawing(point_generator_for(SMALL, source, "NF", FixedNoise(0.5), 0), 40_000, "tweedie", share=share)
    found = Variances(drawing).build(None)["variances"]
    torch.testing.assert_close(found.double(), denoised_variance(variances, 0.5, share), atol=0.003, rtol=0.02)


def test_no_step_is_none_and_a_step_is_the_methods(learned):
    model = trained("circle", 0.2)
    z = torch.randn(50, 2, generator=generator(4, "test"))
    assert stepped(Drawing(model, 1), z) is z
    half = stepped(Drawing(model, 1, "tweedie", share=0.5), z) - z
    torch.testing.assert_close(2 * half, stepped(Drawing(model, 1, "tweedie"), z) - z, atol=1e-5, rtol=1e-4)


def test_runs_have_points_of_their_own_and_rows_share_what_is_trained():
    plan = {(row, seed): placed_for(SMALL, "curve", "NF", row, 0.1, seed)
            for row in ("ND", "TD", "CD") for seed in (0, 1)}
    assert plan["ND", 0].drawing.trained.key == plan["TD", 0].drawing.trained.key
    assert steps_for(SMALL, "curve", "NF", 0.1, 0).trained.key == plan["ND", 0].drawing.trained.key
    assert plan["ND", 0].drawing.trained.source == Points("curve", 500, 250, 500, 0)
    assert len({stage.drawing.trained.key for stage in plan.values()}) == 4
    shrunk = with_shrinking_noise(plan["CD", 0], 1.0)
    assert shrunk.drawing.trained.noise == DrawnNoise(0.1, 1.0) and shrunk.key != plan["CD", 0].key
    assert with_shrinking_noise(shrunk, None).key == plan["CD", 0].key


def test_what_cannot_be_measured_is_refused():
    told = placed_for(SMALL, "curve", "NF", "CD", 0.1, 0).drawing.trained
    with pytest.raises(ValueError, match="trained must have noise of one size, got noise that is told"): Steps(told, 10)
    with pytest.raises(ValueError, match="noise of one size > 0, got DrawnNoise"): Corrections(told, 9)
    with pytest.raises(ValueError, match="must be one of curve, circle, moons; got 'klein'"):
        Steps(placed_for(SMALL, "klein", "NF", "ND", 0.1, 0).drawing.trained, 10)
    with pytest.raises(ValueError, match="count must be between 1 and inf, got 0"): Steps(trained("curve", 0.1), 0)
    with pytest.raises(ValueError, match="sigma must be > 0, got 0.0"):
        law_where_seen(Circle(), fitted(Circle().sample(9, generator(0)), "whiten"), 0.0)
