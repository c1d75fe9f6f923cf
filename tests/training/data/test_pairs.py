"""Reading ``pairs.txt``: the format, its mistakes, and the way to the files."""

from pathlib import Path

import pytest

from facemargin.errors import DataError
from training.data.pairs import Photo, format_folds, parse_folds, read_pairs

TWO_FOLDS = """2\t2
Ann\t1\t2
Ann\t2\t3
Ann\t1\tBob\t1
Cid\t1\tBob\t2
Dan_Ek\t1\t12
Eve\t1\t2
Eve\t1\tDan_Ek\t1
Eve\t2\tFay\t1
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "pairs.txt"
    path.write_text(text)
    return path


def test_two_folds(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, TWO_FOLDS))
    assert len(pairs) == 8
    assert pairs.same.tolist() == [True, True, False, False] * 2
    assert pairs.fold.tolist() == [1] * 4 + [2] * 4
    assert pairs.first[4] == Photo("Dan_Ek", 1)
    assert pairs.second[4] == Photo("Dan_Ek", 12)
    assert pairs.second[2] == Photo("Bob", 1)
    assert pairs.folds == (1, 2)
    assert pairs.people() == ["Ann", "Bob", "Cid", "Dan_Ek", "Eve", "Fay"]
    assert pairs.people([2]) == ["Dan_Ek", "Eve", "Fay"]
    assert len(pairs.photos()) == 11


def test_a_selection_keeps_its_fold_numbers(tmp_path: Path) -> None:
    chosen = read_pairs(write(tmp_path, TWO_FOLDS)).select([2])
    assert len(chosen) == 4
    assert chosen.fold.tolist() == [2] * 4
    assert chosen.first[0].name == "Dan_Ek"
    with pytest.raises(DataError, match="the protocol has the folds 2, not 1,3-4"):
        chosen.select([1, 2, 3, 4])
    with pytest.raises(DataError, match="not none"):
        chosen.select([])


def test_one_number_in_the_header_is_one_fold(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, "1\nAnn 1 2\n\nAnn 1 Bob 1\n"))
    assert pairs.folds == (1,)
    assert pairs.same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("Ann\t1\t2\n", "line 1: expected 'folds pairs'"),
        ("1\t0\n", "line 1: expected 'folds pairs'"),
        ("1\t2\nAnn\t1\t2\n", r"announces 1 x 2 x 2 = 4 pairs but has 1 lines"),
        ("1\t1\nAnn\t1\t2\nAnn\tBob\n", "line 3: expected 'name a b'"),
        ("1\t1\nAnn\t1\tx\nAnn\t1\tBob\t1\n", "line 2: expected 'name a b'"),
        ("1\t1\n\nAnn\t1\tBob\t1\nAnn\t1\t2\n", "line 3: a pair of one person is expected here"),
        ("1\t1\nAnn\t1\t2\nAnn\t1\tAnn\t2\n", "line 3: a pair of two people is expected here"),
        ("1\t1\nAnn\t1\t2\n../Ann\t1\tBob\t1\n", "line 3: '../Ann' is not a name of a person's folder"),
        ("1\t1\n..\t1\t2\nAnn\t1\tBob\t1\n", r"line 2: '\.\.' is not a name"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pairs(write(tmp_path, text))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the pairs file"):
        read_pairs(tmp_path / "nowhere.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="cannot read the pairs file"):
        read_pairs(tmp_path / "binary.txt")


def test_photographs_are_found_with_any_accepted_suffix(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, "1\nAnn 1 2\nAnn 1 Bob 1\n"))
    for file in ("Ann/Ann_0001.jpg", "Ann/Ann_0002.png", "Bob/Bob_0001.webp"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert pairs.resolve(tmp_path) == [
        (tmp_path / "Ann/Ann_0001.jpg", tmp_path / "Ann/Ann_0002.png"),
        (tmp_path / "Ann/Ann_0001.jpg", tmp_path / "Bob/Bob_0001.webp"),
    ]


def test_missing_photographs_are_named(tmp_path: Path) -> None:
    lines = "".join(f"Ann\t1\t{k}\n" for k in range(2, 10)) + "".join(f"Ann\t1\tBob\t{k}\n" for k in range(2, 10))
    pairs = read_pairs(write(tmp_path, f"8\n{lines}"))
    with pytest.raises(DataError, match=r"17 of 17 photographs .* Ann/Ann_0001, Ann/Ann_0002.* and 12 more"):
        pairs.resolve(tmp_path)


@pytest.mark.parametrize(
    ("text", "folds"), [("5", (5,)), ("6-10", (6, 7, 8, 9, 10)), ("10,1, 3,6-7,7", (1, 3, 6, 7, 10)), ("2-2", (2,))]
)
def test_parse_folds(text: str, folds: tuple[int, ...]) -> None:
    assert parse_folds(text) == folds
    assert parse_folds(format_folds(folds)) == folds


@pytest.mark.parametrize("text", ["", "a", "0", "5-3", "1,,2", "1-", "-1", "1.5", "99999999999"])
def test_folds_that_cannot_be_read(text: str) -> None:
    with pytest.raises(DataError, match="cannot be read; write them as"):
        parse_folds(text)


def test_format_folds_is_short() -> None:
    assert format_folds((1, 3, 6, 7, 8)) == "1,3,6-8"


def test_the_official_protocols(shared_data: Path) -> None:
    pairs = read_pairs(shared_data / "lfw" / "pairs.txt")
    assert (len(pairs), pairs.folds) == (6000, tuple(range(1, 11)))
    assert int(pairs.same.sum()) == 3000
    assert all(int((pairs.same & (pairs.fold == fold)).sum()) == 300 for fold in pairs.folds)
    people = [set(pairs.people([fold])) for fold in pairs.folds]
    assert len(set().union(*people)) == sum(len(fold) for fold in people)  # the folds share nobody
    assert all(a.is_file() and b.is_file() for a, b in pairs.resolve(shared_data / "lfw" / "images"))
    assert len(read_pairs(shared_data / "lfw" / "pairsDevTrain.txt")) == 2200
    assert len(read_pairs(shared_data / "lfw" / "pairsDevTest.txt")) == 1000
