"""The API key in the browser: asked for where it is needed, tried before it is kept, kept for the tab alone."""

from typing import Any


def enter(page: Any, key: str) -> None:
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()


def test_without_a_key_the_page_says_so_and_helps(keyed_console: Any, open_page: Any) -> None:
    page = open_page(keyed_console.url, "#/collections")
    page.locator("#collections-problem", has_text="this service needs an API key").wait_for()
    page.get_by_role("button", name="Enter an API key").click()
    enter(page, keyed_console.keys["admin"])
    page.get_by_text("There is no collection yet").wait_for()
    key_id = "_".join(keyed_console.keys["admin"].split("_")[:2])
    assert page.get_by_role("button", name=f"API key: {key_id}").is_visible()
    assert keyed_console.keys["admin"] not in page.content()
    stored = page.evaluate("[{...sessionStorage}, {...localStorage}, document.cookie]")
    assert stored == [{"facemargin.key": keyed_console.keys["admin"]}, {}, ""]
    page.reload()
    page.get_by_text("There is no collection yet").wait_for()
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget the key").click()
    page.locator("#collections-problem", has_text="this service needs an API key").wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_wrong_key_is_refused_and_not_kept(keyed_console: Any, open_page: Any) -> None:
    page = open_page(keyed_console.url)
    page.get_by_role("button", name="API key: none").click()
    for wrong, words in (
        ("fm_00000000_wrong", "the API key is not valid"),
        ("", "Type a key"),
        ("two words", "Type a key"),
        ("schlüssel", "Type a key"),
    ):
        enter(page, wrong)
        page.locator("#key-problem", has_text=words).wait_for()
        assert page.evaluate("document.activeElement.id") == "key-value"
    assert page.evaluate("sessionStorage.length") == 0
    page.keyboard.press("Escape")
    assert not page.locator("#key-dialog").is_visible()
    assert page.evaluate("document.activeElement.id") == "key-open"


def test_a_key_that_may_only_read_is_told_what_it_may_not(keyed_console: Any, open_page: Any, png: Any) -> None:
    page = open_page(keyed_console.url)
    page.get_by_role("button", name="API key: none").click()
    enter(page, keyed_console.keys["read"])
    page.locator("#key-dialog").wait_for(state="hidden")
    page.locator("#verify-a-file").set_input_files(png(1))
    page.locator("#verify-b-file").set_input_files(png(1, 1))
    page.get_by_role("button", name="Compare").click()
    page.locator("#verify-problem", has_text="does not have the scope 'verify'").wait_for()
    page.get_by_role("link", name="Collections").click()
    page.get_by_role("textbox", name="Name", exact=True).fill("mine")
    page.get_by_role("button", name="Make").click()
    page.locator("#collections-form-problem", has_text="does not have the scope 'admin'").wait_for()
