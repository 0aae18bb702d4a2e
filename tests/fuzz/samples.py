"""Whole files of every format that the readers know, small, made anew each time."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.fuzz.changes import repair_tar

NAMES = (
    "10253/0/10253_idx5_x51_y101_class0.png",
    "cell_images/Parasitized/C33P1thinF_IMG_20150619_114756a_cell_179.png",
    "benign/SOB/adenosis/SOB_B_A_14-22549AB/40X/SOB_B_A-14-22549AB-40-001.png",
    "scans/über.tif",
)


def picture(mode: str, side: int = 24) -> Image.Image:
    """A picture of smooth colours, on which every filter and predictor has something to do."""
    row, column = np.mgrid[0:side, 0:side]
    pixels = np.stack([row * 7, column * 5, (row * column) % 256], axis=-1).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray((row * column * 97 % 65536).astype(np.uint16))
    return Image.fromarray(pixels).convert(mode)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """Encoded."""
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def pngs() -> list[bytes]:
    """Every colour mode, transparency, orientation, text, and pixels in several chunks."""
    note, turned = PngInfo(), Image.Exif()
    note.add_text("scanner", "Aperio", zip=True)
    note.add_itxt("comment", "grün")
    turned[0x0112] = 6
    modes = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")
    found = [saved(picture(mode), "PNG") for mode in modes]
    found.append(saved(picture("RGB"), "PNG", pnginfo=note, dpi=(300, 300), icc_profile=b"profile" * 20))
    found.append(saved(picture("RGB"), "PNG", exif=turned))
    found.append(saved(picture("RGB"), "PNG", transparency=(7, 5, 1)))
    found.append(saved(picture("RGB"), "PNG", save_all=True, append_images=[picture("RGB").rotate(90)]))  # moves
    return [*found, interlaced(), large_png(2000, 2000), large_png(2**31 - 1, 2**31 - 1)]


def interlaced() -> bytes:
    """Adam7 of 8x8 grey pixels: seven passes of which each row starts with its filter."""
    passes = [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8)]
    rows = b"".join((b"\0" + bytes(range(width))) * height for height, width in passes)
    return png((8, 8, 8, 0, 0, 0, 1), zlib.compress(rows))


def large_png(width: int, height: int) -> bytes:
    """A header that promises much, and little behind it."""
    return png((width, height, 8, 2, 0, 0, 0), zlib.compress(bytes(10_000)))


def png(header: tuple[int, ...], stream: bytes) -> bytes:
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", *header)), (b"IDAT", stream), (b"IEND", b""))
    written = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def jpegs() -> list[bytes]:
    """Colour, grey and CMYK; baseline and progressive; restart marks, orientation, comment."""
    turned = Image.Exif()
    turned[0x0112] = 8
    colour = picture("RGB")
    return [
        saved(colour, "JPEG"),
        saved(colour, "JPEG", progressive=True, subsampling=2),
        saved(colour, "JPEG", restart_marker_blocks=1, exif=turned, comment=b"a comment"),
        saved(picture("L"), "JPEG", optimize=True),
        saved(picture("CMYK"), "JPEG", icc_profile=b"profile" * 30),
    ]


def tiffs() -> list[bytes]:
    """Every packing of Pillow's and libtiff's that patches come in, every mode, several pages, tiles, BigTIFF."""
    packings = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_deflate", "lzma", "zstd")
    found = [saved(picture("RGB"), "TIFF", compression=packing) for packing in packings]
    found += [
        saved(picture(mode), "TIFF") for mode in ("RGBA", "L", "P", "1", "CMYK", "LAB", "I;16", "I", "F", "YCbCr")
    ]
    found += [saved(picture("1"), "TIFF", compression=packing) for packing in ("group3", "group4", "tiff_ccitt")]
    found.append(saved(picture("RGB"), "TIFF", save_all=True, append_images=[picture("L")], compression="tiff_lzw"))
    return [*found, *_scanners_tiffs()]


def _scanners_tiffs() -> Iterator[bytes]:
    import tifffile

    pixels = np.asarray(picture("RGB", 32))
    for options in ({"tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"}, {"planarconfig": "separate"}):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, photometric="rgb", **options)  # type: ignore[arg-type]
        yield buffer.getvalue()
    yield from _wide_tiffs(np.asarray(picture("RGBA", 32)), tifffile)


def _wide_tiffs(pixels: np.ndarray, tifffile: Any) -> Iterator[bytes]:
    """More than eight bits, stated ranges, transparency of either kind."""
    largest = [(341, 11, 3, (1.0,) * 3, True)]
    kinds: list[tuple[np.ndarray, dict[str, Any]]] = [
        (pixels.astype(np.uint16) * 257, {"extrasamples": ["assocalpha"], "compression": "zlib"}),
        (pixels[..., :3].astype(np.uint16) * 16, {"bitspersample": 12}),
        ((pixels[..., :3] / 255).astype(np.float32), {"extratags": largest, "compression": "lzw", "predictor": True}),
        (pixels[..., :3].astype(np.uint32) << 24, {"tile": (16, 16)}),
        (pixels, {"extrasamples": ["unspecified"]}),
    ]
    for values, options in kinds:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, photometric="rgb", **options)
        yield buffer.getvalue()


def bmps() -> list[bytes]:
    """Every mode that Pillow writes, and a run-length encoded one."""
    found = [saved(picture(mode), "BMP") for mode in ("RGB", "RGBA", "L", "P", "1")]
    packed = b"\x04\x07\0\0" * 4 + b"\0\x01"
    header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 8, 1, len(packed), 0, 0, 2, 0)
    palette = bytes(range(8))
    start = 14 + len(header) + len(palette)
    return [*found, struct.pack("<2sIHHI", b"BM", start + len(packed), 0, 0, start) + header + palette + packed]


def members() -> dict[str, bytes]:
    """What an archive of patches may hold: patches, other files, names that are none."""
    patch = saved(picture("RGB"), "PNG")
    return dict.fromkeys(NAMES, patch) | {"notes.txt": b"n" * 300, "empty.png": b"", "a/../b.png": patch}


def zipped(content: dict[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    """A zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = comment
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def zips() -> list[bytes]:
    """Every packing, streamed, with comment, of several zips, and one with 64-bit records."""
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    found = [zipped(members(), method) for method in methods]
    inner = {
        "slides/a.zip": found[0],
        "slides/b.zip": found[1],
        "c.zip": b"none",
        "d.tar": tarred(tarfile.USTAR_FORMAT),
    }
    return [*found, zipped(members(), comment=b"PK\x05\x06 in a comment"), zipped(inner), zipped({}), _long_zip()]


def _long_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("a.png", "w", force_zip64=True) as member:
        member.write(b"x" * 50)
    content = buffer.getvalue()
    end = content.rindex(b"PK\x05\x06")
    directory = content.index(b"PK\x01\x02")
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, end - directory, directory)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    return (
        content[:end]
        + record
        + locator
        + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    )


def tarred(form: int) -> bytes:
    """A tar with a file for each of `members`, a long name, a folder, links and a device."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in members().items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for entry in _others(form):
            archive.addfile(entry, io.BytesIO(b"") if entry.isreg() else None)
    return buffer.getvalue().rstrip(b"\0") + bytes(1536)


def _others(form: int) -> Iterator[tarfile.TarInfo]:
    kinds = {"folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
    for name, kind in kinds.items():
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "../../etc/passwd"
        yield entry
    if form != tarfile.USTAR_FORMAT:
        yield tarfile.TarInfo("long/" * 40 + "ü.png")


def sparse_tar() -> bytes:
    """A file with holes, as GNU tar writes it: its header lists what is there."""
    entry = tarfile.TarInfo("holes.png")
    entry.size, entry.type = 512, tarfile.GNUTYPE_SPARSE
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000001000\0" + b"00000001000\0"
    header[483:495] = b"00000002000\0"
    repair_tar(header)
    return bytes(header) + bytes(512) + bytes(1024)


def tars() -> list[bytes]:
    """Every form, with extended headers that say a file's size again, global ones, and holes."""
    forms = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    entry = tarfile.TarInfo("a.png")
    entry.pax_headers = {"size": "0", "GNU.sparse.map": "0,1,5,1", "GNU.sparse.size": "9", "mtime": "1.5"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}) as archive:
        archive.addfile(entry)
    return [*map(tarred, forms), buffer.getvalue()[:4096], sparse_tar()]


MANIFESTS = (
    b"file,case_id,label\na.png,P1,0\nb.png,P2,1\n",
    b'\xef\xbb\xbffile,case_id,label,x,y\r\n"a,1.png",P1,0,1,2\r\n\r\nb.png, P1 ,1,-3,4.0\r\n',
    'y,x,note,label,case_id,file\n,,ü,1,NA,ü.png\n1,2,"two\nlines",0,007,b.png\n'.encode(),
)


def form(files: dict[str, bytes], boundary: bytes = b"limit") -> bytes:
    """A form as browsers send it."""
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="images"; filename="%b"\r\nContent-Type: image/png\r\n\r\n%b\r\n'
        % (boundary, name.encode(), content)
        for name, content in files.items()
    ]
    return b"".join(parts) + b"--%b--\r\n" % boundary
