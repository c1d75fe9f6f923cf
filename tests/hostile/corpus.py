"""More than a thousand hostile files, made anew from a seed: nothing of them is kept in the repository.

Every sample says what must become of it. `pictures` has those that must be taken; here are those that lie, break off,
hide something, or are made to cost more than they seem to.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from .pictures import SIDE, Sample, bmp, chunk, encoded, exif, pictures, png, png_header, scene

DAMAGED = ("truncated-image",)
UNKNOWN = ("unsupported-image",)
TOO_LARGE = ("image-too-large",)
ANY = ("truncated-image", "unsupported-image", "image-too-large", "empty-image")

Random = np.random.Generator


def corpus(seed: int = 0) -> list[Sample]:
    """All samples; the same seed makes the same bytes."""
    random = np.random.default_rng(seed)
    found = [*pictures(), *_other_formats(), *_sizes(), *_frames(), *_metadata(), *_fill_bytes()]
    found += [*_polyglots(), *_truncated(), *_flipped(random), *_noise(random), *_rearranged(), *_oddities()]
    return found


def bases() -> dict[str, bytes]:
    """Good files that the others are made of; the picture is `scene()` in all."""
    rgb = Image.fromarray(scene())
    frames = [Image.fromarray(np.roll(scene(), k, axis=0)) for k in (1, 2)]
    return {
        "jpeg": encoded(rgb, "JPEG", quality=97, subsampling=0, exif=exif(1)),
        "progressive jpeg": encoded(rgb, "JPEG", quality=97, subsampling=0, progressive=True),
        "png": encoded(rgb, "PNG", exif=exif(1)),
        "palette png": encoded(rgb.quantize(64), "PNG", transparency=1),
        "webp": encoded(rgb, "WEBP", quality=95),
        "lossless webp": encoded(rgb, "WEBP", lossless=True, exif=exif(1)),
        "animated webp": encoded(rgb, "WEBP", lossless=True, save_all=True, append_images=frames),
        "bmp": encoded(rgb, "BMP"),
    }


def _either(name: str, data: bytes) -> Sample:
    return Sample(name, data, accepted=None, problems=ANY)


def _refused(name: str, data: bytes, problems: tuple[str, ...]) -> Sample:
    return Sample(name, data, accepted=False, problems=problems)


def _shown(name: str, data: bytes) -> Sample:
    return Sample(name, data, accepted=True, pixels=scene(), tolerance=40)


def _other_formats() -> Iterator[Sample]:
    """What is no JPEG, PNG, WebP or BMP, whatever it is called."""
    rgb = Image.fromarray(scene())
    for kind in ("GIF", "TIFF", "ICO", "PPM", "TGA", "PCX", "EPS", "ICNS", "DDS", "SGI", "JPEG2000", "AVIF"):
        yield _refused(f"a {kind}", encoded(rgb.resize((128, 128)), kind), UNKNOWN)
    heads = {
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "psd": b"8BPS\0\1" + bytes(100),
        "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
        "html": b"<!doctype html><img src=x onerror=alert(1)>",
        "javascript": b"alert(1)//" + bytes(50),
        "shell": b"#!/bin/sh\nrm -rf /\n",
        "zip": zipped(),
        "gzip": b"\x1f\x8b\x08" + bytes(50),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(100),
        "pickle": b"\x80\x04\x95" + bytes(50),
        "wav": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
        "empty riff": b"RIFF\0\0\0\0",
        "bmp by two letters": b"BMW is no bitmap",
        "path": b"/etc/passwd",
        "url": b"http://169.254.169.254/latest/meta-data/",
        "nan": b"NaN",
        "zeros": bytes(1000),
        "ones": b"\xff" * 1000,
    }
    yield from (_refused(name, data, UNKNOWN) for name, data in heads.items())
    yield _refused("nothing", b"", ("empty-image",))


def zipped() -> bytes:
    """A small archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("run.sh"), "echo hello")
    return buffer.getvalue()


def _sizes() -> Iterator[Sample]:
    """Headers that claim what does not follow, and pixels that unpack to more than the header claims."""
    base = bases()
    place = base["jpeg"].index(b"\xff\xc0") + 5
    for width, height in ((60_000, 60_000), (65_535, 65_535), (8193, 1), (1, 8193), (8000, 8000), (20_000, 3)):
        problems, small = TOO_LARGE, chunk(b"IDAT", zlib.compress(bytes(100)))
        yield _refused(f"png claims {width}x{height}", png(png_header(width, height), small), problems)
        yield _refused(f"bmp claims {width}x{height}", bmp(24, b"", width=width, height=height), problems)
        yield _refused(f"bmp claims {width}x-{height}", bmp(24, b"", width=width, height=-height), problems)
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        webp = base["lossless webp"]
        yield _refused(f"webp claims {width}x{height}", webp[:24] + canvas + webp[30:], problems)
        claims = struct.pack(">HH", height, width)
        yield _refused(
            f"jpeg claims {width}x{height}", base["jpeg"][:place] + claims + base["jpeg"][place + 4 :], problems
        )
    for width, height in ((0, 0), (0, 5), (5, 0)):
        yield _refused(f"png of {width}x{height}", png(png_header(width, height), chunk(b"IDAT", b"")), DAMAGED)
        yield _refused(f"bmp of {width}x{height}", bmp(24, b"", width=width, height=height), DAMAGED)
    for width, height in ((2**31 - 1, 2**31 - 1), (2**32 - 1, 1)):
        yield _refused(f"png claims {width}x{height}", png(png_header(width, height)), TOO_LARGE)
    for claimed in (5000, 8000):
        data = png(png_header(claimed, 5000), chunk(b"IDAT", zlib.compress(bytes(1000))))
        yield _refused(f"png of {claimed}x5000 without its pixels", data, DAMAGED)
    bomb = zlib.compress(bytes(200_000_000), 1)
    yield _either("png whose pixels unpack to 200 MB", png(png_header(SIDE, SIDE), chunk(b"IDAT", bomb)))
    for length in (2**31 - 1, 2**31, 2**32 - 1):
        lying = struct.pack(">I", length) + b"IDAT" + bytes(20)
        yield _refused(f"png with a chunk of {length}", png(png_header(SIDE, SIDE), lying), DAMAGED)
        lying = struct.pack(">I", length) + b"tEXt" + bytes(20)
        yield _refused(f"png with text of {length}", png(png_header(SIDE, SIDE), lying), DAMAGED)
    yield _refused("ten million bytes and one", base["png"] + bytes(10 * 1024 * 1024), TOO_LARGE)
    yield from _run_lengths()


def _run_lengths() -> Iterator[Sample]:
    """BMP whose pixels a reader would unpack one by one."""
    for name, bits, content, width, height in (
        ("one pixel a run", 8, b"\1\5" * 200_000, 8000, 5000),
        ("one pixel a row", 8, b"\1\0\0\0" * 600, 8192, 600),
        ("one pixel a row, four bits", 4, b"\1\0\0\0" * 4000, 8192, 4000),
        ("the known picture", 8, b"".join(_runs(row) for row in scene()[::-1, :, 1]) + b"\0\1", SIDE, SIDE),
    ):
        compression, colours = 8 // bits, b"".join(bytes([k, k, k, 0]) for k in range(2**bits))
        data = bmp(bits, content, compression=compression, colours=colours, width=width, height=height)
        yield _refused(f"bmp rle of {name}", data, UNKNOWN)


def _runs(row: np.ndarray) -> bytes:
    return b"".join(bytes([2, int(value)]) for value in row[::2]) + b"\0\0"


def _fill_bytes() -> Iterator[Sample]:
    """Nine million bytes 0xFF, of which any number may stand before a marker."""
    data, run = bases()["jpeg"], b"\xff" * 9_000_000
    table, scan, end = data.index(b"\xff\xdb"), data.index(b"\xff\xda"), len(data) - 2
    places = {"after the start": 2, "before a table": table, "before the scan": scan, "before the end": end}
    for name, at in places.items():
        yield _shown(f"jpeg with fill bytes {name}", data[:at] + run + data[at:])
    middle = data.index(b"\xff\0", (scan + end) // 2)
    yield _shown("jpeg with fill bytes before a stuffed one", data[:middle] + run + data[middle:])
    for name, more in {"a comment": segment(0xFE, b""), "a restart": b"\xff\xd0", "nothing": b""}.items():
        pieces = (data[:middle], run, more, data[middle + 2 :])
        yield _either(f"jpeg with fill bytes in its scan before {name}", b"".join(pieces))
    yield _either("jpeg that ends in fill bytes", data[:end] + run)


def _frames() -> Iterator[Sample]:
    """Thousands of frames, of which the first counts."""
    rgb, other = Image.fromarray(scene()), Image.new("RGB", (SIDE, SIDE))
    gif = encoded(rgb, "GIF", save_all=True, append_images=[other] * 50)
    yield _refused("gif of 50 frames", gif, UNKNOWN)
    plain = encoded(rgb, "PNG")
    content = zlib.compress(b"".join(b"\0" + bytes(SIDE * 3) for _ in range(SIDE)))
    frames = [chunk(b"acTL", struct.pack(">II", 5001, 0)), _frame_of_png(0)]
    later = [_frame_of_png(2 * k + 1) + chunk(b"fdAT", struct.pack(">I", 2 * k + 2) + content) for k in range(5000)]
    end = plain.index(b"IEND") - 4
    yield _shown("png of 5,001 frames", _after_header(plain[:end], b"".join(frames)) + b"".join(later) + plain[end:])
    webp = encoded(rgb, "WEBP", save_all=True, append_images=[other], quality=95)
    last = webp[webp.rindex(b"ANMF") :]
    body = webp[8:] + last * 20_000
    yield _shown("webp of 20,002 frames", b"RIFF" + struct.pack("<I", len(body)) + body)


def _frame_of_png(number: int) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, SIDE, SIDE, 0, 0, 1, 10, 0, 0))


def _metadata() -> Iterator[Sample]:
    """Metadata that cost a reader memory or time: the picture beside them is small and good, but for what is noted."""
    base = bases()
    entries = 60_000
    wide = b"".join(struct.pack("<HHII", tag, 1, 50_000, 8) for tag in range(entries))
    many = b"II*\0" + struct.pack("<IH", 8, entries) + wide + bytes(4)
    loop = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    blocks = {
        "60,000 entries": many,
        "a loop of directories": loop,
        "a directory beyond the end": b"II*\0" + struct.pack("<I", 2**32 - 1),
        "a directory that is cut": b"MM\0*\0\0\0\x08\xff\xff\0\1",
        "no order": b"XX*\0" + bytes(30),
        "nothing": b"",
        "orientation of type 65535": exif(6, kind=3, head=False).replace(b"\x12\x01\x03\0", b"\x12\x01\xff\xff"),
    }
    for name, block in blocks.items():
        yield _shown(f"png exif with {name}", _after_header(base["png"], chunk(b"eXIf", block)))
        yield _shown(f"webp exif with {name}", encoded(scene(), "WEBP", lossless=True, exif=b"Exif\0\0" + block))
        pieces = b"".join(segment(0xE1, b"Exif\0\0" + block[k : k + 60_000]) for k in range(0, len(block), 60_000))
        yield _shown(f"jpeg exif with {name}", base["jpeg"][:2] + pieces + base["jpeg"][2:])
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1_000_000), 9))
    yield _shown("png of 1,000 colour profiles", _after_header(base["png"], profile * 1000))
    for kind, content in ((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0")):
        text = chunk(kind, content + zlib.compress(bytes(50_000_000), 1))
        yield _shown(f"png of {kind.decode()} that unpack to gigabytes", _after_header(base["png"], text * 40))
    yield _shown("png of 50,000 empty chunks", _after_header(base["png"], chunk(b"abCd", b"") * 50_000))
    yield _refused("png of 700,000 empty chunks", _after_header(base["png"], chunk(b"abCd", b"") * 700_000), DAMAGED)
    for name, piece in (("exif", segment(0xE1, b"Exif\0\0" + bytes(10))), ("comments", segment(0xFE, b""))):
        start, rest = base["jpeg"][:2], base["jpeg"][2:]
        yield _shown(f"jpeg of 9,000 {name}", start + piece * 9000 + rest)
        yield _refused(f"jpeg of 400,000 {name}", start + piece * 400_000 + rest, DAMAGED)
    profile = segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(60_000))
    yield _shown("jpeg with a profile of 9 MB", base["jpeg"][:2] + profile * 150 + base["jpeg"][2:])
    scans = base["progressive jpeg"]
    last = scans[scans.rindex(b"\xff\xda") : -2]
    yield _refused("jpeg of 2,000 scans", scans[:-2] + last * 2000 + b"\xff\xd9", DAMAGED)
    yield _refused("large jpeg of many scans", _many_scans(), DAMAGED)


def _many_scans() -> bytes:
    flat = encoded(Image.new("L", (8000, 5000), 100), "JPEG", progressive=True, quality=10)
    last = flat[flat.rindex(b"\xff\xda") : -2]
    return flat[:-2] + last * (9_000_000 // len(last)) + b"\xff\xd9"


def segment(marker: int, content: bytes) -> bytes:
    """A JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def _after_header(data: bytes, more: bytes) -> bytes:
    return data[:33] + more + data[33:]


def _polyglots() -> Iterator[Sample]:
    """Files that are something else as well: what follows a picture is ignored, what precedes it makes it none."""
    others = {
        "zip": zipped(),
        "html": b"<html><script>alert(1)</script></html>",
        "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
        "javascript": b"*/=1;alert(1);/*",
        "another picture": encoded(255 - scene(), "PNG"),
        "another jpeg": encoded(255 - scene(), "JPEG"),
        "a megabyte of zeros": bytes(1_000_000),
    }
    for name, data in bases().items():
        for other, content in others.items():
            if name != "palette png":
                yield _shown(f"{name} and then {other}", data + content)
            if not other.startswith("another"):
                yield _refused(f"{other} and then {name}", content + data, UNKNOWN)


def _truncated() -> Iterator[Sample]:
    """Cut off at each of the first bytes, around every part, and evenly."""
    for name, data in bases().items():
        edges = [edge for start in _parts(data) for edge in (start - 1, start, start + 1, start + 4)]
        evenly = range(len(data) // 16, len(data), len(data) // 16)
        for length in sorted({*range(1, 20), *edges, *evenly, len(data) - 2, len(data) - 1}):
            if 0 < length < len(data):
                name_of = f"{name} cut to {length} of {len(data)}"
                whole = length >= len(data) - 20  # all pixels may be there
                yield _either(name_of, data[:length]) if whole else _cut(name, name_of, data[:length])


def _cut(kind: str, name: str, data: bytes) -> Sample:
    """Lossy decoders and the first frame of an animation may do with less than the whole file."""
    return (
        _either(name, data)
        if kind in ("progressive jpeg", "animated webp", "lossless webp")
        else _refused(name, data, (*DAMAGED, *UNKNOWN))
    )


def _parts(data: bytes) -> list[int]:
    """Where parts of a file begin, by the marks that its format has."""
    marks = (b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xdb", b"\xff\xda", b"IHDR", b"PLTE", b"tRNS", b"IDAT")
    marks += (b"IEND", b"eXIf", b"VP8", b"EXIF", b"ANMF", b"ALPH")
    return sorted({data.find(mark) for mark in marks} - {-1})


def _flipped(random: Random) -> Iterator[Sample]:
    """One to sixteen bits turned over, half of them within the first 200 bytes."""
    for name, data in bases().items():
        for number in range(50):
            content = bytearray(data)
            reach = min(200, len(data)) if number % 2 else len(data)
            for place in random.integers(0, reach, size=1 + number % 16):
                content[place] ^= 1 << random.integers(8)
            yield _either(f"{name} with bits turned over, {number}", bytes(content))


def _noise(random: Random) -> Iterator[Sample]:
    """The first bytes of a format, and then anything."""
    heads = (b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
    heads += (
        b"RIFF\x20\0\0\0WEBPVP8L",
        b"RIFF\x20\0\0\0WEBPVP8X",
        b"BM" + bytes(12) + b"\x28\0\0\0",
        b"BM" + bytes(12) + b"\x0c\0\0\0",
    )
    for head in heads:
        for number in range(10):
            length = int(random.integers(0, 3000))
            yield _either(f"noise after {head!r}, {number}", head + random.bytes(length))


def _rearranged() -> Iterator[Sample]:
    """Every part of a file left out, or there twice."""
    for name, cut in (("jpeg", _jpeg_parts), ("progressive jpeg", _jpeg_parts), ("palette png", _png_parts)):
        parts = cut(bases()[name])
        for number in range(len(parts)):
            yield _either(f"{name} without part {number}", b"".join(parts[:number] + parts[number + 1 :]))
            yield _either(f"{name} with part {number} twice", b"".join(parts[: number + 1] + parts[number:]))
            swapped = [*parts[:number], *reversed(parts[number : number + 2]), *parts[number + 2 :]]
            yield _either(f"{name} with part {number} and the next one swapped", b"".join(swapped))


def _jpeg_parts(data: bytes) -> list[bytes]:
    parts, at = [data[:2]], 2
    while data[at + 1] != 0xDA:
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        parts.append(data[at:stop])
        at = stop
    return [*parts, data[at:]]


def _png_parts(data: bytes) -> list[bytes]:
    parts, at = [data[:8]], 8
    while at < len(data):
        stop = at + 12 + int.from_bytes(data[at : at + 4])
        parts.append(data[at:stop])
        at = stop
    return parts


def _oddities() -> Iterator[Sample]:
    """Values that no encoder writes."""
    pixels = chunk(b"IDAT", zlib.compress(bytes(SIDE * (SIDE * 8 + 1))))
    for depth in (0, 1, 2, 3, 4, 8, 16, 32, 255):
        for colour in range(8):
            yield _either(f"png depth {depth} colour {colour}", png(png_header(SIDE, SIDE, depth, colour), pixels))
    for bits in (0, 1, 2, 3, 4, 8, 16, 24, 32, 64, 65535):
        for compression in (0, 1, 2, 3, 4, 5, 6, 11, 2**32 - 1):
            data = bmp(bits, bytes(SIDE * SIDE * 4), compression=compression, colours=bytes(1024))
            yield _either(f"bmp {bits} bits compression {compression}", data)
    lies: dict[str, Callable[[], bytes]] = {
        "2^31 colours": lambda: bmp(8, bytes(SIDE * SIDE), colours=bytes(1024), stated_colours=2**31),
        "an offset beyond the end": lambda: bmp(24, bytes(100), offset=2**31),
        "an offset of 0": lambda: bmp(24, bytes(SIDE * SIDE * 3), offset=0),
        "65535 planes": lambda: bmp(24, bytes(SIDE * SIDE * 3), planes=65535),
        "a width below 0": lambda: bmp(24, bytes(SIDE * SIDE * 3), width=-SIDE),
        "a delta beyond its picture": lambda: bmp(8, b"\0\2\xff\xff" * 1000, compression=1, colours=bytes(1024)),
        "runs beyond its rows": lambda: bmp(8, b"\xff\1" * 1000, compression=1, colours=bytes(1024)),
    }
    yield from (_either(f"bmp with {name}", make()) for name, make in lies.items())
    webp = bases()["webp"]
    for size in (0, 1, 7, 2**31, 2**32 - 1):
        for place in (4, 16):
            lying = webp[:place] + struct.pack("<I", size) + webp[place + 4 :]
            yield _either(f"webp with a size of {size} at {place}", lying)
    jpeg = bases()["jpeg"]
    frame = jpeg.index(b"\xff\xc0")
    for marker in range(0xC0, 0xD0):
        yield _either(f"jpeg with frame {marker:x}", jpeg[: frame + 1] + bytes([marker]) + jpeg[frame + 2 :])
    for place, kind in ((4, "precision"), (9, "components"), (11, "sampling"), (12, "table")):
        for value in (0, 2, 4, 0x44, 255):
            yield _either(f"jpeg {kind} {value}", jpeg[: frame + place] + bytes([value]) + jpeg[frame + place + 1 :])
