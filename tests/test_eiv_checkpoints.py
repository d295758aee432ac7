"The original's EiV files: weights against its equations rendered anew, arrays in its layout, files not to be trusted."

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from uncpaper.diffusion import Ancestral, last, sample
from uncpaper.papers.eiv import quality
from uncpaper.originals.eiv_files import (CLASSIFIER, DDPM, DIFFUSION, HEADS, METHODS, PREDICTIVES, SETS, ZETAS,
                                          Predictives, Tree, read_classifier, read_denoiser, read_predictives,
                                             read_saved, read_zetas, write_predictives, write_zetas)

# The original's U-Net, as functions of its tensors by name

TINY = DDPM(nf=32, dim_mults=(1, 2, 2), n_res_block=2, attn_resolutions=(8,), dim=16)


class Shapes(dict):
    "Names and shapes of the original's tensors, in the order in which it makes its layers."
    def __init__(self, channels, a):
        super().__init__()
        self.i, self.a = 0, a
        for inputs in (a.nf, 4 * a.nf): self.add(weight=(4 * a.nf, inputs), bias=(4 * a.nf,))
        self.add(weight=(a.nf, channels, 3, 3), bias=(a.nf,))
        c, skips, heights = a.nf, [a.nf], [a.dim // 2**i for i in range(len(a.dim_mults))]
        for height, m in zip(heights, a.dim_mults):
            for _ in range(a.n_res_block):
                c = self.block(c, a.nf * m)
                if height in a.attn_resolutions: self.attention(c)
                skips.append(c)
            if height != heights[-1]:
                self.conv(c)
                skips.append(c)
        self.block(c, c), self.attention(c), self.block(c, c)
        for height, m in zip(heights[::-1], a.dim_mults[::-1]):
            for _ in range(a.n_res_block + 1): c = self.block(c + skips.pop(), a.nf * m)
            if height in a.attn_resolutions: self.attention(c)
            if height != heights[0]: self.conv(c)
        self.add(weight=(c,), bias=(c,))
        self.add(weight=(channels, c, 3, 3), bias=(channels,))

    def add(self, **shapes):
        self.update({f"all_modules.{self.i}.{name.replace('__', '.')}": shape for name, shape in shapes.items()})
        self.i += 1

    def block(self, c, out):
        skip = {} if c == out else {"NIN_0__W": (c, out), "NIN_0__b": (out,)}
        self.add(GroupNorm_0__weight=(c,), GroupNorm_0__bias=(c,), Conv_0__weight=(out, c, 3, 3), Conv_0__bias=(out,),
                 Dense_0__weight=(out, 4 * self.a.nf), Dense_0__bias=(out,),
                 GroupNorm_1__weight=(out,), GroupNorm_1__bias=(out,), Conv_1__weight=(out, out, 3, 3),
                 Conv_1__bias=(out,), **skip)
        return out

    def attention(self, c):
        self.add(GroupNorm_0__weight=(c,), GroupNorm_0__bias=(c,),
                 **{f"NIN_{i}__{leaf}": (c, c)[: 2 - (leaf == "b")] for i in range(4) for leaf in "Wb"})

    def conv(self, c): self.add(Conv_0__weight=(c, c, 3, 3), Conv_0__bias=(c,))


def state_of(shapes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=g) / max(1, math.prod(shape) / shape[0]) ** 0.5
            for name, shape in shapes.items()}


class Equations:
    "The original's network, tensor by tensor."
    def __init__(self, state, a): self.state, self.a, self.i = state, a, 0

    def next(self):
        prefix, self.i = f"all_modules.{self.i}.", self.i + 1
        return {name.removeprefix(prefix): p for name, p in self.state.items() if name.startswith(prefix)}

    def norm(self, h, p, name=""): return F.group_norm(h, 32, p[f"{name}weight"], p[f"{name}bias"], 1e-6)

    def block(self, h, time):
        p = self.next()
        inside = F.conv2d(F.silu(self.norm(h, p, "GroupNorm_0.")), p["Conv_0.weight"], p["Conv_0.bias"], padding=1)
        inside = inside + F.linear(F.silu(time), p["Dense_0.weight"], p["Dense_0.bias"])[:, :, None, None]
        inside = F.conv2d(F.silu(self.norm(inside, p, "GroupNorm_1.")), p["Conv_1.weight"], p["Conv_1.bias"], padding=1)
        return inside + (self.nin(h, p, 0) if "NIN_0.W" in p else h)

    def nin(self, h, p, i): return torch.einsum("bchw,cd->bdhw", h, p[f"NIN_{i}.W"]) + p[f"NIN_{i}.b"][:, None, None]

    def attention(self, h):
        p = self.next()
        q, k, v = (self.nin(self.norm(h, p, "GroupNorm_0."), p, i).flatten(2) for i in range(3))
        weights = (torch.einsum("bcx,bcy->bxy", q, k) / h.shape[1] ** 0.5).softmax(-1)
        return h + self.nin(torch.einsum("bxy,bcy->bcx", weights, v).view_as(h), p, 3)

    def __call__(self, x, t):
        frequencies = torch.exp(-math.log(10_000) * torch.arange(self.a.nf // 2) / (self.a.nf // 2 - 1))
        time = torch.cat([f(t[:, None] * frequencies) for f in (torch.sin, torch.cos)], 1)
        first, second, entry = self.next(), self.next(), self.next()
        time = F.linear(F.silu(F.linear(time, **first)), **second)
        states = [F.conv2d(2 * x - 1, **entry, padding=1)]
        for level, _ in enumerate(self.a.dim_mults):
            for _ in range(self.a.n_res_block):
                h = self.block(states[-1], time)
                states.append(self.attention(h) if h.shape[-1] in self.a.attn_resolutions else h)
            if level < len(self.a.dim_mults) - 1:
                p = self.next()
                states.append(F.conv2d(F.pad(states[-1], (0, 1, 0, 1)), p["Conv_0.weight"], p["Conv_0.bias"], stride=2))
        h = self.block(self.attention(self.block(states[-1], time)), time)
        for level, _ in enumerate(self.a.dim_mults):
            for _ in range(self.a.n_res_block + 1): h = self.block(torch.cat([h, states.pop()], 1), time)
            if h.shape[-1] in self.a.attn_resolutions: h = self.attention(h)
            if level < len(self.a.dim_mults) - 1:
                p = self.next()
                h = F.conv2d(h.repeat_interleave(2, 2).repeat_interleave(2, 3), p["Conv_0.weight"], p["Conv_0.bias"],
                             padding=1)
        norm, exit = self.next(), self.next()
        return F.conv2d(F.silu(self.norm(h, norm)), **exit, padding=1)


def saved_denoiser(path, state, ema=None, **changes):
    "A checkpoint as the original's training leaves it, numpy's number for the step size included."
    optimiser = torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=1e-4)
    optimiser.param_groups[0]["lr"] = 2e-4 * np.minimum(3 / 5000, 1.0)
    assert isinstance(optimiser.param_groups[0]["lr"], np.float64)
    torch.save({"step": 3, "model": "ddpm", "state_dict": state,
                "state_dict_ema": {"decay": 0.9999, "n_update": 4, "ema_params": list((ema or state).values())},
                "optimizer": optimiser.state_dict(), "loss_train": 0.03, "fid_test": np.nan, **changes}, path)
    return path


def refusal(act):
    with pytest.raises(ValueError) as error: act()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("data", SETS)
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_small_denoiser_predicts_what_the_original_predicts(tmp_path, data, weights):
    shapes = Shapes(SETS[data].channels, TINY)
    states = {"raw": state_of(shapes), "ema": state_of(shapes, 1)}
    path = saved_denoiser(tmp_path / "a.pth.tar", states["raw"], states["ema"])
    denoiser = read_denoiser(path, data, weights, architecture=TINY)
    x, t = torch.randn(3, SETS[data].channels, 16, 16), torch.tensor([0.0, 120.0, 999.0])
    expected = Equations(states[weights], TINY)(x, t)
    assert expected.std() > 0.1
    torch.testing.assert_close(denoiser.network(x, t), expected, rtol=1e-4, atol=1e-4)
    assert not denoiser.network.training and not any(p.requires_grad for p in denoiser.network.parameters())


def test_a_denoiser_of_the_published_size(tmp_path):
    shapes = Shapes(3, DDPM())
    assert sum(math.prod(shape) for shape in shapes.values()) == 35_218_947
    state = state_of(shapes)
    denoiser = read_denoiser(saved_denoiser(tmp_path / "cifar10_model.pth.tar", state), "cifar10", "raw")
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([120.0])
    with torch.inference_mode():
        torch.testing.assert_close(denoiser.network(x, t), Equations(state, DDPM())(x, t), rtol=1e-3, atol=1e-3)


def test_a_denoiser_draws_pictures_and_keeps_dropout_where_asked(tmp_path):
    path = saved_denoiser(tmp_path / "a.pth.tar", state_of(Shapes(1, TINY)))
    pictures = last(sample(read_denoiser(path, "mnist", architecture=TINY), torch.randn(2, 1, 16, 16), 3, Ancestral(),
                           seeds=[0, 1]))
    assert pictures.shape == (2, 1, 16, 16) and pictures.isfinite().all()
    noisy = read_denoiser(path, "mnist", mode="train", architecture=TINY).network
    x, t = torch.randn(1, 1, 16, 16), torch.tensor([5.0])
    assert noisy.training and not noisy(x, t).equal(noisy(x, t))
    assert read_denoiser(path, "mnist", architecture=TINY, schedule="cosine").schedule.beta(999) > 0.0199


@pytest.mark.parametrize("changes, arguments, fragment", [
    (dict(model="unet"), {}, "model of"), (dict(model="mlp"), {}, "must be ddpm, got 'mlp'"),
    ({}, dict(weights="best"), "weights must be ema or raw"),
    ({}, dict(mode="test"), "must be eval or train"), ({}, dict(schedule="logarithmic"), "must be linear or cosine"),
    ({}, dict(data="svhn"), "data must be one of mnist, cifar10, cifar100"),
    (dict(state_dict_ema={"decay": 0.9999, "n_update": 4, "ema_params": []}), {}, "must have a list ema_params of"),
    ({}, dict(data="cifar10"), "all_modules.2.weight of"),
    ({}, dict(architecture=DDPM()), "missing, the first all_modules."),
])
def test_a_denoiser_that_does_not_fit_is_refused(tmp_path, changes, arguments, fragment):
    path = saved_denoiser(tmp_path / "a.pth.tar", state_of(Shapes(1, TINY)), **changes)
    assert fragment in refusal(lambda: read_denoiser(path, **{"data": "mnist", "architecture": TINY, **arguments}))


@pytest.mark.parametrize("change, fragment", [
    (lambda s: s.pop("all_modules.0.bias"), "1 missing, the first all_modules.0.bias"),
    (lambda s: s.update({"sigmas": torch.ones(3)}), "1 too many, the first sigmas"),
    (lambda s: s.update({"all_modules.0.weight": torch.ones(128, 16)}), "all_modules.0.weight of"),
    (lambda s: s.update({"all_modules.0.weight": torch.ones(128, 16)}), "must have shape (128, 32), got (128, 16)"),
])
def test_tensors_are_named(tmp_path, change, fragment):
    state = state_of(Shapes(1, TINY))
    change(state)
    path = saved_denoiser(tmp_path / "a.pth.tar", state)
    assert fragment in refusal(lambda: read_denoiser(path, "mnist", "raw", architecture=TINY))


# Classifiers

def block(channels, width, pool=False):
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width, track_running_stats=False),
                         nn.ReLU(), *[nn.MaxPool2d(2)] * pool)


class ResNet9(nn.Module):
    "The layers under the names that the original's files have."
    def __init__(self, channels, classes, dropout):
        super().__init__()
        self.conv1, self.conv2 = block(channels, 64), block(64, 128, True)
        self.res1 = nn.Sequential(block(128, 128), block(128, 128))
        self.conv3, self.conv4 = block(128, 256, True), block(256, 512, True)
        self.res2 = nn.Sequential(block(512, 512), block(512, 512))
        self.dropout = dropout
        if dropout:
            self.linear = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(2048, 512))
            self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(512, classes))
        else: self.classifier = nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(512, classes))

    def forward(self, x):
        x = self.conv2(self.conv1(x))
        x = self.conv4(self.conv3(x + self.res1(x)))
        x = x + self.res2(x)
        return self.classifier(self.linear(F.max_pool2d(x, 2))) if self.dropout else self.classifier(x)


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = [1024, 1024, 1024, 10]
        layers = [layer for i, o in zip(sizes, sizes[1:]) for layer in (nn.Dropout(), nn.Linear(i, o), nn.ReLU())]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, x): return self.mlp(x.flatten(1))


def saved_classifier(path, name, state, **changes):
    torch.save({"epoch": 99, "n_zeta": 5, "timestep": 120, "model": name, "state_dict": state,
                "optimizer": {"state": {}, "param_groups": []}, **changes}, path)
    return path


@pytest.mark.parametrize("name, data",
                         [("resnet9_dropout", "cifar10"), ("resnet9_dropout", "mnist"), ("resnet9", "cifar100"),
                          ("mlp", "mnist")])
def test_a_classifier_says_what_the_original_says(tmp_path, name, data):
    torch.manual_seed(0)
    known = SETS[data]
    theirs = (MLP() if name == "mlp" else ResNet9(known.channels, known.classes, name == "resnet9_dropout")).eval()
    for p in theirs.parameters():
        if p.ndim == 1: nn.init.normal_(p, 0.5, 0.3)
    ours = read_classifier(saved_classifier(tmp_path / "120a0099.pth.tar", name, theirs.state_dict()), data)
    x = torch.rand(6, known.channels, 32, 32) * 2 - 1
    seen = ((x + 1) / 2 - torch.tensor(known.look.mean).view(-1, 1, 1)) / torch.tensor(known.look.std).view(-1, 1, 1)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(seen), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours(x.view(3, 2, *x.shape[1:])).flatten(0, 1), theirs(seen), rtol=1e-4, atol=1e-4)
        if name != "mlp":
            assert not ours(x[:3]).allclose(ours(x)[:3], atol=1e-3)  # the batch counts, as in the original
    assert not ours.training and ours.train()(x).shape == (6, known.classes)


@pytest.mark.parametrize("changes, data, fragment", [
    (dict(model="vit_s"), "cifar10", "model must be one of resnet9_dropout, resnet9, mlp; got 'vit_s'"),
    (dict(model="resnet9"), "cifar10", "missing, the first classifier.2.bias"),
    (dict(model="mlp"), "cifar10", "must be for 1 channel and 10 classes"),
    ({}, "cifar100", "must have shape (100, 512), got (10, 512)"),
    ({}, "mnist", "must have shape (64, 1, 3, 3), got (64, 3, 3, 3)"),
    (dict(state_dict={}), "cifar10", "missing"),
])
def test_a_classifier_that_does_not_fit_is_refused(tmp_path, changes, data, fragment):
    path = saved_classifier(tmp_path / "a.pth.tar", "resnet9_dropout", ResNet9(3, 10, True).state_dict(), **changes)
    assert fragment in refusal(lambda: read_classifier(path, data))


def test_running_statistics_are_not_the_originals(tmp_path):
    state = {**ResNet9(3, 10, True).state_dict(), "conv1.1.running_mean": torch.zeros(64)}
    path = saved_classifier(tmp_path / "a", "resnet9_dropout", state)
    assert "1 too many, the first conv1.1.running_mean" in refusal(lambda: read_classifier(path, "cifar10"))
    assert set(HEADS) == {"mlp", "resnet9", "resnet9_dropout"}


# Files that are not to be trusted

class Trap:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [
    lambda value, path: torch.save(value, path), lambda value,
    path: torch.save(value, path, _use_new_zipfile_serialization=False), lambda value,
    path: path.write_bytes(pickle.dumps(value)),
])
def test_a_checkpoint_that_acts_is_refused_and_does_not_act(tmp_path, write):
    write({"step": 1, "model": "ddpm", "state_dict": {"a": Trap(tmp_path / "sprung")}, "state_dict_ema": {}},
          tmp_path / "a")
    assert "nothing in it was run" in refusal(lambda: read_saved(tmp_path / "a", DIFFUSION))
    assert not (tmp_path / "sprung").exists()


def test_a_numpy_object_is_no_way_in(tmp_path):
    torch.save({"step": np.array([Trap(tmp_path / "sprung")], dtype=object)}, tmp_path / "a")
    assert "nothing in it was run" in refusal(lambda: read_saved(tmp_path / "a", ["step"]))
    assert not (tmp_path / "sprung").exists()


def test_numpy_numbers_of_old_and_new_are_read(tmp_path):
    torch.save({"lr": np.float64(2e-4)}, tmp_path / "new")
    assert read_saved(tmp_path / "new", ["lr"])["lr"] == 2e-4
    old = pickle.dumps({"lr": np.float64(2e-4)}, protocol=2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray" in old
    archive = torch.PyTorchFileWriter(str(tmp_path / "old"))
    archive.write_record("data.pkl", old, len(old))
    archive.write_record("byteorder", b"little", 6)
    archive.write_end_of_file()
    assert read_saved(tmp_path / "old", ["lr"])["lr"] == 2e-4


@pytest.mark.parametrize("value", [torch.ones(2), [1], {"state_dict": {}}, {"step": 1}])
def test_other_contents_name_the_key(tmp_path, value):
    torch.save(value, tmp_path / "a")
    message = refusal(lambda: read_saved(tmp_path / "a", DIFFUSION))
    assert "must have the keys step, model, state_dict, state_dict_ema" in message
    assert "must have the keys epoch" in refusal(lambda: read_saved(tmp_path / "a", CLASSIFIER))


@pytest.mark.parametrize("keep", [0, 1, 100, 2000])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    saved_classifier(tmp_path / "a", "mlp", {"a": torch.ones(2000)})
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:keep])
    assert "damaged" in refusal(lambda: read_classifier(tmp_path / "a", "mnist"))
    for read in (read_zetas, read_predictives): assert "damaged" in refusal(lambda: read(tmp_path / "a"))
    assert "must be a file" in refusal(lambda: read_zetas(tmp_path / "b"))


# Zetas

def test_zetas_are_the_originals_layout(tmp_path):
    "Written the way the original writes: numpy, channels last."
    data, y = np.random.default_rng(0).integers(0, 256, (4, 5, 32, 32, 3), np.uint8), np.array([6, 9, 9, 4])
    np.savez(tmp_path / "cifar10t120n_zeta5.npz", data=data, Y=y)
    found = read_zetas(tmp_path / "cifar10t120n_zeta5.npz")
    assert found.x.shape == (4, 5, 3, 32, 32) and found.x.dtype == torch.uint8 and found.y.tolist() == [6, 9, 9, 4]
    assert found.x[1, 2, 0, 3, 4] == data[1, 2, 3, 4, 0]
    again = np.load(write_zetas(tmp_path / "again.npz", *found))
    assert set(again) == set(ZETAS) and again["data"].dtype == np.uint8
    assert np.array_equal(again["data"], data) and np.array_equal(again["Y"], y)


@pytest.mark.parametrize("arrays, fragment", [
    (dict(data=np.zeros((2, 5, 4, 4, 3), np.uint8)), "must have an array Y of shape (pictures); it has data"),
    (dict(Y=np.arange(2)), "must have an array data of shape (pictures, K, height, width, channels)"),
    (dict(data=np.zeros((2, 4, 4, 3), np.uint8), Y=np.arange(2)), "data of"),
    (dict(data=np.zeros((2, 5, 4, 4, 3)), Y=np.arange(2)),
     "must be uint8, shape (pictures, K, height, width, channels); got float64, shape (2, 5, 4, 4, 3)"),
    (dict(data=np.zeros((2, 5, 4, 4, 3), np.uint8), Y=np.arange(3)),
     "must be integer, shape (2); got int64, shape (3,)"),
     (dict(data=np.zeros((2, 5, 4, 4, 3), np.uint8), Y=np.ones(2)), "must be integer"),
    (dict(data=np.array([None]), Y=np.arange(2)), "nothing in it was run"), ({}, "it has none"),
])
def test_zetas_that_do_not_fit_are_refused(tmp_path, arrays, fragment):
    np.savez(tmp_path / "a.npz", **arrays)
    assert fragment in refusal(lambda: read_zetas(tmp_path / "a.npz"))


# Predictives

def random_predictives(n, draws, K, classes, seed=0):
    g = torch.Generator().manual_seed(seed)
    def p(*shape): return (torch.randn(*shape, classes, generator=g) * 2).softmax(-1)
    return Predictives(p(n, draws, K), p(n, draws, 1), p(n, draws), torch.randint(0, classes, (n,), generator=g))


def test_predictives_are_the_originals_layout(tmp_path):
    said = random_predictives(7, 3, 2, 10)
    labels = said.labels.numpy()
    np.savez(tmp_path / "a.npz", Y_hat_zeta=said.zeta, Y_hat_zeta_mean=said.zeta_mean, Y_hat_x=said.x, Y_zeta=labels,
             Y_zeta_mean=labels, Y_x=labels)
    found = read_predictives(tmp_path / "a.npz")
    assert all(a.equal(b) for a, b in zip(found, said))
    again = np.load(write_predictives(tmp_path / "deep" / "b.npz", found))
    assert list(again) == list(PREDICTIVES) and {key: again[key].shape for key in again} == {
        "Y_hat_zeta": (7, 3, 2, 10), "Y_hat_zeta_mean": (7, 3, 1, 10), "Y_hat_x": (7, 3, 10), "Y_zeta": (7,),
        "Y_zeta_mean": (7,), "Y_x": (7,)}
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"b.npz"}


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 30), draws=st.integers(1, 4), K=st.integers(1, 4), classes=st.integers(2, 12),
       seed=st.integers(0, 10))
def test_quality_is_that_of_the_averaged_probabilities(n, draws, K, classes, seed):
    said = random_predictives(n, draws, K, classes, seed)
    table = said.quality()
    assert list(table.index) == list(METHODS)
    for name, p in zip(METHODS,
                       (said.zeta.double().mean((1, 2)), said.zeta_mean.double().mean((1, 2)),
                        said.x.double().mean(1))):
        # the original's way to the same mean
        log = torch.log(said.zeta.double()).logsumexp((1, 2)) - math.log(draws * K)
        if name == "EiV": torch.testing.assert_close(log.exp(), p)
        true = p[torch.arange(n), said.labels]
        assert table.loc[name, "accuracy"] == pytest.approx((p.argmax(1) == said.labels).double().mean().item())
        assert table.loc[name, "nll"] == pytest.approx(-true.log().mean().item())
        assert table.loc[name].to_dict() == pytest.approx(quality(p, said.labels))


def test_calibration_error_by_hand():
    sure = torch.tensor([[0.9, 0.1]]).repeat(10, 1)
    said = Predictives(sure[:, None, None], sure[:, None, None], sure[:, None], torch.tensor([0] * 7 + [1] * 3))
    for name, q in said.quality().iterrows():
        assert q.to_dict() == pytest.approx({"accuracy": 0.7, "nll": -(0.7 * math.log(0.9) + 0.3 * math.log(0.1)),
                                             "ece": 0.2}, abs=1e-6), name


@pytest.mark.parametrize("change, fragment", [
    (lambda a: a.pop("Y_hat_x"), "must have an array Y_hat_x of shape (pictures, n_theta, classes)"),
    (lambda a: a.update(Y_hat_zeta_mean=a["Y_hat_zeta"]), "Y_hat_zeta_mean of"),
    (lambda a: a.update(Y_hat_zeta_mean=a["Y_hat_zeta"]), "shape (7, 3, 1, 10)"),
    (lambda a: a.update(Y_x=a["Y_x"][::-1].copy()), "Y_x of"),
    (lambda a: a.update(Y_hat_x=np.log(a["Y_hat_x"])), "must be probabilities"),
    (lambda a: a.update(Y_hat_x=a["Y_hat_x"][..., :9]), "shape (7, 3, 10); got float32, shape (7, 3, 9)"),
    (lambda a: a.update({k: a[k] + 10 for k in ("Y_zeta", "Y_zeta_mean", "Y_x")}), "classes from 0 to 9"),
    (lambda a: a.update(Y_zeta=a["Y_zeta"].astype(float)), "Y_zeta of"),
    (lambda a: a.update(Y_hat_zeta=a["Y_hat_zeta"] * np.nan), "must be probabilities"),
])
def test_predictives_that_do_not_fit_are_refused(tmp_path, change, fragment):
    write_predictives(tmp_path / "a.npz", random_predictives(7, 3, 2, 10))
    arrays = dict(np.load(tmp_path / "a.npz"))
    change(arrays)
    np.savez(tmp_path / "a.npz", **arrays)
    assert fragment in refusal(lambda: read_predictives(tmp_path / "a.npz"))


def test_nothing_is_written_that_could_not_be_read(tmp_path):
    said = random_predictives(7, 3, 2, 10)
    path = write_predictives(tmp_path / "a.npz", said)
    for wrong in (said._replace(x=said.x * 2), said._replace(labels=said.labels[:3]),
                  said._replace(zeta=said.zeta[:, :2])):
        refusal(lambda: write_predictives(path, wrong))
    assert all(a.equal(b) for a, b in zip(read_predictives(path), said))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


# Where files are

def test_the_tree_is_the_originals():
    tree = Tree("", "cifar10")
    assert str(tree.denoiser()) == "saved_models/diff/cifar10_model.pth.tar"
    assert str(tree.zetas("test", 120, 50)) == "data/test/cifar10t120n_zeta50.npz"
    folders = {"EiV": "n_zeta5", "AIV": "n_zeta5mean", "non-EiV": "n_zeta0"}
    for method, folder in folders.items():
        where = f"results_pred/cifar10/resnet9_dropoutddpm/{folder}/seed1/checkpoints"
        assert str(tree.classifier(method, 30)) == f"{where}/30cifar100099.pth.tar"
    tree, where = Tree("", "mnist", 3, 20, 10, "mlp"), "results_pred/mnist/mlpddpm/n_zeta20/seed3"
    assert str(tree.predictives(1, 7, 9)) == f"{where}/mnist_n_theta7_n_zeta9_t1seed3.npz"
    assert "method must be one of EiV, AIV, non-EiV" in refusal(lambda: tree.runs("BIV"))
