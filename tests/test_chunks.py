"""Pieces of a long computation: computed once, written whole or not at all, and never mixed with another's."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsde.chunks import files, write_atomically
from mlsde.chunks.results import Results
from mlsde.chunks.store import Numbers

MANIFEST = {"problem": "pendulum", "costs": [1.0, 8.0], "seed": 3}


def must_not_run():
    raise AssertionError("a finished piece was computed again")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def begun(folder, manifest=MANIFEST):
    """A folder in which something was done."""
    Results(folder, manifest).result("a", lambda: {"value": 1})


def test_a_piece_is_computed_once_and_remembered():
    kept = Results(None, MANIFEST)
    assert kept.result("a", lambda: {"value": 1}) == {"value": 1}
    assert kept.result("a", must_not_run) == {"value": 1}
    assert kept.result("b", lambda: {"value": 2}) == {"value": 2}
    assert (kept.computed, kept.found) == (2, 0)


def test_a_folder_goes_on_where_it_stopped(tmp_path):
    folder = tmp_path / "deep" / "folder"
    first = Results(folder, MANIFEST)
    first.result("a", lambda: {"errors": [0.1, math.inf]})
    again = Results(str(folder), MANIFEST)
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
    fresh = Results(folder, MANIFEST).result("a", lambda: piece)
    read = Results(folder, MANIFEST).result("a", must_not_run)
    assert fresh == read == Results(None, MANIFEST).result("a", lambda: piece)
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
    begun(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="holds another computation") as caught:
        Results(tmp_path, {**MANIFEST, **change})
    assert all(word in str(caught.value) for word in [str(tmp_path), *words])
    assert "costs" in change or "costs" not in str(caught.value)  # only what differs
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_manifest_without_an_entry_is_another_one(tmp_path):
    begun(tmp_path)
    with pytest.raises(ValueError, match="seed: 3 there, None here"):
        Results(tmp_path, {name: value for name, value in MANIFEST.items() if name != "seed"})


def test_a_manifest_is_compared_as_json_so_tuples_are_lists(tmp_path):
    begun(tmp_path, {"costs": (1.0, 8.0)})
    Results(tmp_path, {"costs": [1.0, 8.0]})


def test_a_folder_in_which_nothing_was_done_is_anybodys(tmp_path):
    Results(tmp_path, MANIFEST)
    begun(tmp_path, {"seed": 4})
    with pytest.raises(ValueError, match="seed: 4 there, 3 here"):
        Results(tmp_path, MANIFEST)


@pytest.mark.parametrize("damage", [b"", b'{"problem": "pend', b"[]", b"null", b"\xff\xfe"])
def test_a_damaged_manifest_is_refused_and_left_as_it_is(damage, tmp_path):
    (tmp_path / "manifest.json").write_bytes(damage)
    with pytest.raises(ValueError, match=r"has a damaged manifest\.json; choose another folder\."):
        Results(tmp_path, MANIFEST)
    assert (tmp_path / "manifest.json").read_bytes() == damage


WHOLE = b'{"key": "a", "result": {"value": 1}, "sum": "90829b3f8764fc9c"}\n'


@pytest.mark.parametrize(
    "damage",
    [
        *(WHOLE[:length] for length in (0, 1, 20, len(WHOLE) - 2)),
        WHOLE.replace(b": 1}", b": 3}"),
        WHOLE.replace(b'"90', b'"91'),
        Numbers({"value": 1}).to_bytes({"key": "b"}),
        Numbers({"value": 1}).to_bytes({"key": "a", "stamp": "another"}),
        b'{"result": {"value": 1}}',
        b'{"key": "a"}',
        b'{"key": "a", "result": [1]}',
        b"[1, 2]",
        b"no json",
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_piece_is_computed_anew(damage, tmp_path):
    Results(tmp_path, MANIFEST).result("a", lambda: {"value": 1})
    assert (tmp_path / "a.json").read_bytes() == WHOLE
    (tmp_path / "a.json").write_bytes(damage)
    again = Results(tmp_path, MANIFEST)
    assert again.result("a", lambda: {"value": 2}) == {"value": 2}
    assert (again.computed, again.found) == (1, 0)
    assert (tmp_path / "a.json").read_bytes() == Numbers({"value": 2}).to_bytes({"key": "a"})


def test_a_piece_of_an_earlier_version_without_a_check_sum_serves(tmp_path):
    Results(tmp_path, MANIFEST)
    (tmp_path / "a.json").write_text('{"key": "a", "result": {"value": 1}}\n')
    assert Results(tmp_path, MANIFEST).result("a", must_not_run) == {"value": 1}


@pytest.mark.parametrize("key", ["a/b", "../a", "", "a b", "a\n", "ä", "x" * 121, "manifest", None, 3])
def test_a_key_that_is_no_file_name_of_a_piece_is_refused(key, tmp_path):
    kept = Results(tmp_path, MANIFEST)
    with pytest.raises(ValueError, match=r"key must be up to 120 letters, digits and \. _ \+ = -"):
        kept.result(key, must_not_run)
    assert names(tmp_path) == ["manifest.json"]


def test_keys_of_all_allowed_signs_and_of_full_length_serve(tmp_path):
    for key in ("aZ09._+=-", "x" * 120, "independent-impulse-euler-s1-K2-n1024-m1.57286e+06"):
        Results(tmp_path, MANIFEST).result(key, lambda: {"value": 1})
        Results(tmp_path, MANIFEST).result(key, must_not_run)


def test_an_exception_in_a_piece_leaves_nothing_behind(tmp_path):
    kept = Results(tmp_path, MANIFEST)

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
    kept = Results(tmp_path, MANIFEST)
    with pytest.raises(TypeError, match=words) as caught:
        kept.result("piece-7", lambda: piece)
    assert str(caught.value).startswith("what compute returned for 'piece-7' must ")
    assert names(tmp_path) == ["manifest.json"]
    assert kept.result("piece-7", lambda: {}) == {}


@pytest.mark.parametrize("manifest", [{"value": object()}, [1], None])
def test_a_manifest_that_is_no_json_is_named_and_no_folder_made(manifest, tmp_path):
    with pytest.raises(TypeError, match="manifest must "):
        Results(tmp_path / "new", manifest)
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

        patch.setattr(files.os, name, fail)

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
    monkeypatch.setattr(files.os, "fsync", lambda number: (order.append("fsync"), fsync(number)))

    def watched(partial, target):
        order.append("replace")
        assert not path.exists()
        assert Path(partial).read_text() == "whole"
        assert (Path(partial).parent, Path(target)) == (tmp_path, path)
        replace(partial, target)

    monkeypatch.setattr(files.os, "replace", watched)
    write_atomically(path, "whole")
    assert order == ["fsync", "replace"]


def test_a_piece_that_cannot_be_written_is_not_counted_as_kept(tmp_path, monkeypatch):
    kept = Results(tmp_path, MANIFEST)
    with monkeypatch.context() as patch:
        failing("replace")(patch)
        with pytest.raises(OSError, match="Input/output"):
            kept.result("a", lambda: {"value": 1})
    assert kept.result("a", lambda: {"value": 2}) == {"value": 2}


LOOP = """
import os, random, signal, sys, time
from pathlib import Path
from mlsde.chunks.results import Results

def work(folder, out):
    kept = Results(folder, {"pieces": 90})
    for i in range(90):
        def piece(i=i):
            os.write(out, b".")
            return {"values": [(i * j * 0.1) % 1 for j in range(500)]}
        kept.result(f"piece-{i}", piece)
    print("found", kept.found, flush=True)

def start(folder):
    back, out = os.pipe()
    child = os.fork()
    if child == 0:
        work(folder, out)
        os._exit(0)
    os.close(out)
    return child, back

def count(back):
    dots = 0
    while some := os.read(back, 1000):
        dots += len(some)
    os.close(back)
    return dots

def pieces(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}

undisturbed, folder, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
child, back = start(undisturbed)
assert count(back) == 90 and os.waitpid(child, 0)[1] == 0
expected = pieces(undisturbed)
rng, computed = random.Random(0), 0
for _ in range(kills):
    child, back = start(folder)
    for _ in range(rng.randint(1, 5)):
        computed += len(os.read(back, 1))
    time.sleep(rng.uniform(0.0, 0.004))  # somewhere within a piece, its writing or the next one
    os.kill(child, signal.SIGKILL)
    computed += count(back)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    so_far = pieces(folder)
    assert so_far.items() <= expected.items()  # what has its name is whole
child, back = start(folder)
computed += count(back)
assert os.waitpid(child, 0)[1] == 0 and pieces(folder) == expected and len(expected) == 91
assert not list(folder.glob("*.partial"))
print("before", len(so_far) - 1, "computed", computed)
"""


def test_a_process_killed_again_and_again_leaves_what_an_undisturbed_one_does(tmp_path):
    command = [sys.executable, "-c", LOOP, str(tmp_path / "undisturbed"), str(tmp_path / "killed"), "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    first, last, told = done.stdout.splitlines()
    before, computed = (int(word) for word in told.split()[1::2])
    assert (first, last) == ("found 0", f"found {before}")
    assert 90 <= computed <= 90 + 7  # a kill costs the piece that was under way
