"""The published scale without a GPU: whole plans, published networks, a real step of each, missing data said first.

Readers of sets that a reader brings are tested on small files of the true form in test_image_sets.py and test_data.py;
counts of parameters against closed forms in test_classifiers.py, test_flow.py, test_unet.py and test_latent.py.
"""
import sys
import time

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uncpaper import data
from uncpaper.papers.decu.cost import published_network
from uncpaper.papers.eiv.cost import network_of
from uncpaper.papers.shared.cost import bare, form_of
from uncpaper.reproduce import cli, cost
from uncpaper.reproduce.experiments import experiments, find
from uncpaper.work import made, size_of

OF_PICTURES = {7_711_520, 7_861_088, 57_173_504, 57_323_072, 418_361, 456_321, 597_693, 937_957}
"Parameters of DGM's flows and autoencoders, in grey and in colour, not told sigma and told."


@pytest.fixture(scope="module")
def plans() -> dict[str, list]:
    return {e.name: cost.stages_of(e) for e in experiments()}


def of_paper(plans: dict, paper: str, kind: str) -> list:
    return list({s for name, stages in plans.items() if name.startswith(f"{paper}/") for s in stages if s.kind == kind})


def test_every_experiment_of_every_paper_has_its_whole_plan_at_the_published_scale(plans):
    "All seeds that the profile asks for, and everything upstream; a drawn formula has none."
    assert {e.name for e in experiments() if "paper" in e.profiles} == set(plans)
    assert [name for name, stages in plans.items() if not stages] == ["dgm/figure-1"]
    for name, stages in plans.items():
        seeds = {s.seed for s in stages if hasattr(s, "seed")}
        wanted = find(name)[0].parameters("paper").get("seeds", 1)
        assert len(seeds) >= (wanted if isinstance(wanted, int) else len(wanted)) * bool(stages), name
        there = set(stages)
        assert len(there) == len(stages) and all(u in there for s in stages for u in s.upstream), name


def test_networks_of_the_published_scale_have_the_published_size(plans):
    "Each form of network once."
    tasks = {s.task for s in of_paper(plans, "biv", "Train")}
    assert {size_of(made(task.network)) for task in tasks} == {8_291, 7_851, 11_177_025}
    denoisers = {bare(s) for s in of_paper(plans, "eiv", "TrainDenoiser")} # raw, and averaged
    assert {size_of(made(s.model)) for s in denoisers} == {2 * 35_218_947, 2 * 35_214_337}
    forms = {(s.network, form_of(s.zetas.images)) for s in of_paper(plans, "eiv", "TrainClassifier")}
    assert 7_624_458 in {size_of(network_of(name, form)) for name, form in forms} # ResNet-9 with dropout, ten classes
    pictures = [s for s in of_paper(plans, "dgm", "TrainGenerator") if hasattr(s.source, "cut")]
    models = {(s.family, s.source.dimension, s.noise.told): s.model for s in pictures}
    assert {size_of(made(model)) for model in models.values()} == OF_PICTURES
    assert size_of(made(published_network)) == 400_920_579 + 1001 * 512 # DECU's, and its table


def one_step(model: nn.Module, loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
    "There, back and a change of the weights, all of it finite."
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    loss.backward()
    optimiser.step()
    after = [p for p in model.parameters() if p.requires_grad]
    assert loss.isfinite() and all(p.isfinite().all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after))


def test_classifiers_of_the_published_scale_take_a_step(plans):
    "Each architecture once, with two pictures; and the largest of its variants, where there are several."
    found = {s.network.name: s for s in sorted(of_paper(plans, "ddu", "Train"), key=lambda s: str(s.network))}
    assert len(found) == 7
    for stage in found.values():
        model = stage.network.build(stage.task).train()
        x, y = torch.randn(2, stage.task.channels, stage.task.size, stage.task.size), torch.tensor([0, 1])
        one_step(model, F.cross_entropy(model(x), y), torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))


def test_regressors_and_the_classifier_of_noisy_pictures_take_a_step(plans):
    for task in {s.task for s in of_paper(plans, "biv", "Train")}:
        model = task.network().train()
        x = torch.rand(2, 3, 200, 200) * 255 if task.data == ("utkface",) else torch.randn(2, model[0].in_features)
        one_step(model, model(x).square().mean(), torch.optim.Adam(model.parameters()))
    stage = next(s for s in of_paper(plans, "eiv", "TrainClassifier") if s.zetas.images.name == "cifar-10")
    model = stage.model().train()
    one_step(model, F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 1])),
             torch.optim.Adam(model.parameters()))


def test_generative_models_take_a_step(plans):
    """
    The diffusion model with one picture; every flow and autoencoder of pictures with two. The published latent model
    is left out: its weights alone take 1.6 GB, and it would take the test's whole time; it is counted above.
    """
    stage = next(s for s in of_paper(plans, "eiv", "TrainDenoiser") if s.images.channels == 3)
    raw = stage.model().raw
    t = torch.tensor([500.0])
    noise = torch.randn(1, 3, 32, 32)
    one_step(raw, (raw(noise, t) - noise).square().mean(), torch.optim.Adam(raw.parameters()))
    forms = {(s.family, s.source.dimension, s.noise.told) for s in of_paper(plans, "dgm", "TrainGenerator")}
    for family, dimension, told in forms:
        model = family.model(dimension, told).train()
        loss = model.loss(torch.rand(2, dimension), *(torch.full((2,), 0.1),) * told)
        one_step(model, loss, torch.optim.Adam(model.parameters()))


@pytest.mark.parametrize("name,missing", [
    ("biv/label-noise", "utkface"), ("ddu/ood", "cifar-10"), ("decu/bins", "cin256-v2"), ("dgm/samples", "cifar-10"),
    ("eiv/accuracy", "cifar-10")])
def test_missing_data_are_named_before_anything_is_trained(name, missing, monkeypatch, capsys):
    "In one line, with where to get them and where to put them; here as if nothing but the embedded sets were there."
    cards = sys.modules["uncpaper.data.cards"]
    monkeypatch.setattr(cards, "missing", lambda n: [] if data.card(n).embedded else ["its files"])
    monkeypatch.setattr("uncpaper.reproduce.batch.build_all", lambda *_: pytest.fail("it was begun"))
    monkeypatch.setattr(sys, "argv", ["uncpaper", "run", name, "--profile", "paper"])
    started = time.process_time()
    with pytest.raises(SystemExit) as end: cli.main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1
    assert said.startswith(f"uncpaper: {missing}: no its files in {data.folder(missing)}; ")
    assert data.card(missing).homepage in said or f"download('{missing}')" in said
    assert time.process_time() - started < 10, "processor seconds, of which most are for keys"
