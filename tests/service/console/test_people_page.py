"""Collections, people, enrolment and search in the browser."""

import re
from typing import Any

import pytest


@pytest.fixture
def staff(console: Any, request: pytest.FixtureRequest) -> str:
    """A collection of this test's own."""
    name = re.sub(r"\W", "-", request.node.name)[5:60].strip("-")
    assert console.client.put(f"/v1/collections/{name}").status_code == 201
    return name


def add(console: Any, collection: str, name: str, *crops: bytes) -> str:
    person = console.client.post(f"/v1/collections/{collection}/people", json={"name": name}).json()["id"]
    for crop in crops:
        path = f"/v1/collections/{collection}/people/{person}/faces"
        assert console.client.post(path, files={"image": crop}, data={"aligned": "true"}).status_code == 201
    return str(person)


def count(page: Any, region: str) -> int:
    return int(page.locator(f"{region} tbody tr").count())


def test_make_enrol_search_and_delete(console: Any, open_page: Any, png: Any) -> None:
    page = open_page(console.url, "#/collections")
    page.get_by_role("textbox", name="Name", exact=True).fill("night-shift")
    page.get_by_role("button", name="Make").click()
    page.get_by_role("link", name="night-shift").click()
    page.get_by_text("Nobody is in this collection yet").wait_for()
    page.get_by_role("textbox", name="Name", exact=True).fill("Ada Lovelace")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Ada Lovelace").click()
    page.get_by_role("heading", name="Ada Lovelace", level=1).wait_for()
    bad = {"name": "broken.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n"}
    page.locator("#enrol-file").set_input_files([png(5), bad, png(5, 1)])
    page.locator("#enrol-aligned").check()
    page.get_by_role("button", name="Enrol", exact=True).click()
    page.get_by_text("2 photos enrolled, 1 photo refused.").wait_for()
    assert page.locator("#enrol-list .state").all_inner_texts() == ["enrolled", "refused", "enrolled"]
    refused = page.locator("#enrol-list li").nth(1)
    assert "image" in refused.locator(".problem").inner_text()
    page.get_by_role("table", name="Enrolled faces and their quality").wait_for()
    assert count(page, "#faces-list") == 2
    assert page.locator("#faces-list tbody tr").first.locator("td").first.inner_text() == "aligned crop"

    page.get_by_role("link", name="Search", exact=True).click()
    page.get_by_label("Collection", exact=True).select_option("night-shift")
    page.locator("#search-picture-file").set_input_files(png(5, 2))
    page.locator("#search-aligned").check()
    with page.expect_response("**/search") as answered:
        page.get_by_role("button", name="Search", exact=True).click()
    (candidate,) = answered.value.json()["candidates"]
    assert page.locator("#search-verdict h2").inner_text() == (
        "1 candidate at a false positive identification rate of at most 1 in 100"
    )
    cells = page.locator("#search-details tbody tr").locator("th, td").all_inner_texts()
    assert cells[:2] == ["1. Ada Lovelace", f"{candidate['similarity']:.3f}"]
    assert "Compared with 2 templates" in page.locator("#search-details").inner_text()

    page.get_by_role("link", name="1. Ada Lovelace").click()
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill("Ada King")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Ada King", level=1).wait_for()
    page.locator("#faces-list").get_by_role("button").first.click()
    page.get_by_role("button", name="Delete face", exact=True).click()
    page.get_by_text("1 face, added").wait_for()
    assert page.evaluate("document.activeElement.id") == "faces-title"
    assert count(page, "#faces-list") == 1
    page.get_by_role("button", name="Delete person").click()
    assert "1 enrolled face" in page.locator("#ask-text").inner_text()
    page.locator("#ask-do").click()
    page.get_by_text("Nobody is in this collection yet").wait_for()

    page.get_by_role("link", name="Search this collection").click()
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("heading", name="Nobody is enrolled in night-shift").wait_for()

    page.get_by_role("link", name="Collections").click()
    page.get_by_role("button", name="Delete collection night-shift").click()
    page.get_by_label("Type “night-shift” to confirm").fill("night")
    page.get_by_role("button", name="Delete collection", exact=True).click()
    assert "exactly" in page.locator("#ask-problem").inner_text()
    assert console.client.get("/v1/collections/night-shift").status_code == 200
    page.get_by_label("Type “night-shift” to confirm").fill("night-shift")
    page.keyboard.press("Enter")
    page.locator("#announcer", has_text="Collection night-shift is deleted.").wait_for(state="attached")
    assert console.client.get("/v1/collections/night-shift").status_code == 404
    assert page.get_by_role("link", name="night-shift").count() == 0
    assert page.evaluate("document.activeElement.id") == "collections-title"


def test_a_stranger_gets_no_candidate(console: Any, open_page: Any, png: Any, crop: Any, staff: str) -> None:
    add(console, staff, "Ada", crop(7))
    page = open_page(console.url, f"#/search/{staff}")
    page.locator("#search-picture-file").set_input_files(png(8))
    page.locator("#search-aligned").check()
    page.get_by_role("button", name="Search", exact=True).click()
    words = f"Nobody in {staff} matches at a false positive identification rate of at most 1 in 100"
    page.get_by_role("heading", name=words).wait_for()
    assert page.locator("#search-details table").count() == 0


def test_a_face_that_resembles_somebody_else_is_warned_of(
    console: Any, open_page: Any, png: Any, crop: Any, staff: str
) -> None:
    add(console, staff, "Augusta", crop(9))
    person = add(console, staff, "Ada")
    page = open_page(console.url, f"#/collections/{staff}/{person}")
    page.locator("#enrol-file").set_input_files(png(9, 1))
    page.locator("#enrol-aligned").check()
    page.get_by_role("button", name="Enrol", exact=True).click()
    page.locator("#enrol-list .notice", has_text="this face also matches 'Augusta'").wait_for()
    assert page.locator("#enrol-list .state").inner_text() == "enrolled, with a warning"


def test_a_busy_service_is_waited_for(console: Any, open_page: Any, png: Any, hand_over: Any, staff: str) -> None:
    person = add(console, staff, "Ada")
    page, keys = open_page(console.url, f"#/collections/{staff}/{person}"), []

    def once(route: Any) -> None:
        keys.append(route.request.headers["idempotency-key"])
        busy = {"type": "urn:facemargin:problem:overloaded", "status": 429, "detail": "too busy"}
        if len(keys) == 1 and route.request.method == "POST":
            route.fulfill(status=429, headers={"Retry-After": "1"}, json=busy)
        else:
            route.continue_()

    page.route(
        lambda url: url.endswith(f"{person}/faces"), lambda r: once(r) if r.request.method == "POST" else r.continue_()
    )
    hand_over(page, "#enrol-files .stage", "drop", png(1), png(1, 1))
    page.locator("#enrol-aligned").check()
    page.get_by_role("button", name="Enrol", exact=True).click()
    page.get_by_text("waiting for the service").wait_for()
    page.get_by_text("2 photos enrolled.").wait_for()
    assert keys[0] == keys[1] != keys[2]  # the same write is tried again, another photo is another write


def test_people_come_in_pages_and_by_name(console: Any, open_page: Any, staff: str) -> None:
    for number in range(53):
        add(console, staff, f"Person {number:02d}")
    page = open_page(console.url, f"#/collections/{staff}")
    page.get_by_role("link", name="Person 00").wait_for()
    assert count(page, "#people-list") == 50
    assert page.get_by_role("button", name="Previous page").count() == 0
    page.get_by_role("button", name="Next page").click()
    page.get_by_role("link", name="Person 52").wait_for()
    assert count(page, "#people-list") == 3
    assert page.get_by_role("button", name="Next page").count() == 0
    assert page.evaluate("document.activeElement.id") == "people-title"
    page.get_by_role("button", name="Previous page").click()
    page.get_by_role("link", name="Person 00").wait_for()
    page.get_by_label("Show only the name").fill("Person 51")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name="Person 51").wait_for()
    assert count(page, "#people-list") == 1
    page.get_by_label("Show only the name").fill("Nobody")
    page.get_by_role("button", name="Show").click()
    page.get_by_text("Nobody is called exactly “Nobody”.").wait_for()


def test_names_are_text_and_never_markup(console: Any, open_page: Any, staff: str) -> None:
    name = "<img src=x onerror=alert(1)> & <b>bold</b>"
    person = add(console, staff, name)
    page = open_page(console.url, f"#/collections/{staff}")
    page.get_by_role("link", name=name).wait_for()
    assert page.locator("#people-list img, #people-list b").count() == 0
    page.get_by_role("link", name=name).click()
    page.get_by_role("heading", name=name, level=1).wait_for()
    assert page.title() == f"{name} · facemargin"
    assert person in page.url


def test_wrong_names_are_told_at_their_field(console: Any, open_page: Any, staff: str) -> None:
    page = open_page(console.url, "#/collections")
    for wrong in ("", "two words", ".hidden"):
        page.get_by_role("textbox", name="Name", exact=True).fill(wrong)
        page.get_by_role("button", name="Make").click()
        page.locator("#collections-form-problem", has_text="63 letters").wait_for()
    field = page.get_by_role("textbox", name="Name", exact=True)
    assert field.get_attribute("aria-invalid") == "true"
    assert "collections-form-problem" in field.get_attribute("aria-describedby")
    page.goto(f"{console.url}/#/collections/{staff}")
    page.get_by_role("textbox", name="Name", exact=True).fill("a\u0007b")
    page.get_by_role("button", name="Add").click()
    page.locator("#people-form-problem", has_text="must not hold control characters").wait_for()


def test_what_is_not_there_is_told(console: Any, open_page: Any, staff: str) -> None:
    page = open_page(console.url, "#/collections/nowhere")
    page.locator("#collection-problem", has_text="nowhere").wait_for()
    page.goto(f"{console.url}/#/collections/{staff}/p_nobody")
    page.locator("#person-problem", has_text="p_nobody").wait_for()
    assert not page.locator("#enrol-form").is_visible()
    for address in ("no/such/page/here", "collections/%E0%A4%A"):
        page.goto(f"{console.url}/#/collections")
        page.goto(f"{console.url}/#/{address}")
        page.get_by_role("heading", name="No such page").wait_for()
