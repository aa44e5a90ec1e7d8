"""Packages that ``import mlsde`` does without: which extra brings each, and the sentence where one is missing."""

from __future__ import annotations

from importlib import import_module

EXTRAS = {
    "matplotlib": "demo",
    "sklearn": "demo",
    "scipy": "demo",
    "diffusers": "diffusion",
    "PIL": "diffusion",
    "torchsde": "bench",
    "diffrax": "bench",
}
"""The extra of each package, by the name that is imported."""

_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "Pillow"}


def require(what: str, *packages: str) -> None:
    """Import packages that are needed in the end, before the work begins.

    Args:
        what: what needs them, for the sentence.
        packages: names to import, of :data:`EXTRAS`.

    Raises:
        ModuleNotFoundError: if one is missing, with the command that installs it.
    """
    for package in packages:
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            raise missing(what, error) from error


def missing(what: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return an error that says which extra brings what could not be imported; ``error`` itself if none does."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return error
    distribution = _DISTRIBUTIONS.get(package, package)
    told = f"{what} needs {distribution}: pip install 'mlsde[{EXTRAS[package]}]'."
    return ModuleNotFoundError(told, name=error.name)


def sentence(what: str, error: ModuleNotFoundError) -> str | None:
    """What to tell of an error from anywhere; ``None`` if no extra brings what it lacks."""
    told = missing(what, error)
    return None if told is error else str(error) if "pip install" in str(error) else str(told)
