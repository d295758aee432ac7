"""
Flows: splines against automatic differentiation and at their bounds, determinants against Jacobians, published sizes,
densities that integrate to one, samples that have the density they say, what is told and what is not.
"""

import math

import pytest
import torch
from torch.autograd.functional import jacobian

from uncpaper.models.flow import UNIT, LULinear, Piece, SplineFlow, rise, spline, way
from uncpaper.models.multiscale import MultiscaleFlow, squeeze, unsqueeze
from uncpaper.numerics import generator

NOISE = 0.3


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "flow"), dtype=torch.float64)


def stirred(model, seed=0, scale=0.3):
    "A model in double precision whose weights are all far from where they began."
    with torch.no_grad():
        for i, w in enumerate(model.double().parameters()): w.add_(scale * normal(*w.shape, seed=seed + i))
    return model


def flow(dimension=5, conditioning=None, seed=0, **changes):
    torch.manual_seed(seed)
    return stirred(SplineFlow(dimension, **{"layers": 3, "hidden": 8, "conditioning": conditioning, **changes}))


def log_determinant(f, x):
    return torch.stack([torch.linalg.slogdet(jacobian(lambda row: f(row[None])[0][0], row))[1] for row in x])


def logits(n, bins=8, seed=0):
    return 2 * normal(2, bins, n, seed=seed), 2 * normal(bins - 1, n, seed=seed + 1)


# splines

def test_one_piece():
    piece = Piece(*torch.tensor([0, 1, 0, 1, 2, 0.5], dtype=torch.float64))
    share, slope = rise(torch.tensor(0.5, dtype=torch.float64), piece)
    assert share.item() == pytest.approx(2 / 3, abs=1e-15) and slope.item() == pytest.approx(8 / 9, abs=1e-15)
    assert way(share, piece).item() == pytest.approx(0.5, abs=1e-15)


@pytest.mark.parametrize("bound", [1.0, 3.0])
@pytest.mark.parametrize("inverse", [False, True])
def test_slopes_and_the_way_back_everywhere(bound, inverse):
    nearly = math.nextafter(bound, 0), math.nextafter(bound, 9)
    edges = torch.tensor([s * e for e in (bound, *nearly, 5 * bound) for s in (1, -1)], dtype=torch.float64)
    anywhere = 1.2 * bound * (2 * torch.rand(200, generator=generator(0, "x"), dtype=torch.float64) - 1)
    x = torch.cat((edges, anywhere)).requires_grad_()
    sizes, slopes = logits(len(x))
    y, log_slope = spline(x, sizes, slopes, bound, inverse)
    derivative, = torch.autograd.grad(y.sum(), x)
    back, log_back = spline(y, sizes, slopes, bound, not inverse)
    assert (derivative.log() - log_slope).abs().max() < 1e-10
    assert (back - x).abs().max() < 1e-10 and (log_slope + log_back).abs().max() < 1e-10
    outside = x.abs() > bound
    assert torch.equal(y[outside], x[outside]) and (log_slope[outside] == 0).all()
    assert (y[:2] - x[:2]).abs().max() < 1e-13 and log_slope[:2].abs().max() < 1e-13 # at the bounds themselves


def test_equal_logits_and_slopes_of_one_are_the_identity():
    x = torch.linspace(-1.5, 1.5, 101, dtype=torch.float64)
    y, log_slope = spline(x, torch.zeros(2, 8, 101).double(), torch.full((7, 101), UNIT).double())
    assert (y - x).abs().max() < 1e-6 and log_slope.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [100.0, 1e6])
def test_extreme_logits_stay_finite_and_rise(scale, dtype):
    x = torch.linspace(-1, 1, 400, dtype=dtype)
    sizes, slopes = (scale * s[..., :1].to(dtype) for s in logits(1))
    sizes, slopes = (s.expand(*s.shape[:-1], 400).clone().requires_grad_() for s in (sizes, slopes))
    y, log_slope = spline(x, sizes, slopes)
    gradients = torch.autograd.grad(y.sum() + log_slope.sum(), (sizes, slopes))
    assert all(t.isfinite().all() for t in (y, log_slope, *gradients))
    assert (y.diff() >= -1e-5).all() and y.abs().max() <= 1 + 1e-5


def test_gradients_of_logits_are_right():
    x = torch.tensor([-1.3, -1, -0.4, 0.2, 0.9], dtype=torch.float64)
    inputs = [t.requires_grad_() for t in logits(len(x))]
    for inverse in (False, True):
        torch.autograd.gradcheck(lambda sizes, slopes: spline(x, sizes, slopes, inverse=inverse), inputs)


# maps

def test_linear_map_is_its_matrix():
    linear, x = stirred(LULinear(6)), normal(6, 4)
    matrix = jacobian(lambda x: linear(x[:, None])[0][:, 0], x[:, 0])
    y, log_det = linear(x)
    assert (y - matrix @ x - linear.bias[:, None]).abs().max() < 1e-12
    assert (log_det - torch.linalg.slogdet(matrix)[1]).abs() < 1e-12
    assert (linear.inverse(y)[0] - x).abs().max() < 1e-11


@pytest.mark.parametrize("dimension, conditioning", [(2, None), (5, None), (6, ()), (5, (7, 3))])
def test_inverse_and_determinant(dimension, conditioning):
    model, x = flow(dimension, conditioning), normal(12, dimension)
    x[:4] = torch.tensor([1.0, -1.0, 1 + 1e-9, -1 - 1e-9])[:, None] # of the first splines: at their bounds, and beyond
    sigma = None if conditioning is None else torch.linspace(0, 1, 12, dtype=torch.float64)
    z, log_det = model(x, sigma)
    back, log_back = model.inverse(z, sigma)
    assert (back - x).abs().max() < 1e-10 and (log_det + log_back).abs().max() < 1e-10
    for i in range(12):
        here = None if sigma is None else sigma[i : i + 1]
        assert (log_determinant(lambda row: model(row, here), x[i : i + 1]) - log_det[i]).abs() < 1e-10


def test_a_new_flow_begins_with_linear_maps_that_do_nothing():
    model = SplineFlow(5, layers=1, hidden=8)
    assert (model.layers[0].linear(torch.eye(5))[0] - torch.eye(5)).abs().max() < 1e-6
    assert model.layers[0].linear(torch.eye(5))[1].abs() < 1e-5


# sizes

@pytest.mark.parametrize("dimension, conditioning, published", [
    (784, None, 7_711_520), (784, (256, 64), 7_861_088), (3072, None, 57_173_504), (3072, (256, 64), 57_323_072)])
def test_published_size(dimension, conditioning, published):
    with torch.device("meta"): model = SplineFlow(dimension, layers=4, hidden=128, conditioning=conditioning)
    assert sum(p.numel() for p in model.parameters()) == published


def test_even_dimensions_stay_first_and_odd_ones_next():
    couplings = [layer.coupling for layer in SplineFlow(5, 3, 8).layers]
    assert [(c.stays, c.network.first.in_features) for c in couplings] == [(0, 3), (1, 2), (0, 3)]


# what is told

def unheard(model):
    "Weights for what is told are zero, gates are open."
    with torch.no_grad():
        for layer in model.layers:
            layer.coupling.network.first.weight[:, -model.conditioner.width:] = 0
            for block in layer.coupling.network.blocks:
                block.gate.weight.zero_()
                block.gate.bias.fill_(100.0)
    return model


def without(model):
    "The flow that is told nothing, with the weights that are left."
    plain = SplineFlow(model.dimension, len(model.layers), 8).double()
    weights = {k: v for k, v in model.state_dict().items() if "gate" not in k and not k.startswith("conditioner")}
    for key in weights:
        if key.endswith("network.first.weight"): weights[key] = weights[key][:, :-model.conditioner.width]
    plain.load_state_dict(weights)
    return plain


def test_a_flow_that_does_not_hear_is_one_that_is_not_told():
    model, x = unheard(flow(5, (7, 3))), normal(20, 5)
    plain = without(model)
    for sigma in (0.0, 0.7):
        assert (model.log_prob(x, sigma) - plain.log_prob(x)).abs().max() < 1e-12
        drawn = [m.sample(9, s, generator(1)) for m, s in ((model, sigma), (plain, None))]
        assert (drawn[0] - drawn[1]).abs().max() < 1e-11


def test_what_is_told_is_told_to_each_sample():
    model, x, sigma = flow(5, (7, 3)), normal(4, 5), torch.tensor([0.0, 0.1, 0.5, 2.0])
    together = model.log_prob(x, sigma)
    each = torch.cat([model.log_prob(x[i : i + 1], s.item()) for i, s in enumerate(sigma)])
    assert (together - each).abs().max() < 1e-5 # sigma of the one is in single precision
    assert (model.log_prob(x, 0.0) - model.log_prob(x, 2.0)).abs().min() > 1e-3


# densities

def clusters(n, seed=0):
    random = generator(seed, "clusters")
    centres = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    return centres[torch.randint(2, (n,), generator=random)] + 0.25 * torch.randn(n, 2, generator=random)


def trained(conditioning=None, steps=200):
    torch.manual_seed(0)
    model, random = SplineFlow(2, 2, 16, tail_bound=2.0, conditioning=conditioning), generator(0, "training")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(steps):
        x = clusters(256, seed=step)
        sigma = NOISE * torch.rand(256, generator=random) if conditioning else None
        if conditioning: x = x + sigma[:, None] * torch.randn(256, 2, generator=random)
        optimizer.zero_grad()
        model.loss(x, sigma).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def vanilla(): return trained()


@pytest.fixture(scope="module")
def conditional(): return trained((8, 4))


def squares(model, sigma=None, side=8.0, n=400):
    "Probabilities of n x n little squares, by the density at their centres."
    line = (torch.arange(n) + 0.5) / n * side - side / 2
    with torch.no_grad(): density = model.log_prob(torch.cartesian_prod(line, line), sigma).exp()
    return density.view(n, n).double() * (side / n) ** 2


def test_density_integrates_to_one(vanilla, conditional):
    assert squares(vanilla).sum().item() == pytest.approx(1, abs=5e-3)
    for sigma in (0.0, NOISE): assert squares(conditional, sigma).sum().item() == pytest.approx(1, abs=5e-3)


def test_training_helps_and_sigma_widens(vanilla, conditional):
    held_out = clusters(2000, seed=1000)
    entropy = math.log(2) + math.log(2 * math.pi * math.e * 0.25**2) # of two clusters that do not overlap
    assert entropy - 0.1 < vanilla.loss(held_out).item() < entropy + 0.4
    assert conditional.loss(held_out, 0.0) < conditional.loss(held_out, NOISE)


@pytest.mark.parametrize("sigma", [None, 0.0, NOISE])
def test_samples_have_the_density(vanilla, conditional, sigma):
    model, n = vanilla if sigma is None else conditional, 20_000
    cells = squares(model, sigma).view(20, 20, 20, 20).sum((1, 3)).flatten() # 20 x 20, each of 20 x 20 little squares
    x = model.sample(n, sigma, generator(7, "samples"))
    index = ((x + 4) / 8 * 20).floor().clamp(0, 19).long()
    counts = torch.bincount(index[:, 0] * 20 + index[:, 1], minlength=400)
    expected = n * cells / cells.sum()
    likely = expected > 10
    chi = ((counts - expected) ** 2 / expected)[likely].sum().item()
    free = int(likely.sum()) - 1
    assert free > 15 and abs(chi - free) < 5 * math.sqrt(2 * free)


def test_score_is_the_slope_of_the_density():
    for model, sigma in ((flow(4), None), (flow(4, (6, 3)), 0.2)):
        x, h = 0.8 * normal(6, 4), 1e-6
        with torch.no_grad():
            differences = torch.stack([(model.log_prob(x + e, sigma) - model.log_prob(x - e, sigma)) / (2 * h)
                                       for e in h * torch.eye(4).double()], 1)
        score = model.score(x, sigma)
        assert (score - differences).abs().max() < 1e-6 * (1 + score.abs().max())
        assert torch.equal(model.denoise(x, 0.0), x) and all(p.grad is None for p in model.parameters())


def test_a_linear_flow_is_a_normal_distribution():
    model = flow(3, layers=2, tail_bound=1e-9) # nothing lies where splines bend
    x = normal(10, 3)
    bias = model(torch.full((1, 3), 0.0).double())[0]
    matrix = jacobian(lambda x: model(x[None])[0][0], x[0])
    precision, mean = matrix.T @ matrix, -torch.linalg.solve(matrix, bias[0])
    law = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    assert (model.log_prob(x) - law.log_prob(x)).abs().max() < 1e-6
    assert (model.score(x) + (x - mean) @ precision).abs().max() < 1e-6 * precision.abs().max()


# samples

@pytest.mark.parametrize("model", [flow(4), MultiscaleFlow((1, 4, 4), 1, 1, 4)], ids=["vectors", "pictures"])
def test_a_generator_decides_the_draw(model):
    first = model.sample(5, generator=generator(3))
    state = torch.get_rng_state()
    again = model.sample(5, generator=generator(3))
    assert torch.equal(first, again) and not first.requires_grad and torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert torch.equal(model.sample(5, generator=generator(3)), first)
    assert not torch.equal(model.sample(5), first)


def test_the_seed_decides_permutations_and_they_are_kept():
    orders = [[layer.order for layer in flow(9, seed=seed).layers] for seed in (0, 0, 1)]
    assert all(map(torch.equal, orders[0], orders[1])) and not all(map(torch.equal, orders[0], orders[2]))
    copy = flow(9, seed=1)
    copy.load_state_dict(flow(9, seed=0).state_dict())
    assert torch.equal(copy.log_prob(normal(3, 9)), flow(9, seed=0).log_prob(normal(3, 9)))


# pictures

def test_squeeze_is_a_rearrangement():
    x = normal(3, 2, 4, 6)
    assert squeeze(x).shape == (12, 2, 2, 3) and torch.equal(unsqueeze(squeeze(x)), x)
    assert torch.equal(squeeze(x)[4:8, 1, 0, 1], x[1, 1, 0:2, 2:4].flatten())


@pytest.mark.parametrize("shape, scales", [((1, 4, 4), 1), ((1, 4, 4), 2), ((3, 4, 8), 2)])
def test_pictures_inverse_and_determinant(shape, scales):
    torch.manual_seed(0)
    model, x = stirred(MultiscaleFlow(shape, scales, layers=2, hidden=6), scale=0.2), normal(3, math.prod(shape))
    z, log_det = model(x)
    back, log_back = model.inverse(z)
    assert (back - x).abs().max() < 1e-10 and (log_det + log_back).abs().max() < 1e-9
    assert (log_determinant(model, x) - log_det).abs().max() < 1e-9
    assert z.std(0).min() > 0 and z.shape == x.shape


def test_pictures_of_four_pixels_integrate_to_one():
    torch.manual_seed(0)
    model = stirred(MultiscaleFlow((1, 2, 2), 1, layers=2, hidden=4), scale=0.2).float()
    n, width = 400_000, 2.0 # importance sampling from a wider normal distribution
    x = width * torch.randn(n, 4, generator=generator(0, "importance"))
    with torch.no_grad(): log_ratio = model.log_prob(x) + (x / width).pow(2).sum(1) / 2 + 4 * math.log(width) \
        + 2 * math.log(2 * math.pi)
    ratio = log_ratio.double().exp()
    error = ratio.std().item() / math.sqrt(n)
    assert error < 0.01 and abs(ratio.mean().item() - 1) < 5 * error


@pytest.mark.parametrize("make, said", [
    (lambda: MultiscaleFlow((1, 4, 4), 1, 1, 4, conditioning=()), "conditioning must be None"),
    (lambda: MultiscaleFlow((1, 4, 6), 2, 1, 4), "height and width must be multiples of 4"),
    (lambda: MultiscaleFlow((1, 4, 4), 0, 1, 4), "scales must be between 1"),
    (lambda: MultiscaleFlow((1, 4, 4), 1, 1, 4).log_prob(torch.zeros(1, 16), 0.1), "sigma must be None"),
    (lambda: SplineFlow(1, 1, 4), "dimension must be between 2"),
    (lambda: SplineFlow(2, 0, 4), "layers must be between 1"),
    (lambda: SplineFlow(2, 1, 4, bins=1), "bins must be between 2"),
    (lambda: SplineFlow(2, 1, 4, tail_bound=math.nan), "tail_bound must be > 0"),
    (lambda: SplineFlow(2, 1, 4).inverse(torch.zeros(2, 3)), r"must be \(n, 2\), got shape \(2, 3\)"),
    (lambda: SplineFlow(2, 1, 4, conditioning=()).sample(2), "sigma must be given"),
])
def test_bad_input_is_named(make, said):
    with pytest.raises(ValueError, match=said): make()


def test_models_draw_in_the_precision_of_their_weights():
    model = MultiscaleFlow((1, 4, 4), 1, 1, 4).double()
    assert model.sample(2).dtype == flow(3).sample(2).dtype == torch.float64
