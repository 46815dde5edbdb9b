import hashlib
import json
from pathlib import Path

import pytest

from core.manifest import MANIFEST_FILE, FolderDamaged, make_manifest, parse_manifest, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights.bin").write_bytes(b"0123")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_a_manifest_lists_every_file_and_its_digest_names_the_folder(folder):
    manifest = make_manifest(folder)
    assert sorted(manifest.files) == ["config.json", "weights.bin"]
    assert manifest.files["weights.bin"].sha256 == hashlib.sha256(b"0123").hexdigest()
    assert manifest.size_bytes == 6
    assert manifest.sha256 == hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    assert verify(folder, manifest.sha256) == manifest


def test_the_same_files_always_get_the_same_name(folder):
    first = make_manifest(folder).sha256
    (folder / MANIFEST_FILE).unlink()
    assert make_manifest(folder).sha256 == first


def test_making_a_manifest_twice_changes_nothing(folder):
    assert make_manifest(folder) == make_manifest(folder)


def test_one_flipped_byte_is_found(folder):
    sha256 = make_manifest(folder).sha256
    (folder / "weights.bin").write_bytes(b"0124")
    with pytest.raises(FolderDamaged, match=r"weights\.bin differs"):
        verify(folder, sha256)


def test_a_missing_file_is_found(folder):
    sha256 = make_manifest(folder).sha256
    (folder / "config.json").unlink()
    with pytest.raises(FolderDamaged, match=r"config\.json is missing"):
        verify(folder, sha256)


def test_a_file_that_is_not_listed_is_found(folder):
    sha256 = make_manifest(folder).sha256
    (folder / "extra.bin").write_bytes(b"")
    with pytest.raises(FolderDamaged, match=r"extra\.bin is not in"):
        verify(folder, sha256)


def test_a_manifest_rewritten_for_changed_files_has_another_name(folder):
    sha256 = make_manifest(folder).sha256
    (folder / "weights.bin").write_bytes(b"0124")
    make_manifest(folder)
    with pytest.raises(FolderDamaged, match="does not have the digest"):
        verify(folder, sha256)


def test_a_folder_without_a_manifest_is_refused(folder):
    with pytest.raises(FolderDamaged, match="no usable"):
        verify(folder, "0" * 64)


def test_a_link_is_refused_even_when_it_leads_to_the_right_bytes(folder, tmp_path_factory):
    sha256 = make_manifest(folder).sha256
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "weights.bin"
    (folder / "weights.bin").rename(elsewhere)
    (folder / "weights.bin").symlink_to(elsewhere)
    with pytest.raises(FolderDamaged, match="not a plain file"):
        verify(folder, sha256)


def test_a_subfolder_has_no_place_in_a_manifest(folder):
    (folder / "inner").mkdir()
    with pytest.raises(FolderDamaged, match="not a plain file"):
        make_manifest(folder)


@pytest.mark.parametrize("name", ["../secret", "a/b", "", ".hidden", "manifest.json", "a\nb"])
def test_a_manifest_with_a_name_that_is_not_plain_is_refused(name):
    data = json.dumps({"files": {name: {"sha256": "0" * 64, "size_bytes": 0}}}).encode()
    with pytest.raises(FolderDamaged, match="not a name"):
        parse_manifest(data, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("data", [b"", b"[]", b'{"files": 3}', b'{"files": {"a": {"sha256": "x", "size_bytes": 1}}}'])
def test_bytes_that_are_no_manifest_are_refused(data):
    with pytest.raises(FolderDamaged, match="not a manifest"):
        parse_manifest(data, hashlib.sha256(data).hexdigest())
