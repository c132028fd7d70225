"""The built book keeps its promise: it works from a stick, with the network cut.

First the pages are read as text, then a real browser opens them; what it looks for on every page is
in test_pages.py.
"""

from __future__ import annotations

import re
import tomllib
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from PIL import Image
from playwright.sync_api import Browser

from ddpmlib import equations
from scripts import notebooks, release, social_card
from tests.book.built import ROOT, Visit, parse
from tests.book.looking import PICTURES
from tests.book.test_equations import prose, tags

PAGE_LIMIT, BOOK_LIMIT = 1_500_000, 60_000_000  # bytes
FILM_LIMIT = 200_000
LOADING = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "audio": "src",
    "video": "src",
    "source": "src",
    "track": "src",
    "embed": "src",
    "input": "src",
    "object": "data",
    "link": "href",
}


# Reading


def foreign(address: str) -> bool:
    """Whether a browser would leave the folder of the book for it."""
    return bool(re.match(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", address, re.I))


def foreign_in_css(text: str) -> Iterator[str]:
    """Addresses outside the book that a style sheet loads."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    for address in re.findall(r"""(?:url\(|@import\s)\s*["']?([^"')\s;]+)""", text):
        if foreign(address):
            yield address


def foreign_resources(soup: BeautifulSoup) -> Iterator[str]:
    """Everything that a page would load from elsewhere; links for the reader are none of it."""
    for name, attribute in LOADING.items():
        for element in soup.find_all(name):
            found = [str(element.get(attribute, "")), *str(element.get("srcset", "")).split(",")]
            if name != "link" or "canonical" not in (element.get("rel") or []):
                yield from (f"<{name}> {address}" for address in found if foreign(address))
    for element in soup.find_all("style"):
        yield from (f"<style> {address}" for address in foreign_in_css(element.get_text()))
    for element in soup.find_all(style=True):
        yield from (f"style= {address}" for address in foreign_in_css(str(element["style"])))
    for element in soup.find_all("script", src=False):
        addresses = re.findall(r"""["'`](?:https?:)?//[^"'`\s]+""", element.get_text())
        yield from (f"inline script {address[1:]}" for address in addresses)


def broken_links(name: str, soups: dict[str, BeautifulSoup], folder: Path) -> Iterator[str]:
    """Links, pictures, scripts and style sheets of a page that lead nowhere in the book."""
    found = [("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")]
    for element, attribute in found:
        for one in soups[name].find_all(element, attrs={attribute: True}):
            address = urlsplit(str(one[attribute]))
            if address.scheme or address.netloc:
                continue
            path = (folder / name).parent / unquote(address.path) if address.path else folder / name
            target = path.resolve()
            if not target.is_file():
                yield f"{name}: {one[attribute]} does not exist"
            elif address.fragment and target.suffix == ".html":
                page = soups.get(target.relative_to(folder.resolve()).as_posix())
                if page is not None and not _has_anchor(page, unquote(address.fragment)):
                    yield f"{name}: {one[attribute]} has no such anchor"


def _has_anchor(soup: BeautifulSoup, fragment: str) -> bool:
    return soup.find(id=fragment) is not None or bool(soup.select(f'[name="{fragment}"]'))


def without_words(soup: BeautifulSoup) -> Iterator[str]:
    """What a screen reader would stumble over: pictures without text, a page without a name."""
    for image in soup.find_all("img"):
        if not str(image.get("alt", "")).strip():
            yield f"picture {str(image.get('src'))[:80]} has no alt text"
    if soup.title is None or not soup.title.get_text(strip=True):
        yield "the page has no title"
    if not soup.html or not soup.html.get("lang"):
        yield "the page does not say its language"
    article = soup.find("article")
    if article is not None and len(article.find_all("h1")) != 1:
        yield f"the page has {len(article.find_all('h1'))} headings of level 1"


def test_no_page_loads_anything_from_elsewhere(pages: dict[str, BeautifulSoup]) -> None:
    wrong = [f"{name}: {what}" for name, soup in pages.items() for what in foreign_resources(soup)]
    assert not wrong, "\n".join(wrong)


def test_no_style_sheet_loads_anything_from_elsewhere(html: Path) -> None:
    sheets = list(html.rglob("*.css"))
    wrong = [f"{p.name}: {a}" for p in sheets for a in foreign_in_css(p.read_text("utf-8"))]
    assert sheets and not wrong, "\n".join(wrong)


def test_all_links_and_pictures_lead_somewhere(pages: dict[str, BeautifulSoup], html: Path) -> None:
    wrong = [problem for name in pages for problem in broken_links(name, pages, html)]
    assert not wrong, "\n".join(wrong)


def test_pictures_have_words_and_pages_have_names(pages: dict[str, BeautifulSoup]) -> None:
    wrong = [f"{name}: {what}" for name, soup in pages.items() for what in without_words(soup)]
    assert not wrong, "\n".join(wrong)


def test_every_page_of_the_table_of_contents_is_there(pages: dict[str, BeautifulSoup]) -> None:
    listed = re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text("utf-8"))
    assert listed and {f"{name}.html" for name in listed} <= set(pages)
    assert {"index.html", "search.html"} <= set(pages)


def test_numbered_equations_reach_the_page(pages: dict[str, BeautifulSoup]) -> None:
    for chapter in notebooks.chapters():
        maths = pages[f"notebooks/{chapter.name}.html"].find_all(class_="math")
        shown = tags("\n".join(element.get_text() for element in maths))
        assert shown == tags(prose(chapter.text)), chapter.name


def test_every_slide_box_is_on_its_page(pages: dict[str, BeautifulSoup]) -> None:
    """The anchors are checked with all other links; here, that nothing was lost on the way."""
    chapters = [f"notebooks/{chapter.name}.html" for chapter in notebooks.chapters()]
    boxes = [box for name in chapters for box in pages[name].select("[id^=mind-the-slide-]")]
    collected = pages["book/mind_the_slide.html"].select("article div.admonition.warning")
    assert boxes and len(collected) == len(boxes)


def test_links_to_the_glossary_say_what_the_word_means(pages: dict[str, BeautifulSoup]) -> None:
    for chapter in notebooks.chapters():
        links = pages[f"notebooks/{chapter.name}.html"].select('a[href*="glossary.html#term-"]')
        assert links and all(len(str(link.get("title", "")).split()) >= 5 for link in links)


def test_the_index_leads_into_the_chapters(pages: dict[str, BeautifulSoup]) -> None:
    targets = {str(a["href"]).split("#")[0] for a in pages["genindex.html"].select("main a[href]")}
    assert {f"notebooks/{chapter.name}.html" for chapter in notebooks.chapters()} <= targets


def test_previous_and_next_lead_through_the_whole_book(pages: dict[str, BeautifulSoup]) -> None:
    listed = re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text("utf-8"))
    for before, after in pairwise(listed):
        link = pages[f"{before}.html"].select_one("a.right-next")
        assert link is not None and str(link["href"]).endswith(f"{after.split('/')[-1]}.html")


def test_each_equation_leads_to_its_functions_and_tests(pages: dict[str, BeautifulSoup]) -> None:
    functions, pinned = equations.implementations(), equations.tests(ROOT)
    for chapter in notebooks.chapters():
        soup = pages[f"notebooks/{chapter.name}.html"]
        for tag in tags(prose(chapter.text)):
            formula = soup.find(id="eq-" + tag.replace(".", "-"))
            links = formula.find_next_sibling(class_="equation-links").find_all("a")
            names = [*functions.get(tag, []), *pinned[tag]]
            # two links for a function, to its description and to its source; one for a test
            assert len(links) == len(names) + len(functions.get(tag, [])), tag
            assert all(link["aria-label"] and link["href"] for link in links), tag


def test_tables_of_equations_lead_to_functions_and_tests(pages: dict[str, BeautifulSoup]) -> None:
    for chapter in notebooks.chapters():
        soup = pages[f"notebooks/{chapter.name}.html"]
        cells = [td for td in soup.find_all("td") if "::test_" in td.get_text()]
        rows = [cell.find_parent("tr") for cell in cells]
        assert len(rows) >= len(tags(prose(chapter.text))), chapter.name
        for row in rows:
            names = row.find_all("code")
            assert names and all(name.find_parent("a") for name in names), row.get_text()


def test_the_reference_describes_what_implements_an_equation_and_leads_back(
    pages: dict[str, BeautifulSoup],
) -> None:
    found: dict[str, list[str]] = {}
    for name, soup in pages.items():
        if name.startswith("book/api/"):
            for link in soup.select("dd a.equation-reference"):
                found.setdefault(link.get_text().strip("()"), []).append(str(link["href"]))
    wanted = {tag: "#eq-" + tag.replace(".", "-") for tag in equations.implementations()}
    assert set(wanted) <= set(found)
    assert all(href.endswith(wanted[tag]) for tag in wanted for href in found[tag])


def test_mathjax_and_its_licence_are_in_the_book(html: Path) -> None:
    mathjax = html / "_static" / "mathjax"
    assert (mathjax / "startup.js").is_file() and (mathjax / "LICENSE").is_file()
    assert len(list(mathjax.glob("output/chtml/fonts/woff-v2/*.woff"))) > 20


def test_pages_are_small_enough_for_a_slow_line(
    pages: dict[str, BeautifulSoup], html: Path
) -> None:
    for name, soup in pages.items():
        pictures = {((html / name).parent / src).resolve() for src in local_pictures(soup)}
        size = (html / name).stat().st_size + sum(path.stat().st_size for path in pictures)
        assert size <= PAGE_LIMIT, f"{name} with its pictures has {size / 1e6:.1f} MB"
    assert sum(path.stat().st_size for path in html.rglob("*") if path.is_file()) <= BOOK_LIMIT


def test_films_are_light(pages: dict[str, BeautifulSoup]) -> None:
    films = [(name, film) for name, soup in pages.items() for film in soup.select("img.film")]
    heavy = {name for name, film in films if len(str(film["src"])) > FILM_LIMIT}
    assert films and not heavy, f"films above {FILM_LIMIT / 1000:.0f} kB in {heavy}"


def test_every_chapter_says_below_its_title_what_it_costs(pages: dict[str, BeautifulSoup]) -> None:
    costs = notebooks.costs()
    for chapter in notebooks.chapters():
        (line,) = pages[f"notebooks/{chapter.name}.html"].select("h1 + .chapter-cost")
        cost = costs[chapter.name]
        assert f"{cost['seconds']:.0f} s of one CPU thread" in line.get_text()
        assert cost["processor"] in line.get_text()
        (minutes,) = re.findall(r"About (\d+) minutes to read", line.get_text())
        assert 5 <= int(minutes) <= 60


def local_pictures(soup: BeautifulSoup) -> list[str]:
    addresses = [str(image["src"]) for image in soup.find_all("img")]
    return [address for address in addresses if not address.startswith("data:")]


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.org/x.js"></script>',
        '<link rel="stylesheet" href="//cdn.org/x.css">',
        '<link rel="preconnect" href="https://fonts.org">',
        '<img srcset="a.png 1x, https://x.org/b.png 2x" src="a.png">',
        "<style>@import 'https://x.org/a.css';</style>",
        '<p style="background: url(http://x.org/a.png)">',
        '<script>const THEBE = "https://x.org/index.js"</script>',
        '<iframe src="HTTPS://x.org"></iframe>',
    ],
)
def test_a_foreign_resource_is_found(text: str) -> None:
    assert list(foreign_resources(parse(text)))


def test_links_for_the_reader_are_no_foreign_resources() -> None:
    text = '<a href="https://x.org">x</a><img src="a.png"><link rel="canonical" href="https://x">'
    assert list(foreign_resources(parse(text))) == []
    style = "/* url(https://x) */ a { b: url(data:image/png;base64,AA//B) }"
    assert list(foreign_in_css(style)) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    text = '<a href="#no"></a><a href="#yes" id="yes"></a><a href="b.html#no"></a><img src="c.png">'
    soups = {"a.html": parse(text), "b.html": parse("<h1 id=top></h1>")}
    for name in soups:
        (tmp_path / name).touch()
    assert len(list(broken_links("a.html", soups, tmp_path))) == 3


def test_missing_words_are_found() -> None:
    assert len(list(without_words(parse('<html><img src="a"><article><h1>A</h1><h1>B</h1>')))) == 4
    good = '<html lang="en"><title>A</title><article><h1>A</h1><img alt="A dot" src="a">'
    assert list(without_words(parse(good))) == []


# Opening in a browser


def test_there_is_something_to_render(pages: dict[str, BeautifulSoup]) -> None:
    for chapter in notebooks.chapters():
        soup = pages[f"notebooks/{chapter.name}.html"]
        assert soup.find(class_="math") and soup.find("img") and soup.find(class_="cell_input")


def test_the_links_of_an_equation_work_by_keyboard(browser: Browser, html: Path) -> None:
    with Visit(browser, html / "notebooks" / "01_forward.html", width=390) as visit:
        name = (
            "Process.q_sample: the code of equation 1.6, ddpmlib.process.process.Process.q_sample"
        )
        link = visit.page.get_by_role("link", name=name, exact=True)
        box = link.bounding_box()
        assert box is not None and box["height"] >= 24 and box["width"] >= 24  # for a finger
        link.focus()
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_url(
            "**/book/api/process_process.html#ddpmlib.process.process.Process.q_sample"
        )
        back = visit.page.get_by_role("link", name="(1.6)", exact=True)
        back.focus()
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_url("**/01_forward.html#eq-1-6")
        assert visit.page.locator("#eq-1-6").is_visible()


def test_a_tap_on_a_term_opens_its_entry_in_the_glossary(browser: Browser, html: Path) -> None:
    """Without a mouse there is no tooltip."""
    page = html / "notebooks" / "03_ddpm.html"
    with Visit(browser, page, width=390, has_touch=True, is_mobile=True) as visit:
        visit.page.locator("a.term").first.tap()
        visit.page.wait_for_url("**/book/glossary.html#term-*")
        assert visit.page.locator(":target").is_visible()


def test_first_page_is_reached_from_the_index(browser: Browser, html: Path) -> None:
    with Visit(browser, html / "index.html") as visit:
        visit.page.wait_for_url("**/book/intro.html")
        assert visit.page.locator("h1").first.inner_text().strip("#\n ")


def test_search_finds_a_word_offline(browser: Browser, html: Path) -> None:
    with Visit(browser, html / "search.html", query="?q=noise") as visit:
        link = visit.page.locator("#search-results li a").first
        link.wait_for(timeout=15_000)
        assert visit.page.locator("#search-results li a").count() >= 1
        excerpt = visit.page.locator("#search-results li .context").first
        excerpt.wait_for(timeout=15_000)
        assert "noise" in excerpt.inner_text().lower() and len(excerpt.inner_text()) > 100
        assert visit.foreign() == [] and visit.complaints == []


def test_every_page_says_its_version_and_has_a_picture_for_links(
    pages: dict[str, BeautifulSoup],
) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert (ROOT / "CHANGELOG.md").read_text("utf-8").count(f"## {version}, ") == 1
    for name, soup in pages.items():
        if not name.startswith("_modules") and soup.find("footer"):  # index.html leads on
            footers = " ".join(footer.get_text() for footer in soup.select("footer"))
            assert footers.count(f"ersion {version}, ") == 2, name
            (image,) = soup.select('meta[property="og:image"]')
            card = ROOT / str(image["content"]).split("/main/")[1]
            assert card.stat().st_size < 200_000


def test_the_card_is_as_large_as_pages_show_it() -> None:
    assert Image.open(social_card.CARD).size == social_card.PIXELS == (1200, 630)


def test_the_browser_test_notices_the_network(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<title>x</title><script src="https://example.org/x.js"></script>', "utf-8")
    with Visit(browser, page) as visit:
        assert visit.foreign() == ["https://example.org/x.js"] and visit.complaints


# Reading with a keyboard, a screen reader, little sight, little patience for motion


def test_boxes_that_scroll_are_within_reach_of_the_keyboard(
    browser: Browser, html: Path, pages: dict[str, BeautifulSoup]
) -> None:
    scrolling = """() => [...document.querySelectorAll('.bd-article pre')]
        .filter(e => e.scrollWidth > e.clientWidth + 1 && e.offsetParent).map(e => e.tabIndex)"""
    name = f"notebooks/{notebooks.chapters()[0].name}.html"
    with Visit(browser, html / name, width=390) as visit:
        # the first may lie folded away
        visit.page.wait_for_selector(".bd-article [data-scrolls]", state="attached")
        stops = visit.page.evaluate(scrolling)
        assert stops and set(stops) == {0}


def film_page(pages: dict[str, BeautifulSoup]) -> str:
    return next(name for name, soup in pages.items() if soup.select("img.film"))


def test_a_film_is_paused_where_it_is_and_goes_on_from_there(
    browser: Browser, html: Path, pages: dict[str, BeautifulSoup]
) -> None:
    name = film_page(pages)
    films = pages[name].select("img.film")
    with Visit(browser, html / name, reduced_motion="no-preference") as visit:
        buttons, shown = visit.page.locator(".film-button"), visit.page.locator("canvas.film").first
        visit.page.wait_for_function(
            f"document.querySelectorAll('.film-button').length === {len(films)}"
        )
        assert shown.get_attribute("aria-label") == films[0]["alt"]
        assert shown.get_attribute("data-frame") is None  # nobody has seen it
        shown.scroll_into_view_if_needed()
        visit.page.wait_for_function("document.querySelector('.film').dataset.frame > 2")
        buttons.first.press("Enter")
        assert buttons.first.inner_text() == "Play the film"
        frame, pixels = shown.get_attribute("data-frame"), shown.evaluate("e => e.toDataURL()")
        visit.page.wait_for_timeout(500)
        assert shown.get_attribute("data-frame") == frame
        assert shown.evaluate("e => e.toDataURL()") == pixels
        shown.evaluate("""canvas => {
            window.frames = [];
            const note = () => window.frames.push(Number(canvas.dataset.frame));
            new MutationObserver(note).observe(canvas, {attributeFilter: ['data-frame']});
        }""")
        buttons.first.press("Space")
        visit.page.wait_for_function("window.frames.length > 1")
        first, second = visit.page.evaluate("window.frames.slice(0, 2)")
        assert (first, second) == (int(str(frame)) + 1, int(str(frame)) + 2)
        assert visit.complaints == []


def test_a_film_that_moves_by_itself_is_replaced_by_its_beginning(
    browser: Browser, html: Path, pages: dict[str, BeautifulSoup]
) -> None:
    with Visit(browser, html / film_page(pages), reduced_motion="no-preference") as visit:
        visit.page.add_init_script("delete window.ImageDecoder")
        visit.page.reload()
        films, stills = visit.page.locator("img.film"), visit.page.locator("canvas.film")
        button = visit.page.locator(".film-button").first
        button.wait_for()
        count, alt = films.count(), films.first.get_attribute("alt")
        button.press("Enter")
        assert (films.count(), stills.count()) == (count - 1, 1)
        assert stills.first.get_attribute("aria-label") == alt
        assert button.inner_text() == "Play the film"
        button.press("Space")
        assert (films.count(), stills.count()) == (count, 0)


def test_who_wants_less_motion_sees_a_still(
    browser: Browser, html: Path, pages: dict[str, BeautifulSoup]
) -> None:
    with Visit(browser, html / film_page(pages), reduced_motion="reduce") as visit:
        visit.page.wait_for_selector("canvas.film")
        visit.page.wait_for_function("!document.querySelector('img.film')")
        shown = visit.page.locator("canvas.film").first
        shown.scroll_into_view_if_needed()
        visit.page.wait_for_timeout(300)
        assert shown.get_attribute("data-frame") is None


def test_figures_lie_on_a_white_card_in_the_dark(
    browser: Browser, html: Path, pages: dict[str, BeautifulSoup]
) -> None:
    looks = """() => [...document.querySelectorAll('.cell_output img')].map(e => {
        const s = getComputedStyle(e);
        return [s.backgroundColor, s.filter, parseFloat(s.paddingLeft) > 0].join(' ');
    })"""
    with_figures = [name for name, soup in pages.items() if soup.select(".cell_output img")]
    assert with_figures
    for name in with_figures:
        with Visit(browser, html / name) as visit:
            visit.page.emulate_media(color_scheme="dark")
            visit.page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
            found = set(visit.page.evaluate(looks))
            assert found == {"rgb(255, 255, 255) brightness(0.9) true"}, name


# To take along


def test_the_zip_opens_wherever_it_is_unpacked(
    browser: Browser, html: Path, tmp_path: Path
) -> None:
    packed = release.pack(html, tmp_path / "book.zip")
    elsewhere = tmp_path / "Bücher auf dem Stick"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(elsewhere)
    assert [path.name for path in elsewhere.iterdir()] == ["book"]
    assert "index.html" in (elsewhere / "book" / "README.txt").read_text("utf-8")
    with Visit(browser, elsewhere / "book" / "index.html") as visit:
        visit.page.wait_for_url("**/book/intro.html")
        visit.page.wait_for_load_state("load")
        visit.page.locator("nav.bd-links a[href*='notebooks/']").first.click()
        visit.page.wait_for_function("document.querySelector('.math mjx-container')")
        assert visit.page.evaluate(PICTURES) == []
        assert visit.foreign() == [] and visit.complaints == []


def test_the_same_book_is_the_same_zip(html: Path, tmp_path: Path) -> None:
    first, again = (release.pack(html, tmp_path / n / "book.zip") for n in ("a", "b"))
    assert first.read_bytes() == again.read_bytes()


def test_there_is_nothing_to_pack_before_the_book_is_built(tmp_path: Path) -> None:
    with pytest.raises(release.Trouble, match="run `make book` first"):
        release.pack(tmp_path, tmp_path / "book.zip")


def test_paper_shows_the_text_and_leaves_the_screen_behind(
    browser: Browser, html: Path, pages: dict[str, BeautifulSoup]
) -> None:
    shown = """selector => [...document.querySelectorAll(selector)]
        .filter(e => e.checkVisibility({contentVisibilityAuto: true})).length"""
    with Visit(browser, html / f"notebooks/{notebooks.chapters()[0].name}.html") as visit:
        visit.page.emulate_media(media="print", color_scheme="dark")
        gone = ".bd-sidebar, .headerlink, .copybtn, .tag_solution pre, .tag_setup pre, footer"
        assert visit.page.evaluate(shown, gone) == 0
        assert visit.page.evaluate(shown, ".sd-summary-content p")
        assert visit.page.evaluate(shown, ".bd-article h1") == 1
        ink = "getComputedStyle(document.querySelector('.bd-article li')).color"
        assert visit.page.evaluate(ink) == "rgb(17, 17, 17)"  # dark, though the screen is, too


def test_a_page_is_printed(browser: Browser, html: Path, tmp_path: Path) -> None:
    pdf = release.print_page(browser, html / "book" / "notation.html", tmp_path / "n" / "a.pdf")
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF") and content.count(b"/Type /Page\n") >= 3
    assert b"/Outlines" in content and b"/StructTreeRoot" in content  # bookmarks, reading order


def test_the_bound_book_holds_every_page_and_its_links_stay_inside(
    html: Path, pages: dict[str, BeautifulSoup]
) -> None:
    names = release.contents()
    whole = parse(release.bound(html, names))
    ids = [str(element["id"]) for element in whole.find_all(id=True)]
    assert len(ids) == len(set(ids)) and len(whole.select(".printed-page")) == len(names)
    for link in whole.select("a[href^='#']"):
        assert str(link["href"])[1:] in ids, link
    pictures = whole.select("img[src^='_images/']")
    assert pictures and all((html / str(picture["src"])).is_file() for picture in pictures)
