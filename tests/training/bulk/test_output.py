import errno
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from facemargin.errors import ConfigError, DataError
from tests.training.bulk.conftest import Asked, files_of, finished, run
from tests.training.bulk.test_plan import plan
from training.bulk import output as output_module
from training.bulk.output import open_output


def test_the_manifest_tells_every_part_and_its_hash(asked: Asked) -> None:
    found = finished(asked())
    assert [part.number for part in found.manifest.parts] == list(range(5))
    assert [part.pictures for part in found.manifest.parts] == [5, 5, 5, 5, 4]
    assert (found.manifest.pictures, found.manifest.faces, found.manifest.failed) == (24, 24, {})
    for part in found.manifest.parts:
        for file in part.files:
            content = (asked().output / file.path).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256)


def test_the_manifest_waits_for_the_last_part(asked: Asked) -> None:
    job, _ = run(asked(rank=0, world_size=2))
    assert job.output.finish() is None
    assert job.output.missing() == 2
    assert not (asked().output / "embeddings.json").exists()
    job, _ = run(asked(rank=1, world_size=2))
    assert job.output.finish() is not None


def test_several_processes_may_finish_at_a_time(asked: Asked) -> None:
    job, _ = run(asked())
    expected = job.output.finish()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: job.output.finish(), range(40)))
    assert found == [expected] * 40
    assert sorted(path.name for path in asked().output.iterdir()) == [
        "embeddings.json", "errors.jsonl", "parts", "progress",
    ]  # fmt: skip


def test_an_equal_plan_goes_on_and_another_is_refused_by_name(tmp_path: Path) -> None:
    open_output(tmp_path / "out", plan(200))
    assert open_output(tmp_path / "out", plan(200)).missing() == 2
    before = files_of(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"was begun otherwise: now batch 8 \(there 16\); dtype"):
        open_output(tmp_path / "out", plan(200, batch=8, dtype="float16"))
    with pytest.raises(ConfigError, match="model_id 1111"):
        open_output(tmp_path / "out", plan(200, model_id="1" * 16))
    assert files_of(tmp_path / "out") == before


def test_of_processes_that_begin_together_the_first_plan_counts(tmp_path: Path) -> None:
    def begin(batch: int) -> str:
        try:
            open_output(tmp_path / "out", plan(200, batch=batch))
        except ConfigError:
            return "refused"
        return f"batch {batch}"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(begin, [1, 2] * 20))
    assert len(set(found) - {"refused"}) == 1
    assert found.count("refused") == 20
    assert sorted(files_of(tmp_path / "out")) == ["progress/plan.json"]


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds thesis\.txt and no progress/plan\.json"):
        open_output(tmp_path, plan(3))
    assert files_of(tmp_path) == {"thesis.txt": b"mine"}


def test_a_damaged_plan_and_a_damaged_record_are_told(asked: Asked) -> None:
    run(asked())
    record = asked().output / "progress" / "part-000001.json"
    record.write_text("{")
    with pytest.raises(DataError, match=r"part-000001\.json cannot be read"):
        run(asked())
    (asked().output / "progress" / "plan.json").write_text("{")
    with pytest.raises(DataError, match="no plan that can be gone on with"):
        run(asked())


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"cut off")])
def test_a_part_whose_file_is_gone_or_cut_is_made_again(asked: Asked, damage: Any) -> None:
    whole = finished(asked())
    before = files_of(asked().output)
    damage(asked().output / "parts" / "part-000002.parquet")
    job, again = run(asked())
    assert (again.pictures, again.before) == (5, 19)
    assert job.output.finish() == whole.manifest
    assert files_of(asked().output) == before


def test_leftovers_of_a_killed_process_are_swept(asked: Asked) -> None:
    run(asked(rank=0, world_size=2))
    mine = asked().output / "parts" / ".part-000001.parquet.4711.partial"
    other = asked().output / "parts" / ".part-000099.parquet.4711.partial"
    for path in (mine, other):
        path.write_bytes(b"half a part")
    run(asked(rank=1, world_size=2))
    assert (mine.exists(), other.exists()) == (False, True)


def test_a_full_disk_is_told_and_leaves_whole_files(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = output_module.write_whole, []

    def full(path: Path, content: str | bytes) -> Path:
        written.append(path.name)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(output_module, "write_whole", full)
        with pytest.raises(DataError, match=r"part-\d+\.\w+ cannot be written \(No space left .*free some space"):
            run(asked())
    complete = len(list((asked().output / "progress").glob("part-*.json")))
    assert 0 < complete < 5
    assert not [name for name in files_of(asked().output) if "partial" in name]
    _, again = run(asked())
    assert again.pictures == 24 - 5 * complete
