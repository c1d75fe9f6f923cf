"""The page: closed HTML, nothing outside it, every figure in it, every name escaped, the same for the same."""

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from training.report.faces import faces_page
from training.report.page import Cell, Page, Section, Table, render
from training.report.results import FailedRun, HeadResult
from training.report.rows import Summary, summarise
from training.report.tables import percent, signed

MakeResult = Callable[..., HeadResult]
VOID = {"meta", "link", "br", "img", "hr", "input"}
NASTY = "<script>alert('x')</script> & \"co\""


class Document(HTMLParser):
    """Elements with their attributes, the text, and whether every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def results(make_result: MakeResult) -> list[HeadResult]:
    annealing = {"base": 100.0, "gamma": 0.5, "power": 1.0, "minimum": 0.0}
    runs = [make_result(head, seed) for head in ("softmax", "am-softmax") for seed in (0, 1)]
    return [*runs, *(make_result("a-softmax", seed, spread=1.2, annealing=annealing) for seed in (0, 1))]


@pytest.fixture(scope="module")
def summary(results: list[HeadResult]) -> Summary:
    return summarise(results)


@pytest.fixture(scope="module")
def page(summary: Summary, results: list[HeadResult]) -> str:
    return render(faces_page(summary, results, []))


def test_the_page_is_closed_html_with_names_for_everything(page: str) -> None:
    document = Document(page)
    assert document.open == []
    assert page.startswith("<!doctype html>")
    assert document.all("html") == [{"lang": "en"}]
    assert len(document.all("h1")) == len(document.all("title")) == len(document.all("main")) == 1
    assert len(document.all("table")) == len(document.all("caption")) == 4
    assert all(attributes.get("scope") in ("col", "row") for attributes in document.all("th"))
    pictures = [a for _, a in document.elements if a.get("role") == "img"]
    assert len(pictures) == len(document.all("figure")) == len(document.all("figcaption")) == 3 + 2 * 3
    assert all(attributes["aria-label"] for attributes in pictures)
    ids = Counter(attributes["id"] for _, attributes in document.elements if "id" in attributes)
    assert max(ids.values()) == 1
    links = [a["href"] for _, a in document.elements if "href" in a]
    assert {link[1:] for link in links if link} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= {name for name in ids if name}


def test_nothing_is_requested_and_nothing_runs(page: str) -> None:
    document = Document(page)
    assert "://" not in page
    assert {tag for tag, _ in document.elements} & {"script", "link", "img", "iframe", "object", "base"} == set()
    assert "@import" not in page
    assert [name for _, a in document.elements for name in a if name.startswith("on")] == []
    assert all((a.get(key) or "#").startswith(("#", "data:")) for _, a in document.elements for key in ("src", "href"))


def test_every_figure_is_in_the_page(page: str, summary: Summary, results: list[HeadResult]) -> None:
    text = Document(page).text
    for row in summary.rows:
        for found in (row.accuracy, *row.tar, row.eer):
            assert percent(found.value) in text
            assert f"{100 * found.low:.1f} to {100 * found.high:.1f}" in text
        assert row.accuracy_std is not None
        assert percent(row.accuracy_std) in text
    for found in summary.differences:
        assert f"{found.first} – {found.second} {signed(found.difference)}" in text
        assert found.verdict in text
    for gain in summary.gains:
        assert f"{gain.row} {gain.option} {percent(gain.without)} {percent(gain.with_option)}" in text
    assert "11.2 10.5 to 13.0" in text
    assert "346 resident set" in text
    assert "1.59 1.25 + 0.34" in text
    assert "no difference shown" in text
    facts = ("ab" * 32, "30 people, 96 images", "a drawn machine, float32", "torch 2.11", "2026-01-02T03:04+00:00",
             "facemargin compare --config x.toml", '"batch_size": 8', "120 genuine and 120 impostor pairs")  # fmt: skip
    assert [fact for fact in facts if fact not in text] == []


def test_the_colours_follow_the_reader(page: str) -> None:
    svg = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert re.findall(r"#[0-9a-fA-F]{6}", svg) == []
    assert set(re.findall(r"var\((--[\w-]+)\)", svg)) <= set(re.findall(r"(--[\w-]+):", page))
    assert "@media screen and (prefers-color-scheme: dark)" in page
    assert "@media print" in page


def test_names_are_escaped(make_result: MakeResult) -> None:
    results = [make_result(head, command=NASTY, hardware=NASTY, recipe={"x": NASTY}) for head in (NASTY, "softmax")]
    failed = FailedRun(head=NASTY, partition=NASTY, seed=7, step=3, failure="diverged at step 3", advice=NASTY)
    page = render(faces_page(summarise(results), results, [failed]))
    document = Document(page)
    assert document.open == []
    assert document.all("script") == []
    assert document.text.count(NASTY) > 10
    assert "diverged at step 3" in document.text


def test_a_page_without_the_newer_fields_has_fewer_sections(make_result: MakeResult) -> None:
    none = {"variants": None, "angles": None, "curve": None, "cost": None, "data": None, "recipe": {}, "command": ""}
    results = [make_result("softmax", **none, finished_at="", versions={})]
    page = Document(render(faces_page(summarise(results), results, [])))
    assert [a["id"] for a in page.all("section")] == ["results", "cost", "roc", "scores", "reading", "origin"]
    assert "single seed" in page.text


def test_the_lead_says_what_was_found(summary: Summary, results: list[HeadResult], make_result: MakeResult) -> None:
    assert (
        "better than 1 of the other 2 rows; for the remaining 1 no difference" in faces_page(summary, results, []).lead
    )
    alike = [make_result(head, seed) for head in ("softmax", "arcface") for seed in (0, 1)]
    assert "No difference from it is shown" in faces_page(summarise(alike), alike, []).lead


def test_the_page_says_what_it_does_not_know(page: str, make_result: MakeResult) -> None:
    text = Document(page).text
    assert "240 photographs, whether any of them is in training was not checked; 0 photographs" in text
    assert "seeds are taken as independent between rows" in text
    assert "Options that were chosen on these pairs have a flattered gain." in text


@pytest.mark.parametrize(
    ("folds", "folders", "pairs", "said"),
    [
        ((6, 7), ["lfw"], "pairs.txt", "none of them in training;"),
        ((6, 7), ["lfw", "other"], "pairs.txt", "none of them among the training people of that data set; the further"),
        ((1, 2), ["lfw"], "pairs.txt", "whether any of them is in training was not checked"),
        ((6, 7), ["lfw"], "other.txt", "whether any of them is in training was not checked"),
    ],
)
def test_who_was_trained_on_is_said_only_of_the_protocol_that_keeps_people_apart(
    folds: tuple[int, ...], folders: list[str], pairs: str, said: str, make_result: MakeResult
) -> None:
    data = {"protocol": "lfw-open", "folders": folders, "pairs": "pairs.txt"}
    recipe = {"data": data, "test": {"images": "lfw", "pairs": pairs}}
    test = make_result("softmax").test.model_copy(update={"folds": folds})
    results = [make_result("softmax", test=test, recipe=recipe)]
    assert said in Document(render(faces_page(summarise(results), results, []))).text


def test_equal_results_give_equal_pages(summary: Summary, results: list[HeadResult], page: str) -> None:
    assert render(faces_page(summary, results, [])) == page


def test_any_table_can_stand_in_a_page() -> None:
    table = Table("c < d", ("a", "b\nunit"), [[Cell("x & y"), Cell("1", "note", "best")]], ("below",))
    document = Document(render(Page("t", "l", [Section("s", "h", tables=(table,))], ("careful",))))
    assert document.open == []
    for text in ("c < d", "b unit", "x & y 1 note", "below", "careful"):
        assert text in document.text
