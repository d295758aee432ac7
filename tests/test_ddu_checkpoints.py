"The original's checkpoints and result files: every architecture against networks restated here, refusals, JSON."

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn
from torch.nn import functional as F

from uncpaper.originals.ddu_files import (
    ARCHITECTURES, KEYS, LAYOUTS, accuracies, ambiguous_entropies, ambiguous_shares, checkpoint_name, evaluate,
    evaluate_json, file_names,
    find_checkpoints, original_names, read_checkpoint, read_tensors, result_name, write_json)
from uncpaper.papers.ddu import Network, Task
from uncpaper.papers.ddu.acquisition import Acquire, Pool, acquisition
from uncpaper.papers.ddu.ambiguous import AmbiguousPictures, recipe
from uncpaper.pictures import COLOURED, Pictures

torch.set_num_threads(1)
CIFAR = Task(Pictures("cifar-10", "train", 50_000), Pictures("cifar-10", "test", 10_000), 32, 10, 3, COLOURED)
MNIST = Task(Pictures("mnist", "train", 1000), Pictures("mnist", "test", 500), 28)
COEFFICIENT = 0.5  # small, so that it binds


# The original's networks, stated anew with the names that its files have

class Normalised(nn.Module):
    "A convolution whose raw weight, unit vectors and last norm are saved."

    def __init__(self, inputs, outputs, kernel, stride, size):
        super().__init__()
        self.stride, self.padding, self.shape = stride, kernel // 2, (1, inputs, size, size)
        self.matrix = kernel == 1
        self.weight_orig = nn.Parameter(torch.randn(outputs, inputs, kernel,
                                                    kernel) * math.sqrt(2 / (outputs * kernel**2)))
        v = F.normalize(torch.randn(inputs if self.matrix else inputs * size * size), dim=0)
        self.register_buffer("weight_u", F.normalize(self.apply_to(v), dim=0))
        self.register_buffer("weight_v", v)
        self.register_buffer("weight_sigma", torch.ones(1))

    def apply_to(self, v):
        if self.matrix: return torch.mv(self.weight_orig.detach().flatten(1), v)
        return F.conv2d(v.view(self.shape), self.weight_orig.detach(), stride=self.stride,
                        padding=self.padding).flatten()

    def sigma(self):
        return torch.dot(self.weight_u, self.apply_to(self.weight_v))

    def forward(self, x):
        factor = torch.maximum(torch.ones(1), self.sigma() / COEFFICIENT) + (0 if self.matrix else 1e-5)
        return F.conv2d(x, self.weight_orig / factor, stride=self.stride, padding=self.padding)


def conv(sn, inputs, outputs, kernel, stride, size):
    return Normalised(inputs, outputs, kernel, stride,
                      size) if sn else nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def act(x, mod):
    return F.leaky_relu(x, 0.01) if mod else F.relu(x)


class Averaged(nn.Module):
    def __init__(self, outputs, stride):
        super().__init__()
        self.outputs, self.stride = outputs, stride

    def forward(self, x):
        pooled = x[:, :, ::self.stride, ::self.stride] if x.shape[2] % 2 else F.avg_pool2d(x, self.stride)
        return torch.cat([pooled, torch.zeros(len(x), self.outputs - x.shape[1], *pooled.shape[2:])], 1)


class Block(nn.Module):
    "Of a ResNet: two 3x3 convolutions, or three that widen fourfold."

    def __init__(self, sn, mod, inputs, width, stride, size, deep):
        super().__init__()
        after, self.mod, self.deep, outputs = math.ceil(size / stride), mod, deep, width * (4 if deep else 1)
        if deep:
            self.conv1, self.conv2 = conv(sn, inputs, width, 1, 1, size), conv(sn, width, width, 3, stride, size)
            self.conv3, self.bn3 = conv(sn, width, outputs, 1, 1, after), nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.conv2 = conv(sn, inputs, width, 3, stride, size), conv(sn, width, width, 3, 1, after)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            mapped = nn.Sequential(conv(sn, inputs, outputs, 1, stride, size), nn.BatchNorm2d(outputs))
            self.shortcut = nn.Sequential(Averaged(outputs, stride)) if mod else mapped

    def forward(self, x):
        out = self.bn2(self.conv2(act(self.bn1(self.conv1(x)), self.mod)))
        if self.deep: out = self.bn3(self.conv3(act(out, self.mod)))
        return act(out + self.shortcut(x), self.mod)


class ResNet(nn.Module):
    def __init__(self, depths, deep, sn, mod, channels, size):
        super().__init__()
        self.mod, inputs, sizes = mod, 64, [size, size, math.ceil(size / 2), math.ceil(size / 4)]
        self.conv1, self.bn1 = conv(sn, channels, 64, 3, 1, size), nn.BatchNorm2d(64)
        for stage, (depth, side) in enumerate(zip(depths, sizes), 1):
            width, blocks = 32 * 2**stage, []
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(Block(sn, mod, inputs, width, stride, side, deep))
                inputs, side = width * (4 if deep else 1), math.ceil(side / stride)
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x):
        x = act(self.bn1(self.conv1(x)), self.mod)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4): x = layer(x)
        return self.fc(F.avg_pool2d(x, 4).flatten(1))


class WideBlock(nn.Module):
    def __init__(self, sn, mod, inputs, width, stride, size):
        super().__init__()
        self.mod = mod
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(sn, inputs, width, 3, stride, size)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(sn, width, width, 3, 1, size // stride)
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != width:
            self.shortcut = Averaged(width, stride) if mod else conv(sn, inputs, width, 1, stride, size)

    def forward(self, x):
        return self.conv2(act(self.bn2(self.conv1(act(self.bn1(x), self.mod))), self.mod)) + self.shortcut(x)


class WideResNet(nn.Module):
    def __init__(self, sn, mod):
        super().__init__()
        self.mod, inputs = mod, 16
        self.conv1 = conv(sn, 3, 16, 3, 1, 32)
        for stage, (width, size) in enumerate(((160, 32), (320, 32), (640, 16)), 1):
            stride, blocks = 2 if stage > 1 else 1, []
            for i in range(4):
                blocks.append(WideBlock(sn, mod, inputs, width, stride if i == 0 else 1,
                                        size if i == 0 else size // stride))
                inputs = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.bn1, self.linear = nn.BatchNorm2d(640), nn.Linear(640, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.linear(F.avg_pool2d(act(self.bn1(x), self.mod), 8).flatten(1))


class VGG(nn.Module):
    def __init__(self, sn, mod, channels, size):
        super().__init__()
        plan = [64, 64, "M" if size == 32 else None, 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512,
                512, "M"]
        layers = []
        for width in filter(None, plan):
            if width == "M":
                layers.append(nn.MaxPool2d(2))
                size //= 2
            else:
                layers += [conv(sn, channels, width, 3, 1, size), nn.BatchNorm2d(width),
                           nn.LeakyReLU(0.01) if mod else nn.ReLU()]
                channels = width
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(512, 10)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv2(F.max_pool2d(F.relu(self.conv1(x)), 2))), 2).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def settled(model):
    "Evaluation mode with batch statistics as after a training."
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)
    return model.eval()


CASES = [("lenet", MNIST, lambda sn, mod: LeNet(), False, False)]
for sn, mod in ((False, False), (True, False), (True, True)):
    CASES.append(("vgg16", CIFAR, lambda sn, mod: VGG(sn, mod, 3, 32), sn, mod))
    CASES.append(("resnet18", MNIST, lambda sn, mod: ResNet((2, 2, 2, 2), False, sn, mod, 1, 28), sn, mod))
    CASES.append(("wide_resnet", CIFAR, WideResNet, sn, mod))
CASES += [("vgg16", MNIST, lambda sn, mod: VGG(sn, mod, 1, 28), True, False),
          ("resnet18", CIFAR, lambda sn, mod: ResNet((2, 2, 2, 2), False, sn, mod, 3, 32), False, True),
          ("resnet50", CIFAR, lambda sn, mod: ResNet((3, 4, 6, 3), True, sn, mod, 3, 32), True, False),
          ("resnet50", MNIST, lambda sn, mod: ResNet((3, 4, 6, 3), True, sn, mod, 1, 28), False, True)]


@pytest.mark.parametrize("name, task, build, sn, mod", CASES,
                         ids=[f"{name}-{task.size}{'-sn' * sn}{'-mod' * mod}" for name, task, _, sn, mod in CASES])
def test_every_architecture_says_the_same(tmp_path, name, task, build, sn, mod):
    torch.manual_seed(0)
    theirs, x = settled(build(sn, mod)), torch.randn(2, task.channels, task.size, task.size)
    path = tmp_path / checkpoint_name(name, 1, 350, COEFFICIENT if sn else None, mod)
    torch.save(nn.DataParallel(theirs).state_dict() if mod else theirs.state_dict(), path)
    ours = read_checkpoint(path, Network(ARCHITECTURES[name], COEFFICIENT if sn else None, mod), task)
    with torch.inference_mode():
        expected = theirs(x)
        assert expected.std() > 1e-3
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert not ours.training
    if sn: assert any(layer.sigma() > COEFFICIENT for layer in theirs.modules() if isinstance(layer, Normalised))


def test_every_network_has_a_layout():
    assert set(LAYOUTS) == set(ARCHITECTURES.values())
    with pytest.raises(KeyError): original_names(LAYOUTS["lenet"], {"extractor.99.weight": torch.ones(1)})


# Files that are not to be trusted

class Trap:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)


def refusal(act):
    with pytest.raises(ValueError) as error: act()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("write", [
    lambda value, path: torch.save(value, path),
    lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    lambda value, path: path.write_bytes(pickle.dumps(value)),
])
def test_a_pickle_that_acts_is_refused_and_does_not_act(tmp_path, write):
    sprung = tmp_path / "sprung"
    write({"conv1.weight": Trap(sprung)}, tmp_path / "a.model")
    assert "nothing in it was run" in refusal(lambda: read_tensors(tmp_path / "a.model"))
    assert not sprung.exists()


def test_a_whole_network_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.model")
    assert "more than tensors" in refusal(lambda: read_tensors(tmp_path / "a.model"))


@pytest.mark.parametrize("value",
                         [torch.ones(2), [torch.ones(2)], {1: torch.ones(2)}, {"epoch": 3},
                          {"state": {"a": torch.ones(1)}}])
def test_other_contents_are_refused(tmp_path, value):
    torch.save(value, tmp_path / "a.model")
    assert "must map names to tensors" in refusal(lambda: read_tensors(tmp_path / "a.model"))


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 1000, 40_000])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    torch.save(LeNet().state_dict(), tmp_path / "a.model")
    (tmp_path / "a.model").write_bytes((tmp_path / "a.model").read_bytes()[:keep])
    assert "damaged" in refusal(lambda: read_tensors(tmp_path / "a.model"))


def test_the_older_file_format_is_read(tmp_path):
    model = LeNet()
    torch.save(model.state_dict(), tmp_path / "a.model", _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(tmp_path / "a.model")["fc3.bias"], model.fc3.bias)


def changed(tmp_path, change):
    tensors = dict(LeNet().state_dict())
    change(tensors)
    torch.save(tensors, tmp_path / "a.model")
    return refusal(lambda: read_checkpoint(tmp_path / "a.model", Network("lenet"), MNIST))


def test_what_does_not_fit_is_named(tmp_path):
    assert "1 missing, the first fc2.bias" in changed(tmp_path, lambda t: t.pop("fc2.bias"))
    assert "1 too many, the first bn1.weight" in changed(tmp_path, lambda t: t.update({"bn1.weight": torch.ones(6)}))
    assert "conv1.weight of" in (message := changed(tmp_path,
                                                    lambda t: t.update({"conv1.weight": torch.ones(6, 3, 5, 5)})))
    assert "must have shape (6, 1, 5, 5), got (6, 3, 5, 5)" in message
    assert "must have shape (84,), got (2, 42)" in changed(tmp_path,
                                                           lambda t: t.update({"fc2.bias": torch.ones(2, 42)}))


def test_spectral_normalisation_must_be_as_saved(tmp_path):
    torch.save(VGG(False, False, 1, 28).state_dict(), tmp_path / "plain.model")
    message = refusal(lambda: read_checkpoint(tmp_path / "plain.model", Network("vgg16", 3.0), MNIST))
    assert "52 missing, the first features.0.weight_orig" in message
    assert "13 too many, the first features.0.weight" in message


# Names and trees

@pytest.mark.parametrize("arguments, expected", [
    (("wide_resnet", 1), "wide_resnet_1_350.model"),
    (("wide_resnet", 25, 300, 3.0), "wide_resnet_sn_3.0_25_300.model"),
    (("resnet50", 1, 350, 3, True), "resnet50_sn_3.0_mod_1_350.model"),
    (("vgg16", 7, 350, None, True), "vgg16_mod_7_350.model"),
    (("resnet18", 1, 50, 0.5), "resnet18_sn_0.5_1_50.model"),
])
def test_checkpoint_names(arguments, expected):
    assert checkpoint_name(*arguments) == expected


def test_result_names():
    assert result_name("wide_resnet", 1, "gmm", "cifar10", "svhn", 3.0,
                       True) == "res_wide_resnet_sn_3.0_mod_1_gmm_cifar10_svhn.json"
    assert result_name("resnet50", 1, "ensemble", "cifar100", "svhn") == "res_resnet50_1_ensemble_cifar100_svhn.json"


def test_twenty_five_networks_are_five_ensembles(tmp_path):
    for run in range(5):
        (tmp_path / f"Run{run + 1}").mkdir()
        for seed in range(5 * run + 1, 5 * run + 6):
            (tmp_path / f"Run{run + 1}" / f"wide_resnet_{seed}_350.model").touch()
    found = find_checkpoints(tmp_path, "wide_resnet", ensemble=5)
    assert [c.seed for run in found for c in run] == list(range(1, 26))
    assert found[4][0].path == tmp_path / "Run5" / "wide_resnet_21_350.model"
    assert [[c.seed for c in run]
            for run in find_checkpoints(tmp_path, "wide_resnet", runs=2, ensemble=3)] == [[1, 2, 3], [6, 7, 8]]


def test_single_networks_count_on_from_the_first_seed(tmp_path):
    for run in range(3):
        (tmp_path / f"Run{run + 1}").mkdir()
        (tmp_path / f"Run{run + 1}" / f"vgg16_sn_3.0_mod_{run + 4}_350.model").touch()
    assert [[c.seed for c in run]
            for run in find_checkpoints(tmp_path, "vgg16", 4, 3, spectral_norm=3.0, modified=True)] == [[4], [5], [6]]
    four = refusal(lambda: find_checkpoints(tmp_path, "vgg16", 4, 4, spectral_norm=3.0, modified=True))
    assert "Run4/vgg16_sn_3.0_mod_7_350.model" in four


# Result files

def said(seed, temperature=1.7):
    g = torch.Generator().manual_seed(seed)
    def part(n, shift):
        return {"logits": torch.randn(n, 4, generator=g) * 2 + shift,
                "log_density": torch.randn(n, 4, generator=g).double() * 5 - 10 * shift,
                                "labels": torch.randint(0, 4, (n,), generator=g)}
    return {"test": part(150, 0.0), "far": part(90, 0.3), "fit": {"temperature": temperature}}


def entropy(p):
    return -(p * np.log(p)).sum(-1)


def quality(known, foreign, positive):
    "AUROC and average precision of scikit-learn; scores are higher for the foreign, or for `in`, confidences."
    labels = np.r_[np.zeros(len(known)), np.ones(len(foreign))]
    labels = 1 - labels if positive == "in" else labels
    return roc_auc_score(labels, np.r_[known, foreign]), average_precision_score(labels, np.r_[known, foreign])


def softmax(z):
    return torch.softmax(z.double(), -1).numpy()


def check(values, key, known, foreign, positive):
    assert [values[f"{key}_auroc"][0],
            values[f"{key}_auprc"][0]] == pytest.approx(quality(known, foreign, positive), abs=1e-12)


def test_keys_of_a_softmax_file():
    run = said(1)
    values = evaluate_json([run], "softmax", "far", {})["values"]
    for key, t in (("", 1.0), ("t_", 1.7)):
        known, foreign = (run[name]["logits"].double() / t for name in ("test", "far"))
        check(values, key + "m1", *(z.logsumexp(1).numpy() for z in (known, foreign)), "in")
        check(values, key + "m2", *(entropy(softmax(z)) for z in (known, foreign)), "out")
    assert values["accuracy"] == [(run["test"]["logits"].argmax(1) == run["test"]["labels"]).double().mean().item()]


def test_keys_of_an_ensemble_file():
    runs = [said(1, 1.7), said(2, 0.6), said(3, 1.2)]
    for run in runs: run["test"]["labels"] = runs[0]["test"]["labels"]
    document = evaluate_json([runs], "ensemble", "far", {})
    for key, ts in (("", (1.0, 1.0, 1.0)), ("t_", (1.7, 0.6, 1.2))):
        p = {name: np.stack([softmax(run[name]["logits"].double() / t) for run, t in zip(runs, ts)])
             for name in ("test", "far")}
        pe = {name: entropy(q.mean(0)) for name, q in p.items()}
        check(document["values"], key + "m2", pe["test"], pe["far"], "out")
        check(document["values"], key + "m1", *(pe[name] - entropy(p[name]).mean(0) for name in ("test", "far")), "out")
    mean = torch.stack([run["test"]["logits"].double().softmax(-1) for run in runs]).mean(0)
    accuracy = (mean.argmax(1) == runs[0]["test"]["labels"]).double().mean()
    assert document["values"]["accuracy"][0] == accuracy
    assert document["explicit"]["ensemble MI"]["values"]["aleatoric_auroc"] == document["values"]["m2_auroc"]


def test_keys_of_a_gmm_file():
    run = said(1)
    document = evaluate_json([run], "gmm", "far", {})
    check(document["values"], "m1", *(run[name]["log_density"].logsumexp(1).numpy() for name in ("test", "far")), "in")
    check(document["values"], "m2", *(entropy(softmax(run[name]["log_density"])) for name in ("test", "far")), "out")
    assert all(document["values"][f"t_{key}"] == document["values"][key]
               for key in ("m1_auroc", "m1_auprc", "m2_auroc", "m2_auprc"))
    plain = evaluate_json([run], "softmax", "far", {})
    assert all(plain["mean"][key] == document["mean"][key] for key in ("accuracy", "ece", "t_ece"))
    explicit = document["explicit"]["DDU"]["mean"]
    assert explicit["aleatoric_auroc"] == plain["mean"]["m2_auroc"]
    assert explicit["auprc_in"] == document["mean"]["m1_auprc"]
    assert set(explicit) == {"aleatoric_auroc", "auroc", "auprc_in", "auprc_out", "fpr95"}


def test_densities_beyond_exp_are_told_apart():
    run = said(1)
    for name, level in (("test", 1900.0), ("far", -2.8e16)):
        run[name]["log_density"] = run[name]["log_density"] * 0 + level
    assert evaluate_json([run], "gmm", "far", {})["mean"]["m1_auroc"] == 1.0


def test_errors_are_standard_errors_and_none_for_one_run():
    document = evaluate_json([said(s) for s in range(4)], "softmax", "far", {"seed": 1})
    assert list(document) == ["mean", "std", "values", "info", "explicit"]
    assert all(tuple(document[part]) == KEYS for part in ("mean", "std", "values"))
    for key in KEYS:
        assert document["std"][key] == pytest.approx(np.std(document["values"][key], ddof=1) / 2)
        assert 0 <= document["mean"][key] <= 1
    assert set(evaluate_json([said(0)], "softmax", "far", {})["std"].values()) == {None}


def test_an_ensemble_needs_members():
    assert "must be several" in refusal(lambda: evaluate_json([said(0)], "ensemble", "far", {}))
    assert "must be one, got 2" in refusal(lambda: evaluate_json([[said(0), said(1)]], "softmax", "far", {}))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = write_json(tmp_path / "a.json", {"a": None})
    for wrong in ({"a": math.inf}, {"a": math.nan}, {"a": torch.ones(1)}):
        assert "strict JSON" in refusal(lambda: write_json(path, wrong))
    assert json.loads(path.read_text()) == {"a": None} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


# From checkpoints to the file

def test_a_tree_of_checkpoints_becomes_a_result_file(tmp_path):
    for run in (1, 2):
        torch.manual_seed(run)
        model = LeNet()
        x, y = Pictures("mnist", "train", 3000).load(28)
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for part, labels in zip(((x - 0.1307) / 0.3081).split(100), y.split(100)):
            optimiser.zero_grad()
            F.cross_entropy(model(part), labels).backward()
            optimiser.step()
        (tmp_path / f"Run{run}").mkdir()
        torch.save(nn.DataParallel(model).state_dict(), tmp_path / f"Run{run}" / f"lenet_{run}_350.model")
    [path] = evaluate(tmp_path, seed=1, model="lenet", runs=2, dataset="mnist", ood="fashion-mnist", folder=tmp_path)
    document = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert path.name == "res_lenet_1_softmax_mnist_fashion-mnist.json"
    assert document["mean"]["accuracy"] > 0.8 and document["mean"]["m2_auroc"] > 0.7
    info = document["info"]
    assert {key: info[key]
            for key in ("seed", "dataset", "ood_dataset", "model", "runs", "sn", "coeff", "mod", "ensemble",
                        "model_type")} == {
        "seed": 1, "dataset": "mnist", "ood_dataset": "fashion-mnist", "model": "lenet", "runs": 2, "sn": False,
        "coeff": 3.0, "mod": False, "ensemble": 5, "model_type": "softmax"}
    networks = [row[0] for row in info["provenance"]["networks"]]
    assert [n["seed"] for n in networks] == [1, 2] and all(0.1 < n["temperature"] < 10 for n in networks)
    assert len({n["validation_sha256"] for n in networks}) == len({n["sha256"] for n in networks}) == 2
    assert set(info["provenance"]["data"]) == {"mnist", "fashion-mnist"}


def test_a_missing_run_stops_the_evaluation(tmp_path):
    assert "a checkpoint is missing" in refusal(lambda: evaluate(tmp_path, seed=1, model="lenet", dataset="mnist",
                                                                 ood="fashion-mnist"))


@pytest.mark.parametrize("changes, fragment", [
    (dict(model="resnet34"), "model must be one of"), (dict(model_type="energy"), "model_type must be one of"),
    (dict(dataset="cifar"), "dataset must be one of"),
    (dict(ood="cifar10"), "ood must be another set"),
    (dict(ensemble=6, model_type="ensemble"), "ensemble must be between"),
])
def test_unknown_words_are_refused_before_anything_is_read(tmp_path, changes, fragment):
    assert fragment in refusal(lambda: evaluate(tmp_path, **{"seed": 1, **changes}))


# active learning

@pytest.fixture
def acquired(tmp_path, monkeypatch):
    "Runs of active learning with one method, by their seeds."
    monkeypatch.setenv("UNCPAPER_HOME", str(tmp_path))
    digits, test = Pictures("digits", "train", 1200), Pictures("digits", "test", 200)
    judged = Pictures("digits", "test", 597)
    made = recipe(digits, judged, 8, (40, 10), "small_lenet", (30, 40), 20, judges=2)
    pool, network = Pool(digits, 100, AmbiguousPictures(made, "train"), 40), Network("tiny_resnet", 3.0, True)
    return [Acquire(pool, test, 8, network, acquisition("DDU"), seed, steps=3, batch=10, until=40) for seed in range(2)]


def test_active_learnings_files_in_the_originals_form(acquired):
    results = [run.result() for run in acquired]
    forms = accuracies, ambiguous_shares, ambiguous_entropies
    percent, shares, entropies = (json.loads(json.dumps(f(results), allow_nan=False)) for f in forms)
    assert list(percent) == list(shares) == list(entropies) == ["0", "1"]
    assert percent["1"] == pytest.approx(100 * results[1]["history"].together) and len(percent["0"]) == 3
    assert {t: len(e) for t, e in entropies["0"].items()} == {"0": 30, "1": 40} and len(shares["0"]) == 2
    for share, found in zip(shares["1"], entropies["1"].values()):
        assert share == pytest.approx(np.mean(np.array(found) > 1))


def test_active_learnings_files_have_the_originals_names(acquired):
    starts = {"accuracies": "test_accs", "shares": "ambiguous", "entropies": "ambiguous_entropies"}
    rest = "tiny_resnet_sn_3.0_mod_0_gmm_dirty_mnist_100.json"
    assert file_names(acquired[0]) == {name: f"{start}_{rest}" for name, start in starts.items()}
    plain = Pool(Pictures("digits", "train", 1200), 300)
    run = Acquire(plain, acquired[0].test, 8, Network("resnet18"), acquisition("ensemble MI"), 3, 1)
    assert file_names(run) == {"accuracies": "test_accs_resnet18_3_ensemble_mi_mnist.json"}
