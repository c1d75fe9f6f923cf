"""WebDataset shards: read from tar files made by hand, written for the tarfile module, damaged."""

import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from facemargin.errors import DataError
from training.data.formats.convert import convert
from training.data.formats.webdataset import WebDataset, shards_of
from training.data.pictures import LabelledImages

Png = Callable[..., bytes]


def tar(path: Path, files: list[tuple[str, bytes]], **fields: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in fields.items():
                setattr(member, field, value)
            out.addfile(member, io.BytesIO(data))
    return path


def contents(images: LabelledImages) -> list[tuple[str, str, bytes]]:
    return [
        (images.people[label], picture.name, picture.read())
        for label, picture in zip(images.labels, images.pictures, strict=True)
    ]


def test_samples_of_several_shards(tmp_path: Path, png: Png) -> None:
    first = [("000.png", png(0)), ("000.cls", b"10"), ("a/001.cls", b"9\n"), ("a/001.png", png(1))]
    tar(tmp_path / "set" / "s-000000.tar", [*first, ("a/001.txt", b"note"), ("README.md", b"about"), ("._x.png", b"")])
    tar(tmp_path / "set" / "s-000001.tar", [("000.PNG", png(2)), ("000.json", b'{"label": 10.0, "x": [1]}')])
    expected = [("10", "000.png", png(0)), ("9", "001.png", png(1)), ("10", "000.PNG", png(2))]
    for path in (tmp_path / "set", tmp_path / "set" / "s-{000000..000001}.tar"):
        assert WebDataset().recognises(path)
        images = WebDataset().read(path)
        assert contents(images) == expected
        assert images.people == ("9", "10")  # as numbers
    with pytest.raises(DataError, match=r"1 of the 3 shards of .* are missing: s-000002\.tar"):
        shards_of(tmp_path / "set" / "s-{000000..000002}.tar")
    with pytest.raises(DataError, match="is no range of shards"):
        shards_of(tmp_path / "s-{5..1}.tar")


def test_names_come_from_json_or_from_the_sidecar(tmp_path: Path, png: Png) -> None:
    told = [("1.png", png(0)), ("1.cls", b"0"), ("1.json", json.dumps({"person": "Émile"}).encode())]
    assert WebDataset().read(tar(tmp_path / "a" / "x.tar", told)).people == ("Émile",)
    path = tar(tmp_path / "b" / "x.tar", [("1.png", png(0)), ("1.cls", b"1")])
    assert WebDataset().read(path).people == ("1",)
    (tmp_path / "b" / "people.txt").write_text("Ann\nBob\n")
    assert WebDataset().read(path).people == ("Bob",)


def test_names_in_a_tar_are_only_names(tmp_path: Path, png: Png) -> None:
    files = [("../../etc/1.png", png(0)), ("../../etc/1.cls", b"0"), ("/abs/2.png", png(1)), ("/abs/2.cls", b"0")]
    path = tar(tmp_path / "set" / "x.tar", files)
    assert contents(WebDataset().read(path)) == [("0", "1.png", png(0)), ("0", "2.png", png(1))]
    convert(path, tmp_path / "out")
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.png")) == ["out/0/1.png", "out/0/2.png"]


def test_the_written_shards_by_hand(faces: Path, tmp_path: Path) -> None:
    convert(faces, tmp_path / "out", to_format="webdataset", shard_pictures=4)
    names = []
    for number in (0, 1):
        with tarfile.open(tmp_path / "out" / f"shard-{number:06d}.tar", "r:") as shard:
            for member in shard:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
                file = shard.extractfile(member)
                assert file is not None
                data = file.read()
                names.append((number, member.name))
                if member.name.endswith(".cls"):
                    assert data == str(["Ann", "Bob Ray", "Émile"].index(member.name.split("/")[0])).encode()
                else:
                    assert data == (faces / member.name).read_bytes()
    stems = [f"{file.parent.name}/{file.stem}" for file in sorted(faces.glob("*/*.png"))]
    assert names == [(i // 4, stem + kind) for i, stem in enumerate(stems) for kind in (".png", ".cls")]
    assert (tmp_path / "out" / "people.txt").read_text(encoding="utf-8") == "Ann\nBob Ray\nÉmile\n"
    convert(faces, tmp_path / "again", to_format="webdataset", shard_pictures=4)
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_one_name_twice_and_dots_in_names_stay_two_samples(tmp_path: Path, png: Png) -> None:
    for number, name in enumerate(("1.a.png", "1_a.png", "1.a.jpg")):
        (tmp_path / "faces" / "Dr. Ann").mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / "Dr. Ann" / name).write_bytes(png(number))
    convert(tmp_path / "faces", tmp_path / "out" / "x.tar")
    images = WebDataset().read(tmp_path / "out" / "x.tar")
    assert {picture.read() for picture in images.pictures} == {png(0), png(1), png(2)}
    assert [picture.name for picture in images.pictures] == ["1_a.jpg", "1_a-2.png", "1_a-3.png"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("1.png", b"x")], "sample '1' has no label"),
        ([("1.png", b"x"), ("1.json", b"{}")], "sample '1' has no label"),
        ([("1.png", b"x"), ("1.jpg", b"y"), ("1.cls", b"0")], "should have one picture, it has 1.png, 1.jpg"),
        ([("1.cls", b"0")], "should have one picture, it has none"),
        ([("1.png", b"x"), ("1.cls", b"0"), ("2.png", b"x"), ("2.cls", b"0"), ("1.webp", b"y")], "not next to each"),
        ([("1.png", b"x"), ("1.cls", b"Ann")], "1.cls is not a label"),
        ([("1.png", b"x"), ("1.cls", b"\xff")], "1.cls is not a label"),
        ([("1.png", b"x"), ("1.json", b"{")], "1.json is not a label"),
        ([("1.png", b"x"), ("1.json", b'{"label": true}')], "1.json is not a label: True"),
        ([("1.png", b"x"), ("1.json", b'{"label": [1]}')], "1.json is not a label: [1]"),
        ([("1.png", b"x"), ("1.json", b'{"label": NaN}')], "the label 'nan' of picture 1 is not a whole number"),
        ([("1.png", b"x"), ("1.cls", b"-1")], "the label '-1' of picture 1 is not a whole number"),
        ([("1.png", b"x"), ("1.cls", b"1.5")], "the label '1.5' of picture 1 is not a whole number"),
        ([("1.png", b"x"), ("1.cls", b"0" * 70_000)], "has 70,000 bytes, too many for a label"),
        ([("README.md", b"x")], "has no pictures"),
    ],
)
def test_wrong_samples_are_named(tmp_path: Path, files: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        WebDataset().read(tar(tmp_path / "x.tar", files))


def test_links_are_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", [("1.png", b"")], type=tarfile.SYMTYPE, linkname="/etc/passwd")
    with pytest.raises(DataError, match=r"'1\.png' is a link"):
        WebDataset().read(path)


def test_every_cut_of_a_shard_is_named(tmp_path: Path, png: Png) -> None:
    path = tar(tmp_path / "x.tar", [("1.png", png(0)), ("1.cls", b"0"), ("2.png", png(1)), ("2.cls", b"0")])
    content = path.read_bytes()
    used = content.rindex(b"2.cls") + 1024
    for length in (0, 1, 100, 512, 513, 700, 1024, used - 1000, used - 512, used - 1, used):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"x\.tar is truncated"):
            WebDataset().read(path)
    path.write_bytes(content[: used + 512])
    assert len(WebDataset().read(path).pictures) == 2


def test_damage_within_a_shard_is_not_taken_for_its_end(tmp_path: Path, png: Png) -> None:
    path = tar(tmp_path / "x.tar", [("1.png", png(0)), ("1.cls", b"0"), ("2.png", png(1)), ("2.cls", b"0")])
    content = bytearray(path.read_bytes())
    content[content.index(b"2.png")] ^= 1  # the header's checksum no longer fits
    path.write_bytes(content)
    with pytest.raises(DataError, match="truncated or damaged: no end mark at byte"):
        WebDataset().read(path)


def test_a_compressed_shard_says_what_to_do(tmp_path: Path, png: Png) -> None:
    path = tar(tmp_path / "x.tar", [("1.png", png(0)), ("1.cls", b"0")])
    packed = tmp_path / "y.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert WebDataset().recognises(packed)
    with pytest.raises(DataError, match="is compressed with gzip, so its pictures have no place in it; decompress it"):
        WebDataset().read(packed)
    with pytest.raises(DataError, match=r"no tar file: .*No such file"):
        WebDataset().read(tmp_path / "absent.tar")


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name a folder for the shards"):
        WebDataset().outputs(tmp_path / "x-{0..3}.tar")
    (tmp_path / "other.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds other\.tar already"):
        WebDataset().outputs(tmp_path / "x.tar")
