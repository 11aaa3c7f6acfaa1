"""Archives: unpacked once, resumed, and every hostile one refused with a sentence."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hpse_dist.data import unpack as module
from hpse_dist.data.unpack import UnpackConfig, unpack
from pipelines import prepare as command
from pipelines import run_command
from tests.data.importers import test_coco_style

CONTENT = {"annotations/a.json": b"{}" * 50, "images/1.jpg": os.urandom(3000)}


def zipped(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


def tarred(path: Path, content: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return path


def files(root: Path) -> dict[str, bytes]:
    there = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: p.read_bytes() for name, p in there.items() if not name.startswith(".unpacked")}


def config(archives: Path, **changes: float) -> UnpackConfig:
    return UnpackConfig(archives, keep_free_gb=0.0, **changes)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.zip", zipped),
        ("a.tar.gz", tarred),
        ("a.tgz", tarred),
        ("a.TAR", lambda path, content: tarred(path, content, "w")),
        ("a.tar.xz", lambda path, content: tarred(path, content, "w:xz")),
    ],
)
def test_archives_are_unpacked_once_and_go_on(
    tmp_path: Path, name: str, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    archive, root = write(tmp_path / name, CONTENT), tmp_path / "root"
    counted: list[int] = []
    assert unpack(config(tmp_path), root, counted.append) == [archive]
    assert files(root) == CONTENT and sum(counted) == sum(map(len, CONTENT.values()))
    (root / "images" / "1.jpg").unlink()  # the user's own business: it was unpacked
    assert unpack(config(tmp_path), root) == [] and len(files(root)) == 1
    os.utime(archive, (1, 1))  # another download goes on with what is not there
    before = (root / "annotations" / "a.json").stat().st_mtime_ns
    assert unpack(config(archive), root) == [archive] and files(root) == CONTENT
    assert (root / "annotations" / "a.json").stat().st_mtime_ns == before


def test_the_folder_itself_may_be_in_a_tar(tmp_path: Path) -> None:
    """As `tar -C folder -cf a.tar .` makes it."""
    source, root = tmp_path / "source", tmp_path / "root"
    for name, data in CONTENT.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(source, ".")
    assert unpack(config(tmp_path / "a.tar"), root) == [tmp_path / "a.tar"]
    assert files(root) == CONTENT


@pytest.mark.parametrize(("name", "write"), [("a.zip", zipped), ("a.tar", tarred)])
def test_a_corrected_release_is_not_taken_for_the_old_one(
    tmp_path: Path, name: str, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    archive, root = write(tmp_path / name, CONTENT), tmp_path / "root"
    unpack(config(archive), root)
    write(archive, CONTENT | {"annotations/a.json": b"[]" * 50})  # as long as before
    os.utime(archive, (1, 1))
    with pytest.raises(ValueError, match=r"a\.json is there already and is not the archive's"):
        unpack(config(archive), root)
    assert files(root) == CONTENT


def link(name: str, target: str, kind: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with tarfile.open(folder / "a.tar", "w") as file:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            file.addfile(entry)
        return folder / "a.tar"

    return write


def zip_link(folder: Path) -> Path:
    entry = zipfile.ZipInfo("images")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.writestr(entry, "/etc")
    return folder / "a.zip"


def overlapping(folder: Path) -> Path:
    """Ten entries of the table that share one entry's bytes."""
    path = zipped(folder / "a.zip", {f"{i:02d}.bin": os.urandom(2000) for i in range(10)})
    with zipfile.ZipFile(path, "a") as file:
        for one in file.infolist():
            one.header_offset, one.compress_size = 0, 20_000
        file._didModify = True  # type: ignore[attr-defined]
    return path


def encrypted(folder: Path) -> Path:
    path = zipped(folder / "a.zip", {"a.txt": b"x"})
    data = bytearray(path.read_bytes())
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(sign) + at] |= 1
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: zipped(f / "a.zip", {"../out.txt": b"x"}), "leads out of the folder"),
        (lambda f: zipped(f / "a.zip", {"a/../../out.txt": b"x"}), "leads out of the folder"),
        (lambda f: zipped(f / "a.zip", {"/etc/out.txt": b"x"}), "leads out of the folder"),
        (lambda f: zipped(f / "a.zip", {"..\\out.txt": b"x"}), "leads out of the folder"),
        (lambda f: zipped(f / "a.zip", {"C:/out.txt": b"x"}), "no name of a dataset's file"),
        (lambda f: zipped(f / "a.zip", {"a" * 300: b"x"}), "longer than a file's name"),
        (lambda f: tarred(f / "a.tar.gz", {"../out.txt": b"x"}), "leads out of the folder"),
        (lambda f: tarred(f / "a.tar", {"/etc/out.txt": b"x"}, "w"), "leads out of the folder"),
        (link("a", "/etc/passwd", tarfile.SYMTYPE), "a link or a device"),
        (link("a", "../out.txt", tarfile.LNKTYPE), "a link or a device"),
        (link("a", "", tarfile.CHRTYPE), "a link or a device"),
        (zip_link, "a link or a device"),
        (lambda f: zipped(f / "a.zip", {"a": bytes(50 << 20)}), "200 times as large"),
        (lambda f: tarred(f / "a.tar.gz", {"a": bytes(50 << 20)}), "200 times as large"),
        (overlapping, "lie over one another"),
        (encrypted, "encrypted"),
    ],
)
def test_hostile_archives_write_nothing(
    tmp_path: Path, write: Callable[[Path], Path], message: str
) -> None:
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    archive, root = write(folder), folder / "root"
    with pytest.raises(ValueError, match=rf"{archive.name} is refused: .*{message}"):
        unpack(config(archive), root)
    assert files(root) == {}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {archive.name}


def tarred_raw(path: Path, *blocks: tuple[bytes, bytes, int]) -> Path:
    """A .tar.gz of headers (type, content, size that the header gives)."""
    data = b""
    for kind, content, size in blocks:
        entry = tarfile.TarInfo("a")
        entry.type, entry.size = kind, size
        data += entry.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)
    path.write_bytes(gzip.compress(data + bytes(1024), 9))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.XHDTYPE, "a header in it has 1073741824 bytes"),
        (tarfile.XGLTYPE, "a header in it has 1073741824 bytes"),
        (tarfile.GNUTYPE_LONGNAME, "a header in it has 1073741824 bytes"),
        (tarfile.GNUTYPE_SPARSE, "with holes"),
    ],
)
def test_a_giant_header_is_refused_before_it_is_read(
    tmp_path: Path, kind: bytes, message: str
) -> None:
    archive = tarred_raw(tmp_path / "a.tar.gz", (kind, bytes(1 << 20), 1 << 30))
    with pytest.raises(ValueError, match=f"is refused: .*{message}"):
        unpack(config(archive), tmp_path / "root")


def test_attributes_of_all_files_are_bounded_and_ordinary_ones_are_read(tmp_path: Path) -> None:
    many = "".join(f"{len(f'00 k{n:06d}=v') + 1} k{n:06d}=v\n" for n in range(1100)).encode()
    block = (tarfile.XGLTYPE, many, len(many))
    archive = tarred_raw(tmp_path / "a.tar.gz", block, (tarfile.REGTYPE, b"x", 1))
    with pytest.raises(ValueError, match="more than 1000 attributes"):
        unpack(config(archive), tmp_path / "root")
    name = "d/" * 60 + "a" * 120 + ".txt"
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as file:
        entry = tarfile.TarInfo(name)
        entry.size, entry.pax_headers = 1, {"comment": "c" * 5000}
        file.addfile(entry, io.BytesIO(b"x"))
    unpack(config(tmp_path / "b.tar"), tmp_path / "root")
    assert (tmp_path / "root" / name).read_bytes() == b"x"


def test_a_bomb_of_many_files_and_one_inside_an_archive(tmp_path: Path) -> None:
    many = {f"{i}.bin": bytes(1 << 20) for i in range(40)}  # each may be packed as it likes
    inner = zipped(tmp_path / "inner.zip", {"a": bytes(20 << 20)}).read_bytes()
    (tmp_path / "inner.zip").unlink()
    with pytest.raises(ValueError, match="200 times as large"):
        unpack(config(zipped(tmp_path / "many.zip", many)), tmp_path / "root")
    nested = zipped(tmp_path / "nested.zip", {"inner.zip": inner})
    unpack(config(nested), tmp_path / "root")
    assert files(tmp_path / "root") == {"inner.zip": inner}  # a file like any other


def test_disk_space_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, root = zipped(tmp_path / "a.zip", CONTENT), tmp_path / "root"
    with pytest.raises(ValueError, match=r"3e-06 GB are needed, .*unpack\.budget_gb"):
        unpack(config(archive, budget_gb=3e-6), root)
    with pytest.raises(ValueError, match=r"GB free, of which 1e\+09 stay free"):
        unpack(UnpackConfig(archive, keep_free_gb=1e9), root)
    zipped(tmp_path / "b.zip", {"b.jpg": os.urandom(2000)})
    unpack(config(archive), root)
    with pytest.raises(ValueError, match=r"b\.zip is refused: with it more than"):
        unpack(config(tmp_path, budget_gb=4e-6), root)  # of which a.zip took 3.1


def test_broken_archives_and_files_in_the_way(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name, write in (("a.zip", zipped), ("b.tar.gz", tarred)):
        path = write(tmp_path / name, CONTENT)
        path.write_bytes(path.read_bytes()[:-400])
        with pytest.raises(ValueError, match=rf"{name} is broken: .*; get it again"):
            unpack(config(path), root)
        path.write_bytes(b"no archive")
        with pytest.raises(ValueError, match=rf"{name} is broken"):
            unpack(config(path), root)
        path.unlink()
    assert not list(root.rglob("*.part"))
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    (other / "images" / "1.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"1\.jpg is there already and is not the archive's"):
        unpack(config(zipped(tmp_path / "c.zip", CONTENT)), other)
    assert (other / "images" / "1.jpg").read_bytes() == b"mine"
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "images").symlink_to(other)
    with pytest.raises(ValueError, match="through a link out of"):
        unpack(config(tmp_path / "c.zip"), linked)
    with pytest.raises(ValueError, match="is no archive and no folder with any"):
        unpack(config(tmp_path / "none"), root)
    assert module.find_archives(tmp_path) == [tmp_path / "c.zip"]


def test_one_command_from_archives_to_a_collection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, downloads = tmp_path / "made", tmp_path / "downloads"
    downloads.mkdir()
    test_coco_style.write(made, [test_coco_style.person(1, 1)])
    for part in ("annotations", "val2017"):
        names = [path for path in (made / part).iterdir() if path.is_file()]
        zipped(downloads / f"{part}.zip", {f"{part}/{p.name}": p.read_bytes() for p in names})
    recipe = tmp_path / "coco.yaml"
    recipe.write_text(
        f"name: coco\nout: {tmp_path}\npairs: null\nsource: {{name: coco, splits: [val], "
        f"root: {tmp_path / 'root'}}}\ncollection: {{crop_px: 32, min_side_px: 20}}\n"
        f"unpack: {{archives: {downloads}, keep_free_gb: 0}}\n"
    )
    assert run_command(command.main, command.parser(), [str(recipe)]) == 0
    told = capsys.readouterr().out
    assert "unpacked: annotations.zip, val2017.zip" in told and "1 frame " in told
    assert run_command(command.main, command.parser(), [str(recipe)]) == 0
    assert "done before" in capsys.readouterr().out
