"""Verifying two photos in the browser."""

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training.synthetic import write_synthetic


def choose(page: Any, first: dict[str, Any], second: dict[str, Any], *, aligned: bool = True) -> None:
    page.locator("#verify-a-file").set_input_files(first)
    page.locator("#verify-b-file").set_input_files(second)
    page.locator("#verify-aligned").set_checked(aligned)


def compare(page: Any) -> dict[str, Any]:
    """Press the button; the service's own answer."""
    with page.expect_response("**/v1/verify") as answered:
        page.get_by_role("button", name="Compare").click()
    return dict(answered.value.json())


def verdict(page: Any) -> str:
    return str(page.locator("#verify-verdict h2").inner_text())


def figure(page: Any, term: str) -> str:
    return str(
        page.locator("#verify-details dl div").filter(has=page.get_by_text(term, exact=True)).locator("dd").inner_text()
    )


def test_a_dropped_and_a_pasted_photo_match_at_a_stated_rate(
    console: Any, open_page: Any, png: Any, hand_over: Any
) -> None:
    page = open_page(console.url)
    hand_over(page, "#verify-b .stage", "drop", png(1))
    hand_over(page, "body", "paste", png(1, 1))  # goes to the place that is still empty
    page.locator("#verify-aligned").check()
    reply = compare(page)
    assert verdict(page) == "Match at a false match rate of at most 1 in 1,000"
    assert reply["match"] is True
    assert figure(page, "Similarity") == f"{reply['similarity']:.3f} (cosine)"
    assert figure(page, "Threshold").startswith(f"{reply['threshold']:.3f}, for a false match rate of 1 in 1,000")
    assert "%" in figure(page, "Probability of the same person")
    assert figure(page, "Model") == reply["model"]
    assert page.get_by_text("There is no liveness detection").is_visible()
    assert page.get_by_role("img", name="Second photo: 1-0.png").is_visible()
    page.locator("#verify-a", has_text="taken as an aligned crop").wait_for()


def test_strangers_do_not_match_and_an_unobserved_rate_is_marked(console: Any, open_page: Any, png: Any) -> None:
    page = open_page(console.url)
    page.locator("option", has_text="(extrapolated)").first.wait_for(state="attached")
    choose(page, png(1), png(2))
    page.locator("#verify-rate").select_option(label="1 in 1,000,000 (extrapolated)")
    reply = compare(page)
    assert (reply["match"], reply["extrapolated"]) == (False, True)
    assert verdict(page) == "No match at a false match rate of at most 1 in 1,000,000"
    page.get_by_text("comes from a fitted tail").wait_for()
    page.locator("#verify-rate").select_option("0.1")
    assert compare(page)["extrapolated"] is False
    assert verdict(page).endswith("rate of at most 10 %")
    assert page.get_by_text("comes from a fitted tail").count() == 0


def test_a_threshold_of_ones_own_promises_no_rate(console: Any, open_page: Any, png: Any) -> None:
    page = open_page(console.url)
    choose(page, png(1), png(1, 1))
    assert not page.get_by_label("Lowest similarity of a match").is_visible()
    page.get_by_label("Highest false match rate").select_option(label="a threshold of my own")
    page.get_by_label("Lowest similarity of a match").fill("0.25")
    assert compare(page)["threshold"] == 0.25
    assert verdict(page) == "The similarity reaches your threshold"
    page.get_by_label("Lowest similarity of a match").fill("1.5")
    page.get_by_role("button", name="Compare").click()
    page.locator("#verify-problem", has_text="threshold: Input should be less than or equal to 1").wait_for()


def test_nothing_is_sent_before_two_photos_are_there(console: Any, open_page: Any, png: Any) -> None:
    page, sent = open_page(console.url), []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.locator("#verify-a-file").set_input_files(png(1))
    page.get_by_role("button", name="Compare").click()
    assert page.locator("#verify-b .problem").inner_text() == "Choose a photo first."
    assert not page.locator("#verify-a .problem").is_visible()
    assert page.evaluate("document.activeElement.id") == "verify-b-file"
    page.get_by_role("button", name="Remove: First photo").click()
    assert page.evaluate("document.activeElement.id") == "verify-a-file"
    assert sent == []


def test_a_bad_picture_is_named_where_it_lies_and_a_new_one_clears_it(console: Any, open_page: Any, png: Any) -> None:
    page = open_page(console.url)
    choose(page, png(1), {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture at all"})
    page.get_by_text("This browser cannot show the file").wait_for()
    reply = compare(page)
    place = page.locator("#verify-b .problem")
    place.filter(has_text="Second photo: " + reply["detail"].removeprefix("image_b: ")).wait_for()
    assert reply["request_id"] in place.inner_text()
    assert place.get_attribute("role") == "alert"
    assert not page.locator("#verify-a .problem").is_visible()
    page.locator("#verify-b-file").set_input_files(png(1, 1))
    assert not place.is_visible()
    compare(page)
    assert verdict(page).startswith("Match")


def test_a_service_that_does_not_answer_and_an_answer_without_a_reason(console: Any, open_page: Any, png: Any) -> None:
    page = open_page(console.url)
    choose(page, png(1), png(1, 1))
    page.route("**/v1/verify", lambda route: route.abort())
    page.get_by_role("button", name="Compare").click()
    page.locator("#verify-problem", has_text="The service does not answer").wait_for()
    page.unroute("**/v1/verify")
    page.route("**/v1/verify", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    page.get_by_role("button", name="Compare").click()
    page.locator("#verify-problem", has_text="status 502 and no reason").wait_for()


def test_an_answer_about_photos_that_were_changed_meanwhile_is_not_shown(
    console: Any, open_page: Any, png: Any
) -> None:
    page, held = open_page(console.url), []
    choose(page, png(1), png(1, 1))
    page.route("**/v1/verify", lambda route: held.append(route))
    page.get_by_role("button", name="Compare").click()
    page.locator("#verify-form [aria-busy=true]").wait_for()
    page.locator("#verify-b-file").set_input_files(png(2))
    held[0].continue_()
    page.locator("#verify-form [type=submit]:not([aria-busy])").wait_for()
    assert page.locator("#verify-verdict h2").count() == 0
    page.unroute("**/v1/verify")
    compare(page)
    assert verdict(page).startswith("No match")


def test_the_whole_path_by_keyboard_alone(console: Any, open_page: Any, png: Any) -> None:
    page = open_page(console.url)

    def tab_to(identity: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            outlined = page.evaluate(
                "(e => getComputedStyle(e.closest('label.button') ?? e).outlineStyle)(document.activeElement)"
            )
            assert outlined == "solid", page.evaluate("document.activeElement.outerHTML")
            if page.evaluate("document.activeElement.id || document.activeElement.type") == identity:
                return
        raise AssertionError(f"Tab never reaches {identity}")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    for name, picture in (("verify-a-file", png(4)), ("verify-b-file", png(4, 1))):
        tab_to(name)
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Space")
        chooser.value.set_files(picture)
    tab_to("verify-rate")
    page.keyboard.press("ArrowUp")
    tab_to("verify-aligned")
    page.keyboard.press("Space")
    tab_to("submit")
    page.keyboard.press("Enter")
    page.locator("#verify-verdict h2").wait_for()
    assert verdict(page) == "Match at a false match rate of at most 1 in 100"
    assert page.evaluate("document.activeElement.textContent") == "Compare"  # the focus stays


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pictures with drawn faces that the detector finds: one face, another, and both beside each other."""
    folder = tmp_path_factory.mktemp("photos")
    write_synthetic(folder / "faces", people=2, images_per_person=1, seed=3)
    faces = [Image.open(path).convert("RGB") for path in sorted((folder / "faces").rglob("*.jpg"))]
    for name, sizes in {"one": [(0, 300)], "other": [(1, 300)], "both": [(0, 300), (1, 200)]}.items():
        picture = Image.new("RGB", (800, 400), (168, 180, 190))
        for place, (number, side) in enumerate(sizes):
            picture.paste(faces[number].resize((side, side)), (50 + 400 * place, 50))
        picture.save(folder / f"{name}.jpg")
    return {name: folder / f"{name}.jpg" for name in ("one", "other", "both")}


def test_boxes_are_drawn_where_the_service_found_the_faces(
    photo_console: Any, open_page: Any, photos: dict[str, Path]
) -> None:
    page = open_page(photo_console.url)
    page.locator("#verify-a-file").set_input_files(photos["one"])
    page.locator("#verify-b-file").set_input_files(photos["other"])
    reply = compare(page)
    page.locator("#verify-verdict h2").wait_for()
    for place, face in (("a", reply["face_a"]), ("b", reply["face_b"])):
        overlay = page.locator(f"#verify-{place} svg.overlay")
        assert overlay.get_attribute("viewBox") == "0 0 800 400"
        drawn = overlay.locator("rect.face-box")
        assert {name: float(drawn.get_attribute(name)) for name in face["box"]} == pytest.approx(face["box"])
        assert overlay.locator("circle").count() == 5
    shown = page.locator("#verify-a .face-box").bounding_box()
    frame = page.locator("#verify-a img").bounding_box()
    scale = min(frame["width"] / 800, frame["height"] / 400)
    left = frame["x"] + (frame["width"] - 800 * scale) / 2 + reply["face_a"]["box"]["x"] * scale
    assert shown["x"] == pytest.approx(left, abs=4)  # the stroke is part of what is measured
    assert f"detector score {reply['face_a']['score']:.2f}" in page.locator("#verify-a").inner_text()
    page.get_by_role("rowheader", name="First").wait_for()


def test_of_several_faces_the_largest_is_offered(photo_console: Any, open_page: Any, photos: dict[str, Path]) -> None:
    page = open_page(photo_console.url)
    page.locator("#verify-a-file").set_input_files(photos["one"])
    page.locator("#verify-b-file").set_input_files(photos["both"])
    reply = compare(page)
    assert reply["faces"] == 2
    page.locator("#verify-b", has_text="2 faces found, numbered from the largest").wait_for()
    assert page.locator("#verify-b rect.face-box.other").count() == 2
    with page.expect_response("**/v1/verify") as answered:
        page.locator("#verify-b").get_by_role("button", name="Take the largest face").click()
    assert answered.value.ok
    page.locator("#verify-verdict h2").wait_for()
    assert page.locator("#verify-b rect.face-box").count() == 1
    assert page.locator("#verify-largest").is_checked()


def test_a_photograph_where_the_service_has_no_detector(console: Any, open_page: Any, png: Any) -> None:
    page = open_page(console.url)
    choose(page, png(1), png(1, 1), aligned=False)
    page.locator("#verify-problem", has_text=compare(page)["detail"]).wait_for()


def test_a_photo_from_the_camera(console: Any, open_page: Any, png: Any) -> None:
    page = open_page(console.url, permissions=["camera"])
    page.get_by_role("button", name="Use the camera: First photo").click()
    page.get_by_role("button", name="Take photo").click()
    page.get_by_role("img", name="First photo: camera.jpg").wait_for()
    assert re.search(r"camera\.jpg, [\d,]+ × [\d,]+ pixels", page.locator("#verify-a").inner_text())
    assert not page.locator("#camera-dialog").is_visible()
    assert page.evaluate("document.getElementById('camera-video').srcObject") is None


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ("", "The camera was not allowed"),
        ("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})", "only to pages over https"),
    ],
)
def test_without_a_camera_the_page_says_why(console: Any, open_page: Any, init: str, words: str) -> None:
    page = open_page(console.url, init=init)
    page.get_by_role("button", name="Use the camera: Second photo").click()
    page.locator("#camera-problem", has_text=words).wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.ariaLabel") == "Use the camera: Second photo"


def test_the_preview_is_turned_as_the_service_turns_it(console: Any, open_page: Any) -> None:
    """A box is in pixels of the image as displayed, so the browser must display it by its EXIF orientation too."""
    upright, exif = Image.new("RGB", (300, 100)), Image.Exif()
    exif[0x0112] = 6
    written = BytesIO()
    upright.save(written, "JPEG", exif=exif)
    page = open_page(console.url)
    picture = {"name": "turned.jpg", "mimeType": "image/jpeg", "buffer": written.getvalue()}
    page.locator("#verify-a-file").set_input_files(picture)
    page.locator("#verify-a", has_text="turned.jpg, 100 × 300 pixels").wait_for()


WORDS: list[tuple[str, Any, str]] = [
    ("rate", 0.001, "1 in 1,000"),
    ("rate", 2.1e-6, "1 in 480,000"),
    ("rate", 0.5, "50 %"),
    ("rate", 1, "100 %"),
    ("rate", 0.1, "10 %"),
    ("rate", 0.0871, "1 in 11"),
    ("rate", 1e-12, "less than 1 in 1,000,000,000"),
    ("rate", 0, "less than 1 in 1,000,000,000"),
    ("percent", 0.99999, "more than 99.99 %"),
    ("percent", 0.998, "99.80 %"),
    ("percent", 0.5, "50.0 %"),
    ("percent", 0, "less than 0.01 %"),
    ("cosine", -0.0312, "−0.031"),
    ("degrees", -0.52, "−30°"),
    ("milliseconds", 3.14, "3.1 ms"),
    ("milliseconds", 314.2, "314 ms"),
]


def test_numbers_in_words(console: Any, open_page: Callable[..., Any]) -> None:
    page = open_page(console.url)
    code = """async cases => {
        const figures = await import("/console/figures.js");
        return cases.map(([name, value]) => figures[name](value));
    }"""
    assert page.evaluate(code, [[name, value] for name, value, _ in WORDS]) == [words for _, _, words in WORDS]
    quantile = 'async ([values, share]) => (await import("/console/figures.js")).quantile(values, share)'
    for values, share, expected in [([3, 1, 2], 0.5, 2), (list(range(1, 101)), 0.95, 95), ([7], 0.95, 7)]:
        assert page.evaluate(quantile, [values, share]) == expected
