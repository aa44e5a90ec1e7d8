"""Pieces of a long computation: computed once, written whole or not at all, and never mixed with another's."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsde import chunks
from mlsde.chunks import Chunks, write_atomically

MANIFEST = {"problem": "pendulum", "costs": [1.0, 8.0], "seed": 3}


def must_not_run():
    raise AssertionError("a finished piece was computed again")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_piece_is_computed_once_and_remembered():
    kept = Chunks(None, MANIFEST)
    assert kept.result("a", lambda: {"value": 1}) == {"value": 1}
    assert kept.result("a", must_not_run) == {"value": 1}
    assert kept.result("b", lambda: {"value": 2}) == {"value": 2}
    assert (kept.computed, kept.found) == (2, 0)


def test_a_folder_goes_on_where_it_stopped(tmp_path):
    folder = tmp_path / "deep" / "folder"
    first = Chunks(folder, MANIFEST)
    first.result("a", lambda: {"errors": [0.1, math.inf]})
    again = Chunks(str(folder), MANIFEST)
    assert again.result("a", must_not_run) == {"errors": [0.1, math.inf]}
    assert again.result("b", lambda: {"errors": []}) == {"errors": []}
    assert (again.computed, again.found) == (1, 1)
    assert names(folder) == ["a.json", "b.json", "manifest.json"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40)
@given(piece=st.dictionaries(st.text(), values))
def test_a_fresh_piece_equals_the_one_that_is_read_back(piece, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chunks")
    fresh = Chunks(folder, MANIFEST).result("a", lambda: piece)
    read = Chunks(folder, MANIFEST).result("a", must_not_run)
    assert fresh == read == Chunks(None, MANIFEST).result("a", lambda: piece)
    assert json.dumps(fresh) == json.dumps(read)  # tuples and keys that are numbers too


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, ["seed: 3 there, 4 here"]),
        ({"costs": [1.0, 9.0]}, ["costs: [1.0, 8.0] there, [1.0, 9.0] here"]),
        ({"gamma": 2.5}, ["gamma: None there, 2.5 here"]),
        ({"problem": "other", "seed": 0}, ["problem: 'pendulum' there, 'other' here; seed: 3 there, 0 here"]),
    ],
)
def test_a_folder_of_another_computation_is_refused_and_the_difference_named(change, words, tmp_path):
    Chunks(tmp_path, MANIFEST)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="holds another computation") as caught:
        Chunks(tmp_path, {**MANIFEST, **change})
    assert all(word in str(caught.value) for word in [str(tmp_path), *words])
    assert "costs" in change or "costs" not in str(caught.value)  # only what differs
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_manifest_without_an_entry_is_another_one(tmp_path):
    Chunks(tmp_path, MANIFEST)
    with pytest.raises(ValueError, match="seed: 3 there, None here"):
        Chunks(tmp_path, {name: value for name, value in MANIFEST.items() if name != "seed"})


def test_a_manifest_is_compared_as_json_so_tuples_are_lists(tmp_path):
    Chunks(tmp_path, {"costs": (1.0, 8.0)})
    Chunks(tmp_path, {"costs": [1.0, 8.0]})


@pytest.mark.parametrize("damage", [b"", b'{"problem": "pend', b"[]", b"null", b"\xff\xfe"])
def test_a_damaged_manifest_is_refused_and_left_as_it_is(damage, tmp_path):
    (tmp_path / "manifest.json").write_bytes(damage)
    with pytest.raises(ValueError, match=r"has a damaged manifest\.json; choose another folder\."):
        Chunks(tmp_path, MANIFEST)
    assert (tmp_path / "manifest.json").read_bytes() == damage


WHOLE = b'{"key": "a", "result": {"value": 1}}\n'


@pytest.mark.parametrize(
    "damage",
    [
        *(WHOLE[:length] for length in (0, 1, 20, len(WHOLE) - 2)),
        WHOLE.replace(b'"a"', b'"b"'),
        b'{"result": {"value": 1}}',
        b'{"key": "a"}',
        b'{"key": "a", "result": [1]}',
        b"[1, 2]",
        b"no json",
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_piece_is_computed_anew(damage, tmp_path):
    Chunks(tmp_path, MANIFEST).result("a", lambda: {"value": 1})
    assert (tmp_path / "a.json").read_bytes() == WHOLE
    (tmp_path / "a.json").write_bytes(damage)
    again = Chunks(tmp_path, MANIFEST)
    assert again.result("a", lambda: {"value": 2}) == {"value": 2}
    assert (again.computed, again.found) == (1, 0)
    assert (tmp_path / "a.json").read_bytes() == WHOLE.replace(b"1", b"2")


@pytest.mark.parametrize("key", ["a/b", "../a", "", "a b", "a\n", "ä", "x" * 121, "manifest", None, 3])
def test_a_key_that_is_no_file_name_of_a_piece_is_refused(key, tmp_path):
    kept = Chunks(tmp_path, MANIFEST)
    with pytest.raises(ValueError, match=r"key must be up to 120 letters, digits and \. _ \+ = -"):
        kept.result(key, must_not_run)
    assert names(tmp_path) == ["manifest.json"]


def test_keys_of_all_allowed_signs_and_of_full_length_serve(tmp_path):
    for key in ("aZ09._+=-", "x" * 120, "independent-impulse-euler-s1-K2-n1024-m1.57286e+06"):
        Chunks(tmp_path, MANIFEST).result(key, lambda: {"value": 1})
        Chunks(tmp_path, MANIFEST).result(key, must_not_run)


def test_an_exception_in_a_piece_leaves_nothing_behind(tmp_path):
    kept = Chunks(tmp_path, MANIFEST)

    def broken():
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        kept.result("a", broken)
    assert names(tmp_path) == ["manifest.json"]
    assert kept.computed == 0
    assert kept.result("a", lambda: {"value": 1}) == {"value": 1}


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        ({"value": {1, 2}}, "set is not JSON serializable"),
        ({"value": object()}, "object is not JSON serializable"),
        ({(1, 2): 1}, "keys must be str"),
        ([1, 2], "must be a dictionary, got list"),
        (None, "must be a dictionary, got NoneType"),
    ],
)
def test_a_piece_that_is_no_json_is_named_and_not_kept(piece, words, tmp_path):
    kept = Chunks(tmp_path, MANIFEST)
    with pytest.raises(TypeError, match=words) as caught:
        kept.result("piece-7", lambda: piece)
    assert str(caught.value).startswith("what compute returned for 'piece-7' must ")
    assert names(tmp_path) == ["manifest.json"]
    assert kept.result("piece-7", lambda: {}) == {}


@pytest.mark.parametrize("manifest", [{"value": object()}, [1], None])
def test_a_manifest_that_is_no_json_is_named_and_no_folder_made(manifest, tmp_path):
    with pytest.raises(TypeError, match="manifest must "):
        Chunks(tmp_path / "new", manifest)
    assert names(tmp_path) == []


def test_a_file_is_written_in_a_folder_that_is_made_for_it(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    write_atomically(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    assert names(path.parent) == ["file.txt"]


class FullDisk:
    """A file on a disk that is full after a few letters."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, text):
        self.file.write(text[:3])
        self.file.flush()
        raise OSError(28, "No space left on device")


def full(patch):
    opened = Path.open
    patch.setattr(Path, "open", lambda self, *args, **options: FullDisk(opened(self, *args, **options)))


def failing(name):
    def apply(patch):
        def fail(*_):
            raise OSError(5, "Input/output error")

        patch.setattr(chunks.os, name, fail)

    return apply


@pytest.mark.parametrize("failure", [full, failing("fsync"), failing("replace")], ids=["write", "fsync", "replace"])
def test_where_writing_fails_the_old_content_stays_and_no_part_of_the_new_one(failure, tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with monkeypatch.context() as patch:
        failure(patch)
        with pytest.raises(OSError, match=r"No space|Input/output"):
            write_atomically(path, "newer")
        with pytest.raises(OSError, match=r"No space|Input/output"):
            write_atomically(tmp_path / "another.txt", "newer")
    assert names(tmp_path) == ["file.txt"]
    assert path.read_text() == "old"
    write_atomically(path, "newer")
    assert path.read_text() == "newer"


def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    path, order = tmp_path / "file.txt", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(chunks.os, "fsync", lambda number: (order.append("fsync"), fsync(number)))

    def watched(partial, target):
        order.append("replace")
        assert not path.exists()
        assert Path(partial).read_text() == "whole"
        assert (Path(partial).parent, Path(target)) == (tmp_path, path)
        replace(partial, target)

    monkeypatch.setattr(chunks.os, "replace", watched)
    write_atomically(path, "whole")
    assert order == ["fsync", "replace"]


def test_a_piece_that_cannot_be_written_is_not_counted_as_kept(tmp_path, monkeypatch):
    kept = Chunks(tmp_path, MANIFEST)
    with monkeypatch.context() as patch:
        failing("replace")(patch)
        with pytest.raises(OSError, match="Input/output"):
            kept.result("a", lambda: {"value": 1})
    assert kept.result("a", lambda: {"value": 2}) == {"value": 2}


# chunks.py alone needs the standard library only, so a process starts within milliseconds
LOOP = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("chunks", sys.argv[1])
chunks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chunks)
kept = chunks.Chunks(sys.argv[2], {"pieces": 90})
def piece(i):
    print(i, flush=True)
    return {"values": [(i * j * 0.1) % 1 for j in range(500)]}
for i in range(90):
    kept.result(f"piece-{i}", lambda i=i: piece(i))
print("done", kept.found, flush=True)
"""


def start(folder):
    command = [sys.executable, "-I", "-S", "-c", LOOP, chunks.__file__, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def pieces(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def test_a_process_killed_again_and_again_leaves_what_an_undisturbed_one_does(tmp_path):
    with start(tmp_path / "undisturbed") as process:
        assert process.stdout.read().splitlines()[-1] == "done 0"
    expected = pieces(tmp_path / "undisturbed")
    assert len(expected) == 91
    rng, folder, kills, computed = random.Random(0), tmp_path / "killed", 0, 0
    while kills < 7:
        with start(folder) as process:
            for _ in range(rng.randint(1, 5)):
                computed += process.stdout.readline().strip().isdigit()
            time.sleep(rng.uniform(0.0, 0.004))  # somewhere within a piece, its writing or the next one
            process.kill()
            computed += sum(line.strip().isdigit() for line in process.stdout)
        assert process.returncode == -signal.SIGKILL
        kills += 1
        so_far = pieces(folder)
        assert so_far.items() <= expected.items()  # what has its name is whole
    with start(folder) as process:
        *rest, last = process.stdout.read().splitlines()
    assert pieces(folder) == expected
    assert last == f"done {len(so_far) - 1}"
    assert 90 <= computed + len(rest) <= 90 + kills  # a kill costs the piece that was under way
