"""InsightFace's ``.bin``: read, written, read again; what does not belong together is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemargin.errors import DataError
from facemargin.preprocessing import encode_jpeg, encode_png
from training.data.protocols import Source, convert_to_bin, load_pairs, read_bin, write_bin
from training.data.protocols.insightface_bin import load_bin


def crop(value: int, size: tuple[int, int] = (112, 112)) -> bytes:
    return encode_png(np.full((*size, 3), value, dtype=np.uint8))


@settings(max_examples=25, deadline=None)
@given(
    pictures=st.lists(st.binary(min_size=1, max_size=300), min_size=2, max_size=20).filter(lambda p: len(p) % 2 == 0),
    flags=st.lists(st.booleans(), min_size=10, max_size=10),
    protocol=st.sampled_from([3, 4, 5]),
)
def test_what_is_written_is_read_and_written_again_byte_by_byte(
    tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes], flags: list[bool], protocol: int
) -> None:
    folder = tmp_path_factory.mktemp("bin")
    same = flags[: len(pictures) // 2]
    # As InsightFace packs: every picture an object of its own, so that the pickle shares none.
    (folder / "theirs.bin").write_bytes(pickle.dumps(([bytes(bytearray(p)) for p in pictures], same), protocol))
    content = read_bin(folder / "theirs.bin")
    assert content.pictures == tuple(pictures)
    assert content.same.tolist() == same
    write_bin(folder / "ours.bin", content.pictures, content.same.tolist(), protocol=protocol)
    assert (folder / "ours.bin").read_bytes() == (folder / "theirs.bin").read_bytes()


def test_the_real_set_is_read_and_written_and_read(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "insightface" / "small_lfw.bin"
    content = read_bin(path)  # arrays of Python 3, NumPy 1
    write_bin(tmp_path / "arrays.bin", content.pictures, content.same.tolist(), protocol=3, as_arrays=True)
    assert (tmp_path / "arrays.bin").read_bytes() == path.read_bytes()
    assert (len(content.pictures), content.same.tolist()) == (20, [True] * 10)
    write_bin(tmp_path / "a.bin", content.pictures, content.same.tolist(), protocol=3)
    again = read_bin(tmp_path / "a.bin")
    assert again.pictures == content.pictures
    assert again.same.tolist() == content.same.tolist()
    write_bin(tmp_path / "b.bin", again.pictures, again.same.tolist(), protocol=3)
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    loaded = load_bin(Source(images=path))
    assert {picture.decode().shape for picture in loaded.pictures if picture} == {(112, 112, 3)}


def test_equal_pictures_are_held_once_and_link_their_pairs(tmp_path: Path) -> None:
    a, b, c, d = (crop(value) for value in (10, 20, 30, 40))
    write_bin(tmp_path / "x.bin", [a, b, b, c, a, d], [True, True, False])
    pairs = load_bin(Source(images=tmp_path / "x.bin"))
    assert pairs.photos == ("picture 0", "picture 1", "picture 3", "picture 5")
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 1, 0], [1, 2, 3])
    assert pairs.aligned
    assert pairs.people is None
    first, second = pairs.sides
    assert len({*first[:2], *second[:2]}) == 1  # a, b and c are one person
    assert second[2] not in first
    assert str(pairs.pictures[2]) == f"{tmp_path / 'x.bin'}, picture 3"


@pytest.mark.parametrize(("pairs", "sizes"), [(20, [2] * 10), (23, [3, 3, 3, *[2] * 7]), (4, [1] * 4)])
def test_folds_are_ten_consecutive_parts(tmp_path: Path, pairs: int, sizes: list[int]) -> None:
    write_bin(tmp_path / "x.bin", [bytes([k]) for k in range(2 * pairs)], [True] * pairs)
    fold = load_bin(Source(images=tmp_path / "x.bin")).fold
    assert np.bincount(fold)[1:].tolist() == sizes  # the sizes of scikit-learn's KFold, which InsightFace uses
    assert (np.diff(fold) >= 0).all()
    assert load_bin(Source(images=tmp_path / "x.bin", folds=(2,))).folds == (2,)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (([b"a", b"b", b"c"], [True]), "3 pictures and 1 flags"),
        (([b"a", b"b"], [True, False]), "2 pictures and 2 flags"),
        (([], []), "0 pictures and 0 flags"),
        (([b"a", b"b"],), r"no \(pictures, flags\)"),
        (b"ab", r"no \(pictures, flags\)"),
        ((b"ab", [True]), "must be lists"),
        (([1, 2], [True]), "picture 0 is no encoded picture"),
        (([b"a", [b"b"]], [True]), "picture 1 is no encoded picture"),
        (([np.zeros((2, 2), np.uint8), b"b"], [True]), "picture 0 is no encoded picture"),
        (([b"a", b"b"], [2]), "flag 0 is no bool"),
        (([b"a", b"b"], [b"1"]), "flag 0 is no bool"),
        (([b"a", b"b"], [None]), "flag 0 is no bool"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path: Path, held: object, message: str) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps(held))
    with pytest.raises(DataError, match=message):
        read_bin(tmp_path / "x.bin")


def test_an_absent_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*x.bin: No such file"):
        read_bin(tmp_path / "x.bin")


def test_wrong_arguments_of_the_writer_are_named(tmp_path: Path) -> None:
    for pictures, same, protocol, message in (
        ([b"a"], [True], 4, "two for each of the 1 flags, got 1"),
        ([], [], 4, "two for each"),
        ([b"a", b""], [True], 4, "not empty"),
        ([b"a", b"b"], [True], 2, "protocol must be 3, 4 or 5"),
    ):
        with pytest.raises(ValueError, match=message):
            write_bin(tmp_path / "x.bin", pictures, same, protocol=protocol)
    with pytest.raises(ValueError, match="protocol must be 3 for arrays"):
        write_bin(tmp_path / "x.bin", [b"a", b"b"], [True], as_arrays=True)
    with pytest.raises(DataError, match="cannot write"):
        write_bin(tmp_path / "absent" / "x.bin", [b"a", b"b"], [True])
    assert list(tmp_path.iterdir()) == []


def write_list(folder: Path, *, size: tuple[int, int] = (112, 112)) -> Source:
    """Ten folds of a genuine and an impostor pair, the list sorted by kind, and its crops."""
    lines = [f"p{k}/0.png p{k}/1.png 1 {k + 1}" for k in range(10)]
    lines += [f"p{k}/0.png p{(k + 1) % 10}/1.png 0 {k + 1}" for k in range(10)]
    for person in range(10):
        (folder / f"p{person}").mkdir()
        for number in range(2):
            (folder / f"p{person}" / f"{number}.png").write_bytes(crop(20 * person + number, size))
    (folder / "list.txt").write_text("\n".join(lines))
    return Source(images=folder, pairs=folder / "list.txt", aligned=True)


def test_a_list_becomes_a_bin_with_the_same_pairs_and_folds(tmp_path: Path) -> None:
    listed = load_pairs(None, write_list(tmp_path))
    written = convert_to_bin(listed, tmp_path / "list.bin")
    assert written.folds_kept
    assert (written.pairs, written.genuine_pairs, written.pictures, written.pairs_left_out) == (20, 10, 20, 0)
    read = load_bin(Source(images=tmp_path / "list.bin"))
    order = np.argsort(listed.fold, kind="stable")
    assert read.fold.tolist() == listed.fold[order].tolist()
    assert read.same.tolist() == listed.same[order].tolist()
    for k, place in enumerate(order):
        for mine, theirs in ((read.first[k], listed.first[place]), (read.second[k], listed.second[place])):
            a, b = read.pictures[mine], listed.pictures[theirs]
            assert a is not None
            assert b is not None
            assert a.read() == b.read()


def test_uncropped_photographs_are_not_packed(tmp_path: Path) -> None:
    listed = load_pairs(None, write_list(tmp_path, size=(250, 250)))
    with pytest.raises(DataError, match="250x250, no aligned crop of 112x112 or 112x96"):
        convert_to_bin(listed, tmp_path / "list.bin")
    assert not (tmp_path / "list.bin").exists()


def test_pictures_keep_their_bytes(tmp_path: Path) -> None:
    source = write_list(tmp_path)
    jpeg = encode_jpeg(np.full((112, 112, 3), 99, np.uint8))
    (tmp_path / "p0" / "0.png").unlink()
    (tmp_path / "p0" / "0.jpg").write_bytes(jpeg)  # found under another suffix
    convert_to_bin(load_pairs(None, source), tmp_path / "list.bin")
    assert read_bin(tmp_path / "list.bin").pictures[0] == jpeg


def test_a_picture_that_stands_in_many_places_is_held_once(tmp_path: Path) -> None:
    picture = np.full((5000, 1), 7, dtype=np.uint8)
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([picture] * 40, [True] * 20), 4))
    content = read_bin(tmp_path / "x.bin")
    assert content.pictures == (picture.tobytes(),) * 40
    assert len({id(held) for held in content.pictures}) == 1
