"""A ladder of denoisers in the place of one: ``pipe.unet = MultilevelDenoiser([small, large], ...)``.

``ModelMixin`` stays a name of this module: pipelines look for it here when they load what they saved.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from safetensors import SafetensorError, safe_open
from torch import nn

import mlsde
from mlsde import checks
from mlsde.chunks import write_atomically
from mlsde.diffusion.hosts import Call, placement
from mlsde.diffusion.linearity import SWITCHES, UNHEEDED
from mlsde.diffusion.runs import DenoisingRun, Ladder, Schedule, listed
from mlsde.multilevel import Multilevel
from mlsde.plan import Plan
from mlsde.probabilities import Constant, Learned, Optimal, PowerLaw
from mlsde.solution import Stats

CLIPPING = ("warn", "refuse", "allow")
_PAGE, _FORMAT = "config.json", 1
_ALIKE = ("in_channels", "out_channels", "sample_size")
_RULES = {rule.__name__: rule for rule in (PowerLaw, Constant, Optimal, Learned)}


class MultilevelDenoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is not read by mypy
    """Denoising networks of several prices in the place of the dearest.

    A host (a pipeline of diffusers, a sampler of k-diffusion or EDM) calls it as it would call the last of ``models``,
    and gets the multilevel estimate of that net's output, in the form that the net returns it. Arguments go through to
    every level. Attributes it lacks (``config``, ``add_embedding``, ``sigma_min``, ...) are those of the last net.

    A run is a pass over falling (or rising) timesteps; the next one begins when time goes back, or after
    :meth:`reset`. Coins depend on ``seed``, step and level alone, not on the host's generator nor on the batch.

    Args:
        models: the nets, cheapest first: modules of one device and dtype, or functions.
        multilevel: how the ladder is used; ``None`` calls the last net at every step.
        steps: number of distinct timesteps (or noise levels) of a run. The rule's ``t`` then runs evenly from 1 to 0.
        scheduler: the host's scheduler instead, whose ``timesteps`` are read when a run begins; ``t`` is the timestep.
        timesteps: an explicit list instead; ``t`` is the timestep.
        seed: of the coins: one integer, or one per picture with ``share="sample"``.
        costs: price of one evaluation of each net for one sample; ``"flops"`` to count them at the first call, which
            evaluates each net once more for one sample; ``None`` counts only if the rule needs prices.
        names: of the levels, for tables.
        clipping: what to do about a ``scheduler`` that clips, a bias: ``"warn"`` (once), ``"refuse"`` or ``"allow"``.

    Raises:
        TypeError, ValueError: naming the argument; at construction as far as it can be known there.

    Source: the Multilevel Euler-Maruyama method, arXiv 2603.24594, in the space of the network's output.

    Example:
        >>> from mlsde import Constant
        >>> small, large = lambda x, t: 0.5 * x, lambda x, t: 0.4 * x
        >>> MultilevelDenoiser([small, large], multilevel=Multilevel(Constant([1.0, 0.5])), steps=10)
        MultilevelDenoiser(2 levels: function, function; systematic hold, Constant(values=[1, 0.5]), steps=10, seed=0)
    """

    config_name = _PAGE

    def __init__(
        self,
        models: Sequence[Callable[..., Any]],
        *,
        multilevel: Multilevel | None = None,
        steps: int | None = None,
        scheduler: Any = None,
        timesteps: Any = None,
        seed: int | Sequence[int] = 0,
        costs: Sequence[float] | str | None = None,
        names: Sequence[str] | None = None,
        clipping: str = "warn",
    ) -> None:
        super().__init__()
        self.levels = _modules(models)
        self.multilevel = multilevel
        _check_schedule(multilevel, steps, scheduler, timesteps)
        self.steps, self.scheduler = steps, scheduler
        self.timesteps = None if timesteps is None else tuple(checks.as_float64("timesteps", timesteps).tolist())
        self.seed = _seed(seed)
        ladder = mlsde.DriftHierarchy(list(self.levels), None if isinstance(costs, str) else costs, names=names)
        self.costs = checks.one_of("costs", costs, ("flops",)) if isinstance(costs, str) else ladder.costs
        self.names = ladder.names
        self.clipping = checks.one_of("clipping", clipping, CLIPPING)
        self._run: DenoisingRun | None = None
        self._awaits_scheduler = False
        self._branch: str | None = None
        self._told: set[str] = set()
        self._counted: dict[Any, tuple[float, ...]] = {}

    @property
    def multilevel(self) -> Multilevel | None:
        """How the ladder is used; may be set between runs."""
        return self._multilevel

    @multilevel.setter
    def multilevel(self, rule: Multilevel | None) -> None:
        if rule is not None and not isinstance(rule, Multilevel):
            raise TypeError(f"multilevel must be an mlsde.Multilevel or None, got {rule!r}.")
        self._multilevel = rule

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Estimate the last net's output at one step; arguments and result are as of that net.

        Raises:
            TypeError, ValueError: if state, time or the number of steps do not fit, before anything is evaluated; if
                the levels' outputs differ in shape, naming the level.
        """
        call = Call.of(args, kwargs, self._branch)
        run = self._run
        if run is None or not run.continues(call):
            run = self._begin(call)
        return run(call)

    def _begin(self, call: Call) -> DenoisingRun:
        if self._run is not None and not self._run.over and not self._run.complete:
            self._tell(
                "short",
                f"the last run took {self._run.nodes} of the {self._run.schedule.steps} steps that "
                f"{self._run.schedule.source} planned, so its coins were not those of a whole run; "
                "make the numbers agree, or call reset() where a run is broken off.",
            )
        ladder = Ladder(tuple(self.levels), self.multilevel, self.seed, self.costs, self.names, self._counted)
        run = DenoisingRun(ladder, self._schedule(call), call)
        if run.plan is not None and bool((run.plan.probabilities < 1).any()):
            self._mind_clipping()
        self._run = run
        return run

    def _schedule(self, call: Call) -> Schedule:
        if self.multilevel is None:
            return Schedule(None, "")
        if self.scheduler is not None:
            return _of_scheduler(self.scheduler, self.steps, call)
        if self.timesteps is not None:
            return listed(self.timesteps, call, "timesteps=")
        if self._awaits_scheduler or self.steps is None:
            raise ValueError(
                "scheduler= is missing: a ladder that was saved with one needs it again, as in "
                "pipe.unet.scheduler = pipe.scheduler; or give steps=."
            )
        return Schedule(self.steps, f"steps={self.steps}")

    def _mind_clipping(self) -> None:
        config, kind = getattr(self.scheduler, "config", None), type(self.scheduler).__name__
        clips = [name for name in SWITCHES if getattr(config, name, False)]
        if not clips or self.clipping == "allow" or kind in UNHEEDED:
            return
        off = ", ".join(f"{name}=False" for name in clips)
        message = (
            f"{kind} has {clips[0]}=True, so its step is not affine in the model's output and "
            f"the multilevel estimate is not unbiased; switch it off with pipe.scheduler.register_to_config({off}), "
            'or give clipping="allow".'
        )
        if self.clipping == "refuse":
            raise ValueError(message)
        self._tell("clipping", message)

    def _tell(self, kind: str, message: str) -> None:
        """Warn, once for each kind of message."""
        if kind not in self._told:
            self._told.add(kind)
            warnings.warn(message, UserWarning, stacklevel=2)

    def reset(self) -> None:
        """Let the next call begin a new run, and free what the last one remembers."""
        if self._run is not None:
            self._run.end()

    @property
    def stats(self) -> Stats | None:
        """What the current or last run has spent; a trajectory is a row of its first batch. ``None`` before any."""
        return None if self._run is None else self._run.stats

    @property
    def plan(self) -> Plan | None:
        """Plan of the current or last run; ``None`` before any, and without ``multilevel``."""
        return None if self._run is None else self._run.plan

    @property
    def top(self) -> Any:
        """The last, dearest net, which this one stands for."""
        net = self.levels[-1]
        return net.function if isinstance(net, _Function) else net

    @property
    def config(self) -> Any:
        """The last net's ``config``."""
        return self.top.config

    @property
    def device(self) -> torch.device:
        """Device of the levels."""
        place = placement(self)
        return torch.device("cpu") if place is None else place[0]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the levels."""
        place = placement(self)
        return getattr(self.top, "dtype", None) or (torch.get_default_dtype() if place is None else place[1])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # private names are machinery (hooks of accelerate, of diffusers): the top's are not this module's
            if name.startswith("_") or "levels" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self.top, name)

    def __repr__(self) -> str:
        kinds = ", ".join(type(net.function if isinstance(net, _Function) else net).__name__ for net in self.levels)
        used = "the last at every step"
        if self.multilevel is not None:
            used = f"{self.multilevel.coins} {self.multilevel.correction}, {self.multilevel.probabilities!r}"
        count = "" if self.steps is None else f", steps={self.steps}"
        return f"MultilevelDenoiser({len(self.levels)} levels: {kinds}; {used}{count}, seed={self.seed})"

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        """Enter the context of every level that has one; pipelines name the branch of guidance so."""
        before, self._branch = self._branch, name
        with ExitStack() as stack:
            stack.callback(setattr, self, "_branch", before)
            for net in self.levels:
                enter: Callable[[str], Any] | None = getattr(net, "cache_context", None)
                if enter is not None:
                    stack.enter_context(enter(name))
            yield

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write every level to a folder of its own, in safetensors, and the settings to one page of JSON.

        The scheduler is the host's and is not written: give it again after loading.

        Raises:
            ValueError: for probabilities that are a function, levels without ``save_pretrained``,
                ``safe_serialization=False`` or a ``variant``.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization=False would write pickles, which are not read; leave it True.")
        page, folder = self._page(), Path(save_directory)
        if variant is not None:
            raise ValueError(
                f"variant={variant!r} is not supported: pipelines do not find it in folders; leave it out."
            )
        options = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        for k, net in enumerate(self.levels):
            save: Callable[..., None] = getattr(net, "save_pretrained")  # noqa: B009, a module's attributes are tensors
            save(folder / f"level-{k + 1}", safe_serialization=True, **options)
        write_atomically(folder / _PAGE, json.dumps(page, indent=2) + "\n")

    def _page(self) -> dict[str, Any]:
        return {
            "_class_name": type(self).__name__,
            "format": _FORMAT,
            "mlsde": mlsde.__version__,
            "levels": [_address(k, net) for k, net in enumerate(self.levels)],
            "multilevel": None if self.multilevel is None else _as_json(self.multilevel),
            "needs_scheduler": self.scheduler is not None,
            **{name: getattr(self, name) for name in ("steps", "timesteps", "seed", "costs", "names", "clipping")},
        }

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, scheduler: Any = None, **options: Any) -> MultilevelDenoiser:
        """Read what :meth:`save_pretrained` wrote.

        Args:
            folder: on disk; nothing is fetched.
            scheduler: the host's, if the ladder was used with one; it can also be set later.
            **options: ``torch_dtype``, ``low_cpu_mem_usage`` and ``disable_mmap`` go through to the levels; what else
                pipelines pass must be at its default.

        Raises:
            FileNotFoundError, ValueError: for a missing page, missing, truncated or pickled weights, naming the file.
        """
        path = Path(folder)
        page = _read_page(path / _PAGE)
        models = [_load_level(path / f"level-{k + 1}", where, options) for k, where in enumerate(page["levels"])]
        given = {name: page[name] for name in ("steps", "timesteps", "seed", "costs", "names", "clipping")}
        multilevel = None if page["multilevel"] is None else _from_json(page["multilevel"], path / _PAGE)
        late = page["needs_scheduler"] and scheduler is None
        new = cls(models, multilevel=None if late else multilevel, scheduler=scheduler, **given)
        new.multilevel, new._awaits_scheduler = multilevel, late  # the first call then asks for it
        return new.eval()


class _Function(nn.Module):
    """A level that is a plain function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def _modules(models: Sequence[Callable[..., Any]]) -> nn.ModuleList:
    """The levels as modules; raise unless they are callable and fit together."""
    if not isinstance(models, (list, tuple, nn.ModuleList)):
        raise TypeError(f"models must be a list of networks, cheapest first, got {type(models).__name__}.")
    if len(models) == 0:
        raise ValueError("models must hold at least one network, got none.")
    for k, model in enumerate(models):
        if not callable(model):
            raise TypeError(f"models[{k}] (level {k + 1}) must be a callable network, got {type(model).__name__}.")
    _refuse_apart(models)
    for name in _ALIKE:
        _refuse_unlike(models, name)
    return nn.ModuleList(model if isinstance(model, nn.Module) else _Function(model) for model in models)


def _refuse_apart(models: Sequence[Any]) -> None:
    places = [(k + 1, place) for k, model in enumerate(models) if (place := placement(model)) is not None]
    for k, (device, dtype) in places[:-1]:
        top, (top_device, top_dtype) = places[-1]
        if (device, dtype) != (top_device, top_dtype):
            raise ValueError(
                f"models: level {k} is {dtype} on {device}, but level {top} is {top_dtype} on {top_device}; "
                "bring them together with .to(device, dtype)."
            )


def _refuse_unlike(models: Sequence[Any], name: str) -> None:
    told = [(k + 1, getattr(getattr(model, "config", None), name, None)) for k, model in enumerate(models)]
    told = [(k, tuple(value) if isinstance(value, list) else value) for k, value in told if value is not None]
    for k, value in told[:-1]:
        if value != told[-1][1]:
            raise ValueError(
                f"models: level {k} has {name}={value}, but level {told[-1][0]} has {told[-1][1]}; "
                "the levels of a ladder must take and return the same shapes."
            )


def _check_schedule(multilevel: Multilevel | None, steps: Any, scheduler: Any, timesteps: Any) -> None:
    if steps is not None:
        checks.positive_integer("steps", steps)
    if scheduler is not None and timesteps is not None:
        raise ValueError("scheduler= and timesteps= were both given; give one of the two.")
    if scheduler is not None and not hasattr(scheduler, "timesteps"):
        raise TypeError(f"scheduler must have .timesteps, as those of diffusers have, got {type(scheduler).__name__}.")
    count = steps if timesteps is None else len(set(checks.as_float64("timesteps", timesteps).tolist()))
    if steps is not None and count != steps:
        raise ValueError(f"steps={steps} was given with timesteps= of {count} distinct values; make them agree.")
    if multilevel is not None and steps is None and scheduler is None and timesteps is None:
        raise ValueError("steps=, scheduler= or timesteps= must be given with multilevel=, to plan coins; got none.")


def _of_scheduler(scheduler: Any, steps: int | None, call: Call) -> Schedule:
    if getattr(scheduler, "num_inference_steps", 0) is None:
        raise ValueError(
            f"scheduler= ({type(scheduler).__name__}) has not been told its timesteps, so it is not the one that the "
            "host uses; give the pipeline's own, pipe.scheduler."
        )
    trained = float(getattr(getattr(scheduler, "config", None), "num_train_timesteps", None) or 1000)
    schedule = listed(scheduler.timesteps, call, "scheduler=", trained)
    whole = len(set(checks.as_float64("scheduler.timesteps", scheduler.timesteps).tolist()))
    if steps is not None and steps not in (schedule.steps, whole):
        raise ValueError(
            f"steps={steps} was given with scheduler=, which has {whole} distinct timesteps; make them agree, "
            "or leave steps= out."
        )
    return schedule


def _seed(seed: Any) -> int | tuple[int, ...]:
    one = isinstance(seed, int) or not hasattr(seed, "__len__") or getattr(seed, "ndim", 1) == 0
    if not one and len(seed) == 0:
        raise ValueError("seed must be an integer or hold one for each picture, got an empty sequence.")
    return checks.seed_or_seeds(seed, 0 if one else len(seed))


def _address(k: int, net: nn.Module) -> tuple[str, str]:
    """Module and name of a level's class, as they are found again."""
    kind = type(net)
    if not callable(getattr(net, "save_pretrained", None)):
        name = type(net.function).__name__ if isinstance(net, _Function) else kind.__name__
        raise ValueError(f"level {k + 1} ({name}) has no save_pretrained, so it cannot be saved; save it yourself.")
    root = kind.__module__.partition(".")[0]
    return ("diffusers" if root == "diffusers" else kind.__module__, kind.__name__)


def _as_json(multilevel: Multilevel) -> dict[str, Any]:
    """Settings as JSON; ``ValueError`` for what a file cannot hold."""
    rule: Any = multilevel.probabilities
    if type(rule) not in _RULES.values():
        raise ValueError(
            f"multilevel: the probabilities {rule!r} are not saved, being a function or a rule of your own; "
            "use PowerLaw, Constant, Optimal or Learned."
        )
    values = asdict(rule)
    for name, value in values.items():
        if callable(value):
            raise ValueError(f"multilevel: {name} of {type(rule).__name__} is a function, which is not saved.")
        values[name] = value.tolist() if hasattr(value, "tolist") else value
    others = {name: getattr(multilevel, name) for name in ("coins", "correction", "share", "seed")}
    return {"probabilities": {"rule": type(rule).__name__, **values}, **others}


def _from_json(settings: dict[str, Any], file: Path) -> Multilevel:
    try:
        values = dict(settings["probabilities"])
        rule = _RULES[values.pop("rule")](**values)
        return Multilevel(rule, **{name: settings[name] for name in ("coins", "correction", "share", "seed")})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(file)!r} is damaged, multilevel: {error!r}; save the ladder again.") from error


def _read_page(file: Path) -> dict[str, Any]:
    try:
        page = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{str(file)!r} does not exist; save_pretrained(folder) writes it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{str(file)!r} is damaged or no JSON; save the ladder again.") from None
    if not isinstance(page, dict) or page.get("_class_name") != MultilevelDenoiser.__name__:
        raise ValueError(f"{str(file)!r} is not of a MultilevelDenoiser; give a folder that save_pretrained wrote.")
    if page.get("format") != _FORMAT:
        raise ValueError(f"{str(file)!r} is of format {page.get('format')}, and this version reads {_FORMAT}.")
    needed = ("levels", "multilevel", "needs_scheduler", "steps", "timesteps", "seed", "costs", "names", "clipping")
    lacking = [name for name in needed if name not in page]
    if lacking:
        raise ValueError(f"{str(file)!r} is damaged, it lacks {lacking[0]!r}; save the ladder again.")
    return page


def _load_level(folder: Path, where: Sequence[str], options: dict[str, Any]) -> nn.Module:
    """Read one level; its weights are looked at first, so that whatever is wrong with them is said by their name."""
    module, name = where
    through = {key: options[key] for key in ("torch_dtype", "dtype", "low_cpu_mem_usage", "disable_mmap")
               if options.get(key) is not None}  # fmt: skip
    for refused in ("device_map", "quantization_config", "max_memory", "offload_folder", "variant"):
        if options.get(refused) is not None:
            raise ValueError(f"{refused}= is not supported for a ladder; load it plainly, then move it with .to().")
    _check_weights(folder)
    kind = _level_class(module, name, folder)
    try:
        net, found = kind.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True, **through
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        raise ValueError(f"{str(folder)!r} could not be read as a {name} ({reason}); save the ladder again.") from error
    if found["missing_keys"]:
        raise ValueError(f"the weights in {str(folder)!r} are of another net: they lack {found['missing_keys'][0]!r}.")
    return net


def _check_weights(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(file.name for file in folder.glob("*") if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        hint = f"{pickles[0]} is a pickle, which is not read" if pickles else "save the ladder again"
        raise ValueError(f"{str(folder / 'diffusion_pytorch_model.safetensors')!r} does not exist; {hint}.")
    for index in folder.glob("*.index*.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files += [folder / shard for shard in sorted(shards) if folder / shard not in files]
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{str(file)!r} is missing, truncated or damaged ({error}); save it again.") from error


def _level_class(module: str, name: str, folder: Path) -> Any:
    """The class of a level. A file does not decide what is imported: only diffusers, mlsde, and what already is."""
    known = module.partition(".")[0] in ("diffusers", "mlsde")
    holder = importlib.import_module(module) if known else sys.modules.get(module)
    kind = getattr(holder, name, None)
    if not (isinstance(kind, type) and issubclass(kind, ModelMixin)):
        raise ValueError(
            f"the level in {str(folder)!r} is a {name} of {module}, which is not a model known here; import {module} "
            "first if it is yours."
        )
    return kind
