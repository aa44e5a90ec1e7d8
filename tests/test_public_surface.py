"""The public surface: what is exported, that it is documented, and that importing it does no work."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlsde
import mlsde.diffusion
import mlsde.plots
import mlsde.problems
import mlsde.study
import mlsde.theory

PACKAGE = Path(mlsde.__file__).parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages([str(PACKAGE)], "mlsde.") if "__main__" not in module.name
)
HEAVY = ["matplotlib", "sklearn", "scipy", "torchsde", "diffrax", "jax", "diffusers", "pandas", "PIL"]
WIDGETS = ["tqdm.auto", "tqdm.autonotebook", "tqdm.notebook", "ipywidgets", "IPython"]
SURFACES = [mlsde, mlsde.study, mlsde.diffusion, mlsde.problems, mlsde.theory, mlsde.plots]
WITHOUT_EXAMPLE = {  # they need a scheduler, a network, minutes or a folder, or have theirs at the top of the package
    "affine_in_output", "digits_ladder", "guided", "save_ladder", "train_ladder", "denoiser_ladder",
}  # fmt: skip
EXPORTED = [
    pytest.param(getattr(module, name), name, id=f"{module.__name__}.{name}")
    for module in SURFACES
    for name in module.__all__
    if not inspect.ismodule(getattr(module, name))
]
FUNCTIONS = [param for param in EXPORTED if inspect.isfunction(param.values[0])]


@pytest.mark.parametrize("module", [module.__name__ for module in SURFACES])
def test_importing_the_package_imports_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY + WIDGETS} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_importing_the_package_does_no_work():
    """No random state touched, no thread started, nothing printed, no warning, no default of torch changed."""
    code = (
        "import torch, numpy, threading, warnings; warnings.simplefilter('error', append=False)\n"
        "def state(): return (torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(), "
        "torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), threading.active_count())\n"
        "before = state(); import mlsde; assert state() == before\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("module", SURFACES, ids=lambda module: module.__name__)
def test_every_exported_name_is_there_and_listed_once(module):
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def parameters_of(thing):
    """Names of the parameters a user gives."""
    return [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]


def named(parameter, text):
    """Whether a docstring section explains ``parameter``: ``name:`` or ``one, name, other:`` at the start of a line."""
    return re.search(rf"^\s+(\w+, )*{re.escape(parameter)}(, \w+)*: ", text, re.MULTILINE) is not None


@pytest.mark.parametrize(("thing", "name"), EXPORTED)
def test_every_exported_name_is_documented_with_all_its_parameters(thing, name):
    text = inspect.getdoc(thing)
    assert text
    assert not text.startswith(f"{name}("), "the docstring that a dataclass makes up"
    assert text.splitlines()[0].rstrip().endswith((".", ":", "``"))
    if isinstance(thing, type) and issubclass(thing, Exception):
        return
    sections = re.split(r"\n(?=(?:Args|Attributes):\n)", "\n" + text)[1:]
    explained = "\n".join(sections)
    # one field needs no section of its own, the sentence above explains it
    missing = [p for p in parameters_of(thing) if not named(p, explained)]
    assert not missing or len(parameters_of(thing)) == 1, missing


@pytest.mark.parametrize(("thing", "name"), FUNCTIONS)
def test_help_says_what_a_function_returns_what_it_raises_and_how_it_is_called(thing, name):
    text = inspect.getdoc(thing)
    assert "\nReturns:\n" in text
    assert "\nRaises:\n" in text or not parameters_of(thing)
    assert (">>> " in text and f"{name}(" in text.split(">>> ", 1)[1]) != (name in WITHOUT_EXAMPLE)


@pytest.mark.parametrize(("thing", "name"), EXPORTED)
def test_every_public_method_is_documented(thing, name):
    for attribute, value in vars(thing).items() if isinstance(thing, type) else ():
        function = getattr(value, "func", getattr(value, "fget", getattr(value, "__func__", value)))
        own = getattr(function, "__qualname__", "") == f"{name}.{attribute}"
        if own and not attribute.startswith("_"):
            assert inspect.getdoc(function), attribute


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_for(module):
    text = importlib.import_module(module).__doc__
    assert text
    assert text.split("\n\n")[0].rstrip().endswith(".")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_is_longer_than_500_lines(path):
    assert len(path.read_text().splitlines()) <= 500


LEAVES = ("bench", "cli", "diffusion", "study", "problems", "plots", "__main__")


def imports(path):
    """Modules of this package that a file imports, wherever in it; what only checkers of types see left out."""
    tree = ast.parse(path.read_text())
    unseen = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    hidden = {id(part) for node in unseen for statement in node.body for part in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_the_core_never_imports_a_leaf(path):
    taken = {name.split(".")[1] for name in imports(path) if name.startswith("mlsde.")}
    assert path.name == "__main__.py" or not taken & set(LEAVES)


def test_the_package_is_typed_and_has_a_version():
    assert (PACKAGE / "py.typed").exists()
    assert re.fullmatch(r"\d+\.\d+\.\d+", mlsde.__version__)


def test_rooms_are_there_once_they_are_asked_for():
    code = (
        "import sys, mlsde; early = {'mlsde.study', 'mlsde.diffusion', 'mlsde.plots'} & set(sys.modules); "
        "mlsde.plots.firings, mlsde.study.plain, mlsde.problems.analytic, mlsde.theory, mlsde.bench; "
        "mlsde.diffusion.sample; print(sorted(early), 'plots' in dir(mlsde))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[] True\n"
    with pytest.raises(AttributeError, match="module 'mlsde' has no attribute 'plot'"):
        mlsde.plot  # noqa: B018
