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


def test_fixed_end_points_leave_a_signal_in_short_chains() -> None:
    (quarter,) = says(
        "01_forward", r"still holds $\sqrt{\bar\alpha_T} = {}\,\%$ of the image's amplitude"
    )
    (half,) = says("01_forward", "At $T = 500$ the end still holds {} % of the amplitude.")
    for printed, T in ((quarter, 250), (half, 500)):
        beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
        assert fits(printed, 100 * float((1 - beta).prod()) ** 0.5)


def test_one_noise_for_two_has_twice_the_variance() -> None:
    says("01_forward", "For two small steps this is about twice the variance")
    lines = stored("01_forward", "one noise used twice").strip().split("\n")
    independent, repeated = (float(line.split()[-1]) for line in lines)
    assert repeated / independent == pytest.approx(2, abs=0.01)


# ---- 2, the reverse process ------------------------------------------------------------------


def test_noise_after_the_last_step_is_one_grey_level_deep() -> None:
    few, many = says(
        "02_reverse",
        "of that step: {} with ten steps, and {} with 500, about one grey level of 255",
    )
    lines = stored("02_reverse", "for steps in (10, 500):").split("\n")
    found = {
        cells[0]: float(cells[3])
        for cells in (line.strip("| ").split(" | ") for line in lines)
        if "noise after the last step" in cells
    }
    assert fits(few, found["10"]) and fits(many, found["500"])
    assert found["500"] / (2 / 255) == pytest.approx(1, abs=0.2)


def test_the_best_variance_of_a_stride_by_the_number_of_strides() -> None:
    says("02_reverse", r"With 16 it beats both too, and its lead over $\beta$ is smaller")
    says("02_reverse", r"With eight it beats $\tilde\beta$ but not $\beta$")
    says("02_reverse", r"it lies nine tenths of the way from $\tilde\beta$ to $\beta$")
    found = table("02_reverse", "def best_chain(steps)")
    small, large, best = ({k: found[str(k)][i][0] for k in (8, 16, 32)} for i in range(3))
    assert large[8] < best[8] < small[8]
    assert 0 < large[16] - best[16] < large[32] - best[32]
    assert all(0.89 < found[str(k)][3][0] < 0.95 for k in (8, 16, 32))


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


def test_the_last_steps_hold_most_of_the_bound() -> None:
    first, bits, last = says(
        "04_elbo", "contribute {} % of {} bits per dimension; the last ten contribute {} %"
    )
    found = stored("04_elbo", "last_hundred:.0%")
    assert f"unseen scans: {bits} ±" in found and f"the last ten {last}%" in found
    assert f"steps hold {100 - int(first)}% of it" in found


def test_the_gap_of_the_bound_closes_with_the_number_of_steps() -> None:
    numbers = says("04_elbo", "it is {} nats too high with 5 steps, {} with 20 and {} with 100")
    found = stored("04_elbo", "gap, averaged over the data")
    assert re.findall(r"([\d.]+) nats at T", found) == numbers
    short, long = says("04_elbo", "at 0.442 nats, from above: {} at $T=100$, {} at $T=100{,}000$")
    found = stored("04_elbo", "EULER =")
    assert re.findall(r"β̃ ([\d.]+)", found)[::2] == [short, long]


def test_the_first_steps_weigh_more_in_the_bound() -> None:
    linear, cosine = says("04_elbo", "it is {} times (linear) and {} times (cosine) that at")
    found = stored("04_elbo", "fall[0] > 30")
    assert f"linear {linear}, cosine {cosine};" in found


def test_what_the_network_does_not_know_of_the_scans() -> None:
    found = table("04_elbo", "the network, rounded where")
    equal, frequencies, network = says(
        "04_elbo", r"$\log_2 17={}$ bits per dimension, a table of how often each level occurs at"
        " each"
        " pixel {}, and the network needs {}.",
    )  # fmt: skip
    (rounded,) = says("04_elbo", "With them {} remain, and 0.5 of these belong to the decoder")
    for printed, name in (
        (equal, "17 equal probabilities"),
        (frequencies, "a table of 17 frequencies for each pixel"),
        (network, "the network, Fig. 4.1"),
        (rounded, "the network, rounded where the noise is small"),
    ):
        assert fits(printed, found[name][0][0])
    says("04_elbo", "More than half of the 5.2 bits are the price of not knowing the 17 levels")
    assert found["the network, rounded where the noise is small"][0][0] < float(network) / 2


def test_the_two_variances_cross_and_the_decoder_loses_less_in_longer_chains() -> None:
    says("04_elbo", "More steps do not tighten this bound, and the two variances cross.")
    says("04_elbo", "With more steps $L_0$ falls (last column)")
    found = table("04_elbo", "of β: the decoder, L_0")
    rows = [found[steps] for steps in ("5", "10", "25", "50", "100")]
    for variance in (0, 1):
        assert rows[-1][variance][0] > rows[0][variance][0]
    behind = [row[2] for row in rows]
    assert [mean > 0 for mean, _ in behind] == [True, True, False, False, False]
    assert all(abs(mean) > 2 * error for mean, error in behind)
    decoder = [row[3][0] for row in rows]
    assert decoder == sorted(decoder, reverse=True)


def test_a_digit_costs_a_bit_for_its_own_background() -> None:
    whole, without = says(
        "04_elbo", "About one of the {} bits is the model's own background. Set its grey levels 0"
        " to"
        " 3 to 0, as in real scans, and {} remain",
    )  # fmt: skip
    found = table("04_elbo", "as drawn, levels")
    drawn, black = found["as drawn"][0][0], found["as drawn, levels 0 to 3 set to 0"][0][0]
    assert fits(whole, drawn) and fits(without, black)
    assert drawn - black == pytest.approx(1, abs=0.1)


def test_too_small_a_deviation_costs_more_than_too_large_a_one() -> None:
    wide, narrow = says(
        "04_elbo", "Ten times the best deviation adds {} bits per dimension, a tenth of it adds {},"
    )
    found = stored("04_elbo", "deviation ten times the best")
    assert f"best: + {wide} bits, a tenth of the best: + {narrow}" in found


def test_published_bits_in_kilobytes_and_our_distance_to_them() -> None:
    colours = 3 * 32 * 32
    coded, raw = says("04_elbo", "where the raw file has 8: {} instead of {} kB per image")
    assert fits(coded, 2.94 * colours / 8 / 1000) and fits(raw, colours / 1000)
    (bits,) = says("04_elbo", r"$0.1\cdot3072\approx{}$ bits per image, a factor of $2^{307}$")
    assert fits(bits, 0.1 * colours)
    whole, decoder, image = says(
        "04_elbo", "Of DDPM's {} bits Ho et al. count {} for the decoder $L_0$ alone, whose error"
        " is"
        " about one grey level of 256 (a root mean square of 0.95); the other {} describe the"
        " image",
    )  # fmt: skip
    assert fits(image, float(whole) - float(decoder))
    ours, least, most = says(
        "04_elbo", "Our small CIFAR-10 net, at {}, is behind the papers by {} to {} bits"
    )
    card = zoo.load("cifar10-small", device="cpu")[1]
    (bound,) = (m["bits_per_dim"] for m in card.metrics if m["metric"] == "nll")
    assert fits(ours, bound) and fits(least, bound - 3.75) and fits(most, bound - 2.94)


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
    says(ELEVEN, "At $w=4$ dynamic thresholding is worse by all features")
    says(ELEVEN, "at $w=1$ it is better by all but random convolutions")
    for r in results.rows("threshold_spaces", threshold="dynamic"):
        where = {"dataset": r["dataset"], "w": r["w"], "space": r["space"]}
        (plain,) = results.rows("guidance_spaces", **where)
        worse = r["w"] == 4 or r["space"] == "random"
        for key in ("frechet", "frechet_matched"):
            assert (r["dataset"] != "mnist" and r["w"] == 1) or (r[key] > plain[key]) == worse


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


def test_chains_that_cross_between_modes() -> None:
    says(TEN, "Up to $t=5$ there is hardly a crossing in 100,000 steps, at $t=7$ one")
    says(TEN, "where the noise is a third of the distance between the modes, a chain crosses seven")
    found = table(TEN, "crossings = {}")
    assert found["5"][1] == [0.0] and found["7"][1][0] == pytest.approx(1 / 7, abs=0.01)
    noise, crossed = found["15"][0][0], found["15"][1][0]
    assert noise / (2 * (1 - noise**2) ** 0.5) == pytest.approx(1 / 3, abs=0.02)
    assert round(crossed) == 7
    says(TEN, "fewer than 1 % change the side, and half of the chains end at the right mode")
    (annealed,) = says(TEN, "where 0.8 is due. Right: {} do.")
    found = stored(TEN, "changed the side")
    (moved,) = re.findall(r"plain: ([\d.]+)%", found)
    (plain,) = re.findall(r"right mode: plain ([\d.]+)", found)
    assert float(moved) < 1 and float(plain) == pytest.approx(0.5, abs=0.03)
    assert f"annealed {annealed}" in found


def test_gradients_of_noisy_and_of_clean_points() -> None:
    numbers = says(TEN, "falls from {} at $t=50$ to {} and {}; that of the clean one stays at {}.")
    found = re.findall(r"gradient ([\d.]+) noisy, ([\d.]+) clean", stored(TEN, "gradient {noisy"))
    assert [noisy for noisy, _ in found] == numbers[:3]
    assert {clean for _, clean in found} == {numbers[3]}


def test_what_strong_and_weak_guidance_do_in_the_plane() -> None:
    found = table(TEN, 'found[10.0, 0.0]["rare"] > 0.5')
    spread, rare = ({s: found[s][i][0] for s in ("0", "0.5", "1", "10")} for i in (3, 5))
    wide, narrow, near, far, share = says(
        TEN, "the spread falls from {} to {}, the mean distance from the origin grows from {} to"
        " {},"
        " and the smaller cluster's share falls from 1/3 to {}.",
    )  # fmt: skip
    assert fits(wide, spread["1"]) and fits(narrow, spread["10"])
    lines = stored(TEN, "spreads == sorted(spreads").strip().split("\n")
    at = {line.split(":")[0]: [float(v) for v in line.split()[1:]] for line in lines}
    assert fits(near, at["out"][1]) and fits(far, at["out"][-1])
    assert fits(share, at["smaller"][-1])
    some, few = says(TEN, "DDIM puts {} % of them where data are rare, against {} % at $s=0$ and")
    assert fits(some, rare["0.5"]) and fits(few, rare["0"]) and fits(few, rare["1"])
    (most,) = says(TEN, "(At $s=10$ it is {} %, beyond the clusters.)")
    assert fits(most, rare["10"])
    before, after, origin = says(
        TEN, "shrinks the spread of class 0 from {} to {} and leaves the mean distance from the"
        " origin"
        " at {}, where guidance increases it",
    )  # fmt: skip
    cool = re.search(r"spread ([\d.]+), from the origin ([\d.]+)", stored(TEN, "plane, τ = 0.5"))
    assert cool and fits(before, found["1"][4][0])
    assert after == cool[1] and fits(origin, float(cool[2]))


def test_the_variances_of_guided_gaussians() -> None:
    numbers = says(
        TEN, "At $s=4$ the tilted distribution has {}, ancestral sampling {}, DDIM {}, a twentieth"
    )
    tilted, _, ddim, _, ancestral = (cell[0] for cell in table(TEN, "tilted, printed = 1 /")["4"])
    assert all(fits(p, v) for p, v in zip(numbers, (tilted, ancestral, ddim), strict=True))
    assert tilted / ddim == pytest.approx(20, abs=1)
    numbers = says(
        TEN,
        r"At ten steps: ${}$ % with form 1, $+{}$ % with the gradient at $x_t$, $+{}$ % at"
        r" $\mu$",
    )
    found = re.search(r"10 steps: (-\d+) % \+(\d+) % \+(\d+) %", stored(TEN, 'steps:", *('))
    assert found and list(found.groups()) == numbers


def test_how_much_a_noisy_classifier_can_read() -> None:
    lines = stored(TEN, "others[1][6] > 0.9").strip().split("\n")
    read = {line[:25].strip(): dict(re.findall(r"(\d+): ([\d.]+)", line[25:])) for line in lines}
    digit, scan = says(
        TEN, "At $t=600$ the MNIST classifier, with 784 pixels, still reads {} %, that of the"
        " 64-pixel digits {} %.",
    )  # fmt: skip
    assert fits(digit, 100 * float(read["MNIST, shipped"]["600"]))
    assert fits(scan, 100 * float(read["digits, shipped"]["600"]))
    clean, noisy = (read[f"digits, {name}"] for name in ("clean images only", "trained here"))
    numbers = says(TEN, "its noisy twin at $t=1$ ({} against {}) and worse from 500 to 800")
    assert numbers == [clean["1"], noisy["1"]]
    assert all(clean[t] < noisy[t] for t in ("500", "600", "800"))


def test_the_strength_that_a_trained_gradient_needs() -> None:
    found = table(TEN, 'rows["conditional, 4"] = measured(both)')
    ten, told = says(
        TEN,
        "half of the classes are right at $s=1$, {} % at $s=10$; the conditional network has {} %",
    )
    assert found["1"][0][0] == pytest.approx(0.5, abs=0.02)
    assert fits(ten, 100 * found["10"][0][0]) and fits(told, 100 * found["conditional"][0][0])
    before, after = says(TEN, "recall falls from {} to {}, and the distance is no smaller")
    alone, more = found["conditional"], found["conditional, 4"]
    assert fits(before, alone[3][0]) and fits(after, more[3][0])
    assert more[1][0] > alone[1][0] and more[2][0] >= alone[2][0]


def test_the_clean_guide_convinces_itself() -> None:
    says(TEN, "half of the digits are what was asked for, yet the twin itself agrees with most")
    says(TEN, "more than a tenth of the pixels leave the range. With the noisy twin three of four")
    lines = [line.strip("| ").split(" | ") for line in stored(TEN, "pictures, own").split("\n")]
    at = {
        cells[0]: [float(share.rstrip("%")) for share in cells[2:]]
        for cells in lines
        if cells[1:2] == ["10"]
    }
    assert at["clean"][0] == pytest.approx(50, abs=2) and at["clean"][1] > 80
    assert at["clean"][2] > 10 > 0.05 > at["noisy"][2]
    assert at["noisy"][0] == pytest.approx(75, abs=3)


def test_trained_gradients_do_not_vanish() -> None:
    found = {
        int(t): [float(n) for n in numbers]
        for t, *numbers in re.findall(
            r"t = +(\d+): shipped ([\d.e-]+) .*\(10\.8\) ([\d.e-]+) +cosine ([\d.]+)",
            stored(TEN, "at t = 900"),
        )
    }
    late, last = says(TEN, "the gradient of the shipped classifier from {} to {}.")
    assert [float(late), float(last)] == [found[900][0], found[1000][0]]
    least, most = says(TEN, "that gradient has {} to {} times the length of (10.8)")
    assert fits(least, found[300][0] / found[300][1]) and fits(most, found[600][0] / found[600][1])
    numbers = says(TEN, "its cosine with it is {} to {} there")
    assert [float(n) for n in numbers] == [found[300][2], found[600][2]]
    (length,) = says(TEN, "and a length of {} the first prediction moves by twelve thousand")
    end = DDPM(schedules.cosine(1000)).alpha_bar[-1]
    says(TEN, r"$(1-\bar\alpha_T)/\sqrt{\bar\alpha_T}=20{,}291$")
    assert round(float((1 - end) / end**0.5)) == 20_291 and last == length
    assert round(4 * float(length) * 20_291, -3) == 12_000


def test_without_a_remedy_images_end_a_hundred_times_too_bright() -> None:
    says(TEN, "Without a remedy the images end a hundred times too bright.")
    found = table(TEN, "mean absolute value of the pixels")
    bright, *others = (
        found[name][0][0]
        for name in ("none, η = 0", "no guidance above t = 900, η = 0", "mean shift, η = 1")
    )
    assert all(bright / other == pytest.approx(110, abs=10) for other in others)


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


MUSEUM = "A_museum_of_bugs"


def test_what_the_sampling_loops_of_the_museum_do_is_in_its_outputs() -> None:
    grain, last = says(
        MUSEUM, r"a standard deviation of {}, where $\sqrt\beta$ of the last stride is {}."
    )
    found = stored(MUSEUM, "def perfect_model(lib")
    assert f"grain {grain}, √β of the last stride {last}" in found
    ten, long, chance = says(
        MUSEUM, "It is {} % at $T=10$ and {} % at $T=400$, below the sampling error of 10,000"
        " samples,"
        " {} % (dotted)",
    )  # fmt: skip
    found = stored(MUSEUM, "def spread(lib")
    wide = {int(T): float(off) for T, off in re.findall(r"T = +(\d+): ([\d.]+) too", found)}
    assert fits(ten, 100 * wide[10]) and fits(long, 100 * wide[400])
    assert fits(chance, 100 / (2 * 10_000) ** 0.5)
    off, samples = says(
        MUSEUM,
        "At $T=1000$ the error is {} %; to see it at three standard errors takes {} samples.",
    )
    assert f"T = 1000: {float(off) / 100:.4f}, seen with {samples} samples" in found
    right, wrong = says(MUSEUM, "is {} with the right line and {} with the wrong one")
    assert f"centre: {right} and {wrong}" in stored(MUSEUM, "def ring(lib")
    (mean,) = says(MUSEUM, "The mean of the coordinates is {} where it should be 0.")
    uniform, normal = says(MUSEUM, "answers 0 is {} with uniform noise in training, and {} with")
    found = stored(MUSEUM, 'museum.library("uniform_noise")')
    assert f"0.0 and {mean}" in found and f"network: {normal} and {uniform}" in found
    shared, narrow, due = says(
        MUSEUM, "With the wrong line {} % of the samples share their end with another, in one"
        " spike per"
        " peak; the right peak has a standard deviation of {}. (The right line gives {} where"
        " 0.100",
    )  # fmt: skip
    found = stored(MUSEUM, 'museum.library("clipping_doubled")')
    assert f"share: 0% and {shared}%" in found and f"right peak ± {narrow}\ntruth" in found
    assert f"right peak ± {due}\nwrong" in found


def test_what_the_formulas_and_ranges_of_the_museum_do_is_in_its_outputs() -> None:
    left, narrow = says(
        MUSEUM, "The left peak holds {} % of the samples, where 40 % are due, and the right one"
        " has a"
        " standard deviation of {} instead of",
    )  # fmt: skip
    found = stored(MUSEUM, "def printed_algorithm(lib")
    assert f"wrong: left peak 0.{left}, right peak ± {narrow}" in found
    says(MUSEUM, r"$7\cdot10^{-6}$ at $T=100$, half a percent at $T=30{,}000$")
    assert "T = 100: 7e-06, T = 30000: 5e-03" in stored(MUSEUM, "def first_noise(lib")
    wrong, right = says(MUSEUM, "the variance of the data is {} instead of {}.")
    assert f"variance of the data: {right} and {wrong}" in stored(MUSEUM, "def from_bytes(lib")
    good, noise, digits, other, small = says(
        MUSEUM, "Right: {} for real digits in both forms, {} for grey noise. Wrong: {} for real"
        " digits"
        " as floats, {} for noise, and {}, *too small*",
    )  # fmt: skip
    lines = stored(MUSEUM, "def distances(lib").strip().split("\n")
    (in_bytes, floats, grey), (bad_bytes, bad_floats, bad_grey) = (
        [float(n) for n in line.split(": ")[1].split()] for line in lines
    )
    assert fits(good, in_bytes) and fits(good, floats) and fits(noise, grey)
    assert fits(digits, bad_floats) and fits(other, bad_grey) and fits(small, bad_bytes)


def test_a_chain_and_its_sde_drift_apart() -> None:
    says("B_rosetta", "So the chain ends a little noisier than the SDE that it approximates, and")
    says("B_rosetta", "begins (its first third, for $T=1000$) a little cleaner")
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)[1:]
    of_sde = 0.1 * u + (20 - 0.1) * u**2 / 2
    more = -DDPM(schedules.linear(1000)).alpha_bar[1:].log() - of_sde
    noisier = (more > 0).nonzero()[:, 0] + 1
    assert 300 < int(noisier[0]) < 367 and len(noisier) == 1001 - int(noisier[0])


def test_distances_on_cifar_10_and_the_epochs_of_its_network() -> None:
    card = zoo.load("cifar10-small", device="cpu")[1]
    drawn = [m for m in card.metrics if m["metric"] == "samples" and m["steps"] == 20]
    at = {m.get("guidance", {}).get("w", 0): m for m in drawn}
    guided, plain = says("C_cifar10", "the distance is {}, less than half of the unguided {}, and")
    assert fits(guided, at[1]["frechet"]) and fits(plain, at[0]["frechet"])
    named, right = says(
        "C_cifar10", "the classifier names the class of {} % of the samples, where it is right on"
        " {} %"
        " of real test images",
    )  # fmt: skip
    accuracy = zoo.load("cifar10-classifier", device="cpu")[1].metrics[0]["value"]
    assert fits(named, 100 * at[4]["class_agreement"]) and fits(right, 100 * accuracy)
    says("C_cifar10", "On $N$: twelve epochs instead of one or two thousand.")
    rows = table("C_cifar10", "35_746_307")
    assert [rows[f"`{name}`"][2][0] for name in ("cifar10-small", "cifar10", "cifar10-ddpm")] == [
        12, 1280, 2048,
    ]  # fmt: skip


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
