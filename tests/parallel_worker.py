"""What `torchrun` starts for tests/test_parallel.py: each process writes what it has come to.

It is no test module: the tests start it, and run its functions themselves, in one process.
"""

import sys
from itertools import product
from pathlib import Path

import torch

from ddpmlib import evaluation
from ddpmlib.denoiser import Denoiser, V
from ddpmlib.evaluation import Guidance, Sampling, features
from ddpmlib.losses import objectives
from ddpmlib.models import Classifier, ClassifierConfig, UNet, UNetConfig
from ddpmlib.process import DDPM
from ddpmlib.process.schedules import cosine
from ddpmlib.training import Settings, Trainer, parallel

SETTINGS = Settings(steps=6, batch_size=8, lr=3e-3, warmup=2, ema=0.8, seed=5)


def images(n=21):
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return x, torch.arange(n) % 3


def denoiser():
    torch.manual_seed(0)
    config = UNetConfig(
        width=8, mults=(1, 2), attention=(False, True), heads=2, num_classes=3, dropout=0.2,
        groups=4,
    )  # fmt: skip
    net = UNet(config)
    with torch.no_grad():  # an untrained net answers 0, which would hide much
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return Denoiser(net, DDPM(cosine(50)), V)


def loss(model, x, y, generator):
    return objectives.diffusion_loss(model, x, y, generator, label_dropout=0.3)


def trainer(accumulate=1):
    x, y = images()
    return Trainer(denoiser(), loss, x, y, SETTINGS, device="cpu", accumulate=accumulate)


def trained(one, updates):
    """Losses, the gradients of the first update, and all weights after the last."""
    losses = [one.update().loss]
    gradients = {f"gradient.{k}": p.grad.clone() for k, p in one.model.named_parameters()}
    losses += [one.update().loss for _ in range(updates - 1)]
    state = {f"state.{k}": v for k, v in one.state_dict().items()}
    return {"losses": torch.stack(losses)} | gradients | state


def samples(eta, w, batch_size=3):
    how = Sampling(steps=4, eta=eta, seed=7, guidance=Guidance(w=w))
    y = torch.arange(13) % 3
    return evaluation.generate(denoiser().eval(), (1, 8, 8), y, how, batch_size=batch_size)


def measured():
    """Samples, and what a classifier sees: 5 batches of uneven sizes for two processes."""
    torch.manual_seed(3)
    classifier = Classifier(ClassifierConfig(width=4, features=6, num_classes=3)).eval()
    drawn = {
        f"samples.{eta}.{w}": samples(eta, w) for eta, w in product((0.0, 0.5, 1.0), (0.0, 2.0))
    }
    x, _ = images()
    seen, logits = features.extract(classifier, x, batch_size=5)
    moments = features.moments(classifier, x, batch_size=5)
    found = {
        "features": seen,
        "logits": logits,
        "moments.mean": moments.mean,
        "moments.cov": moments.cov,
    }
    return drawn | found | {"n": torch.tensor(moments.n)}


def refusal():
    """What several processes say to a batch that does not divide."""
    try:
        trainer(accumulate=3)
    except ValueError as error:
        return str(error)
    return ""


def main(folder):
    with parallel.joined("cpu"):
        one = trainer()
        found = trained(one, 3)
        one.save(folder / "state.safetensors")  # the first process writes
        own = {"own": torch.tensor([i for i, _ in parallel.own(range(7))])}
        everyone = {"collected": torch.tensor(parallel.collected(own["own"].tolist()))}
        rank = torch.tensor(float(parallel.rank()))
        found |= own | everyone | {"mean of ranks": parallel.mean(rank)} | measured()
        found["refusal"] = refusal()
        torch.save(found, folder / f"process{parallel.rank()}.pt")
        parallel.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
