"""
How long does DDU's experiment take, from the first step to the tables, beside the code that its authors released?

    git clone the released code (omegafragger/DDU)
    python benchmarks/released_ddu.py FOLDER

One thread, the published network (ResNet-18 with spectral normalisation, leaky ReLU and averaging shortcuts), real
pictures: 7,000 handwritten digits of 28 x 28 pixels, a tenth of them for validation, 500 others, and 500 pictures of
clothes that it has never seen. Nothing of the released code is changed: its network, epoch, embeddings, Gaussians and
metrics are imported from the folder and called as its train.py and evaluate.py call them (which the folder's last
version stops before its tables). With fewer pictures than features in a class its search for a jitter ends in an error
under today's torch.

Training: both start from the same weights and vectors and see the same batches; the losses are compared step by step.
A turn is an epoch of one batch of 128. Scoring: the weights that the released code has then are read from its own
checkpoint, and accuracy, calibration error and the AUROC of all four scores have to be the same; a turn is the whole of
it, embeddings of the training pictures included. A ratio is time(released) / time(ours).
"""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from _rounds import note, turns
from uncpaper.data import Split
from uncpaper.density import GaussianDiscriminant
from uncpaper.models.classifiers import Classifier
from uncpaper.originals.ddu_files import read_checkpoint
from uncpaper.metrics import quality
from uncpaper.papers.ddu import SINGLE, Network, cross_entropy, detection, outputs, readings, task
from uncpaper.pictures import Pictures
from uncpaper.training import train_step

BATCH, STEPS = 128, 4
DIGITS, NETWORK = task("mnist", 7_000, 500), Network("resnet18", 3.0, modified=True)
FOREIGN = Pictures("fashion-mnist", "test", 500)
CPU = torch.device("cpu")


def released(folder: str) -> dict[str, Callable]:
    "What train.py and evaluate.py import."
    sys.path.insert(0, folder)
    try:
        from metrics import calibration_metrics, classification_metrics, ood_metrics, uncertainty_confidence
        from net.resnet import resnet18
        from utils import gmm_utils, train_utils
    except ImportError as missing:
        print(f"{folder} must hold the released code of DDU: {missing}", file=sys.stderr)
        sys.exit(2)
    rooms = (calibration_metrics, classification_metrics, ood_metrics, uncertainty_confidence, gmm_utils, train_utils)
    return {"resnet18": resnet18, **{name: f for room in rooms for name, f in vars(room).items() if callable(f)}}


def loader(split: Split | tuple[Tensor, Tensor]) -> DataLoader:
    return DataLoader(TensorDataset(*split), BATCH)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)


def silent(call: Callable) -> Callable:
    "The same without a word: the released code tells of each batch."
    def quiet(*given: object) -> object:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()): return call(*given)
    return quiet


def their_scores(code: dict[str, Callable], model: nn.Module, known: Split, test: Split, foreign: Split) -> dict:
    "As evaluate.py has it, for a softmax model and for one with Gaussians."
    _, accuracy, labels, predicted, sure = code["test_classification_net"](model.eval(), loader(test), CPU)
    said = {"accuracy": accuracy, "ECE": code["expected_calibration_error"](sure, predicted, labels, num_bins=15)}
    for name, score, confident in (("energy", "logsumexp", True), ("softmax", "entropy", False)):
        pair = loader(test), loader(foreign)
        said[name] = code["get_roc_auc"](model, *pair, code[score], CPU, confidence=confident)[2]
    z, y = code["get_embeddings"](model, loader(known), 512, torch.double, CPU, CPU)
    gaussians, _ = code["gmm_fit"](z, y, 10)
    both = [code["gmm_evaluate"](model, gaussians, loader(split), CPU, 10, CPU)[0] for split in (test, foreign)]
    return {**said, "DDU": code["get_roc_auc_logits"](*both, code["logsumexp"], CPU, confidence=True)[2]}


def our_scores(model: Classifier, known: Split, test: Split, foreign: Split) -> dict:
    gaussians = GaussianDiscriminant.fit(outputs(model, known.x)["features"], known.y)
    inside, outside = (readings(model, gaussians, split) for split in (test, foreign))
    said = quality(inside["logits"].softmax(-1), test.y)
    aurocs = {name: detection(score(inside), score(outside))["AUROC"] for name, score in SINGLE.items()}
    return {"accuracy": said["accuracy"], "ECE": said["ece"], **aurocs}


def saved(model: nn.Module) -> Path:
    path = Path(tempfile.mkdtemp()) / "resnet18_sn_3.0_mod_1_1.model"
    torch.save(model.state_dict(), path)
    return path


def trained(code: dict[str, Callable], theirs: nn.Module, ours: Classifier, p: Split) -> tuple[dict, np.ndarray]:
    "A turn of each, and how far apart their losses were, step by step."
    epoch, accelerator = silent(code["train_single_epoch"]), Accelerator(cpu=True)
    optimisers = sgd(theirs), sgd(ours)
    def their_step(batch: Split) -> float: return epoch(0, theirs, [batch], optimisers[0], CPU) * len(batch[0])
    def our_step(batch: Split) -> float:
        return train_step(ours, list(batch), cross_entropy, optimisers[1], accelerator).item()
    batches = [Split(p.x[i:i + BATCH], p.y[i:i + BATCH]) for i in range(0, STEPS * BATCH, BATCH)]
    losses = np.array([[their_step(batch), our_step(batch)] for batch in batches])
    turn = {"released": lambda: their_step(batches[0]), "ours": lambda: our_step(batches[0])}
    return turn, np.abs(losses[:, 0] / losses[:, 1] - 1)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    torch.set_num_threads(1)
    code, problem, foreign = released(sys.argv[1]), DIGITS.load(1), DIGITS.view(FOREIGN)
    known = Split(problem.x, problem.y)
    torch.manual_seed(0)
    theirs = code["resnet18"](spectral_normalization=True, mod=True, coeff=3.0, num_classes=10, mnist=True)
    ours = read_checkpoint(saved(theirs), NETWORK, DIGITS).to(memory_format=torch.channels_last)
    turn, apart = trained(code, theirs, ours, known)
    found = turns(turn, 5)
    note("DDU end to end", "training step, ResNet-18, batch 128", "released code", found["released"] / found["ours"],
         f"losses within {apart[0]:.1e} in the first step, {apart[-1]:.1e} in the {STEPS}th", ["torch"])
    same = read_checkpoint(saved(theirs), NETWORK, DIGITS)
    sets = known, problem.test, foreign
    said, own = silent(their_scores)(code, theirs, *sets), our_scores(same, *sets)
    for name in said: print(f"{name:12}{said[name]:.6f}  {own[name]:.6f}")
    apart = max(abs(said[name] - own[name]) for name in said)
    found = turns({"released": lambda: silent(their_scores)(code, theirs, *sets),
                   "ours": lambda: our_scores(same, *sets)}, int(os.environ.get("UNCPAPER_ROUNDS", 3)))
    note("DDU end to end", "scoring, 7,300 pictures", "released code", found["released"] / found["ours"],
         f"accuracy, ECE and three AUROC within {apart:.1e}", ["torch", "scikit-learn"])
