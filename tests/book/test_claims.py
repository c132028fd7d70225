"""What chapters say of measured rows, cards and stored outputs: the numbers on the page are theirs.

A claim is quoted with ``{}`` in place of each number. Both an edit of the page and new rows that do
not fit it turn a test red.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import nbformat
import pytest
import torch

from ddpmlib import data, zoo
from ddpmlib.denoiser import oracle
from ddpmlib.experiments import ladder, over_seeds, results
from ddpmlib.process import DDPM, schedules
from scripts import notebooks
from tests.book.test_equations import prose

NUMBER = r"(-?\d[\d,]*(?:\.\d+)?)"


@cache
def page(chapter: str) -> str:
    return " ".join(prose(notebooks.Chapter(chapter).text).split())


def says(chapter: str, claim: str) -> list[str]:
    """The numbers that the chapter prints in the places of ``{}``."""
    pattern = re.escape(" ".join(claim.split())).replace(r"\{\}", NUMBER)
    found = list(re.finditer(pattern, page(chapter)))
    assert len(found) == 1, f"{chapter} says {len(found)} times: {claim}"
    return list(found[0].groups())


def fits(printed: str, value: float) -> bool:
    """Whether the value is the printed number, rounded as it is printed."""
    decimals = len(printed.partition(".")[2])
    return abs(float(printed.replace(",", "")) - value) <= 0.5001 * 10**-decimals


def stored(chapter: str, of: str) -> str:
    """The text that the one cell with these words has left in the notebook."""
    cells = nbformat.read(notebooks.Chapter(chapter).ipynb, 4).cells
    (cell,) = (c for c in cells if c.cell_type == "code" and of in c.source)
    found = (o.get("text") or o.get("data", {}).get("text/markdown", "") for o in cell.outputs)
    return "\n".join(found)


def row(name: str, **where: Any) -> results.Row:
    (found,) = results.rows(name, **where)
    return found


def apart(a: results.Row, b: results.Row) -> bool:
    """Whether the intervals of two distances have nothing in common."""
    (low, high), (least, most) = a["frechet_interval"], b["frechet_interval"]
    return high < least or most < low


def test_a_claim_is_found_and_its_numbers_fit_as_they_are_rounded() -> None:
    assert fits("0.44", 0.4351) and fits("1,000", 1000) and not fits("0.44", 0.4349)
    with pytest.raises(AssertionError, match="says 0 times"):
        says("09_scoreboard", "there is no such sentence with {} numbers")


# ---- 1, the forward process ------------------------------------------------------------------


def test_rescaled_end_points_leave_the_same_signal_for_every_length() -> None:
    chapter = "01_forward"
    most, first, last = says(
        chapter, r"lies between 2 and ${}\cdot10^{-5}$ for each $T$ from {} to {}"
    )
    lengths = range(int(first), int(last) + 1, 10)
    left = [float(DDPM(schedules.linear(T)).alpha_bar[-1]) for T in lengths]
    assert 2e-5 < min(left) < max(left) < 1e-5 * float(most)


def test_the_mean_is_forgotten_last() -> None:
    (printed,) = says("01_forward", r"the whole bound there, ${}\cdot10^{-4}$ nats")
    x = data.to_float(data.load("digits").x_train).flatten(1).double()
    process, mean, cov = DDPM(schedules.linear(1000)), x.mean(0), torch.cov(x.T, correction=0)
    whole = oracle.Gaussian(process, mean, cov).kl_to_prior(process.T)
    of_the_mean = float(process.alpha_bar[-1] * (mean**2).sum()) / 2
    assert fits(printed, 1e4 * whole) and 0.999 < of_the_mean / whole < 1


# ---- 4, the bound ----------------------------------------------------------------------------


def test_trained_on_the_bound_the_net_gains_bits_and_loses_quality() -> None:
    bits, factor = says(
        "04_elbo",
        """the same net gains {} bits per dimension, and its samples are {} times as far""",
    )
    bound, distance = (
        [row(name, run=run, method="learned")[key] for run in ("linear-hybrid", "linear-vlb")]
        for name, key in (("likelihood", "bits_per_dim"), ("variances", "frechet"))
    )
    assert fits(bits, bound[0] - bound[1]) and fits(factor, distance[1] / distance[0])


def test_most_of_the_border_of_a_scan_is_black() -> None:
    (share,) = says("04_elbo", "and {} % of the border pixels of the scans are exactly black")
    scans = data.load("digits").x_train
    border = torch.ones(scans.shape[-2:], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert fits(share, 100 * float((scans[..., border] == 0).double().mean()))


def test_one_step_holds_most_of_the_bits_of_a_perceptron() -> None:
    chapter, lines = "04_elbo", stored("04_elbo", "held_out, by_loss").split("\n")
    simple, vlb = (re.findall(r"([\d.]+) ±", line) for line in lines if "`l_" in line)
    numbers = says(chapter, r"{} of {} bits after $L_\text{simple}$ and {} of {} after the bound")
    assert numbers == [simple[2], simple[1], vlb[2], vlb[1]]
    others = says(chapter, r"cost {} bits after it and {} after $L_\text{simple}$")
    assert others == [vlb[3], simple[3]]
    chain = DDPM(schedules.cosine(50))
    (weight,) = says(chapter, "(4.10) is {}, as at the end of Fig. 4.3")
    last = chain.beta[-1] / (2 * chain.alpha[-1] * (1 - chain.alpha_bar[-1]))  # σ² = β
    assert float(last) == pytest.approx(float(weight), rel=0.01)


# ---- 9, the scoreboard -----------------------------------------------------------------------

NINE = "09_scoreboard"


def strides(run: str, key: str = "frechet") -> dict[int, dict[str, float]]:
    return results.pivot(results.rows("strides", run=run), "steps", "method", key)


def test_the_ladder_falls_where_guidance_begins() -> None:
    distance, score, recall, missed = (
        [over_seeds([r[key] for r in rung.rows()])[0] for rung in ladder.RUNGS]
        for key in ("frechet", "inception_score", "recall", "class_agreement")
    )
    says(NINE, "That takes the distance down to a half and to two fifths")
    assert distance[3] / distance[2] == pytest.approx(0.5, abs=0.04)
    assert distance[4] / distance[2] == pytest.approx(0.4, abs=0.04)
    says(NINE, "missed once in a hundred samples, or a few times in a thousand, instead of seven")
    assert 0.009 < 1 - missed[3] < 0.016 and 0.001 < 1 - missed[4] < 0.005
    assert 0.06 < 1 - missed[2] < 0.075
    says(NINE, "It is the largest step down of the ladder")
    falls = [distance[k] - distance[k + 1] for k in range(4)]
    assert falls.index(max(falls)) == 2
    (real,) = says(NINE, "Inception Score now *passes* that of real images ({})")
    assert fits(real, ladder.RUNGS[3].rows()[0]["inception_score_floor"])
    assert max(score[:3]) < float(real) < min(score[3:]) and recall[4] < recall[2] - 0.05


def test_networks_deviate_more_than_their_intervals_say() -> None:
    low, high, both = says(
        NINE, "A deviation of {} to {} % between networks means that the *difference* of two rows"
        " must be about {} % of them",
    )  # fmt: skip
    spread = []
    for rung in ladder.RUNGS:
        found = [r["frechet"] for r in rung.rows()]
        mean, error = over_seeds(found)
        spread.append(100 * error * len(found) ** 0.5 / mean)
    assert float(low) <= min(spread) < max(spread) <= float(high)
    assert 2 * 2**0.5 * sum(spread) / len(spread) == pytest.approx(float(both), abs=5)


def test_the_length_of_the_chain_is_not_resolved() -> None:
    says(NINE, "the three lengths differ by a tenth, which is less than two seeds do")
    rows = results.rows("lengths")
    for method, steps in {(r["method"], r["steps"]) for r in rows}:
        found = [r["frechet"] for r in rows if (r["method"], r["steps"]) == (method, steps)]
        assert len(found) == 3 and max(found) / min(found) < 1.13
    says(NINE, "The slides' Inception Score grows with $T$; ours does not")
    score = results.pivot(rows, "steps", "run", "inception_score")
    assert all(s["linear-T2000"] < s["linear"] for s in score.values())


def test_the_cosine_schedule_is_ahead_in_every_cell() -> None:
    rows = results.rows("schedules")
    cells: dict[tuple[str, int], dict[str, results.Row]] = {}
    for r in rows:
        cells.setdefault((r["method"], r["steps"]), {})[r["run"]] = r
    low, high = says(NINE, "in all four cells, by a factor between {} and {}, most with ten calls")
    gain = {k: c["linear"]["frechet"] / c["cosine"]["frechet"] for k, c in cells.items()}
    assert float(low) < min(gain.values()) and max(gain.values()) < float(high)
    assert len(gain) == 4 and max(gain, key=lambda k: gain[k]) == ("beta_tilde", 10)
    says(NINE, "Sigmoid is *last* by distance and Inception Score")
    (differ,) = says(NINE, "at ten calls, by less than the {} % that two networks may differ")
    for key, cell in cells.items():
        sigmoid, linear, cosine = (cell[k] for k in ("sigmoid", "linear", "cosine"))
        assert sigmoid["frechet"] > linear["frechet"]
        assert sigmoid["inception_score"] < linear["inception_score"]
        assert linear["recall"] < sigmoid["recall"] < cosine["recall"]
        close = sigmoid["frechet"] / linear["frechet"] < 1 + float(differ) / 100
        assert close == (key == ("beta_tilde", 10))


def test_variances_and_losses() -> None:
    net = {(r["run"], r["method"]): r for r in results.rows("variances")}
    says(NINE, r"the large variance $\beta$ costs a factor of almost five")
    fixed, plain = net["linear", "beta_tilde"], net["linear-hybrid", "learned"]
    assert 4.5 < net["linear", "beta"]["frechet"] / fixed["frechet"] < 5
    assert not apart(fixed, plain)
    says(NINE, "samples three to seven times as far from the data")
    vlb = [net[f"linear-vlb{i}", "learned"]["frechet"] for i in ("", "-importance")]
    assert all(3 < v / plain["frechet"] < 7 for v in vlb) and vlb[1] > vlb[0]
    bits = {(r["run"], r["method"]): r["bits_per_dim"] for r in results.rows("likelihood")}
    low, high = says(NINE, "there the learned variance is worth {} to {} bits per dimension")
    gains = [
        bits[run, fixed] - bits[run, "learned"]
        for run in ("linear-hybrid", "cosine-hybrid", "linear-vlb", "linear-vlb-importance")
        for fixed in ("beta", "beta_tilde")
    ]
    assert fits(low, min(gains)) and fits(high, max(gains))
    (more,) = says(NINE, "with the same budget the bound falls by another {} bit")
    assert fits(more, bits["linear-vlb", "learned"] - bits["linear-vlb-importance", "learned"])
    assert min(bits, key=lambda k: bits[k]) == ("linear-vlb-importance", "learned")


def test_gradient_noise_of_the_bound() -> None:
    found = {
        (r["run"], r["objective"], r["times"]): r["noise_to_signal"]
        for r in results.rows("gradient_noise")
    }
    noise, divided = says(
        NINE, "a noise of {} times the signal, and importance sampling divides it by {}"
    )
    uniform = found["linear-vlb", "vlb", "uniform"]
    assert round(uniform, -1) == float(noise)
    assert fits(divided, uniform / found["linear-vlb", "vlb", "importance"])
    says(NINE, r"the two noises are in the same order, and $L_\mathrm{simple}$ looks noisier")
    at = {k[1:]: v for k, v in found.items() if k[0] == "linear-hybrid"}
    assert at["vlb", "importance"] < at["vlb", "uniform"] < at["simple", "uniform"]


def test_samplers_of_one_network() -> None:
    linear, cosine = strides("linear-hybrid"), strides("cosine-hybrid")
    says(NINE, "under the cosine schedule more than 25 calls do not bring it down")
    assert all(cosine[k]["ddim"] > cosine[25]["ddim"] for k in (50, 100, 250))
    ours, theirs, less = says(
        NINE, "at five calls, is {} against {}, with intervals that overlap; at ten or more calls"
        " the two differ by less than {}, in either direction",
    )  # fmt: skip
    assert fits(ours, cosine[5]["learned"]) and fits(theirs, cosine[5]["beta_tilde"])
    learned, fixed = (
        row("strides", run="cosine-hybrid", steps=5, method=m) for m in ("learned", "beta_tilde")
    )
    assert not apart(learned, fixed)
    more = [c["learned"] - c["beta_tilde"] for t in (linear, cosine) for k, c in t.items() if k > 5]
    assert -float(less) < min(more) < 0 < max(more) < float(less)
    assert min(more) > cosine[5]["learned"] - cosine[5]["beta_tilde"]
    says(NINE, "it is even at 25 and behind from 50 on; under the linear one it is still ahead")
    assert all(t[10]["ddim"] < 0.5 * t[10]["beta"] for t in (linear, cosine))
    assert linear[50]["ddim"] < linear[50]["beta"]
    assert all(cosine[k]["ddim"] > cosine[k]["beta"] for k in (50, 100, 250))
    says(NINE, "By recall it is ahead up to 50 calls under both")
    for run, calls in (("linear-hybrid", (10, 50)), ("cosine-hybrid", (5, 10, 25, 50))):
        recall = strides(run, "recall")
        assert all(recall[k]["ddim"] > recall[k]["beta"] for k in calls)
    says(NINE, r"behind by distance in every row that has both, with $\eta=\tfrac12$ between")
    for table in (linear, cosine):
        for c in table.values():
            assert "ddim" not in c or c["beta_tilde"] < c["ddim_half"] < c["ddim"]


def test_recall_rises_and_agreement_falls() -> None:
    says(NINE, "From 5 calls to 250 recall rises and class agreement falls, for all samplers but")
    recall, agreed = (strides("cosine-hybrid", key) for key in ("recall", "class_agreement"))
    for method in recall[5]:
        at = {k: agreed[k][method] for k in (5, 10, 25, 50, 100, 250)}
        assert recall[250][method] > recall[5][method]
        assert (at[250] > at[5]) == (method == "beta")
        assert (max(at, key=lambda k: at[k]) == 5) == (method != "beta")


def test_predictions_are_nearly_finished_before_the_last_quarter() -> None:
    (least,) = says(NINE, "When the last quarter begins, {} % of the fall or more is done")
    done, fell = {}, {}
    for r in results.rows("chain"):
        at = {p["t"] / r["curve"][0]["t"]: p["frechet"] for p in r["curve"]}
        key = r["run"], r["method"]
        done[key] = 100 * (at[1.0] - at[0.25]) / (at[1.0] - at[0.0])
        fell[key] = at[0.0] / at[0.25]
    assert fits(least, min(done.values()))
    says(NINE, "for one case, ancestral sampling under the linear schedule, whose last quarter")
    assert [k for k, f in fell.items() if f < 0.6] == [("linear-hybrid", "beta_tilde")]
    says(NINE, "under the cosine schedule gets *worse*, from the last quarter's beginning")
    assert [k for k, f in fell.items() if f > 1] == [("cosine-hybrid", "ddim")]
    assert done["cosine-hybrid", "ddim"] > 100


def test_the_stronger_checkpoint_only_loses_by_guidance() -> None:
    says(NINE, "which stands at the floor without guidance, only loses by it")
    rows = results.rows("guidance", dataset="mnist", method="classifier_free", threshold=False)
    first, *others = sorted(rows, key=lambda r: r["w"])
    low, high = first["frechet_interval"]
    assert first["w"] == 0 and low < first["frechet_floor"] < high
    assert all(apart(first, r) and r["frechet"] > first["frechet"] for r in others)
    says(NINE, r"a little below 1, as on the card of the `mnist` checkpoint with $\eta=1$")
    card = zoo.load("mnist", device="cpu")[1]
    (best,) = (m for m in card.metrics if (m.get("steps"), m.get("eta")) == (50, 1.0))
    assert 0.7 < best["frechet"] / best["frechet_floor"] < 1


# ---- 10, classifier guidance -----------------------------------------------------------------

TEN = "10_classifier_guidance"


def guided(dataset: str, method: str = "classifier") -> dict[float, results.Row]:
    rows = results.rows("guidance", dataset=dataset, method=method, threshold=False)
    return {r["w"]: r for r in rows}


def test_weak_guidance_is_worse_than_none_and_strong_guidance_has_a_price() -> None:
    digit, dress = guided("mnist"), guided("fashion_mnist")
    factors = says(TEN, "grows by a factor of {} on MNIST and of {} on Fashion-MNIST")
    for printed, rows in zip(factors, (digit, dress), strict=True):
        assert fits(printed, rows[0.5]["frechet"] / rows[0.0]["frechet"])
        assert rows[0.5]["inception_score"] < rows[0.0]["inception_score"]
    best, floor, agreed = says(TEN, "distance {} against {} for test images, {} % agreement")
    assert fits(best, digit[4.0]["frechet"]) and fits(floor, digit[4.0]["frechet_floor"])
    assert fits(agreed, 100 * digit[4.0]["class_agreement"])
    says(TEN, "On Fashion-MNIST the intervals of $s=4$ and $s=8$ overlap")
    assert not apart(dress[4.0], dress[8.0])
    low, high, at_4, at_8 = says(
        TEN, "recall stays between {} and {} up to $s=2$, and falls to {} at 4 and {} at 8,"
        " where the distance has tripled for one more point of agreement",
    )  # fmt: skip
    recall = [digit[s]["recall"] for s in (0.0, 0.5, 1.0, 2.0)]
    assert fits(low, min(recall)) and fits(high, max(recall))
    assert fits(at_4, digit[4.0]["recall"]) and fits(at_8, digit[8.0]["recall"])
    assert digit[8.0]["frechet"] / digit[4.0]["frechet"] == pytest.approx(3, abs=0.2)
    gain = digit[8.0]["class_agreement"] - digit[4.0]["class_agreement"]
    assert 100 * gain == pytest.approx(1, abs=0.2)
    before, after = says(TEN, "On Fashion-MNIST recall falls from {} to {}.")
    assert fits(before, dress[0.0]["recall"]) and fits(after, dress[8.0]["recall"])


def test_guidance_on_top_of_the_label() -> None:
    for dataset, claim in (
        ("mnist", "On MNIST $s=1$ raises agreement from {} % to {} %, at four times the distance"),
        ("fashion_mnist", "On Fashion-MNIST it raises agreement from {} % to {} %"),
    ):
        told = guided(dataset, "classifier_free")[0.0]
        more = guided(dataset, "classifier_conditional")[1.0]
        for printed, found in zip(says(TEN, claim), (told, more), strict=True):
            assert fits(printed, 100 * found["class_agreement"])
        if dataset == "mnist":
            assert more["frechet"] / told["frechet"] == pytest.approx(4, abs=0.5)
        else:
            before, after = says(TEN, "the distance in these features becomes smaller ({} to {})")
            assert fits(before, told["frechet"]) and fits(after, more["frechet"])
            white = says(TEN, "white pixels: {} % at $s=0$, {} % at $s=1$, against {} %")
            values = told["saturation"], more["saturation"], told["saturation_floor"]
            for printed, value in zip(white, values, strict=True):
                assert fits(printed, 100 * value)
    wrong, right = says(TEN, "the class is right in {} % of the samples, against {} %")
    assert fits(wrong, 100 * guided("mnist", "clean_classifier")[4.0]["class_agreement"])
    assert fits(right, 100 * guided("mnist")[4.0]["class_agreement"])


def test_what_chapter_10_says_of_its_trained_nets_is_in_its_outputs() -> None:
    lines = [re.findall(NUMBER, line) for line in stored(TEN, "reading[s, state.t]").split("\n")]
    weak, strong = (line for line in lines if line and line[0] in ("1", "10") and len(line) == 8)
    reached, when = says(TEN, "At $s=1$ it reaches about {} % at $t={}$ and *falls back* to one")
    assert (reached, when) == (weak[5], "450") and abs(float(weak[7]) - 50) < 5
    first, late = says(TEN, "from chance to about {} %, and at $t=550$ it is above {} %")
    assert abs(float(first) - float(strong[2])) < 3 and float(late) < float(strong[4])
    table = stored(TEN, 'rows["conditional, 4"] = measured(both)').split("\n")
    distance = {
        cells[1].strip(): float(cells[3].split()[0])
        for cells in (line.split("|") for line in table)
        if len(cells) > 3 and re.match(NUMBER, cells[3].strip())
    }
    high, low, s = says(
        TEN, "the Fréchet distance in the classifier's features falls from {} to {} at $s={}$, ten"
    )
    assert fits(high, distance["0"]) and fits(low, distance[s])
    assert distance[s] / distance["conditional"] == pytest.approx(10, abs=0.5)


def test_the_twins_of_chapter_10_are_in_its_outputs() -> None:
    says(TEN, "in one of ten digits at $s=0$, in six at $s=1$ and in all ten at $s=4$ and $s=10$")
    assert "class agreement: 10% 60% 100% 100%" in stored(TEN, "strengths = (0.0, 1.0, 4.0, 10.0)")
    says(TEN, "At $s=1$ the clean twin is *ahead* of the noisy one")
    says(TEN, "and the noisy twin has caught up at $s=2$")
    table = [line.strip("| ").split(" | ") for line in stored(TEN, "pictures, own").split("\n")]
    agreed = {
        tuple(cells[:2]): [int(share.rstrip("%")) for share in cells[2:4]]
        for cells in table
        if cells[0] in ("noisy", "clean")
    }
    assert agreed["noisy", "1"][0] < agreed["clean", "1"][0] < agreed["noisy", "2"][0]
    says(TEN, "The noisy guide, too, agrees with its own work more than `digits-classifier` does")
    assert len(agreed) == 5 and all(other < own for other, own in agreed.values())


# ---- A, the museum; C, CIFAR-10 --------------------------------------------------------------


def test_what_the_museum_says_of_trained_nets_is_in_its_outputs() -> None:
    museum = "A_museum_of_bugs"
    good, bad = says(museum, "on the test digits: {} after 200 updates with copied buffers, {},")
    found = stored(museum, "def learn(lib")
    assert f"(copied): {good}, counter 200" in found and f"(averaged): {bad}, counter 1" in found
    unsure, sure, hits = says(
        museum, "images: confidence {} %. Trained on clean ones: {} %, with {} % of the answers"
    )
    found = stored(museum, "def opinion(net")
    assert f"{unsure}% sure" in found and f"{hits}% hits, {sure}% sure" in found
    (out,) = says(museum, "with and without clipping. {} % of the pixels lie")
    assert f"out of range: {out}%, turned round: {out}%" in stored(museum, "tidy, wrapped")


def test_guidance_on_cifar_10() -> None:
    says("C_cifar10", "go on rising with $w$, and from $w=0.5$ on recall falls")
    card = zoo.load("cifar10-small", device="cpu")[1]
    drawn = [m for m in card.metrics if m["metric"] == "samples" and m["steps"] == 20]
    by_w = sorted(drawn, key=lambda m: m.get("guidance", {}).get("w", 0))
    for key in ("class_agreement", "inception_score"):
        assert [m[key] for m in by_w] == sorted(m[key] for m in by_w)
    falling = [m["recall"] for m in by_w[1:]]
    assert len(by_w) == 5 and falling == sorted(falling, reverse=True)
    before, after = says("C_cifar10", "recall has nearly halved, from {} to {}")
    assert fits(before, by_w[0]["recall"]) and fits(after, by_w[-1]["recall"])
