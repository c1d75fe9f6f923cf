import errno
import pickle
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from facemargin.bundle import Bundle, load_bundle
from facemargin.embedder import Embedder
from facemargin.errors import DataError
from facemargin.preprocessing import decode, encode_png, read_image
from tests.conftest import MakeTinyBundle
from tests.training.bulk.conftest import PEOPLE, Asked, crop, files_of, finished, run
from training.bulk.batches import Batch
from training.bulk.job import prepare
from training.bulk.run import Run, in_order
from training.data.formats.convert import convert
from training.data.pictures import Picture


def test_every_vector_is_that_of_its_crop_embedded_alone(asked: Asked, crops: Path, tiny_bundle: Bundle) -> None:
    found = finished(asked())
    embedder = Embedder(load_bundle(tiny_bundle.path))
    assert len(found.rows) == sum(PEOPLE.values())
    assert {row["source"] for row in found.rows} == {str(crops)}
    for row, vector in zip(found.rows, found.vectors, strict=True):
        alone = embedder.embed(read_image(crops / row["key"])[None])[0]
        assert float(alone @ vector) > 0.999999
        assert row["person"] == (row["key"].rpartition("/")[0] or None)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_any_number_of_ranks_and_threads_makes_the_same_files(asked: Asked, world_size: int) -> None:
    finished(asked())
    for rank in reversed(range(world_size)):
        job, _ = run(asked(output=asked().output / ".." / "ranks", rank=rank, world_size=world_size, threads=3))
        job.output.finish()
    assert files_of(asked().output / ".." / "ranks") == files_of(asked().output)


def test_a_run_goes_on_with_another_world_size(asked: Asked) -> None:
    whole = finished(asked())
    elsewhere = asked().output / ".." / "elsewhere"
    run(asked(output=elsewhere, rank=1, world_size=3))
    _, second = run(asked(output=elsewhere, rank=0, world_size=2))
    assert (second.pictures, second.before) == (10, 4)
    job, third = run(asked(output=elsewhere))
    assert (third.pictures, third.before) == (5, 19)
    assert job.output.finish() == whole.manifest
    assert files_of(elsewhere) == files_of(asked().output)


def interrupted(after: int) -> Callable[[Run], None]:
    calls = 0

    def progress(run: Run) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("after", [1, 4, 9])
def test_an_interrupted_run_resumes_to_the_same_files(asked: Asked, after: int) -> None:
    finished(asked())
    again = asked(output=asked().output / ".." / "again")
    with pytest.raises(KeyboardInterrupt):
        prepare(again, {}).run(interrupted(after))
    complete = len(list(again.output.glob("progress/part-*.json")))
    assert complete == (after - 1) // 3  # three batches a part, after the call at the start
    job, rest = run(again)
    assert rest.before == 5 * complete
    job.output.finish()
    assert files_of(again.output) == files_of(asked().output)


def test_a_picture_that_cannot_be_read_leaves_the_others_alone(asked: Asked, tmp_path: Path) -> None:
    root = tmp_path / "some"
    root.mkdir()
    for number in range(7):
        (root / f"{number}.png").write_bytes(crop(number))
    (root / "2.png").write_bytes(crop(2)[:200])
    (root / "4.png").unlink()
    (root / "4.png").symlink_to(root / "absent.png")
    found = finished(asked(sources=(root,)))
    assert [row["key"] for row in found.rows] == [f"{number}.png" for number in (0, 1, 3, 5, 6)]
    assert [(error["key"], error["status"]) for error in found.errors] == [
        ("2.png", "unreadable"),
        ("4.png", "unreadable"),
    ]
    assert found.manifest.failed == {"unreadable": 2}
    assert len(found.vectors) == 5


def test_rows_that_wait_for_the_end_of_their_part_hold_no_pixels(asked: Asked) -> None:
    batch = prepare(asked(), {}).work(range(5))
    assert len(batch.faces) == 5
    assert len(pickle.dumps(batch)) < 112 * 112 * 3


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_disk_that_fails_stops_the_run_and_blames_no_picture(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing(picture: Picture, limits: object) -> object:
        if picture.name == "3.png":
            try:
                raise OSError(number, "the disk is gone")
            except OSError as error:
                raise DataError(f"{picture}: cannot be read (the disk is gone)") from error
        return decode(picture.path.read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(Picture, "decode", failing)
        with pytest.raises(DataError, match=r"3\.png: cannot be read \(the disk is gone\); run the same command again"):
            run(asked())
    assert finished(asked()).errors == []


def test_a_failure_can_stop_the_run_and_then_be_recorded(asked: Asked, tmp_path: Path) -> None:
    root = tmp_path / "some"
    root.mkdir()
    for number in range(6):
        (root / f"{number}.png").write_bytes(crop(number))
    (root / "5.png").write_text("no picture")
    with pytest.raises(DataError, match=r"5\.png: .*not an image .*--on-error record"):
        run(asked(sources=(root,), stop_at_failure=True))
    _, rest = run(asked(sources=(root,)))
    assert (rest.before, rest.pictures, dict(rest.failed)) == (5, 1, {"unreadable": 1})


def test_changed_sources_are_not_gone_on_with(asked: Asked, tmp_path: Path) -> None:
    root = tmp_path / "some"
    root.mkdir()
    for number in range(6):
        (root / f"{number}.png").write_bytes(crop(number))
    run(asked(sources=(root,)))
    (root / "6.png").write_bytes(crop(6))
    with pytest.raises(Exception, match=f"the pictures of {root}, which are not those of then"):
        run(asked(sources=(root,)))


def test_crops_of_other_sizes_and_a_model_of_a_fixed_batch(
    asked: Asked, make_tiny_bundle: MakeTinyBundle, tmp_path: Path
) -> None:
    root = tmp_path / "sizes"
    root.mkdir()
    for side in (56, 112, 224):
        pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
        (root / f"{side}.png").write_bytes(encode_png(pixels))
    bundle = make_tiny_bundle(batch=2, flip_sum=True)
    found = finished(asked(sources=(root,), bundle=bundle.path, batch=8))
    embedder = Embedder(load_bundle(bundle.path))
    for row, vector in zip(found.rows, found.vectors, strict=True):
        np.testing.assert_allclose(vector, embedder.embed(read_image(root / row["key"])[None])[0], atol=1e-6)


def test_figures_count_what_was_done(asked: Asked) -> None:
    seen: list[int] = []
    job = prepare(asked(), {})
    done = job.run(lambda so_far: seen.append(so_far.pictures))
    assert seen == [0, *[5 * part + k for part in range(4) for k in (2, 4, 5)], 22, 24]
    assert (done.pictures, done.faces, done.before, job.pictures) == (24, 24, 0, 24)
    assert done.seconds > 0
    assert done.faces_per_second == pytest.approx(24 / done.seconds)
    assert 0 < done.network_share < 1
    again = prepare(asked(), {}).run(lambda so_far: None)
    assert (again.pictures, again.before, again.faces_per_second, again.network_share) == (0, 24, 0.0, 0.0)


def test_results_come_in_order_and_nothing_new_begins_once_closed() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def work(rows: range) -> Batch:
        begun.append(rows.start)
        if rows.start == 0:
            gate.wait(5)  # the first is the slowest
        return Batch(np.empty((0, 1), np.float32), rows.start)

    items = (range(number, number + 1) for number in range(1000))
    results = in_order(work, items, 2)
    threading.Timer(0.05, gate.set).start()
    with closing(results):
        assert [next(results).pictures for _ in range(20)] == list(range(20))
    assert len(begun) <= 20 + 2 * 4 + 2


def test_what_is_planned_is_given_up_when_the_results_are_closed() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def work(rows: range) -> Batch:
        begun.append(rows.start)
        if rows.start:
            gate.wait(5)
        return Batch(np.empty((0, 1), np.float32), rows.start)

    results = in_order(work, (range(number, number + 1) for number in range(1000)), 2)
    assert next(results).pictures == 0
    threading.Timer(0.2, gate.set).start()
    results.close()
    assert set(begun) <= {0, 1, 2}, "those that had begun"


def test_a_damaged_record_is_one_failure(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "flat" / "Ann").mkdir(parents=True)
    for number in range(7):
        (tmp_path / "flat" / "Ann" / f"{number}.png").write_bytes(crop(number))
    convert(tmp_path / "flat", tmp_path / "set.rec")
    offsets = [int(line.split("\t")[1]) for line in (tmp_path / "set.idx").read_text().splitlines()]
    data = bytearray((tmp_path / "set.rec").read_bytes())
    data[offsets[3]] ^= 0xFF  # the magic of a picture in the middle
    (tmp_path / "set.rec").write_bytes(data)
    found = finished(asked(sources=(tmp_path / "set.rec",)))
    assert [(error["key"], error["person"], error["status"]) for error in found.errors] == [("3", "Ann", "unreadable")]
    assert "no record is at byte" in found.errors[0]["reason"]
    assert [row["key"] for row in found.rows] == ["1", "2", "4", "5", "6", "7"]
