"""The experiments: what is measured is on record, and tables and figures are made of the rows."""

import math
import re

import pytest

from ddpmlib import experiments
from ddpmlib.experiments import results, runs
from ddpmlib.experiments.cells import holds
from ddpmlib.experiments.uncertainty import over_seeds, share_error, times_floor

plt = pytest.importorskip("matplotlib.pyplot")
SAMPLED = ("ladder", "lengths", "schedules", "variances", "strides")


def test_share_error_refuses_what_is_no_share():
    assert share_error(0.5, 100) == pytest.approx(0.05)
    assert share_error(1.0, 7) == 0
    for share, n in ((1.2, 10), (-0.1, 10), (0.5, 0)):
        with pytest.raises(ValueError, match="a share in"):
            share_error(share, n)


def test_one_seed_has_no_error_bar():
    mean, error = over_seeds([3.0])
    assert mean == 3.0 and math.isnan(error)
    assert over_seeds([1.0, 3.0]) == (2.0, pytest.approx(1.0))
    with pytest.raises(ValueError, match="at least one"):
        over_seeds([])


# ---- what is on record ---------------------------------------------------------------------------


def test_every_file_of_rows_is_an_experiment_and_every_experiment_a_module():
    assert set(results.names()) == set(experiments.EXPERIMENTS)
    for name, experiment in experiments.EXPERIMENTS.items():
        assert getattr(experiments, name).EXPERIMENT is experiment


@pytest.mark.parametrize("experiment", experiments.EXPERIMENTS.values(), ids=lambda e: e.name)
def test_every_cell_has_been_measured_and_every_row_is_a_cell(experiment):
    assert experiment.missing() == []
    cells = list(experiment.cells)
    for row in results.rows(experiment.name):
        assert sum(holds(row, cell) for cell in cells) == 1, row
    assert len(results.rows(experiment.name)) == len(cells)


@pytest.mark.parametrize("experiment", experiments.EXPERIMENTS.values(), ids=lambda e: e.name)
def test_the_networks_of_the_cells_can_be_trained(experiment):
    trainings = runs.comparison()
    assert {cell["run"] for cell in experiment.cells if "run" in cell} <= set(trainings)
    for name, training in trainings.items():
        row = next(row for row in results.rows("training") if row["run"] == name)
        assert " ".join(training.command).startswith(row["command"])
        assert training.folder == runs.folder(name)


@pytest.mark.parametrize("name", SAMPLED)
def test_a_row_states_its_sample_count_and_its_floor(name):
    for row in results.rows(name):
        assert row["n"] == row["floor_n"] >= 1000
        low, high = row["frechet_interval"]
        assert low <= row["frechet"] <= high or math.isclose(low, high, rel_tol=0.2)
        assert 0 < row["frechet_floor"] < row["frechet"] * 3
        assert 0 <= row["class_agreement"] <= 1 and 1 <= row["inception_score"] <= 10
        assert row["hardware"] and row["seconds"] > 0 and row["dataset"] == "mnist"
        assert row["method"] in experiments.METHODS


@pytest.mark.parametrize("name", SAMPLED)
def test_rows_that_are_compared_have_the_same_number_of_samples(name):
    for steps in {row["steps"] for row in results.rows(name)}:
        assert len({row["n"] for row in results.rows(name, steps=steps)}) == 1


def test_every_measured_net_has_its_training_on_record():
    trained = {row["run"] for row in results.rows("training")}
    for name in (*SAMPLED, "likelihood", "chain", "gradient_noise"):
        assert {row["run"] for row in results.rows(name)} <= trained
    budgets = {(row["updates"], row["images_seen"]) for row in results.rows("training")}
    assert len(budgets) == 1
    seeds = [int(line.split("|")[-2]) for line in experiments.training.table().splitlines()[2:]]
    assert sum(seeds) == len(trained)


def test_tables_show_the_rows():
    for row in results.rows("strides", run="cosine-hybrid"):
        line = next(
            text
            for text in experiments.strides.table("cosine-hybrid").splitlines()
            if text.startswith(f"| {row['steps']} |")
        )
        assert f" {row['frechet']:.2f} |" in line
    for name in ("lengths", "schedules", "variances", "likelihood", "gradient_noise"):
        text = getattr(experiments, name).table()
        assert len(text.splitlines()) == 2 + len(results.rows(name))
        assert not re.search(r"nan|None", text)


def test_the_ladder_takes_every_row_once():
    rungs = [rung.rows() for rung in experiments.ladder.RUNGS]
    assert sum(map(len, rungs)) == len(results.rows("ladder"))
    lines = experiments.ladder.table().splitlines()[2:]
    for found, line in zip(rungs, lines, strict=True):
        mean, _ = over_seeds([row["frechet"] for row in found])
        assert len(found) == len(runs.SEEDS) and f"| {mean:.2f} ±" in line


GUIDED = ("guidance", "guidance_interval", "guidance_dropout", "thresholds")


@pytest.mark.parametrize("name", GUIDED)
def test_a_guided_row_states_its_sample_count_and_its_floors(name):
    for row in results.rows(name):
        assert row["n"] == row["floor_n"] >= 5000 and row["hardware"] and row["seconds"] > 0
        low, high = row["class_agreement_interval"]
        assert 0 <= low <= row["class_agreement"] <= high <= 1
        assert row["inception_score_std"] > 0 and 1 <= row["inception_score"] <= 10
        for key in ("precision", "recall", "saturation"):
            assert 0 <= row[key] <= 1 and 0 < row[f"{key}_floor"] < 1
        assert row["frechet_interval"][0] < row["frechet_interval"][1]
        if row.get("threshold"):
            assert row["out_of_range"] == 0


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_the_sweep_of_guidance_is_complete(dataset):
    """No cell is left out because its number was unwelcome."""
    for method in ("classifier_free", "classifier"):
        found = {
            (row["w"], row["threshold"])
            for row in results.rows("guidance", dataset=dataset, method=method)
        }
        assert found == {(w, th) for w in (0, 0.5, 1, 2, 4, 8) for th in (False, True)}


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("method", ["classifier_free", "classifier"])
def test_guidance_tables_show_every_row_and_the_test_images(dataset, method):
    lines = experiments.guidance.table(dataset, method).splitlines()[2:]
    found = results.rows("guidance", dataset=dataset, method=method)
    assert len(lines) == len(found) + 1 and "test images" in lines[-1]
    for row in found:
        assert sum(f"{row['frechet']:.2f} [" in line for line in lines) >= 1


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_the_interval_table_stands_between_no_guidance_and_guidance_at_all_times(dataset):
    lines = experiments.guidance_interval.table(dataset).splitlines()[2:]
    assert len(lines) == 2 + len(results.rows("guidance_interval", dataset=dataset))
    assert "| none |" in lines[0] and "| all |" in lines[1]
    for row in results.rows("guidance_interval", dataset=dataset):
        times = f"| {row['low']}–{row['high']} | {row['frechet']:.2f} ["
        assert sum(times in line for line in lines) == 1


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_the_table_of_thresholds_has_all_three_for_each_weight(dataset):
    clipped = results.rows("thresholds", dataset=dataset)
    lines = experiments.thresholds.table(dataset).splitlines()[2:]
    kinds = [line.split("|")[2].strip() for line in lines]
    assert kinds == ["none", "static", "dynamic"] * len(clipped)
    sweep = results.rows("guidance", dataset=dataset, method="classifier_free")
    for row in [*clipped, *(r for r in sweep if r["w"] in {c["w"] for c in clipped})]:
        kind = "static" if "clip" in row else "dynamic" if row["threshold"] else "none"
        assert any(f"| {row['w']:g} | {kind} | {row['frechet']:.2f} [" in line for line in lines)


@pytest.mark.parametrize("row", results.rows("restart", missing_ok=True), ids=lambda r: r["seed"])
def test_the_restart_table_shows_every_chain_and_its_gain(row):
    table = experiments.restart.table(row["seed"])
    lines = [line.split("|")[1].strip() for line in table.split("\n")[2:]]
    assert lines == [*experiments.restart.LABELS.values(), "real test images"]
    assert [way["method"] for way in row["ways"]] == list(experiments.restart.LABELS)
    base = row["ways"][0]
    for way in row["ways"]:
        for key in experiments.restart.SPACES:
            low, high = way[f"{key}_gain_interval"]
            assert math.isclose(way[f"{key}_gain"], base[key] - way[key], abs_tol=1e-9)
            assert low <= way[f"{key}_gain"] <= high


def test_digits_under_three_schedules_are_compared_seed_by_seed():
    name, linear = "digit_schedules", results.rows("digit_schedules", schedule="linear")
    _, ax = plt.subplots()
    experiments.digit_schedules.figure(ax)
    drawn = [tuple(line.get_ydata()) for line in ax.lines]
    plt.close()
    table = experiments.digit_schedules.table()
    for schedule in ("linear", "sigmoid", "cosine"):
        found = results.rows(name, schedule=schedule)
        mean = sum(row["frechet"] for row in found) / len(found)
        assert f"| {schedule} | {mean:.0f} ±" in table and f"{len(found)} seeds" in table
        for row, base in zip(found, linear, strict=True):
            pairs = zip(row["errors"], base["errors"], strict=True)
            assert row["seed"] == base["seed"]
            assert schedule == "linear" or tuple(a / b for a, b in pairs) in drawn
    assert f"{linear[0]['frechet_floor']:.1f}" in table


def test_the_dropout_table_shows_every_row():
    found = results.rows("guidance_dropout")
    assert {row["label_dropout"] for row in found} == {0, 0.1, 0.2, 0.5}
    assert len(experiments.guidance_dropout.table().splitlines()) == 2 + len(found)
    dropped = {row["run"]: row["label_dropout"] for row in results.rows("training")}
    assert all(dropped[row["run"]] == row["label_dropout"] for row in found)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("key", ["frechet", "inception_score", "class_agreement"])
def test_guidance_figures_hold_the_measured_points(dataset, key):
    methods = ("classifier_free", "classifier")
    expected = {
        r[key] for m in methods for r in results.rows("guidance", dataset=dataset, method=m)
    }
    _, ax = plt.subplots()
    experiments.guidance.figure(dataset, ax, key)
    assert expected <= {y for line in ax.lines for y in line.get_ydata()}
    plt.close()
    _, ax = plt.subplots()
    experiments.guidance.tradeoff_figure(dataset, ax)
    plain = [results.rows("guidance", dataset=dataset, method=m, threshold=False) for m in methods]
    drawn = {xy for line in ax.lines for xy in zip(*line.get_data(), strict=True)}
    assert {(r["recall"], r["precision"]) for rows in plain for r in rows} <= drawn
    plt.close()


def test_figures_hold_the_measured_points():
    _, ax = plt.subplots()
    experiments.strides.figure("cosine-hybrid", ax)
    drawn = {y for line in ax.lines for y in line.get_ydata()}
    assert {row["frechet"] for row in results.rows("strides", run="cosine-hybrid")} <= drawn
    plt.close()
    _, ax = plt.subplots()
    experiments.chain.figure(ax)
    assert len(ax.lines) == len(results.rows("chain"))
    plt.close()
    _, ax = plt.subplots()
    experiments.ladder.figure(ax)
    drawn = {y for line in ax.lines for y in line.get_ydata()}
    assert {times_floor(row) for row in results.rows("ladder")} <= drawn
    plt.close()
