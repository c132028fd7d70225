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
from ddpmlib.denoiser import FixedVariance, oracle
from ddpmlib.experiments import ablations, digit_runs, ladder, over_seeds, results
from ddpmlib.guidance import ClassifierFree, Weight, interval
from ddpmlib.models.unet import Block
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, uniform_times
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


def table(chapter: str, of: str) -> dict[str, list[list[float]]]:
    """The table that this cell has left: first cell of a row → the numbers in each other cell."""
    lines = [line.strip("| ").split(" | ") for line in stored(chapter, of).split("\n")]
    return {
        first: [[float(n.replace(",", "")) for n in re.findall(NUMBER, cell)] for cell in rest]
        for first, *rest in lines
    }


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


# ---- 3, DDPM ---------------------------------------------------------------------------------

THREE = "03_ddpm"


def test_the_three_targets_differ_at_the_ends_alone() -> None:
    says(THREE, "From $t=150$ to 650 all are within 10 % of each other")
    eps, x0 = (ablations.ratios(name) for name in ("eps", "x0"))
    for t in range(150, 651, 100):
        for pair in zip(eps[t], x0[t], strict=True):
            assert max(*pair, 1.0) / min(*pair, 1.0) < 1.1
    says(THREE, "With it the ε-network stays behind the $v$-network in every seed")
    clipped = [ablations.values(name, "clipped_frechet") for name in ("eps", "recipe")]
    assert all(e > v for e, v in zip(*clipped, strict=True))
    says(THREE, "ten steps of this chain begin at $t=1000$")
    assert digit_runs.CALLS == 10


def test_the_mnist_model_of_chapter_3_is_that_of_the_card() -> None:
    card = zoo.load("mnist", device="cpu")[1]
    (weights,) = says(THREE, "were generated by a network with {} million weights")
    assert fits(weights, card.parameters / 1e6)
    updates, images = says(THREE, "magnified (right): {} updates in three legs, {} million images")
    batch = card.recipe["settings"]["batch_size"]
    assert fits(images, float(updates.replace(",", "")) * batch / 1e6)
    says(THREE, "more than 97 % are read as what was asked for (1,000 samples; its card)")
    metrics = zoo.load("digits", device="cpu")[1].metrics
    (found,) = (m for m in metrics if (m.get("steps"), m.get("eta")) == (20, 1.0))
    assert found["n"] == 1000 and found["class_agreement"] > 0.97


def test_more_calls_do_not_raise_the_agreement_of_digits() -> None:
    found = table(THREE, "def measured(n, eta, seed)")
    first, last = says(
        THREE, "it falls from {} % to {} % for DDIM, and for ancestral sampling by one"
    )
    assert [found["2"][0][0], found["10"][0][0]] == [float(first), float(last)]
    fall = found["2"][1][0] - found["10"][1][0]
    assert fall == pytest.approx(1, abs=0.05) and fall < found["10"][1][1]


def test_two_convolutions_see_most_of_a_small_grid() -> None:
    least, most = says(THREE, "the two convolutions of a block reach {} to {} of the 16 pixels")
    seen = torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 5, 5), padding=2)
    assert (seen.min(), seen.max()) == (float(least), float(most))


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


# ---- 5, schedules ----------------------------------------------------------------------------

FIVE = "05_schedules"


def test_the_path_decides_how_noisy_the_bound_is() -> None:
    found = table(FIVE, "def one_draw_estimates(p)")
    exact = {name: cells[2][0] for name, cells in found.items() if len(cells) == 4 and cells[2]}
    linear, straight, optimal, least = says(
        FIVE, "{} for linear, {} for straight, {} for the optimal path, which is within 1 % of the"
        " least possible, {}.",
    )  # fmt: skip
    assert fits(linear, exact["linear"]) and f"by (5.11): {least}" in stored(FIVE, "by (5.11):")
    assert [exact["straight"], exact["optimal"]] == [float(straight), float(optimal)]
    (times,) = says(FIVE, "the linear path needs {} times as many samples as the straight one")
    assert fits(times, (exact["linear"] / exact["straight"]) ** 2)
    assert (exact["optimal"] / exact["straight"]) ** 2 < 0.5


def test_longer_chains_are_not_better_at_the_same_number_of_calls() -> None:
    says(FIVE, "The distances rise a little with $T$, against the deck's order")
    runs = ("linear-T500", "linear", "linear-T2000")
    for calls in (50, 250):
        where = {"method": "beta_tilde", "steps": calls}
        found = [row("lengths", run=run, **where)["frechet"] for run in runs]
        assert found == sorted(found)


def test_the_checkpoints_of_images_predict_v() -> None:
    says(FIVE, "Our image checkpoints predict $v$")
    for name in ("digits", "mnist", "fashion_mnist", "cifar10-small"):
        assert zoo.load(name, device="cpu")[1].recipe["predicts"] == "v"


# ---- 6, IDDPM --------------------------------------------------------------------------------

SIX = "06_iddpm"


def test_six_steps_with_three_variances() -> None:
    numbers = says(
        SIX, "The bound lies {}, {} and {} nats above the entropy of the data, and the mean gap of"
        " sorted samples is {}, {} and {} (three seeds",
    )  # fmt: skip
    nats, gaps = numbers[:3], numbers[3:]
    printed = "; ".join(f"{a} nats, {b}" for a, b in zip(nats, gaps, strict=True))
    assert printed in stored(SIX, "figures = [f")


@pytest.mark.slow
def test_a_thousand_steps_hide_the_choice_of_the_variance() -> None:
    says(SIX, "With a thousand steps the samples hardly differ.")
    says(SIX, "with an exact mean the choice does not show in samples of a thousand steps")
    process, means = DDPM(schedules.cosine(1000)), torch.tensor([[-1.2], [0.8]])
    exact = oracle.Mixture(process, torch.tensor([0.4, 0.6]), means, torch.tensor([0.2, 0.2]))
    data = [
        exact.draw(2000, generator=torch.Generator().manual_seed(seed)).sort(0).values
        for seed in range(6)
    ]
    apart = [float((x - data[0]).abs().mean()) for x in data[1:]]
    x_T = torch.randn(2000, 1, generator=torch.Generator().manual_seed(9))
    for var_mix in (0.0, 1.0):
        denoiser = FixedVariance(exact, var_mix)
        x = draw(denoiser, process, x_T, generator=torch.Generator().manual_seed(10))
        assert float((x.sort(0).values - data[0]).abs().mean()) < max(apart)


def test_no_hybrid_run_diverged() -> None:
    says(SIX, "none of the book's hybrid runs diverged")
    for name in ("mnist", "fashion_mnist", "cifar10-small"):
        card = zoo.load(name, device="cpu")[1]
        assert card.recipe["objective"] == "hybrid" and card.loss[-1][1] < card.loss[0][1] < 1
    hybrid = {r["run"] for r in results.rows("training") if r["objective"] == "hybrid"}
    names = ("variances", "strides", "guidance_dropout", "ladder")
    rows = [r for name in names for r in results.rows(name) if r.get("run") in hybrid]
    for run in hybrid:
        assert min(r["frechet"] for r in rows if r["run"] == run) < 12


# ---- 7, DDIM ---------------------------------------------------------------------------------

SEVEN = "07_ddim"


def test_fresh_noise_costs_a_little_at_four_steps() -> None:
    found = table(SEVEN, "def distances(eta, times, seeds=4)")["4"]
    printed = says(SEVEN, r"At four steps $\eta=1$ is at {} and DDIM at {} (more than two standard")
    assert [float(p) for p in printed] == [found[2][0], found[0][0]]
    assert found[2][0] - found[0][0] > 2 * max(found[2][1], found[0][1])


def test_ten_steps_are_as_good_as_twenty() -> None:
    found = table(SEVEN, "def bootstrapped(h, reference")
    (one,) = says(SEVEN, "the distance to finished samples falls from {} in one step to the floor")
    same = found["DDIM, 20"][0][0]
    for way in ("DDIM", "ancestral"):
        assert fits(one, found[f"{way}, 1"][0][0])
        for n in (4, 10):
            distance, error = found[f"{way}, {n}"][0]
            assert abs(distance - same) < error or way == "ancestral"
            assert abs(distance - same) < 2 * error
    says(SEVEN, "the two samplers lie within a few error bars of each other")
    for n in (1, 2, 4, 10):
        (a, da), (b, db) = (found[f"{way}, {n}"][0] for way in ("DDIM", "ancestral"))
        assert abs(a - b) < 2 * max(da, db)
    (legible,) = says(SEVEN, "Two steps are legible ({} % agreement) but twice as far or more")
    assert found["DDIM, 2"][1] == [float(legible)]
    assert min(found[f"{way}, 2"][0][0] for way in ("DDIM", "ancestral")) > 2 * same


def test_the_midpoints_of_lerp_lose_a_fifth_of_their_variance() -> None:
    says(SEVEN, "lerp's have lost a fifth of their variance")
    found = table(SEVEN, "def variety(x)")
    assert found["lerp, w = ½"][0][0] / found["slerp, w = ½"][0][0] == pytest.approx(0.8, abs=0.03)


def test_restart_and_late_noise_help_by_the_classifiers_features_alone() -> None:
    rows = results.rows("restart")
    ways = [{w["method"]: w for w in r["ways"]} for r in sorted(rows, key=lambda r: r["seed"])]
    printed = says(
        SEVEN, "one Restart takes the distance from {} to {} ({} to {} with a second seed)"
    )
    found = [w[name]["frechet"] for w in ways for name in ("ddim", "restart")]
    assert all(fits(p, f) for p, f in zip(printed, found, strict=True))
    assert all(abs(w["late"]["frechet"] - w["restart"]["frechet"]) < 0.05 for w in ways)
    says(SEVEN, "Seven chains of 2,000 digits each")
    assert {(r["n"], len(r["ways"])) for r in rows} == {(2000, 7)}
    printed = says(
        SEVEN, "fresh noise in the *first* half raises the distance by {} ({} with the second seed,"
        " whose interval just reaches zero)",
    )  # fmt: skip
    assert all(fits(p, -w["early"]["pixels_gain"]) for p, w in zip(printed, ways, strict=True))
    (_, high), (_, most) = (w["early"]["pixels_gain_interval"] for w in ways)
    assert high < 0 < most < 0.05


def test_starting_below_the_end_costs_a_centred_mixture_nothing() -> None:
    says(SEVEN, "the mixture has the mean zero, and the missing start costs nothing that shows")
    weights = torch.tensor([[1.0, 2, 3, 1, 2, 3]])
    assert float((weights @ data.ring_means(6)).abs().max()) < 1e-5
    found = table(SEVEN, "def digits_distance(times, seed)")
    for column in (-2, -1):
        (leading, _), (trailing, error) = found["leading"][column], found["trailing"][column]
        assert leading < trailing + error


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
    says(NINE, "The Inception Score of deck 004 grows with $T$; ours does not")
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


# ---- 11, classifier-free guidance ------------------------------------------------------------

ELEVEN = "11_classifier_free"


def alt(chapter: str, of: str) -> str:
    """The one alt text with these words."""
    found = re.findall(r'"alt": "([^"]*)"', notebooks.Chapter(chapter).text.read_text("utf-8"))
    (text,) = (text for text in found if of in text)
    return str(text)


def test_what_guidance_costs_on_mnist() -> None:
    rows = guided("mnist", "classifier_free")
    printed = says(
        ELEVEN, "rises from {} % at $w=0$ to {} % at $w=4$, while recall falls from {} to {} and"
        " the Fréchet distance rises from {} to {}, these two in the features of our classifier",
    )  # fmt: skip
    found = [rows[w][key] for key in ("class_agreement", "recall", "frechet") for w in (0.0, 4.0)]
    percent = [100 * f for f in found[:2]] + found[2:]
    assert all(fits(p, f) for p, f in zip(printed, percent, strict=True))
    (n,) = says(ELEVEN, "{} samples a row, 20 ancestral steps with the learned variance")
    names = ("guidance", "guidance_interval", "thresholds", "guidance_dropout")
    everything = [row for name in names for row in results.rows(name)]
    assert {(r["n"], r["steps"], r["eta"]) for r in everything} == {
        (int(n.replace(",", "")), 20, 1)
    }
    for name in ("mnist", "fashion_mnist"):
        assert zoo.load(name, device="cpu")[1].recipe["objective"] == "hybrid"


def test_score_and_distance_of_guided_samples_part() -> None:
    says(ELEVEN, "it rises to $w=4$, close to 10, which ten classes cannot pass")
    says(ELEVEN, "pass it on MNIST without any guidance and on Fashion-MNIST from $w=0.5$ on")
    for name, first in (("mnist", 0.0), ("fashion_mnist", 0.5)):
        rows = guided(name, "classifier_free")
        score = [rows[w]["inception_score"] for w in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)]
        assert score[:5] == sorted(score[:5]) and score[5] < score[4] and 9.7 < score[4] < 10
        real = rows[0.0]["inception_score_floor"]
        assert all((r["inception_score"] > real) == (w >= first) for w, r in rows.items())
    pale, real = says(ELEVEN, "garments are paler than real ones (white {} % against {} %)")
    unguided = guided("fashion_mnist", "classifier_free")[0.0]
    assert fits(pale, 100 * unguided["saturation"])
    assert fits(real, 100 * unguided["saturation_floor"])


def test_the_fall_on_cifar_10_is_larger() -> None:
    says(ELEVEN, "A weaker network, on CIFAR-10, shows a larger fall")
    card = zoo.load("cifar10-small", device="cpu")[1]
    drawn = [m for m in card.metrics if m["metric"] == "samples" and m["steps"] == 20]
    colour = {m.get("guidance", {}).get("w", 0): m["frechet"] for m in drawn}
    garments = {w: r["frechet"] for w, r in guided("fashion_mnist", "classifier_free").items()}
    assert colour[0] - min(colour.values()) > garments[0.0] - min(garments.values()) > 0
    assert min(colour.values()) / colour[0] < min(garments.values()) / garments[0.0]


def test_alt_texts_of_the_curves_over_w_follow_the_rows() -> None:
    text = alt(ELEVEN, "Fréchet distance, logarithmic")
    assert "classifier guidance rises to s = 0.5, falls to s = 4, and from there rises on" in text
    for name, up in (("mnist", True), ("fashion_mnist", False)):
        rows = guided(name)
        distance = [rows[s]["frechet"] for s in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)]
        assert distance[0] < distance[1] and (distance[5] > distance[4]) == up
        assert distance[1:5] == sorted(distance[1:5], reverse=True)
    assert "Along the classifier-free curves recall falls" in alt(ELEVEN, "precision over recall")


def test_the_class_and_guidance_in_the_bound_of_digits() -> None:
    (nats,) = says(ELEVEN, "Knowing the class lowers the bound by {} nats, more than the 2.3")
    says(ELEVEN, "at $w=1$ by more than the class had lowered it, at $w=4$ far more")
    found = table(ELEVEN, 'head = ("8×8 digits", "bound, nats an image"')
    without, once, strong = (
        found[name][1][0]
        for name in ("without the class", "with the class, $w=1$", "with the class, $w=4$")
    )
    assert without == float(nats) < once and 10 * without < strong


def test_an_untrained_null_label() -> None:
    found = table(ELEVEN, 'head = ("label dropout, w"')
    told, never = (
        {w: found[f"{name}, {w}"] for w in (-1, 0, 2, 6)} for name in ("dropout 10 %", "no dropout")
    )
    DISTANCE, AGREES, VARIETY = 0, 1, 2
    says(ELEVEN, "with more variety than at $w=0$; on the right washed-out images with less")
    assert told[-1][VARIETY][0] > told[0][VARIETY][0]
    assert never[-1][VARIETY][0] < never[0][VARIETY][0]
    says(ELEVEN, "on the left guidance reduces variety, on the right (11.3) extrapolates away")
    for w in (2, 6):
        assert told[w][VARIETY][0] < told[0][VARIETY][0]
        assert never[w][VARIETY][0] > 1.5 * never[0][VARIETY][0]
    (least,) = says(ELEVEN, "class agreement rises to {} % or more in both")
    assert fits(least, min(net[w][AGREES][0] for net in (told, never) for w in (2, 6)))
    says(ELEVEN, "and at $w=2$ the Fréchet distance is lower than at $w=0$ in both")
    assert all(net[2][DISTANCE][0] < net[0][DISTANCE][0] for net in (told, never))


def test_mixes_of_two_digits_are_told_from_digits() -> None:
    found = table(ELEVEN, "one_of_two = []")
    printed = says(
        ELEVEN, "exceeds that on a random scan in {} or {} of 100 cases, and that on a mean of one"
        " class in {} to {}.",
    )  # fmt: skip
    cells = found["scans"][1] + found["means, one class"][1]
    assert cells == [float(p) for p in printed]
    says(ELEVEN, "it gives more than half of the mixes a probability above 0.9 for one class")
    assert found["means, two classes"][2][0] > 50 and found["scans"][2][0] == 100


def test_guidance_in_thirds_of_the_chain_on_digits() -> None:
    found = table(ELEVEN, "by_variety = sorted(parts")
    distance = {name: found[name][0] for name in ("w = 0", "early", "middle", "late")}
    variety = [found[name][2][0] for name in ("early", "middle", "late", "w = 0")]
    says(ELEVEN, "Early guidance takes most variety and late guidance least, as on the line")
    assert variety == sorted(variety)
    says(ELEVEN, "late guidance harms least, and the middle as much as the early third")
    assert distance["early"][1] < distance["middle"][0] < distance["early"][2]
    assert distance["late"][2] < distance["middle"][1]
    says(ELEVEN, "as near to the training data as unseen scans are")
    assert distance["w = 0"][1] <= found["100 unseen scans"][0][0] <= distance["w = 0"][2]


def cheapest(dataset: str, method: str) -> results.Row:
    """The row of least distance among those that reach an agreement of 99 %."""
    where = {"dataset": dataset, "method": method, "threshold": False}
    rows = results.rows("guidance", **where)
    if method == "interval":
        rows = results.rows("guidance_interval", dataset=dataset)
    return min((r for r in rows if r["class_agreement"] >= 0.99), key=lambda r: r["frechet"])


def test_what_an_agreement_of_99_percent_costs() -> None:
    says(ELEVEN, "classifier-free guidance reach it at distances whose intervals overlap")
    free, by_classifier = (cheapest("mnist", m) for m in ("classifier_free", "classifier"))
    assert not apart(free, by_classifier)
    for method in ("classifier_conditional", "interval"):
        less = cheapest("mnist", method)
        assert less["frechet"] < free["frechet"] and apart(less, free)
        assert apart(less, by_classifier)
    (most,) = says(ELEVEN, "the classifier alone does not reach it ({} % at most)")
    assert fits(most, 100 * max(r["class_agreement"] for r in guided("fashion_mnist").values()))


def test_guidance_in_thirds_of_the_chain_on_images() -> None:
    (least,) = says(ELEVEN, "nearly as well as at all times (at least {} % on either data set)")
    limited = {
        name: {(r["low"], r["high"]): r for r in results.rows("guidance_interval", dataset=name)}
        for name in ("mnist", "fashion_mnist")
    }
    for rows in limited.values():
        assert min(r["class_agreement"] for r in rows.values()) > float(least) / 100
    printed = says(
        ELEVEN, "the middle third gives a distance of {}, where guidance at all times comes no"
        " lower than {} at any $w$ of the table, and a recall of {} ({} without guidance)",
    )  # fmt: skip
    middle, always = limited["fashion_mnist"][334, 666], guided("fashion_mnist", "classifier_free")
    lowest = min(r["frechet"] for r in always.values())
    found = (middle["frechet"], lowest, middle["recall"], always[0.0]["recall"])
    assert all(fits(p, f) for p, f in zip(printed, found, strict=True))
    says(ELEVEN, "On MNIST no interval improves on the unguided distance; the last third costs")
    unguided = guided("mnist", "classifier_free")[0.0]
    assert all(r["frechet"] > unguided["frechet"] for r in limited["mnist"].values())
    says(ELEVEN, "Most of the recall is lost early in the chain, where guidance can be left out")
    for name, rows in limited.items():
        whole = guided(name, "classifier_free")
        lost = {k: whole[0.0]["recall"] - r["recall"] for k, r in rows.items()}
        half = (whole[0.0]["recall"] - whole[4.0]["recall"]) / 2
        assert lost[667, 1000] > half > max(lost[1, 333], lost[334, 666], lost[1, 666])


def test_thresholds_of_guided_predictions() -> None:
    printed = says(
        ELEVEN, "multiplies it by five to seven, and agreement falls to {} % and {} %, at $w=8$"
        " (tables above) to {} % and {} %",
    )  # fmt: skip
    names = ("mnist", "fashion_mnist")
    where = {"method": "classifier_free", "threshold": True}
    found = {(r["dataset"], r["w"]): r for r in results.rows("guidance", **where)}
    agreed = [100 * found[name, w]["class_agreement"] for w in (4.0, 8.0) for name in names]
    assert all(fits(p, a) for p, a in zip(printed, agreed, strict=True))
    says(ELEVEN, "Almost no pixel is white after it, at any $w$")
    assert all(r["saturation"] < 0.003 and r["saturation_floor"] > 0.009 for r in found.values())
    says(ELEVEN, "at $w=1$ on MNIST the distance comes out lower than without a threshold")
    plain = guided("mnist", "classifier_free")[1.0]
    assert apart(found["mnist", 1.0], plain) and found["mnist", 1.0]["frechet"] < plain["frechet"]


def test_how_many_labels_to_drop() -> None:
    printed = says(
        ELEVEN, "guided with equal $w$, the distance in these features falls with $p$: at $w=1$"
        " from {} to {}, at $w=4$ from {} to {}. Unguided it rises, from {} to {}.",
    )  # fmt: skip
    shares = {(r["label_dropout"], r["w"]): r for r in results.rows("guidance_dropout")}
    told = []
    for w in (1.0, 4.0, 0.0):
        distance = [shares[p, w]["frechet"] for p in (0.1, 0.2, 0.5)]
        assert distance == sorted(distance, reverse=w > 0)
        told += [distance[0], distance[-1]]
    assert all(fits(p, d) for p, d in zip(printed, told, strict=True))
    out, recall = says(
        ELEVEN, "at $w=1$, {} % of its pixels are out of range and more than five times as many"
        " are white as in real digits; at $w=4$ its recall is {}.",
    )  # fmt: skip
    assert fits(out, 100 * shares[0.0, 1.0]["out_of_range"])
    assert fits(recall, shares[0.0, 4.0]["recall"])


def test_the_four_mistakes_of_chapter_11_are_in_its_outputs() -> None:
    agreed = table(ELEVEN, '"scale 1 meant": chains')
    says(ELEVEN, "*Roles swapped*: every column shows anything but its class.")
    says(ELEVEN, "breaks (11.13) and is as bad as the wrong sign")
    assert agreed["roles swapped"] == agreed["stale ε"] == [[0]]
    says(ELEVEN, "and our classifier still reads them")
    assert agreed["null = 0"] == agreed["scale 1 meant"] == agreed["s for w"] == [[100]]


def test_bumps_of_guided_chains_on_the_line() -> None:
    """Fig. 11.3 and Fig. 11.7: DDIM in one dimension is a rising map of its starting points."""
    process, f64 = DDPM(schedules.cosine(1000)), torch.float64
    line = oracle.Mixture(
        process, torch.tensor([2.0, 1, 1], dtype=f64), torch.tensor([-1.0, 0.1, 1.2], dtype=f64),
        torch.tensor([0.4, 0.3, 0.3], dtype=f64), torch.tensor([0, 1, 1]),
    )  # fmt: skip
    z = torch.linspace(-4, 4, 801, dtype=f64)
    bell, one = torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5, torch.ones(801, dtype=torch.int64)

    def bumps(weight: Weight) -> list[tuple[float, float]]:
        """Place and height of each local maximum of the density."""
        guide, times = ClassifierFree(line, weight), uniform_times(1000, 100)
        x = draw(guide, process, z, times, eta=0.0, y=one)
        density = bell / torch.gradient(x, spacing=(z,))[0]
        inner, left, right = density[1:-1], density[:-2], density[2:]
        tops = (inner > left) & (inner > right) & (inner > 0.05)
        return [(float(a), float(b)) for a, b in zip(x[1:-1][tops], inner[tops], strict=True)]

    top, beyond = says(ELEVEN, "whose one bump has its top at {}, beyond the {} of the data")
    ((place, _),) = bumps(4.0)
    assert abs(place - float(top)) < 0.05 and place > float(beyond)
    says(ELEVEN, "late guidance keeps it, narrower")
    assert "the left one narrower and moved to the right" in alt(ELEVEN, "different intervals")
    (own_left, own_right), (left, right) = bumps(0.0), bumps(interval(4.0, 1, 333))
    assert left[0] > own_left[0] + 0.05 and left[1] > 2 * own_left[1]
    assert right == pytest.approx(own_right, abs=0.05)


def test_how_far_two_predictions_of_ten_classes_are_apart() -> None:
    (most,) = says(ELEVEN, "with ten equal classes the two are at most {} apart at $t=T$")
    sure = -torch.ones(10)
    sure[0] = 1  # the class is sure of a pixel, the others of the opposite
    assert float(most) == pytest.approx(float(sure[0] - sure.mean()))


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


# ---- D, training in practice -----------------------------------------------------------------

APPENDIX = "D_training"


def test_what_skip_connections_are_worth_at_the_ends_of_the_chain() -> None:
    low, high, last = says(
        APPENDIX, "{} to {} % up to $t={}$, where the noisy scan is almost clean"
    )
    found = ablations.ratios("no-skips")
    near = [100 * (r - 1) for t, ratios in found.items() if t <= float(last) for r in ratios]
    assert len(near) == 9 and fits(low, min(near)) and fits(high, max(near))


def test_a_high_rate_without_warm_up_stays_behind() -> None:
    says(APPENDIX, "where all runs with warm-up are below 0.35, and they never make up for it")
    fast, recipe, cold = (ablations.values(n, "loss") for n in ("fast", "recipe", "fast-cold"))
    assert max(loss[3] for loss in (*fast, *recipe)) < 0.35
    stuck = [i for i, loss in enumerate(cold) if loss[3] > 0.5]
    assert len(stuck) == 2
    assert all(a > b for i in stuck for a, b in zip(cold[i], fast[i], strict=True))


def test_how_many_runs_and_weights_appendix_d_counts() -> None:
    (weights,) = says(APPENDIX, "*No self-attention*, in the middle neither: {} weights are left")
    counts = ablations.values("no-attention", "parameters")
    assert set(counts) == {int(weights.replace(",", ""))}
    (trainings,) = says(APPENDIX, "measure ablations` makes them again, {} trainings")
    assert len(results.rows("ablations")) == int(trainings)
    says(APPENDIX, "Small network, small images, 40 seconds each")
    assert zoo.load("digits", device="cpu")[1].training["seconds"] == pytest.approx(40, abs=5)
    says(APPENDIX, "Twelve differences stand in this appendix")
    assert len(set(ablations.CHANGES) - {"recipe", "eps", "x0"}) == 12
    says(APPENDIX, "this network has eight blocks")
    net = zoo.load("digits", device="cpu")[0].net
    assert sum(isinstance(m, Block) for m in net.modules()) == 8
