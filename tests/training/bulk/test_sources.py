import io
import os
import tarfile
from pathlib import Path

import pytest

from facemargin.errors import ConfigError, DataError
from tests.training.bulk.conftest import PEOPLE, crop
from training.bulk.sources import Source, Sources, printable, read_nested, read_sources
from training.data.formats.convert import convert


def listed(sources: Sources) -> list[tuple[str, str | None]]:
    found = []
    for row in range(len(sources)):
        source, own = sources.place(row)
        found.append((source.key(own), source.person(own)))
    return found


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Two people with two pictures each."""
    for number, name in enumerate(("Ann/a.png", "Ann/b.png", "Bob/a.png", "Bob/b.png")):
        path = tmp_path / "flat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(crop(number))
    return tmp_path / "flat"


def test_a_nested_folder_gives_every_picture_with_its_folder(crops: Path) -> None:
    found = listed(read_sources([crops]))
    assert dict(found)["archive/1999/Cleo/3.png"] == "archive/1999/Cleo"
    assert dict(found)["0.png"] is None
    assert len(set(found)) == len(found) == sum(PEOPLE.values())
    assert [key for key, _ in found[:3]] == ["0.png", "1.png", "Ann/0.png"]
    assert sum(person == "Bob" for _, person in found) == PEOPLE["Bob"]


def test_rows_of_several_sources_follow_one_another(crops: Path, flat: Path) -> None:
    sources = read_sources([flat, crops])
    assert len(sources) == 4 + sum(PEOPLE.values())
    assert [sources.place(row)[0].name for row in (0, 3, 4)] == [str(flat), str(flat), str(crops)]
    assert sources.place(4)[1] == 0
    assert sources.picture(2).read() == (flat / "Bob" / "a.png").read_bytes()
    assert sources.picture(4).read() == (crops / "0.png").read_bytes()


def test_links_to_folders_are_followed_and_a_loop_is_refused(flat: Path, tmp_path: Path) -> None:
    root = tmp_path / "links"
    root.mkdir()
    (root / "people").symlink_to(flat)
    assert [key for key, _ in listed(read_sources([root]))][:2] == ["people/Ann/a.png", "people/Ann/b.png"]
    (flat / "Bob" / "again").symlink_to(flat)
    with pytest.raises(DataError, match="again is a link to a folder above it"):
        read_nested(root)


def test_every_format_names_its_pictures_apart(flat: Path, tmp_path: Path) -> None:
    convert(flat, tmp_path / "set.rec")
    assert listed(read_sources([tmp_path / "set.rec"])) == [("1", "Ann"), ("2", "Ann"), ("3", "Bob"), ("4", "Bob")]
    convert(flat, tmp_path / "shards", to_format="webdataset", shard_pictures=3)
    expected = [
        ("shard-000000.tar/Ann/a.png", "Ann"),
        ("shard-000000.tar/Ann/b.png", "Ann"),
        ("shard-000000.tar/Bob/a.png", "Bob"),
        ("shard-000001.tar/Bob/b.png", "Bob"),
    ]
    assert listed(read_sources([tmp_path / "shards"])) == expected
    assert listed(read_sources([tmp_path / "shards" / "shard-{000000..000001}.tar"])) == expected
    (tmp_path / "set.lst").write_text("flat/Bob/b.png\tBob\nflat/Ann/a.png\tAnn\n")
    assert listed(read_sources([tmp_path / "set.lst"])) == [("flat/Bob/b.png", "Bob"), ("flat/Ann/a.png", "Ann")]


def test_shards_need_no_labels(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "web.tar", "w") as tar:
        for number in range(2):
            add(tar, f"{number:04}.png", crop(number))
            add(tar, f"{number:04}.json", b'{"caption": "a face"}')
    assert listed(read_sources([tmp_path / "web.tar"])) == [("web.tar/0000.png", None), ("web.tar/0001.png", None)]


def test_a_name_that_is_no_utf8_stands_as_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "odd") + b"/\xe9.png")).write_bytes(crop(0))
    assert listed(read_sources([tmp_path / "odd"])) == [("\\xe9.png", None)]
    assert printable("Émile") == "Émile"
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xe9"))
    (tmp_path / "odd").rename(odd)
    assert one(odd).name == f"{tmp_path}/p\\xe9"  # it goes into the plan, which is JSON


def one(path: Path) -> Source:
    return read_sources([path]).parts[0]


def test_a_fingerprint_tells_other_pictures(flat: Path, tmp_path: Path) -> None:
    first = one(flat).fingerprint()
    assert one(flat).fingerprint() == first
    (flat / "Ann" / "a.png").rename(flat / "Ann" / "c.png")
    renamed = one(flat).fingerprint()
    (flat / "Bob" / "b.png").write_bytes(crop(3) + b"longer")
    assert len({first, renamed, one(flat).fingerprint()}) == 3


def test_a_fingerprint_tells_records_of_the_same_keys_and_people(flat: Path, tmp_path: Path) -> None:
    convert(flat, tmp_path / "one" / "set.rec")
    (flat / "Ann" / "b.png").write_bytes(crop(77) + bytes(64))
    convert(flat, tmp_path / "two" / "set.rec")
    first, second = (one(tmp_path / name / "set.rec") for name in ("one", "two"))
    assert listed(Sources([first])) == listed(Sources([second]))
    assert first.fingerprint() != second.fingerprint()


def test_sources_that_cannot_be_used_are_refused(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photo.png").write_bytes(crop(0))
    for path, message in (
        (tmp_path / "absent", "absent does not exist"),
        (tmp_path / "empty", "empty has no pictures"),
        (tmp_path / "shard-{0..2}.tar", "3 of the 3 shards"),
    ):
        with pytest.raises(DataError, match=message):
            read_sources([path])
    with pytest.raises(ConfigError, match="no data format is recognised"):
        read_sources([tmp_path / "photo.png"])
    with pytest.raises(ConfigError, match="named twice"):
        read_sources([flat, flat])
    with pytest.raises(ConfigError, match="unknown data format"):
        read_sources([flat], format="zip")
