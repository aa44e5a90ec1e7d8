"""What releases and continuous integration rest on: versions that agree, workflows that name what there is."""

import importlib.util
import re
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
import yaml

import mlsde

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
NEEDS = [need for extra in PROJECT["optional-dependencies"].values() for need in extra]


def script(name):
    """A program of .ci as a module."""
    loader = SourceFileLoader(name, str(ROOT / ".ci" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def steps(workflow):
    return [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]


def test_citation_changelog_and_package_have_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    heading = re.search(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == heading[1] == mlsde.__version__
    assert heading[2] == str(citation.get("date-released", "unreleased"))
    assert (citation["cff-version"], citation["license"]) == ("1.2.0", PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"]
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2603.24594"


@pytest.fixture
def release(tmp_path, monkeypatch):
    """The check of a tag, on files of a version that is ready."""
    files = {
        "mlsde/__init__.py": '__version__ = "1.2.3"\n',
        "CITATION.cff": "version: 1.2.3\ndate-released: 2030-04-05\n",
        "CHANGELOG.md": "# Changelog\n\n## 1.2.3 (2030-04-05)\n\n## 1.2.2 (2030-01-01)\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    module = script("release")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module.troubles, tmp_path


def test_a_tag_is_released_if_it_is_the_version_of_the_tree(release):
    troubles, _ = release
    assert troubles("v1.2.3") == []
    assert troubles("v1.2.4") == ["the tag is v1.2.4, and mlsde.__version__ is 1.2.3."]
    assert len(troubles("1.2.3")) == 1


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("CITATION.cff", "version: 1.2.2\ndate-released: 2030-04-05\n", "has version 1.2.2"),
        ("CITATION.cff", "version: 1.2.3\n", "date-released, nothing."),
        ("CHANGELOG.md", "## 1.2.3 (unreleased)\n", "begins with '1.2.3 (unreleased)'"),
        ("CHANGELOG.md", "## 1.2.2 (2030-04-05)\n", "begins with '1.2.2 (2030-04-05)'"),
    ],
)
def test_a_tag_is_not_released_before_changelog_and_citation_are_ready(release, file, text, told):
    troubles, root = release
    (root / file).write_text(text)
    (trouble,) = troubles("v1.2.3")
    assert told in trouble


def test_a_version_has_three_numbers_and_no_other_place_states_it():
    assert re.fullmatch(r"\d+\.\d+\.\d+", mlsde.__version__)
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_a_workflow_names_targets_files_actions_and_jobs_that_there_are(workflow):
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    runs = "\n".join(step.get("run", "") for step in steps(workflow))
    assert set(re.findall(r"\bmake ([a-z-]+)", runs)) <= TARGETS
    for path in re.findall(r"(?<![\w/.])\.ci/[\w.]+|\btests/[\w./]+|\bexamples/[\w./]+", workflow.read_text()):
        assert (ROOT / path).exists(), path
    assert all(
        re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"]) for step in steps(workflow) if "uses" in step
    )
    assert all({"run", "uses"} & set(step) for step in steps(workflow))
    assert all(job["needs"] in jobs for job in jobs.values() if "needs" in job)


def test_the_workflows_run_all_that_ci_runs():
    everywhere = "\n".join(workflow.read_text() for workflow in WORKFLOWS)
    wanted = re.findall(r"^make ([a-z-]+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert wanted == ["lint", "docs", "test", "smoke"]
    released = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    for target in wanted:
        assert f"run: make {target}" in everywhere and f"run: make {target}" in released


def test_the_range_is_tested_at_both_ends():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    cells = jobs["range"]["strategy"]["matrix"]["include"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert {(cell["python"], cell["versions"]) for cell in cells} >= {(oldest, "oldest"), (oldest, "newest")}
    stated = {line.split(" :: ")[-1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert stated == {cell["python"] for cell in cells}


def test_the_oldest_versions_are_those_that_the_project_allows():
    lines = [line for line in (ROOT / ".ci" / "oldest.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["test"], *extras["demo"], *extras["diffusion"]]
    allowed = dict(need.split(">=") for need in wanted if not need.startswith("mlsde["))
    assert set(pinned) - set(allowed) == {"pyparsing"}, "what matplotlib of that age needs"
    for name, version in allowed.items():
        whole = version.split(".") + ["0"] * (3 - len(version.split(".")))
        assert pinned[name].split(".") == whole, name


def test_the_constraints_pin_every_need_of_every_extra():
    lines = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    pinned = {line.split("==")[0] for line in lines if not line.startswith("#")}
    names = {re.split(r"[\[>=]", need)[0].lower() for need in [*PROJECT["dependencies"], *NEEDS]} - {"mlsde"}
    assert names <= pinned, names - pinned


def test_hooks_before_a_commit_call_tools_that_make_installs():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local", "nothing is fetched"
    for hook in repo["hooks"]:
        program = hook["entry"].split()[0]
        if program.startswith(".venv/bin/"):
            assert any(need.startswith(Path(program).name + ">=") for need in NEEDS)
        else:
            assert (ROOT / program).stat().st_mode & 0o100, program


def test_files_too_long_or_too_large_are_named(tmp_path, monkeypatch):
    trouble = script("sizes").trouble
    monkeypatch.chdir(tmp_path)
    for name, text in {"long.py": "x\n" * 501, "fits.py": "x\n" * 500, "large.bin": "x" * (8 * 2**20 + 1)}.items():
        Path(name).write_text(text)
    assert trouble(Path("long.py")) == "long.py has 501 lines, and at most 500 are read."
    assert trouble(Path("fits.py")) is None
    assert "large.bin has 8.0 MiB" in trouble(Path("large.bin"))


def test_every_target_says_what_it_is_for_and_is_no_file():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    assert phony == TARGETS
    assert set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE)) >= TARGETS - {"clean"}


def test_targets_that_the_pages_name_are_there():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        named = re.findall(r"(?:`|^)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE)
        assert set(named) <= TARGETS, page.name


def test_nothing_that_stands_in_the_source_distribution_is_missing():
    manifest = (ROOT / "MANIFEST.in").read_text()
    for words in re.findall(r"^include (.*)$", manifest, re.MULTILINE):
        assert all((ROOT / name).is_file() for name in words.split())
    for folder in re.findall(r"^graft (.*)$", manifest, re.MULTILINE):
        assert (ROOT / folder).is_dir()
