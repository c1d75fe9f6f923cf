"""Protocols that are lists of file names: what each list says, what it gets wrong, and which files are missing."""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from facemargin.errors import ConfigError, DataError
from training.data.pairs import read_pairs
from training.data.protocols import PROTOCOLS, PairSet, Source, load_pairs, load_protocol
from training.data.protocols.cfp import read_cfp
from training.data.protocols.cross_lfw import read_cross_lfw
from training.data.protocols.listed import find_pictures
from training.data.protocols.pair_list import agedb_person, folder_of, read_pair_list
from training.data.protocols.pair_set import consecutive_folds, folds_of_each_kind

Make = Callable[[Path], Source]


def touch(root: Path, names: Iterable[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def lfw(root: Path) -> Source:
    touch(root / "images", ["Ann/Ann_0001.jpg", "Ann/Ann_0002.png", "Bob/Bob_0001.jpg", "Bob/Bob_0002.jpg"])
    lines = ("2 1", "Ann 1 2", "Ann 1 Bob 1", "Bob 1 2", "Ann 2 Bob 2")
    return Source(images=root / "images", pairs=write(root / "pairs.txt", *lines))


def calfw(root: Path) -> Source:
    touch(root / "images", [f"{name}_{k:04}.jpg" for name in ("Ann", "Bob_B") for k in (1, 2)])
    lines = ("Ann_0001.jpg 1", "Ann_0002.jpg 1", "Bob_B_0001.jpg 2", "Bob_B_0002.jpg 2")
    lines += ("Ann_0001.jpg 0", "Bob_B_0001.jpg 0", "Ann_0002.jpg 0", "Bob_B_0002.jpg 0")
    return Source(images=root / "images", pairs=write(root / "pairs_CALFW.txt", *lines))


def cplfw(root: Path) -> Source:
    source = calfw(root)
    text = source.list_file("").read_text().replace(" 2\n", " 1\n")
    return Source(images=source.images, pairs=write(root / "pairs_CPLFW.txt", text.strip()))


def agedb(root: Path) -> Source:
    names = ["1_Ann_20_f.jpg", "2_Ann_60_f.jpg", "3_Bob_20_m.jpg", "4_Bob_55_m.jpg"]
    touch(root / "images", names)
    a, b, c, d = names
    lines = (f"{a} {b} 1", f"{c} {d} 1", f"{a} {c} 0", f"{b} {d} 0")
    return Source(images=root / "images", pairs=write(root / "agedb_30_pair.txt", *lines))


def plain(root: Path) -> Source:
    touch(root / "images", [f"{name}/{k}.png" for name in ("x y", "z") for k in (1, 2)])
    lines = ("x y/1.png\tx y/2.png\t1", "z/1.png\tz/2.png\t1", "x y/1.png\tz/1.png\t0", "x y/2.png\tz/2.png\t0")
    return Source(images=root / "images", pairs=write(root / "list.txt", *lines))


def cfp(root: Path) -> Source:
    """Two folds of one genuine and one impostor pair in either split, in the layout of the release."""
    kinds = {"F": "frontal", "P": "profile"}
    for kind, folder in kinds.items():
        paths = [f"../Data/Images/{person:03}/{folder}/{k:02}.jpg" for person in (1, 2) for k in (1, 2)]
        touch(root / "Protocol", paths)
        lines = [f"{number} {path}" for number, path in enumerate(paths, start=1)]
        write(root / "Protocol" / f"Pair_list_{kind}.txt", *lines)
    for split in ("FF", "FP"):
        for fold, (same, different) in enumerate((("1,2", "1,3"), ("3,4", "2,4")), start=1):
            write(root / "Protocol" / "Split" / split / f"{fold:02}" / "same.txt", same)
            write(root / "Protocol" / "Split" / split / f"{fold:02}" / "diff.txt", different)
    return Source(images=root)


LISTED: dict[str, Make] = {
    "lfw": lfw, "calfw": calfw, "cplfw": cplfw, "agedb": agedb, "pairs": plain, "cfp-ff": cfp, "cfp-fp": cfp,
}  # fmt: skip


def test_every_listed_protocol_is_tested_here() -> None:
    assert set(PROTOCOLS) - set(LISTED) == {"bin", "ijb-1:1", "ijb-1:n"}


@pytest.mark.parametrize("name", LISTED)
def test_a_protocol_gives_its_pairs(name: str, tmp_path: Path) -> None:
    pairs = load_pairs(name, LISTED[name](tmp_path))
    assert (len(pairs), int(pairs.same.sum()), pairs.folds) == (4, 2, (1, 2))
    assert all(int((pairs.same & (pairs.fold == fold)).sum()) == 1 for fold in pairs.folds)
    assert pairs.people is not None
    first, second = pairs.sides
    assert [a == b for a, b in zip(first, second, strict=True)] == pairs.same.tolist()
    assert len({*first, *second}) == 2
    assert all(picture is not None and picture.path.is_file() for picture in pairs.pictures)
    assert (pairs.duplicates, pairs.pairs_left_out) == (0, 0)


@pytest.mark.parametrize("name", LISTED)
def test_a_protocol_is_told_from_its_files(name: str, tmp_path: Path) -> None:
    source = LISTED[name](tmp_path)
    if name.startswith("cfp"):
        with pytest.raises(ConfigError, match="may be cfp-ff or cfp-fp; say which with --protocol"):
            load_protocol(None, source)
    else:
        assert [found for found, protocol in PROTOCOLS.items() if protocol.claims(source)] == [name]


@pytest.mark.parametrize("name", LISTED)
def test_a_missing_picture_is_named_or_its_pairs_are_counted(name: str, tmp_path: Path) -> None:
    source = LISTED[name](tmp_path)
    whole = load_pairs(name, source)
    gone, picture = whole.photos[0], whole.pictures[0]
    assert picture is not None
    picture.path.unlink()
    with pytest.raises(DataError, match=rf"1 of {len(whole.photos)} photographs .*{gone}; --missing skip"):
        load_pairs(name, source)
    kept = load_pairs(name, Source(images=source.images, pairs=source.pairs, missing="skip"))
    touched = int(((whole.first == 0) | (whole.second == 0)).sum())
    assert touched
    assert (kept.missing, kept.pairs_left_out, len(kept)) == ((gone,), touched, len(whole) - touched)
    assert gone not in kept.photos
    assert set(kept.folds_left_out) == set(whole.folds) - set(kept.folds)


def test_nothing_left_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    source = plain(tmp_path)
    for path in source.images.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="no pair is left: 4 of 4 photographs"):
        load_pairs(None, Source(images=source.images, pairs=source.pairs, missing="skip"))


def test_lfw_gives_the_pairs_of_its_reader(shared_data: Path) -> None:
    path = shared_data / "lfw" / "pairs.txt"
    read = read_pairs(path)
    loaded = load_pairs(None, Source(images=shared_data / "lfw" / "images", pairs=path, folds=(6,)))
    chosen = read.select([6])
    assert [loaded.photos[k] for k in loaded.first] == [f"{p.name}/{p.stem}" for p in chosen.first]
    assert loaded.sides == ([p.name for p in chosen.first], [p.name for p in chosen.second])
    assert loaded.photos == tuple(f"{p.name}/{p.stem}" for p in chosen.photos())
    assert loaded.duplicates == 0


def test_calfw_takes_the_fold_of_a_genuine_pair_from_its_flag(tmp_path: Path) -> None:
    lines = [line for fold in (2, 1, 10) for line in (f"A{fold}_1.jpg {fold}", f"A{fold}_2.jpg {fold}")]
    lines += [f"{name}_1.jpg 0" for pair in range(10) for name in (f"B{pair}", f"C{pair}")]
    listed = read_cross_lfw(write(tmp_path / "pairs_CALFW.txt", *lines))
    assert listed.fold.tolist() == [2, 1, 10, *range(1, 11)]
    assert listed.people is not None
    assert listed.people["B3_1.jpg"] == "B3"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["A_1.jpg 1"], "1 lines 'file flag'; there must be two a pair"),
        (["A_1.jpg 1", "A_2.jpg 0"], "line 2: the two lines of a pair must have one flag, not 1 and 0"),
        (["A_1.jpg 1", "A_2.jpg"], "line 2: expected 'file flag'"),
        (["A_1.jpg 11", "A_2.jpg 11"], "line 1: expected 'file flag' with a flag from 0 to 10"),
    ],
)
def test_mistakes_in_a_list_of_calfw_are_named(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_cross_lfw(write(tmp_path / "pairs_CALFW.txt", *lines))


def test_a_plain_list_may_give_the_flag_first_and_its_own_folds(tmp_path: Path) -> None:
    before = read_pair_list(write(tmp_path / "a.txt", "1 a/1 a/2", "0 a/1 b/1"), person=folder_of)
    assert (before.first, before.second, before.same.tolist()) == (["a/1", "a/1"], ["a/2", "b/1"], [True, False])
    folds = read_pair_list(write(tmp_path / "b.txt", "a/1 a/2 1 7", "a/1 b/1 0 3"), person=folder_of)
    assert folds.fold.tolist() == [7, 3]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty"),
        (["a b 2"], "line 1: expected 'pathA pathB 0|1"),
        (["a b 1", "a b"], "line 2: expected"),
        (["a b 1 0"], "with folds from 1"),
        (["a b 1 2", "a c 0"], "line 2 has no fold, others have one"),
    ],
)
def test_mistakes_in_a_plain_list_are_named(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message.replace("|", r"\|")):
        read_pair_list(write(tmp_path / "list.txt", *lines), person=folder_of)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.png", "a/../../x.png", "a\\..\\x.png"])
def test_a_list_cannot_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a path below the folder"):
        load_pairs("pairs", Source(images=tmp_path, pairs=write(tmp_path / "list.txt", f"{name} b.png 1")))


def test_a_pair_that_is_both_is_refused_and_one_that_comes_twice_is_counted(tmp_path: Path) -> None:
    source = plain(tmp_path)
    path = source.list_file("")
    write(path, *path.read_text().splitlines(), "x y/2.png\tx y/1.png\t1")
    assert load_pairs(None, source).duplicates == 1
    write(path, *path.read_text().splitlines(), "z/1.png\tx y/1.png\t1")
    with pytest.raises(DataError, match="both as one person and as two"):
        load_pairs(None, source)


def test_names_that_contradict_the_list_make_people_unknown(tmp_path: Path) -> None:
    """Flat folder: every picture would be of one person, which the impostor pairs deny."""
    touch(tmp_path, ["a.png", "b.png", "c.png", "d.png", "e.png"])
    lines = ("a.png b.png 1", "b.png c.png 1", "d.png e.png 1", "a.png d.png 0")
    pairs = load_pairs(None, Source(images=tmp_path, pairs=write(tmp_path / "list.txt", *lines)))
    assert pairs.people is None
    first, second = pairs.sides
    assert first[0] == second[0] == first[1] == second[1] == first[3]
    assert first[2] == second[2] == second[3] != first[0]


def test_the_person_in_a_name_of_agedb() -> None:
    assert agedb_person("x/123_Jean_Paul_35_m.jpg") == "Jean_Paul"
    assert agedb_person("x/other.jpg") == "x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Protocol/Split/FP/02/diff.txt", ""), "has no pairs: the fold is empty"),
        (("Protocol/Split/FP/01/same.txt", "1,9"), "line 1: expected two numbers of listed pictures, not '1,9'"),
        (("Protocol/Split/FP/01/same.txt", "1 2"), "line 1: expected two numbers"),
        (("Protocol/Pair_list_P.txt", "1 ../../../etc/x.jpg"), "line 1: expected a new number and a path"),
        (("Protocol/Pair_list_P.txt", "1 a.jpg\n1 b.jpg"), "line 2: expected a new number"),
    ],
)
def test_mistakes_in_cfp_are_named(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    cfp(tmp_path)
    (tmp_path / change[0]).write_text(change[1])
    with pytest.raises(DataError, match=message):
        read_cfp(tmp_path / "Protocol", "FP")


def test_cfp_takes_profiles_second_and_misses_no_fold(tmp_path: Path) -> None:
    source = cfp(tmp_path)
    listed = read_cfp(tmp_path / "Protocol", "FP")
    assert listed.first[0] == "Data/Images/001/frontal/01.jpg"
    assert listed.second[0] == "Data/Images/001/profile/02.jpg"
    for path in (tmp_path / "Protocol" / "Split" / "FP" / "01").iterdir():
        path.unlink()
    (tmp_path / "Protocol" / "Split" / "FP" / "01").rmdir()
    with pytest.raises(DataError, match=r"without a gap, not \[2\]"):
        load_pairs("cfp-fp", source)
    with pytest.raises(DataError, match=r"no folder .*CFP's folder, with Protocol and Data inside"):
        load_pairs("cfp-ff", Source(images=tmp_path / "Data"))


def test_what_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown protocol 'megaface'; known: lfw, bin"):
        load_protocol("megaface", Source(images=tmp_path))
    with pytest.raises(ConfigError, match="--pairs is needed, or --protocol with one of"):
        load_protocol(None, Source(images=tmp_path))
    with pytest.raises(ConfigError, match="--pairs is needed: LFW's"):
        load_protocol("lfw", Source(images=tmp_path))
    with pytest.raises(DataError, match="line 1: expected 'folds pairs'"):  # LFW's reader says what is wrong
        load_protocol(None, Source(images=tmp_path, pairs=write(tmp_path / "odd.txt", "what is this line")))
    with pytest.raises(ConfigError, match="may be ijb-1:1 or ijb-1:n"):
        load_protocol(None, Source(images=tmp_path, meta=tmp_path))


def test_folds_are_selected_before_pictures_are_looked_for(tmp_path: Path) -> None:
    source = lfw(tmp_path)
    (source.images / "Ann" / "Ann_0001.jpg").unlink()
    chosen = load_pairs(None, Source(images=source.images, pairs=source.pairs, folds=(2,)))
    assert (chosen.folds, len(chosen.photos)) == ((2,), 3)
    with pytest.raises(DataError, match="the protocol has the folds 1-2, not 3"):
        load_pairs(None, Source(images=source.images, pairs=source.pairs, folds=(3,)))


def test_selecting_and_leaving_out_keep_every_pair_intact(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    count, total = 12, 40
    first, second = random.integers(0, count, (2, total))
    pairs = PairSet(
        name="drawn", photos=tuple(f"photo {k}" for k in range(count)), pictures=(None,) * count, first=first,
        second=second, same=random.random(total) < 0.5, fold=consecutive_folds(total, 4),
        people=tuple(f"person {k // 2}" for k in range(count)), aligned=True,
    )  # fmt: skip

    def named(some: PairSet) -> list[tuple[object, ...]]:
        one, other = some.sides
        rows = zip(some.first, some.second, one, other, some.same, some.fold, strict=True)
        return [(some.photos[a], some.photos[b], p, q, bool(same), int(fold)) for a, b, p, q, same, fold in rows]

    assert named(pairs.select([2, 4])) == [row for row in named(pairs) if row[-1] in (2, 4)]
    left = pairs.without([3, 7])
    assert named(left) == [row for row in named(pairs) if not {"photo 3", "photo 7"} & {*row[:2]}]
    assert left.pairs_left_out == total - len(left)


def test_equal_parts() -> None:
    assert consecutive_folds(0).tolist() == []
    assert folds_of_each_kind(np.array([True] * 20 + [False] * 10)).tolist() == [
        *np.repeat(range(1, 11), 2), *range(1, 11)
    ]  # fmt: skip


def test_finding_pictures_needs_nothing_of_embedding_them() -> None:
    sources = Path(inspect.getfile(find_pictures)).parent.glob("*.py")
    assert not [path.name for path in sources if "training.crops" in path.read_text(encoding="utf-8")]
