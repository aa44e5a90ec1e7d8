"""What the package says while it works: bars if asked for, a logger that is silent unless heard, and nothing else."""

import ast
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mlsde
from mlsde import Constant, DriftHierarchy, Multilevel
from mlsde.chunks.files import claim

PACKAGE = Path(mlsde.__file__).parent
DRIFT = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
SDE = mlsde.SDE(DRIFT, 0.5)


def told(code, *flags):
    """What a fresh interpreter writes, on stdout and stderr."""
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


NOTEBOOK = """
import sys, types
class Shell:
    config = {"IPKernelApp": {}}
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=Shell)
sys.modules["ipykernel.zmqshell"] = types.ModuleType("zmqshell")
for name in ("ipywidgets", "IPython.html", "IPython.display"):
    sys.modules[name] = None
"""


def test_a_notebook_without_widgets_gets_a_bar_of_text_and_no_warning():
    bar = "from mlsde.progress import bar\nfor _ in bar(range(3), unit='steps'): pass"
    _, written = told(NOTEBOOK + bar, "-W", "always")
    assert "3/3" in written
    assert "Warning" not in written and "IProgress" not in written
    _, direct = told(NOTEBOOK + "from tqdm.auto import tqdm", "-W", "always")
    assert "IProgress not found" in direct, "which tqdm itself would say"


def test_bars_are_made_in_one_place():
    made = [
        path for path in PACKAGE.rglob("*.py") if "from tqdm" in path.read_text().replace("    from tqdm import", "")
    ]
    assert [path.name for path in made] == ["progress.py"]


def test_only_commands_print():
    for path in PACKAGE.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        prints = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
        # `python -m mlsde.diffusion.linearity` is a command too
        assert not prints or path.parent.name == "cli" or path.name == "linearity.py", path


def test_every_message_goes_to_one_logger_which_is_silent_unless_heard():
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("mlsde").handlers)
    code = "from mlsde.log import log\nlog.warning('heard')"
    assert told(code) == ("", "")
    assert told("import logging; logging.basicConfig(format='%(name)s: %(message)s')\n" + code) == (
        "", "mlsde: heard\n",
    )  # fmt: skip
    for path in PACKAGE.rglob("*.py"):
        assert "getLogger" not in path.read_text() or path.name in ("log.py", "linearity.py"), path


@pytest.fixture
def heard(caplog):
    caplog.set_level(logging.INFO, "mlsde")
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_pilot_says_what_it_cost_and_what_was_chosen(heard):
    y0 = torch.zeros(400, 2)
    solution = mlsde.solve(SDE, y0, (0, 1), steps=200, multilevel="auto", budget=2000.0)
    chosen = solution.recommendation
    price = solution.stats.pilot_cost * 400
    pilot, choice = heard()
    assert pilot[0] == choice[0] == "INFO"
    assert pilot[1].startswith("pilot: ") and pilot[1].endswith(f" for {price:.4g} in all")
    assert choice[1] == (
        f"chosen: {chosen.describe()}; predicted error {chosen.predicted_error:.3g} at "
        f"{chosen.predicted_cost:.6g} per trajectory"
    )


def test_learning_says_how_the_loss_fell(heard):
    learned = mlsde.learn(SDE, torch.ones(8, 1), (0, 1), steps=10, budget=100.0, iterations=4, samples=16)
    first, last = learned.history[0][0], learned.history[-1][0]
    assert heard() == [("INFO", f"learned in 4 iterations: loss {last:.3g} after {first:.3g}")]


def test_an_ensemble_says_where_it_goes_on_and_how_much_was_there(heard, tmp_path):
    def run():
        return mlsde.ensemble(SDE, torch.zeros(1, 1), 30, (0, 1), steps=4, chunk=10, folder=tmp_path / "pieces",
                              multilevel=Multilevel(Constant([1.0, 0.5])))  # fmt: skip

    run()
    assert heard() == []
    (tmp_path / "pieces" / "chunk-000001.safetensors").unlink()
    run()
    assert heard() == [
        ("INFO", f"going on in {tmp_path / 'pieces'}"), ("INFO", "2 of 3 chunks were there, 1 are computed"),
    ]  # fmt: skip


def test_a_chunk_that_fails_and_a_level_without_memory_are_warnings(heard):
    def full(t, y):
        if len(y) > 3:
            raise MemoryError
        return -y

    mlsde.ensemble(mlsde.SDE(full), torch.zeros(1, 1), 6, (0, 1), steps=2, chunk=6)
    assert heard() == [("WARNING", "level 1 is out of memory; evaluating 6 samples in 2 parts.")]
    with pytest.raises(mlsde.EnsembleError):
        mlsde.ensemble(mlsde.SDE(lambda t, y: y * float("nan")), torch.zeros(1, 1), 6, (0, 1), steps=2, chunk=6)
    level, message = heard()[-1]
    assert level == "WARNING" and message.startswith("chunk 0 failed: NonFiniteError: drift level 1")


def test_a_folder_is_gone_on_with_only_if_it_is_the_same_computation(heard, tmp_path):
    claim(tmp_path / "a", {"seed": 0})
    (tmp_path / "a" / "piece").touch()  # a folder in which nothing was done is anybody's
    assert heard() == []
    with pytest.raises(ValueError, match="another computation"):
        claim(tmp_path / "a", {"seed": 1})
    assert heard() == []
    claim(tmp_path / "a", {"seed": 0})
    assert heard() == [("INFO", f"going on in {tmp_path / 'a'}")]


def test_a_command_tells_warnings_while_it_runs_and_not_afterwards(monkeypatch, capsys, caplog):
    from mlsde import cli
    from mlsde.log import log

    def run(parsed):
        log.warning("level 1 is out of memory")
        log.info("not this")
        return 0

    monkeypatch.setattr(cli.study, "run", run)
    caplog.set_level(logging.INFO, logger="mlsde")  # as a program that hears more leaves it
    assert cli.main(["study", "--list"]) == 0
    log.warning("nor this")
    assert capsys.readouterr().err == "mlsde study: level 1 is out of memory\n"


def test_an_interrupted_command_says_so_in_a_line_and_what_is_kept(monkeypatch, capsys):
    from mlsde import cli

    def run(parsed):
        error = KeyboardInterrupt()
        error.add_note("2 of 5 pieces are in out; the same call goes on there.")
        raise error

    monkeypatch.setattr(cli.study, "run", run)
    assert cli.main(["study", "--list"]) == 130
    kept = "2 of 5 pieces are in out; the same call goes on there."
    assert capsys.readouterr().err == f"mlsde study: interrupted. {kept}\n"


def test_an_interrupted_ensemble_says_what_its_folder_holds_and_goes_on_there(tmp_path):
    seen = []

    def level(t, y):
        seen.append(len(y))
        if len(seen) == 5:
            raise KeyboardInterrupt
        return -y

    def asked():
        return mlsde.ensemble(
            mlsde.SDE(level), torch.ones(1, 1), 12, (0, 1), steps=2, chunk=4, folder=tmp_path / "f", identity="decay"
        )

    with pytest.raises(KeyboardInterrupt) as caught:
        asked()
    assert caught.value.__notes__ == [f"2 of 3 pieces are in {tmp_path / 'f'}; the same call goes on there."]
    assert asked().statistics is None and len(seen) == 5 + 2


def test_bars_in_a_log_wait_before_they_tell_anything(capsys):
    from mlsde.progress import as_in_a_log, bar

    with as_in_a_log():
        assert list(bar(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(bar(range(3))) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err
