"""The map from the slides to the chapters: every deck, every topic, every chapter, no stale row."""

from __future__ import annotations

import re

import pytest

from scripts import notebooks

PAGE = (notebooks.ROOT / "book" / "slides_map.md").read_text("utf-8")
LECTURES = (notebooks.ROOT / "book" / "lecturers.md").read_text("utf-8")
BIBLIOGRAPHY = (notebooks.ROOT / "book" / "references.bib").read_text("utf-8")
DECKS = {
    "000": "Diffusion Model",
    "001": "Denoising Diffusion Probabilistic and Implicit Models",
    "002": "latent diffusion",
    "003": "Denoising Diffusion Models",
    "004": "Diffusion models",
}
UNWRITTEN = re.compile(r"\b[Cc]hapter (\d+) \(to be written\)")
LINK = re.compile(r"\[[^\]]*\]\([^)]*\)")
# A few words of everything that the decks are known to present, a line for each of their parts.
TOPICS = r"""
unknown $q(x_0)$; energy-based; trilemma
one step; sum of independent Gaussians; the kernel $q(x_t; ancestral against one-shot
convolved; extremes $\beta = 0$; Fourier view; content and detail
Bayes; intractable; fair approximation; $\tilde\mu$ and $\tilde\beta$
cross-entropy; Jensen; KL divergence between Gaussians; exact weight; hierarchical
Algorithms 1 and 2; residual blocks; sinusoidal; FiLM; Q, K, V; films; $T$ = 500, 1000, 2000
linear, sigmoid, cosine; clipped at 0.999; wasteful on small images
extreme data distribution; ratio $\tilde\beta_t/\beta_t$; log space; stop-gradient
importance sampling; strided sampling; bits/dim; $L_\text{simple}$
marginals alone; family $q_\sigma; $J_\sigma = L_\gamma + C$; direction to $x_t$
$\eta$ from 0 to 1; 10, 8, 6, 4, 2; interpolation; at no cost; last 250 of 1,000
noisy classifier; mean shift; scale 1 against 10; ordinary classifier; Langevin; temperature
label dropout; two conventions; FID against IS; saturation; dynamic thresholding
Fréchet distance of Gaussians; exp E KL; sensitivity test; bias with sample size; single-channel
ladder of methods; results: to do
denoising score matching; ODEs and SDEs; VP-SDE; reverse SDE; probability-flow ODE; $\lambda(t)$
design space; learned schedule; Analytic-DPM; higher-order; diffusion GANs; progressive distillation
latent-space models; score-based prior; KL-VAE; adversarial loss; class, mask or text
scalar, image and text; SR3; colourisation; uncropping; JPEG; cascades; augmentation; ILVR; SDEdit
CLIP guidance; GLIDE; DALL·E 2; text diffs; Imagen; DrawBench; Stable Diffusion; autoencoders
segmentation; masked frames; hierarchical long video; CT, MRI; point clouds; MaskGIT; absorbing
panorama; BSR; patches; VQ-VAE-2; classification accuracy score; three advantages; factorised
Lumiere; real scans; purification; masked autoencoders; viewpoint; Come-Closer; 7.27; 860 M; 123 M
64×64×3; 274 M; 410,000; BERT; 1.45 B; human raters; homework; presentations; latent semantics
"""


def section(title: str, page: str = PAGE) -> str:
    """The text below a heading, up to the next one."""
    return re.split(r"(?m)^## ", page.partition(f"\n## {title}\n")[2])[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of its table, without head."""
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return found[1:]


@pytest.mark.parametrize("deck", DECKS)
def test_a_deck_has_its_title_its_entry_and_its_rows(deck: str) -> None:
    listed = re.findall(
        rf"(?ms)^- \*\*Deck {deck}\*\*(.*?\{{cite\}}`[^`]*\bdeck{deck}\b.*?)$", PAGE
    )
    assert len(listed) == 1 and DECKS[deck] in " ".join(listed[0].split())
    assert f"@misc{{deck{deck}," in BIBLIOGRAPHY
    assert len(rows(section(f"Deck {deck}"))) >= 8


def test_a_row_is_a_topic_and_a_chapter_that_is_or_will_be() -> None:
    for deck in (*(f"Deck {deck}" for deck in DECKS), "Topics of several decks"):
        for row in rows(section(deck)):
            assert len(row) == 2 and all(row), row
            bare = UNWRITTEN.sub("", LINK.sub("", row[1]))
            assert bare != row[1] and not re.search(r"\b([Cc]hapters?|[Aa]ppendix)\b", bare), row


def test_every_topic_of_the_decks_has_a_row() -> None:
    shown = "\n".join(row[0] for deck in PAGE.split("\n## ")[1:] for row in rows(deck)).lower()
    wanted = [topic.strip() for line in TOPICS.strip().splitlines() for topic in line.split(";")]
    assert [topic for topic in wanted if topic.lower() not in shown] == []


def test_every_chapter_that_is_written_is_linked() -> None:
    linked = set(re.findall(r"\]\(\.\./notebooks/(\w+)\.ipynb", PAGE))
    part_one = {c.name for c in notebooks.chapters() if re.match(r"0\d|1[01]", c.name)}
    assert (
        len(part_one) == 11 and part_one | {"A_museum_of_bugs", "B_rosetta", "C_cifar10"} <= linked
    )


def test_chapters_to_be_written_are_12_to_30_and_do_not_exist() -> None:
    """Who writes one makes links of its rows, and takes it off the list."""
    written = {int(c.name[:2]) for c in notebooks.chapters() if c.name[:2].isdigit()}
    planned = {
        int(number)
        for row in rows(section("Chapters to be written"))
        for number, title in zip(row[::2], row[1::2], strict=True)
        if number and title
    }
    named = {int(number) for number in UNWRITTEN.findall(PAGE)}
    assert planned == set(range(12, 31)) - written
    assert named <= planned


def test_the_lectures_name_the_decks_of_their_chapters_and_fill_their_time() -> None:
    treated = {deck: set(chapters(section(f"Deck {deck}"))) for deck in DECKS}
    lectures = rows(section("Lectures and decks", LECTURES))
    assert [row[0].split(":")[0] for row in lectures] == [str(n + 1) for n in range(8)]
    assert [c for row in lectures for c in chapters(row[0])] == list(range(1, 12))
    for given, minutes, decks, _ in lectures:
        expected = [deck for deck in DECKS if treated[deck] & set(chapters(given))]
        assert re.findall(r"\d{3}", decks) == expected, given
        assert sum(int(n) for n in re.findall(r"(?:^|, )(\d+) ", minutes)) == 90, minutes


def chapters(text: str) -> list[int]:
    """The numbers of the chapters that it links to."""
    return [int(n) for n in re.findall(r"\]\(\.\./notebooks/(\d\d)_", text)]
