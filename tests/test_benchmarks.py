"""The benchmark: networks of one size, fair turns, right arithmetic, tables from the file alone."""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import libraries, memory, report, timing
from benchmarks.libraries import LIBRARIES, Constant, Way
from benchmarks.matmul import rates
from benchmarks.rows import Plan, Row, chain_length, random_images, row_of
from benchmarks.sizes import SIZES, count
from benchmarks.switches import WHAT, Gain, Switches, update
from benchmarks.timing import Spread, interleaved, ratios, spread, turns

CPU = torch.device("cpu")
PRESENT = libraries.present()[0]
each_library = pytest.mark.parametrize("library", PRESENT, ids=lambda lib: lib.name)
RESULTS = sorted((Path(report.__file__).parent / "results").glob("*.json"))


# ---- networks of one size ----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "room"), [("tiny", 0.05), ("small", 0.03), ("ddpm", 0.03)])
@each_library
@pytest.mark.slow
def test_weights_and_operations_agree(library, name: str, room: float) -> None:
    size = SIZES[name]
    weights, flops = count(LIBRARIES[0].net(size), size)
    their_weights, their_flops = count(library.net(size), size)
    assert abs(their_weights / weights - 1) < room
    assert abs(their_flops / flops - 1) < room


def test_operations_are_those_of_a_network_counted_by_hand() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 4, 3, padding=1, bias=False)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    assert count(Net(), SIZES["tiny"]) == (4 * 9, 2 * 4 * 9 * 16 * 16)


# ---- turns and arithmetic ----------------------------------------------------------------------


def test_everyone_is_first_equally_often_and_nobody_is_left_out() -> None:
    orders = list(turns(["a", "b", "c"], 6))
    assert orders[:3] == [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")]
    assert Counter(order[0] for order in orders) == {"a": 2, "b": 2, "c": 2}
    assert all(set(order) == {"a", "b", "c"} for order in orders)


def test_calls_are_made_in_turns(monkeypatch) -> None:
    clock, made = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def call(name: str, takes: float):
        def work() -> None:
            made.append(name)
            clock[0] += takes

        return work

    found = interleaved({"a": call("a", 1.0), "b": call("b", 3.0)}, 4, CPU)
    assert made == [*"abab", *"ab", *"ba", *"ab", *"ba"]  # twice to warm up, then the turns
    assert found == {"a": [1.0] * 4, "b": [3.0] * 4}


def test_short_calls_are_repeated_until_the_clock_can_see_them(monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    made = []

    def work() -> None:
        made.append(1)
        clock[0] += 0.25

    found = interleaved({"a": work}, 2, CPU, least=1.0)
    assert len(made) == 1 + 1 + 2 * 4  # two to warm up, then four a measurement
    assert found["a"] == [0.25, 0.25]


def test_spread_of_known_numbers() -> None:
    assert spread([5, 1, 3, 2, 4]) == Spread(3, 2, 4)
    assert spread([4.0, 2.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread(2, 1, 4).map(lambda s: 8 / s) == Spread(4, 2, 8)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_ratios_are_taken_round_by_round() -> None:
    # The machine was three times slower in the second round: the ratios do not notice.
    assert ratios([2.0, 6.0, 2.0], [1.0, 3.0, 1.0]) == Spread(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="argument"):
        ratios([1.0], [1.0, 2.0])


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one round"):
        interleaved({"a": lambda: None}, 0, CPU)
    with pytest.raises(ValueError, match="need calls"):
        interleaved({}, 1, CPU)


def test_a_row_says_who_is_ahead_and_in_its_unit() -> None:
    measured = {"ddpmlib": [1.0, 1.0, 2.0], "peer": [2.0, 2.0, 4.0]}
    row = row_of("Training", "tiny", 8, "images/s", lambda s: 8 / s, measured)
    assert row.values["ddpmlib"].median == 8 and row.values["peer"].median == 4
    assert row.ahead == {"peer": Spread(2.0, 2.0, 2.0)}


def test_matrix_products_are_counted(monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.matmul.seconds", lambda call, repeats, device: 0.5)
    assert rates(CPU, n=8) == {"fp32": 2 * 8**3 / 0.5, "bf16": 2 * 8**3 / 0.5}


# ---- what is timed does the work ---------------------------------------------------------------


@each_library
def test_training_moves_the_weights(library, monkeypatch) -> None:
    size, nets, make = SIZES["tiny"], [], library.net
    monkeypatch.setattr(library, "net", lambda size: nets.append(make(size)) or nets[-1])
    if library.name == "ddpmlib":
        trainer = library.trainer(size, random_images(size, 16), CPU, Way())
        net, call = trainer.model, trainer.update
    else:
        call = library.training(size, random_images(size, 16), CPU, Way(), documented=True)
        (net,) = nets
    before = [p.detach().clone() for p in net.parameters()]
    for _ in range(2):  # one peer's warm-up begins at a learning rate of zero
        call()
    assert not all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@each_library
def test_chains_end_in_images_of_the_size(library) -> None:
    size = SIZES["tiny"]
    made = library.sampling(size, CPU, Way(), 2, 3)()
    images = made if torch.is_tensor(made) else made.images
    assert images.shape == (2, *size.image_shape)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@each_library
def test_steps_alone_ask_the_constant_once_a_step(library, eta: float, monkeypatch) -> None:
    asked = []
    real = Constant.forward
    monkeypatch.setattr(Constant, "forward", lambda self, *a: asked.append(1) or real(self, *a))
    end = library.stepping(SIZES["tiny"], CPU, 3, 50, eta)()
    assert end.shape == (3, 1, 16, 16)
    assert len(asked) == (0 if library.name == "diffusers" else 50)  # its scheduler asks nobody


@each_library
def test_batches_come_shuffled_and_scaled(library) -> None:
    images = random_images(SIZES["tiny"], 64)
    fetch = library.loading(images, 32, CPU)
    first, second = fetch(), fetch()
    assert first.shape == (32, 1, 16, 16) and not torch.equal(first, second)
    low = 0 if library.name == "denoising-diffusion-pytorch" else -1
    assert float(first.min()) == pytest.approx(low, abs=0.02)
    assert float(first.max()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("switch", [name for name in WHAT if name not in ("compile", "threads")])
def test_every_switch_trains(switch: str) -> None:
    size = SIZES["tiny"]
    on = dataclasses.replace(Switches(), **{switch: True})
    update(size, random_images(size, 16), CPU, on)()


def test_a_missing_peer_is_said_in_a_sentence(monkeypatch) -> None:
    real = libraries.importlib.util.find_spec
    monkeypatch.setattr(
        libraries.importlib.util, "find_spec", lambda n: None if n == "diffusers" else real(n)
    )
    found, missing = libraries.present()
    assert "diffusers" not in [lib.name for lib in found]
    assert any(line.startswith("diffusers is not installed") for line in missing)


def test_a_chain_on_a_gpu_is_timed_whole() -> None:
    assert chain_length(torch.device("cuda"), 256) == 50
    assert chain_length(CPU, 1) > chain_length(CPU, 256)


@pytest.mark.skipif(not memory.measurable(CPU), reason="needs Linux's /proc")
@pytest.mark.slow
def test_the_peak_is_that_of_the_work_and_not_of_before() -> None:
    megabytes = 2**20

    def work(n: int):
        return lambda: torch.ones(n * megabytes, dtype=torch.uint8)

    work(1200)()
    # Wide, because what earlier tests left is given back at any time.
    assert 300 * megabytes < memory.peak(work(500), CPU) < 800 * megabytes


# ---- the report --------------------------------------------------------------------------------


def made_up() -> report.Report:
    spreads = {"ddpmlib": Spread(80, 70, 90), "diffusers": Spread(40, 30, 50)}
    row = Row(
        "Training, bf16", "tiny", 8, "images/s", spreads, {"diffusers": Spread(2, 1.5, 2.5)},
        {"ddpmlib": [0.1], "diffusers": [0.2]}, {"ddpmlib": 1e9, "diffusers": 1e9},
    )  # fmt: skip
    sizes = {"tiny": {n: {"weights": 193441, "flops": 34_000_000} for n in spreads}}
    about = report.circumstances(PRESENT, CPU)
    gains = [Gain("plain", Spread(10, 9, 11), Spread(1, 1, 1)),
             Gain("fused", Spread(8, 7, 9), Spread(1.25, 1.2, 1.3))]  # fmt: skip
    return report.assemble(about, sizes, {"fp32": 1e11, "bf16": 4e11}, [row], gains)


def test_the_tables_hold_the_numbers_of_the_file() -> None:
    text = report.markdown(made_up())
    assert "| tiny | ddpmlib | 0.193 M | 0.034 G |" in text
    assert "| Training, bf16 (images/s) | tiny, 8 | 80 | 40 | 2.00× [1.50–2.50] |" in text
    # 80 images/s · 1 GFLOP of 400 GFLOP/s
    assert "| Training, bf16, tiny | ddpmlib | 400 G/s (bf16) | 20 % |" in text
    assert "| fused | fused AdamW | 8 | 1.25× [1.20–1.30] |" in text
    widths = {line.count("|") for line in text.split("\n\n")[2].split("\n")}
    assert len(widths) == 1


def test_a_report_comes_back_from_its_file(tmp_path) -> None:
    made = made_up()
    paths = report.write(made, tmp_path)
    assert [path.name for path in paths] == ["cpu.json", "cpu.md", "cpu.svg"]
    assert report.load(paths[0]) == made
    assert "<svg" in paths[2].read_text("utf-8")
    (tmp_path / "other.json").write_text("[]", "utf-8")
    with pytest.raises(ValueError, match="not a report"):
        report.load(tmp_path / "other.json")


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.name)
def test_stored_tables_are_those_of_the_stored_numbers(path: Path) -> None:
    assert path.with_suffix(".md").read_text("utf-8") == report.markdown(report.load(path))


def test_numbers_have_three_digits() -> None:
    assert [report.number(x) for x in (0.01234, 1.5, 45.38, 5629.4)] == [
        "0.0123", "1.5", "45.4", "5,629",
    ]  # fmt: skip


# ---- the command -------------------------------------------------------------------------------


def test_the_plan_follows_device_and_options() -> None:
    def chosen(*words: str) -> Plan:
        return command.plan(command.parser().parse_args(words))

    assert chosen("--device", "cpu").sizes == ("small",)
    assert chosen("--device", "cuda").sizes == ("small", "ddpm")
    quick = chosen("--quick", "--device", "cpu")
    assert quick.sizes == ("tiny",) and not quick.whole and quick.rounds <= 3
    assert chosen("--size", "ddpm", "--repeats", "5") == Plan(("ddpm",), 5)


def test_no_repeats_are_refused_in_a_sentence(capsys) -> None:
    assert command.main(["--repeats", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_quick_run_writes_everything(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")  # the command sets it; this takes it back
    words = ["--quick", "--repeats", "1", "--device", "cpu", "--out", str(tmp_path)]
    assert command.main(words) == 0
    found = json.loads((tmp_path / "cpu.json").read_text("utf-8"))
    names = [lib.name for lib in PRESENT]
    assert set(found) == {"format", "about", "sizes", "matmul", "rows", "switches"}
    assert set(found["about"]) == {
        "date", "commit", "device", "hardware", "threads", "versions",
    }  # fmt: skip
    assert set(names) < set(found["about"]["versions"])
    for row in found["rows"]:
        assert list(row["values"]) == list(row["measured"]) == names
        assert list(row["ahead"]) == names[1:]
        assert all(v["low"] <= v["median"] <= v["high"] for v in row["values"].values())
        assert all(x > 0 for xs in row["measured"].values() for x in xs)
    kinds = {re.split(r"[ ,]", row["name"])[0] for row in found["rows"]}
    assert kinds == {"Training", "Sampling", "Step", "Averaging", "Loading"}
    assert found["switches"][0]["switch"] == "plain"
    assert (tmp_path / "cpu.md").read_text("utf-8") in capsys.readouterr().out
