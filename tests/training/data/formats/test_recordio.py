"""InsightFace sets: read from an independent writer, written for an independent reader, damaged and mixed up."""

import re
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from facemargin.errors import DataError
from training.data.formats import FORMATS
from training.data.formats.convert import convert
from training.data.formats.recordio import RecordIO
from training.data.pictures import LabelledImages

Labels = float | Sequence[float]
MAGIC = 0xCED7230A


def pack(records: Sequence[tuple[int, Labels, bytes]], folder: Path, *, ids: bool = True) -> Path:
    """A set of (key, label or labels, picture), none of which holds the magic, in the given order."""
    folder.mkdir(exist_ok=True)
    content, lines = b"", []
    for key, labels, picture in records:
        many = [] if isinstance(labels, int | float) else list(labels)
        single = 0.0 if many else float(labels)  # type: ignore[arg-type]
        data = struct.pack("<IfQQ", len(many), single, key if ids else 0, 0) + np.array(many, "<f4").tobytes() + picture
        lines.append(f"{key}\t{len(content)}\n")
        content += struct.pack("<II", MAGIC, len(data)) + data + b"\0" * (-len(data) % 4)
    (folder / "train.rec").write_bytes(content)
    (folder / "train.idx").write_text("".join(lines))
    return folder / "train.rec"


def insightface(png: Callable[..., bytes], *, array_labels: bool = False, header_last: bool = False) -> list:
    """Two people with labels 0 and 1, pictures 1-2 and 3, identity records 4 and 5."""
    pictures = [
        (key, (label, 0.0) if array_labels else label, png(key)) for key, label in ((1, 0.0), (2, 0.0), (3, 1.0))
    ]
    header = [(0, (4.0, 6.0), b"")]
    identities = [(4, (1.0, 3.0), b""), (5, (3.0, 4.0), b"")]
    return pictures + header + identities if header_last else header + pictures + identities


def contents(images: LabelledImages) -> list[tuple[str, str, bytes]]:
    return [
        (images.people[label], picture.name, picture.read())
        for label, picture in zip(images.labels, images.pictures, strict=True)
    ]


@pytest.mark.parametrize("array_labels", [False, True])
@pytest.mark.parametrize("header_last", [False, True])
def test_a_set_with_header_and_identity_records(
    tmp_path: Path, png: Callable[..., bytes], array_labels: bool, header_last: bool
) -> None:
    path = pack(insightface(png, array_labels=array_labels, header_last=header_last), tmp_path / "set")
    expected = [("0", "1", png(1)), ("0", "2", png(2)), ("1", "3", png(3))]
    for source in (path, path.parent):
        images = RecordIO().read(source)
        assert contents(images) == expected
        assert images.picture_name(2) == "3"
    path.with_suffix(".idx").unlink()
    if not header_last:  # without an index the keys are the places in the file
        assert contents(RecordIO().read(path)) == expected


def test_a_set_without_header_record_has_labels_in_its_records(tmp_path: Path, png: Callable[..., bytes]) -> None:
    records = [(0, 7.0, png(0)), (1, (2.0, 1.0), png(1)), (2, 7.0, png(2))]
    images = RecordIO().read(pack(records, tmp_path / "set", ids=False))
    assert contents(images) == [("7", "0", png(0)), ("2", "1", png(1)), ("7", "2", png(2))]
    assert images.people == ("2", "7")


def test_identity_records_too_far_for_float32_are_not_trusted(
    tmp_path: Path, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = insightface(png)
    records[4] = (4, (1.0, 4.0), b"")  # would give picture 3 to the first person
    path = pack(records, tmp_path / "set")
    monkeypatch.setattr("training.data.formats.recordio._EXACT", 5)
    assert contents(RecordIO().read(path)) == [("0", "1", png(1)), ("0", "2", png(2)), ("1", "3", png(3))]


def test_labels_are_known_without_reading_the_pictures(
    tmp_path: Path, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = 200
    records = [(0, (many + 1.0, many + 2.0), b"")] + [(k, 3.0, png(1)) for k in range(1, many + 1)]
    path = pack([*records, (many + 1, (1.0, many + 1.0), b"")], tmp_path / "set")
    from training.data.formats.record_file import RecordFile

    looked_at: list[int] = []
    record = RecordFile.record
    monkeypatch.setattr(RecordFile, "record", lambda file, offset: looked_at.append(offset) or record(file, offset))
    assert len(RecordIO().read(path).labels) == many
    assert len(looked_at) < 8


def test_the_written_set_by_hand(faces: Path, tmp_path: Path) -> None:
    convert(faces, tmp_path / "out" / "train.rec")
    content = (tmp_path / "out" / "train.rec").read_bytes()
    index = dict(map(int, line.split("\t")) for line in (tmp_path / "out" / "train.idx").read_text().splitlines())
    assert list(index) == list(range(10))

    def record(key: int) -> tuple[int, list[float], int, bytes]:
        magic, length = struct.unpack_from("<II", content, index[key])
        assert magic == MAGIC
        flag, label, number, _ = struct.unpack_from("<IfQQ", content, index[key] + 8)
        body = content[index[key] + 32 : index[key] + 8 + length]
        labels = list(struct.unpack_from(f"<{flag}f", body)) if flag else [label]
        return flag, labels, number, body[4 * flag :]

    assert record(0) == (2, [7.0, 10.0], 0, b"")
    files = sorted(faces.glob("*/*.png"))
    assert [record(key) for key in range(1, 7)] == [
        (0, [label], key, file.read_bytes())
        for key, (label, file) in enumerate(zip((0, 0, 0, 1, 2, 2), files, strict=True), start=1)
    ]
    assert [record(key)[:3] for key in (7, 8, 9)] == [(2, [1, 4], 7), (2, [4, 5], 8), (2, [5, 7], 9)]
    assert (tmp_path / "out" / "property").read_text() == "3,6,6\n"
    assert (tmp_path / "out" / "people.txt").read_text(encoding="utf-8") == "Ann\nBob Ray\nÉmile\n"


def test_reading_and_writing_again_gives_equal_bytes(tmp_path: Path, png: Callable[..., bytes]) -> None:
    path = pack(insightface(png), tmp_path / "set")
    (path.parent / "property").write_text("2,6,6\n")
    convert(path, tmp_path / "again" / "train.rec")
    names = sorted(file.name for file in path.parent.iterdir())
    assert sorted(file.name for file in (tmp_path / "again").iterdir()) == names
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (path.parent / name).read_bytes()


def swapped(path: Path, png: Callable[..., bytes]) -> None:
    lines = path.with_suffix(".idx").read_text().splitlines()
    numbers = [line.split("\t")[1] for line in lines]
    numbers[1], numbers[2] = numbers[2], numbers[1]
    path.with_suffix(".idx").write_text("".join(f"{key}\t{number}\n" for key, number in enumerate(numbers)))


def edit(change: Callable[[list], None]) -> Callable[[Path, Callable[..., bytes]], None]:
    def damage(path: Path, png: Callable[..., bytes]) -> None:
        records = insightface(png)
        change(records)
        pack(records, path.parent)

    return damage


def cut(path: Path, png: Callable[..., bytes]) -> None:
    path.write_bytes(path.read_bytes()[:-44])


def index_of_another(path: Path, png: Callable[..., bytes]) -> None:
    pack([(key, 0.0, png(0)) for key in range(4)], path.parent / "other")
    shutil.copy(path.parent / "other" / "train.idx", path.parent)


DAMAGE: dict[str, tuple[Callable[[Path, Callable[..., bytes]], None], str]] = {
    "truncated": (cut, "truncated"),
    "empty": (lambda path, png: path.write_bytes(b"") and None, "is empty"),
    "no records": (lambda path, png: path.write_bytes(b"x" * 4096) and None, "no record is at byte"),
    "index of another set": (index_of_another, "or its index is of another file"),
    "keys swapped": (swapped, "the index calls the record at byte"),
    "a record less in the index": (
        lambda path, png: (
            path.with_suffix(".idx").write_text("".join(path.with_suffix(".idx").read_text().splitlines(True)[:-1]))
            and None
        ),
        "knows of no record after byte",
    ),
    "an inner record less in the index": (
        lambda path, png: (
            path.with_suffix(".idx").write_text(
                "".join(line for line in path.with_suffix(".idx").read_text().splitlines(True) if line[0] != "2")
            )
            and None
        ),
        "announces 6 records (3 pictures, 2 people), the index has 5",
    ),
    "property of another set": (
        lambda path, png: (path.parent / "property").write_text("9,6,6") and None,
        "says 9 people, train.rec has 2",
    ),
    "property with another size": (
        lambda path, png: (path.parent / "property").write_text("2,112,112") and None,
        "says pictures of 112x112, the first of train.rec is 6x6",
    ),
    "property of another form": (
        lambda path, png: (path.parent / "property").write_text("two") and None,
        "should say 'classes,height,width'",
    ),
    "a header that announces nonsense": (
        edit(lambda records: records.__setitem__(0, (0, (float("nan"), 6.0), b""))),
        "announces identity records nan to 6",
    ),
    "an identity past the pictures": (
        edit(lambda records: records.__setitem__(5, (5, (3.0, 9.0), b""))),
        "identity record 5 should hold two picture numbers from 1 to 4, not 3, 9",
    ),
    "identities that overlap": (
        edit(lambda records: records.__setitem__(5, (5, (2.0, 4.0), b""))),
        "identity record 5 takes pictures of another one",
    ),
    "an identity of two labels": (
        edit(lambda records: records.__setitem__(4, (4, (1.0, 4.0), b""))),
        "identity record 4 joins pictures of the labels [0, 1]",
    ),
    "a label that is NaN": (
        edit(lambda records: records.__setitem__(3, (3, float("nan"), b"x"))),
        "label nan of record 3 is not a whole number from 0 on",
    ),
    "too few names": (
        lambda path, png: (path.parent / "people.txt").write_text("Ann\n") and None,
        "names 1 people, but there is a label 1",
    ),
    "a name twice": (
        lambda path, png: (path.parent / "people.txt").write_text("Ann\nAnn\n") and None,
        "names 'Ann' twice",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_set_is_one_clear_error(tmp_path: Path, png: Callable[..., bytes], kind: str) -> None:
    path = pack(insightface(png), tmp_path / "set")
    damage, message = DAMAGE[kind]
    damage(path, png)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        RecordIO().read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [-1.0, 0.5, float("inf"), float("nan")])
def test_labels_in_records_must_be_whole(tmp_path: Path, png: Callable[..., bytes], label: float) -> None:
    path = pack([(0, 0.0, png(0)), (1, label, png(1))], tmp_path / "set")
    with pytest.raises(DataError, match=rf"label {label:g} of record 1 is not a whole number"):
        RecordIO().read(path)


def test_a_record_without_picture_or_unknown_to_the_index_is_named(tmp_path: Path, png: Callable[..., bytes]) -> None:
    path = pack([(0, 0.0, png(0)), (1, 0.0, b""), (2, 1.0, png(2))], tmp_path / "set")
    with pytest.raises(DataError, match="record 1 has no picture"):
        RecordIO().read(path)
    lines = path.with_suffix(".idx").read_text().splitlines(keepends=True)
    path.with_suffix(".idx").write_text(lines[0] + lines[2])
    with pytest.raises(DataError, match=r"32 of its .* bytes are in records that its index does not know"):
        RecordIO().read(path)


def test_damage_between_the_looked_at_records_is_found_when_the_picture_is_asked_for(
    tmp_path: Path, png: Callable[..., bytes]
) -> None:
    records = [(0, (4.0, 5.0), b""), *((key, 0.0, png(key)) for key in (1, 2, 3)), (4, (1.0, 4.0), b"")]
    path = pack(records, tmp_path / "set")
    offset = int(path.with_suffix(".idx").read_text().splitlines()[2].split("\t")[1])
    content = bytearray(path.read_bytes())
    content[offset] ^= 255
    path.write_bytes(content)
    images = RecordIO().read(path)
    with pytest.raises(DataError, match=f"no record is at byte {offset}"):
        images.pictures[1]
    assert images.pictures[2].read() == png(3)


def test_a_folder_with_several_sets_needs_a_choice(tmp_path: Path) -> None:
    for name in ("a.rec", "b.rec"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"holds 2 \.rec files and none is train\.rec"):
        RecordIO().read(tmp_path)
    with pytest.raises(DataError, match=r"holds a\.rec already"):
        FORMATS["recordio"].outputs(tmp_path / "c.rec")
    with pytest.raises(DataError, match=r"should end in \.rec"):
        FORMATS["recordio"].outputs(tmp_path / "set")


def test_a_shuffled_set_has_new_keys_and_the_ids_of_the_old_order(tmp_path: Path, png: Callable[..., bytes]) -> None:
    records = [(key, float(key % 2), png(key)) for key in (3, 1, 4, 2)]
    path = pack(records, tmp_path / "set")
    lines = path.with_suffix(".idx").read_text().splitlines()
    path.with_suffix(".idx").write_text("".join(f"{key}\t{line.split()[1]}\n" for key, line in enumerate(lines)))
    expected = [("1", "0", png(3)), ("1", "1", png(1)), ("0", "2", png(4)), ("0", "3", png(2))]
    assert contents(RecordIO().read(path)) == expected
    path.with_suffix(".idx").unlink()
    assert contents(RecordIO().read(path)) == expected


def test_a_header_record_under_another_key_is_refused(tmp_path: Path, png: Callable[..., bytes]) -> None:
    path = pack(insightface(png), tmp_path / "set")
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack("<Q", 9)
    path.write_bytes(content)
    with pytest.raises(DataError, match="the index calls the record at byte 0 0, the record itself 9"):
        RecordIO().read(path)


def test_more_pictures_than_float32_counts_are_refused(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.formats.recordio._EXACT", 9)
    with pytest.raises(DataError, match=r"6 pictures are more than the float32 numbers .* can count \(9\)"):
        convert(faces, tmp_path / "out" / "train.rec")
    monkeypatch.setattr("training.data.formats.recordio._EXACT", 10)
    assert convert(faces, tmp_path / "out" / "train.rec").images == 6


def test_numbers_that_no_picture_has_are_told(tmp_path: Path, png: Callable[..., bytes]) -> None:
    path = pack([(0, 2.0, png(0)), (1, 5.0, png(1)), (2, 2.0, png(2))], tmp_path / "set")
    assert RecordIO().read(path).gaps == (0, 1, 3, 4)
    assert RecordIO().read(pack(insightface(png), tmp_path / "whole")).gaps == ()
    far = pack([(0, 0.0, png(0)), (1, 2.0**24, png(1))], tmp_path / "far")
    assert RecordIO().read(far).gaps == tuple(range(1, 1001))
