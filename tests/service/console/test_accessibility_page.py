"""Every page for everybody: names, headings, landmarks, focus, contrast, narrow screens, light and dark."""

import re
from itertools import pairwise
from typing import Any

import pytest

PAGES = {  # what is there once the page is filled
    "#/verify": "#verify-aligned ~ span code",
    "#/search/{c}": "#search-collection option",
    "#/collections": "#collections-list table",
    "#/collections/{c}": "#people-list table",
    "#/collections/{c}/{p}": "#faces-list table",
    "#/status": "#status-model table",
    "#/nothing/at/all/here": "#unknown-title",
}
NAMED = "button|link|textbox|searchbox|combobox|checkbox|spinbutton|table|img|dialog|region|group|navigation"
LEAST_CONTRAST = 4.5

# Contrast by WCAG 2.2 of every visible text against the nearest background that is not transparent.
_CONTRASTS = """() => {
    const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const parse = text => {
        const numbers = text.match(/[\\d.]+/g).map(Number);
        return text.startsWith("color(") ? numbers.map((v, i) => i < 3 ? 255 * v : v) : numbers;  // of color-mix
    };
    const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const behind = node => {
        for (; node; node = node.parentElement) {
            const colour = parse(getComputedStyle(node).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const parent = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !parent.checkVisibility() || parent.closest("svg, .skip")) continue;
        const pair = [parse(getComputedStyle(parent).color), behind(parent)].map(luminance);
        const [a, b] = pair.sort((x, y) => y - x);
        found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim()]);
    }
    return found;
}"""

_OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def places(console: Any) -> dict[str, str]:
    """A collection with a long name and a person with a longer one, so that narrow pages are tried."""
    collection = "a-collection-with-a-name-that-is-as-long-as-names-may-get-63-xx"
    assert console.client.put(f"/v1/collections/{collection}").status_code == 201
    made = console.client.post(f"/v1/collections/{collection}/people", json={"name": "Wolfeschlegelstein" * 6})
    return {"c": collection, "p": made.json()["id"]}


@pytest.fixture
def enrolled(console: Any, places: dict[str, str], crop: Any) -> dict[str, str]:
    path = f"/v1/collections/{places['c']}/people/{places['p']}/faces"
    assert console.client.post(path, files={"image": crop(3)}, data={"aligned": "true"}).status_code == 201
    return places


def visit(page: Any, console: Any, path: str, places: dict[str, str]) -> None:
    page.goto(f"{console.url}/{path.format(**places)}")
    page.locator(PAGES[path]).first.wait_for(state="attached")


def faint(page: Any) -> list[Any]:
    return [(ratio, text) for ratio, text in page.evaluate(_CONTRASTS) if ratio < LEAST_CONTRAST]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_narrow_enough_and_readable(
    console: Any, open_page: Any, enrolled: dict[str, str], png: Any, scheme: str
) -> None:
    narrow = {"viewport": {"width": 360, "height": 740}, "reduced_motion": "reduce"}
    page = open_page(console.url, color_scheme=scheme, **narrow)
    for path in PAGES:
        visit(page, console, path, enrolled)
        assert page.evaluate(_OVERFLOW) <= 0, path
        assert faint(page) == [], path
    visit(page, console, "#/verify", enrolled)
    page.locator("#verify-a-file").set_input_files(png(1))
    page.locator("#verify-b-file").set_input_files({"name": "b" * 90 + ".png", "mimeType": "image/png", "buffer": b"x"})
    page.get_by_role("button", name="Compare").click()
    page.locator("#verify-problem:visible, #verify-b .problem:visible").first.wait_for()
    page.locator("#verify-b-file").set_input_files(png(1, 1))
    page.locator("#verify-aligned").check()
    page.get_by_role("button", name="Compare").click()
    page.locator("#verify-verdict h2").wait_for()
    assert page.evaluate(_OVERFLOW) <= 0
    assert faint(page) == []
    page.get_by_role("button", name="API key").click()
    assert page.evaluate(_OVERFLOW) <= 0
    assert faint(page) == []


def test_light_and_dark_differ(console: Any, open_page: Any) -> None:
    shades = {
        scheme: open_page(console.url, color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    }
    assert shades["light"] != shades["dark"]


def test_every_control_has_a_name_and_every_page_its_landmarks(
    console: Any, open_page: Any, enrolled: dict[str, str]
) -> None:
    page = open_page(console.url)
    for path in PAGES:
        visit(page, console, path, enrolled)
        tree = page.locator("body").aria_snapshot()
        nameless = re.findall(rf"^\s*- (?:{NAMED})(?! \")\b.*$", tree, re.MULTILINE)
        assert nameless == [], (path, tree)
        for landmark in ("banner", "main", "contentinfo", 'navigation "Pages"'):
            assert re.search(rf"^\s*- {landmark}\b", tree, re.MULTILINE) or landmark in tree, (path, landmark)
        levels = [int(level) for level in re.findall(r"- heading .*\[level=(\d)\]", tree)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels)), (path, levels)
        current = page.locator("header nav a[aria-current=page]")
        assert current.count() == (0 if path.startswith("#/nothing") else 1)
        assert page.title().endswith(" · facemargin")


def test_the_tree_check_would_notice_a_nameless_button(console: Any, open_page: Any) -> None:
    page = open_page(console.url)
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    assert re.findall(rf"^\s*- (?:{NAMED})(?! \")\b.*$", page.locator("body").aria_snapshot(), re.MULTILINE) != []


def test_a_change_of_page_moves_the_focus_to_its_heading(console: Any, open_page: Any) -> None:
    page = open_page(console.url)
    page.get_by_role("link", name="Collections").click()
    page.get_by_role("heading", name="Collections", level=1).wait_for()
    assert page.evaluate("document.activeElement.id") == "collections-title"
    page.go_back()
    page.get_by_role("heading", name="Verify two photos").wait_for()
    assert page.evaluate("document.activeElement.id") == "verify-title"


def test_results_and_problems_are_announced(console: Any, open_page: Any) -> None:
    page = open_page(console.url)
    for place in ("verify-verdict", "search-verdict", "enrol-said", "status-latency", "announcer"):
        assert page.locator(f"#{place}").get_attribute("role") == "status", place
    problems = page.locator(".problem[id]")
    assert problems.count() > 8
    assert set(problems.evaluate_all("all => all.map(one => one.getAttribute('role'))")) == {"alert"}


def test_a_dialog_keeps_the_focus_and_gives_it_back(console: Any, open_page: Any, places: dict[str, str]) -> None:
    page = open_page(console.url, "#/collections")
    opener = page.get_by_role("button", name=f"Delete collection {places['c']}")
    opener.click()
    assert page.evaluate("document.activeElement.id") == "ask-value"
    for _ in range(8):
        page.keyboard.press("Tab")
        inside = "(e => e === document.body || e.closest('#ask-dialog') !== null)(document.activeElement)"
        assert page.evaluate(inside)
    page.keyboard.press("Escape")
    assert opener.evaluate("opener => opener === document.activeElement")


def test_nothing_moves_for_those_who_asked_for_it(console: Any, open_page: Any) -> None:
    page = open_page(console.url, reduced_motion="reduce")
    moving = """[...document.querySelectorAll('*')].filter(one => {
        const {transitionDuration, animationName} = getComputedStyle(one);
        return parseFloat(transitionDuration) > 0 || animationName !== 'none';
    }).length"""
    assert page.evaluate(moving) == 0


def test_without_scripts_the_page_says_what_it_needs(console: Any, open_page: Any) -> None:
    page = open_page(console.url, java_script_enabled=False)
    assert "needs JavaScript" in page.locator("noscript").inner_text()
