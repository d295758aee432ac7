"The networks of the DDU paper against independent arithmetic, and the autoencoder against torch's distributions."

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn import functional as F

from uncpaper.models.classifiers import (AveragedShortcut, Residual, basic_block, bottleneck, convolution, dropout_mlp,
                                         imagenet_resnet50, imagenet_vgg16, imagenet_wide_resnet50_2, lenet,
                                         plain_block, resnet18, resnet50, resnet9, resnet9_trunk, small_lenet,
                                         small_resnet, small_vgg, small_wide_resnet, tiny_resnet, vgg16, wide_block,
                                         wide_resnet, wide_resnet_28_10)
from uncpaper.models.dropout import SharedDropout
from uncpaper.models.spectral import SpectralConv2d, bounded, input_sizes, spectral_layers
from uncpaper.models.vae import BernoulliVAE, kl_to_standard_normal, perceptron


def parameters(model):
    return sum(p.numel() for p in model.parameters())


# numbers of parameters, layer by layer

def conv(inputs, outputs, kernel=3, bias=0): return kernel * kernel * inputs * outputs + bias * outputs
def norm(width): return 2 * width
def full(inputs, outputs): return (inputs + 1) * outputs


def lenet_count(classes):
    return conv(1, 6, 5, bias=1) + conv(6, 16, 5, bias=1) + full(16 * 4 * 4, 120) + full(120, 84) + full(84, classes)


def vgg_count(channels, classes):
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    return sum(conv(a, b) + norm(b) for a, b in zip([channels, *widths], widths)) + full(512, classes)


def resnet18_count(channels, classes, modified):
    total, inputs = conv(channels, 64) + norm(64), 64
    for width in (64, 128, 256, 512):
        total += conv(inputs, width) + 3 * conv(width, width) + 4 * norm(width)
        if inputs != width and not modified: total += conv(inputs, width, 1) + norm(width)
        inputs = width
    return total + full(512, classes)


def resnet50_count(channels, classes, modified):
    total, inputs = conv(channels, 64) + norm(64), 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        total += 0 if modified else conv(inputs, 4 * width, 1) + norm(4 * width)
        for _ in range(depth):
            total += (conv(inputs, width, 1) + conv(width, width) + conv(width, 4 * width, 1) + 2 * norm(width)
                      + norm(4 * width))
            inputs = 4 * width
    return total + full(2048, classes)


def wide_resnet_count(channels, classes, modified):
    total, inputs = conv(channels, 16), 16
    for width in (160, 320, 640):
        total += 0 if modified else conv(inputs, width, 1)
        for _ in range(4):
            total += norm(inputs) + conv(inputs, width) + norm(width) + conv(width, width)
            inputs = width
    return total + norm(640) + full(640, classes)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("modified", [False, True])
@pytest.mark.parametrize("spectral_norm", [None, 3.0])
def test_numbers_of_parameters(classes, modified, spectral_norm):
    options = dict(classes=classes, modified=modified, spectral_norm=spectral_norm)
    with torch.device("meta"):
        assert parameters(lenet(**options)) == lenet_count(classes)
        for channels, size in ((3, 32), (1, 28)):
            assert parameters(vgg16(channels=channels, size=size, **options)) == vgg_count(channels, classes)
            assert (parameters(resnet18(channels=channels, size=size, **options))
                    == resnet18_count(channels, classes, modified))
        assert parameters(resnet50(**options)) == resnet50_count(3, classes, modified)
        assert parameters(wide_resnet_28_10(**options)) == wide_resnet_count(3, classes, modified)


def test_published_numbers_of_parameters():
    assert (lenet_count(10), vgg_count(3, 10), resnet18_count(3, 10, False)) == (44_426, 14_724_042, 11_173_962)
    assert ((resnet50_count(3, 10, False), wide_resnet_count(3, 10, False), wide_resnet_count(3, 100, False))
            == (23_520_842, 36_479_194, 36_536_884))
    with torch.device("meta"): # torchvision's own, less what the heads differ by
        assert parameters(imagenet_resnet50()) == 25_557_032 and parameters(imagenet_wide_resnet50_2()) == 68_883_240
        assert (parameters(imagenet_vgg16(spectral_norm=3.0))
                == 138_365_992 - full(25088, 4096) - full(4096, 4096) - full(4096, 1000) + full(512, 1000))


# shapes

FULL = {"lenet": (lenet, 1, 28, 84), "vgg16": (vgg16, 3, 32, 512), "vgg16, MNIST": (vgg16, 1, 28, 512),
        "resnet18": (resnet18, 3, 32, 512), "resnet18, MNIST": (resnet18, 1, 28, 512),
        "resnet50": (resnet50, 3, 32, 2048), "wide_resnet_28_10": (wide_resnet_28_10, 3, 32, 640)}
SMALL = {f"{make.__name__}, {size}": (make, 1, size, features)
         for make, features in ((small_resnet, 64), (tiny_resnet, 32), (small_vgg, 64), (small_wide_resnet, 128))
         for size in (8, 28)}
SMALL["small_lenet, 8"] = (small_lenet, 1, 8, 32)
VARIANTS = [(None, False), (3.0, False), (3.0, True)]


@pytest.mark.parametrize("make, channels, size, features",
                         [pytest.param(*row, id=name) for name, row in {**FULL, **SMALL}.items()])
@pytest.mark.parametrize("spectral_norm, modified", [(None, False), (3.0, True)])
def test_shapes_on_a_device_without_numbers(make, channels, size, features, spectral_norm, modified):
    with torch.device("meta"):
        model = make(classes=7, channels=channels, size=size, spectral_norm=spectral_norm, modified=modified)
        x = torch.zeros(5, channels, size, size)
    assert all(t.device.type == "meta" for t in model.state_dict().values())
    assert model.features(x).shape == (5, features) and model.head.in_features == features and model(x).shape == (5, 7)
    assert type(model.head) is nn.Linear


@pytest.mark.parametrize("make, channels, size, features", [pytest.param(*row, id=name) for name, row in FULL.items()])
def test_modified_and_normalised_variants(make, channels, size, features):
    with torch.device("meta"):
        built = {(c, m): make(channels=channels, size=size, spectral_norm=c, modified=m) for c in (None, 3.0)
                 for m in (False, True)}
    sizes = {modified: input_sizes(built[None, modified], (channels, size, size)) for modified in (False, True)}
    for (coefficient, modified), model in built.items():
        layers, convolutions = list(model.modules()), [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        wanted, other = (nn.LeakyReLU, nn.ReLU) if modified else (nn.ReLU, nn.LeakyReLU)
        assert any(isinstance(m, wanted) for m in layers) and not any(isinstance(m, other) for m in layers)
        assert all(m.negative_slope == 0.01 for m in layers if isinstance(m, nn.LeakyReLU))
        assert not (modified and any(m.kernel_size == (1, 1) and m.stride != (1, 1) for m in convolutions))
        assert (any(isinstance(m, AveragedShortcut) for m in layers)
                == (modified and any(isinstance(m, Residual) for m in layers)))
        assert all((type(m) is SpectralConv2d) == (coefficient is not None) for m in convolutions)
        assert all(layer.coefficient == 3.0 and layer.size == sizes[modified][name]
                   for name, layer in spectral_layers(model))


def test_strided_1x1_shortcuts_are_what_modification_replaces():
    with torch.device("meta"):
        counts = [sum(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride == (2, 2)
                      for m in make().modules()) for make in (resnet18, resnet50, wide_resnet_28_10)]
    assert counts == [3, 3, 2]


@pytest.mark.parametrize("modified", [False, True])
def test_spatial_sizes(modified):
    with torch.device("meta"):
        made = {"resnet18": input_sizes(resnet18(channels=1, size=28, modified=modified), (1, 28, 28)),
                "small": input_sizes(small_resnet(modified=modified), (1, 28, 28)),
                "vgg": input_sizes(vgg16(channels=1, size=28, modified=modified), (1, 28, 28)),
                "wide": input_sizes(wide_resnet_28_10(modified=modified), (3, 32, 32))}
    found = {name: list(dict.fromkeys(size[0] for size in sizes.values())) for name, sizes in made.items()}
    assert found == {"resnet18": [28, 14, 7, 4], "small": [28, 14, 7, 4], "vgg": [28, 14, 7, 3], "wide": [32, 16, 8]}


# what networks do

def numbers_after_a_step(make, channels, size, spectral_norm, modified):
    torch.manual_seed(0)
    model = make(channels=channels, size=size, spectral_norm=spectral_norm, modified=modified)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loss = F.cross_entropy(model(torch.randn(2, channels, size, size)), torch.tensor([0, 1]))
    loss.backward()
    optimizer.step()
    return (loss.item(), [not p.equal(q) for p, q in zip(model.parameters(), before)],
            all(p.isfinite().all() for p in model.parameters()), model)


BIG = [pytest.param(*row[:3], *variant, id=f"{name}, {variant}") for name, row in FULL.items() for variant in VARIANTS
       if variant != (3.0, False) or row[0] in (resnet50, wide_resnet_28_10)]


@pytest.mark.parametrize("make, channels, size, spectral_norm, modified", BIG)
def test_one_step_at_full_size(make, channels, size, spectral_norm, modified):
    loss, moved, finite, model = numbers_after_a_step(make, channels, size, spectral_norm, modified)
    assert 0 < loss < 20 and all(moved) and finite
    assert all(0 < layer.sigma < 10 for _, layer in spectral_layers(model))


@pytest.mark.parametrize("make, channels, size", [pytest.param(*row[:3], id=name) for name, row in SMALL.items()])
@pytest.mark.parametrize("spectral_norm, modified", VARIANTS)
def test_one_step_of_small_siblings(make, channels, size, spectral_norm, modified):
    loss, moved, finite, model = numbers_after_a_step(make, channels, size, spectral_norm, modified)
    assert 0 < loss < 20 and all(moved) and finite
    x = torch.randn(3, channels, size, size)
    model.eval()
    with torch.no_grad():
        assert model(x).equal(model.head(model.features(x))) and torch.allclose(model(x)[:1], model(x[:1]), atol=1e-5)


def test_the_widest_layer_of_a_fresh_wide_resnet_lies_below_the_papers_coefficient():
    torch.manual_seed(0)
    wide = wide_resnet(convolution(3, 16), 10, 1, 0.3, 0.01, 10, False)
    first = bounded(wide.extractor[1].branch[6], (32, 32), 3.0) # 160 to 160 channels
    for _ in range(20): first(torch.zeros(1, 160, 32, 32))
    assert 2.5 < first.sigma < 3


@pytest.mark.parametrize("inputs, outputs, stride, size, exact",
                         [(2, 3, 2, 6, 0.5), (2, 3, 2, 7, 1.0), (2, 5, 1, 4, 1.0), (3, 3, 2, 4, 0.5)])
def test_averaged_shortcut_stretches_nothing(inputs, outputs, stride, size, exact):
    basis = torch.eye(inputs * size * size, dtype=torch.float64).view(-1, inputs, size, size)
    answers = AveragedShortcut(inputs, outputs, stride)(basis)
    assert answers.shape[1:] == (outputs, -(-size // stride), -(-size // stride)) and (answers[:, inputs:] == 0).all()
    assert torch.linalg.matrix_norm(answers.flatten(1), 2).item() == pytest.approx(exact, rel=1e-12)


def test_modified_block_with_an_idle_branch_stretches_nothing_and_shrinks_by_no_more_than_its_slope():
    torch.manual_seed(0)
    for block in (basic_block(4, 4, 1, True), bottleneck(4, 1, 1, True), wide_block(0.0, 0.1, 4, 4, 1, True)):
        for p in block.branch.parameters(): nn.init.zeros_(p)
        x, y = torch.randn(2, 8, 4, 5, 5)
        ratio = (block(x) - block(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
        assert (ratio <= 1 + 1e-6).all() and (ratio >= 0.01).all()


def test_wide_blocks_skip_carries_the_input_itself():
    torch.manual_seed(0)
    block, x = wide_block(0.0, 0.1, 4, 4, 1, False), torch.randn(2, 4, 5, 5)
    nn.init.zeros_(block.branch[6].weight)
    assert block(x).equal(x)
    rates = [m.p for m in wide_resnet_28_10().modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.3] * 12


def test_sizes_and_variants_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="size of lenet must be 28, got 32"): lenet(size=32)
    with pytest.raises(ValueError, match="size of small_lenet must be 8, got 28"): small_lenet(size=28)
    with pytest.raises(ValueError, match="modified must be False"), torch.device("meta"):
        imagenet_resnet50(modified=True)


# the classifiers of the EiV paper

def resnet9_count(channels, classes, dropout, width=64, left=2):
    widths = [(channels, 1), (1, 2), (2, 2), (2, 2), (2, 4), (4, 8), (8, 8), (8, 8)]
    trunk = sum(conv(a if a == channels and i == 0 else a * width, b * width, bias=1) + norm(b * width)
                for i, (a, b) in enumerate(widths))
    return trunk + (full(8 * width * left**2, 8 * width) if dropout else 0) + full(8 * width, classes)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("channels, size, left", [(3, 32, 2), (1, 28, 2), (1, 14, 1), (1, 8, 1), (3, 64, 2)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("width", [4, 64])
def test_resnet9_on_a_device_without_numbers(classes, channels, size, left, dropout, width):
    with torch.device("meta"):
        model = resnet9(classes, channels, dropout, width, size)
        x = torch.zeros(3, 5, channels, size, size)
    assert parameters(model) == resnet9_count(channels, classes, dropout, width, left)
    assert model.features(x).shape == (3, 5, 8 * width * (left**2 if dropout else 1))
    assert model(x).shape == (3, 5, classes) and model(x[:, 0]).shape == (3, classes)
    assert [type(layer) for layer in model.head] == ([SharedDropout, nn.Linear] * 2 if dropout else [nn.Linear])
    assert all(layer.p == dropout for layer in model.head if isinstance(layer, SharedDropout))


def test_published_classifiers_of_eiv():
    with torch.device("meta"):
        assert parameters(resnet9(dropout=0.5)) == resnet9_count(3, 10, 0.5) == 7_624_458
        assert parameters(resnet9()) == resnet9_count(3, 10, 0.0) == 6_575_370
        perceptron = dropout_mlp()
        assert parameters(perceptron) == 2 * full(1024, 1024) + full(1024, 10) == 2_109_450
        assert (sum(isinstance(m, nn.Conv2d) for m in resnet9().modules())
                == sum(isinstance(m, nn.BatchNorm2d) for m in resnet9().modules()) == 8)
    assert ([type(layer) for layer in perceptron.head]
            == [SharedDropout, nn.Linear, nn.ReLU, SharedDropout, nn.Linear, nn.ReLU, SharedDropout, nn.Linear])
    assert all(m.track_running_stats for m in resnet9(width=2).modules() if isinstance(m, nn.BatchNorm2d))
    with torch.device("meta"):
        assert parameters(dropout_mlp(classes=7, pixels=64, width=32)) == full(64, 32) + full(32, 32) + full(32, 7)


def test_resnet9_by_hand():
    "Layer after layer from its own weights; at 32 x 32 the last pooling is a plain one, 2x2 or 4x4."
    torch.manual_seed(0)
    for dropout, window in ((0.5, 2), (0.0, 4)):
        model, x = resnet9(dropout=dropout, width=4).train(), torch.randn(6, 3, 32, 32)
        model(x) # moves the running statistics
        model.eval()
        convs, norms, full = ([m for m in model.modules() if isinstance(m, kind)]
                              for kind in (nn.Conv2d, nn.BatchNorm2d, nn.Linear))
        def block(h, i):
            n = norms[i]
            h = F.conv2d(h, convs[i].weight, convs[i].bias, padding=1)
            return F.relu((h - n.running_mean[:, None, None]) / (n.running_var[:, None, None]
                + n.eps).sqrt() * n.weight[:, None, None] + n.bias[:, None, None])
        with torch.no_grad():
            h = F.max_pool2d(block(block(x, 0), 1), 2)
            h = h + block(block(h, 2), 3)
            h = F.max_pool2d(block(F.max_pool2d(block(h, 4), 2), 5), 2)
            h = h + block(block(h, 6), 7)
            h = F.max_pool2d(h, window).flatten(1)
            for layer in full: h = h @ layer.weight.T + layer.bias
            assert torch.allclose(model(x), h, atol=1e-5)


@pytest.mark.parametrize("size", [8, 14, 28, 32])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_one_step_of_small_resnet9(size, dropout):
    torch.manual_seed(0)
    model = resnet9(channels=1, dropout=dropout, width=4, size=size)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    F.cross_entropy(model(torch.randn(6, 2, 1, size, size)).flatten(0, 1), torch.arange(12) % 10).backward()
    optimizer.step()
    assert all(not p.equal(q) and p.isfinite().all() for p, q in zip(model.parameters(), before))
    x = torch.randn(8, 1, size, size)
    model.eval()
    with torch.no_grad(): assert torch.allclose(model(x)[:4], model(x[:4]), atol=1e-5)


def test_plain_block_and_trunk():
    torch.manual_seed(0)
    block, x = plain_block(2, 3).train(), torch.randn(4, 2, 8, 8)
    with torch.no_grad():
        expected = F.relu(F.batch_norm(F.conv2d(x, block[0].weight, block[0].bias, padding=1), None, None,
                                       training=True))
        assert torch.allclose(block(x), expected, atol=1e-6) and plain_block(2, 3, pool=True)(x).shape == (4, 3, 4, 4)
        assert resnet9_trunk(2, 3, 2)(torch.randn(2, 2, 28, 28)).shape == (2, 8 * 3 * 4)


@pytest.mark.parametrize("size", [1, 7])
def test_pictures_too_small_for_resnet9_are_refused(size):
    with pytest.raises(ValueError, match=f"^size of resnet9 must be >= 8, got {size}$"): resnet9(size=size)


# the autoencoder

def test_kl_to_standard_normal():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 6, 4, dtype=torch.float64)
    exact = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(kl_to_standard_normal(mean, log_variance), exact, rtol=1e-12)
    assert kl_to_standard_normal(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0


def test_negative_elbo_and_its_gradient():
    torch.manual_seed(0)
    vae, x = BernoulliVAE(9, (7, 5), 2, mean=0.3, std=0.6).double(), torch.rand(4, 1, 3, 3, dtype=torch.float64)
    other = copy.deepcopy(vae)
    torch.manual_seed(1)
    value = vae.negative_elbo(x)
    torch.manual_seed(1)
    location, log_variance = other.encoder((x.view(4, 9) - 0.3) / 0.6).split(2, dim=1)
    posterior = Normal(location, (log_variance / 2).exp())
    z = location + posterior.scale * torch.randn(4, 2, dtype=torch.float64)
    likelihood = Bernoulli(probs=other.decode(z), validate_args=False).log_prob(x.view(4,
        9)).sum(1) # of pixels between 0 and 1
    direct = (kl_divergence(posterior, Normal(0.0, 1.0)).sum(1) - likelihood).mean()
    assert value.item() == pytest.approx(direct.item(), rel=1e-10)
    value.backward()
    direct.backward()
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-8, atol=1e-12) and a.grad.abs().sum() > 0
               for a, b in zip(vae.parameters(), other.parameters()))


def test_gradients_of_the_elbo_by_finite_differences():
    torch.manual_seed(0)
    vae, x = BernoulliVAE(4, (3,), 2).double(), torch.rand(3, 4, dtype=torch.float64)
    def value(weight):
        torch.manual_seed(1)
        return torch.func.functional_call(_Elbo(vae), {"vae.encoder.0.weight": weight}, x)
    assert torch.autograd.gradcheck(value, vae.encoder[0].weight.detach().clone().requires_grad_())


class _Elbo(nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x):
        return self.vae.negative_elbo(x)


def test_negative_elbo_bounds_the_negative_log_evidence():
    "One latent, one pixel: the evidence by quadrature over z."
    torch.manual_seed(0)
    vae, x = BernoulliVAE(1, (4,), 1).double(), torch.ones(1, 1, dtype=torch.float64)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    evidence = torch.trapezoid(Normal(0.0, 1.0).log_prob(z).exp() * vae.decode(z[:, None])[:, 0], z).log()
    with torch.no_grad(): draws = torch.stack([vae.negative_elbo(x) for _ in range(2000)])
    assert draws.mean() >= -evidence - 3 * draws.std() / 2000**0.5


def test_autoencoder_shapes_and_training():
    torch.manual_seed(0)
    vae, x = BernoulliVAE(64, (32, 16), 4), (torch.rand(32, 1, 8, 8) > 0.7).float()
    assert [type(m) for m in perceptron((2, 3, 1))] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [m.out_features for m in vae.decoder if isinstance(m, nn.Linear)] == [16, 32, 64]
    mean, log_variance = vae.encode(x)
    assert mean.shape == log_variance.shape == (32, 4)
    pictures = vae.decode(mean)
    assert pictures.shape == (32, 64) and 0 <= pictures.min() <= pictures.max() <= 1
    optimizer, first = torch.optim.Adam(vae.parameters(), 1e-2), vae.negative_elbo(x).item()
    for _ in range(60):
        optimizer.zero_grad()
        value = vae.negative_elbo(x)
        value.backward()
        optimizer.step()
    assert value.item() < 0.95 * first
