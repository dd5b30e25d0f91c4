"""Registries: the string keys by which a study names data, models, guides, inferences and metrics."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, final, get_type_hints

from pydantic import TypeAdapter, ValidationError

from evidentia.studies.harness.declare.config import Frozen, StudyConfig, revalidate
from evidentia.studies.harness.declare.points import Ref
from evidentia.studies.harness.errors import StudyError, did_you_mean, explain

if TYPE_CHECKING:
    from evidentia.studies.harness.declare.study import Study

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
F = TypeVar("F", bound=Callable[..., Any])


@final
class Registry:
    """String keys to callables; a target ``"module:attribute"`` is imported when it is first asked for.

    Args:
        what: the noun for messages ("dataset").
        targets: the entries to begin with.

    Example:
        >>> functions = Registry("function", {"root": "math:sqrt"})
        >>> functions.get("root")(9.0)
        3.0
        >>> functions.get("rot")
        Traceback (most recent call last):
        evidentia.studies.harness.errors.StudyError: unknown function 'rot'. Did you mean 'root'?
    """

    def __init__(self, what: str, targets: Mapping[str, str | Callable[..., Any]] | None = None) -> None:
        self.what = what
        self._targets: dict[str, str | Callable[..., Any]] = {}
        for key, target in (targets or {}).items():
            self.add(key, target)

    def __repr__(self) -> str:
        return f"Registry({self.what!r}, keys={sorted(self._targets)})"

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._targets))

    def __contains__(self, key: object) -> bool:
        return key in self._targets

    def add(self, key: str, target: str | Callable[..., Any]) -> None:
        """Enter a callable, or the text ``"module:attribute"`` that leads to one.

        Raises:
            ValueError: the key is taken by another target, or the text has the wrong form.
        """
        Ref(key)
        if isinstance(target, str) and not _TARGET.fullmatch(target):
            raise ValueError(f"{self.what} {key!r}: expected 'module:attribute', given {target!r}")
        old = self._targets.get(key, target)
        if _name(old) != _name(target):
            raise ValueError(
                f"{self.what} {key!r} is {_name(old)} already; choose another key than for {_name(target)}"
            )
        self._targets[key] = target

    def register(self, key: str) -> Callable[[F], F]:
        """Decorator form of :meth:`add`."""

        def enter(function: F) -> F:
            self.add(key, function)
            return function

        return enter

    def get(self, key: str) -> Callable[..., Any]:
        """The callable of a key.

        Raises:
            StudyError: the key is unknown; the message has a close match.
        """
        if key not in self._targets:
            raise StudyError(f"unknown {self.what} {key!r}. {did_you_mean(key, self._targets)}")
        target = self._targets[key]
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = getattr(importlib.import_module(module), attribute)
            self._targets[key] = target
        return target

    def check(self, ref: Ref, path: str, given: int = 0) -> Callable[..., Any]:
        """Resolve a Ref and see that the callable takes its parameters.

        A callable with an attribute ``parameters``, a frozen model, has them validated by it; of any other
        the signature counts.

        Args:
            ref: key and parameters.
            path: where in the study it stands, for the message.
            given: number of leading positional arguments that the engine supplies.

        Raises:
            StudyError: the key is unknown, a parameter is unknown, or a required one is missing.
        """
        try:
            function = self.get(ref.key)
        except StudyError as error:
            raise StudyError(f"{path}: {error}") from None
        schema = getattr(function, "parameters", None)
        if isinstance(schema, type) and issubclass(schema, Frozen):
            revalidate(schema, ref.params, path)
            return function
        parameters = list(inspect.signature(function).parameters.values())[given:]
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return function
        named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        names = [parameter.name for parameter in named]
        for name in ref.params:
            if name not in names:
                raise StudyError(
                    f"{path}.{name}: {ref.key!r} takes no such parameter. {did_you_mean(name, names)}"
                )
        for parameter in named:
            if parameter.default is parameter.empty and parameter.name not in ref.params:
                raise StudyError(f"{path}.{parameter.name}: {self.what} {ref.key!r} needs a value here.")
        _check_types(function, ref, path)
        return function


def _check_types(function: Callable[..., Any], ref: Ref, path: str) -> None:
    """See that the parameters have the types the function declares, where its annotations can be resolved."""
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):
        return
    for name, value in ref.params.items():
        if name in hints:
            try:
                TypeAdapter(hints[name]).validate_python(value, strict=True)
            except ValidationError as error:
                raise StudyError(explain(error, prefix=f"{path}.{name}")) from None


def _name(target: str | Callable[..., Any]) -> str:
    if isinstance(target, str):
        return target
    module = target.__module__
    if module == "__main__" and (spec := getattr(sys.modules["__main__"], "__spec__", None)):
        module = spec.name
    return f"{module}:{getattr(target, '__qualname__', type(target).__qualname__)}"


_HERE = "evidentia.studies.harness"

datasets = Registry(
    "dataset",
    {
        key: f"{_HERE}.data.datasets:{key}"
        for key in ("diabetes", "diabetes_wide", "digits", "iris", "tanh", "wine")
    }
    | {"csv": f"{_HERE}.data.table_file:csv"}
    | {
        key: f"{_HERE}.data.evidence_data:{key}"
        for key in ("eight_schools", "correlated_rows", "few_numbers", "breast_cancer")
    }
    | {"gaussian_factor": f"{_HERE}.handlers.sampling_models:gaussian_factor"},
)
models = Registry(
    "model",
    {"subset_regression": f"{_HERE}.handlers.subset_models:subset_regression"}
    | {key: f"{_HERE}.handlers.autoencoders:{key}" for key in ("vae", "vae_ard", "discrete_vae")}
    | {"headed_vae": f"{_HERE}.handlers.pixel_heads:headed_vae"}
    | {
        key: f"{_HERE}.handlers.evidence_models:{name}"
        for key, name in {
            "eight_schools": "EightSchools",
            "nig_regression": "NormalInverseGammaRegression",
            "normal_mean": "NormalMean",
            "funnel": "Funnel",
            "square": "Square",
            "two_modes": "TwoModes",
            "hidden_mode": "HiddenMode",
            "hierarchical_logistic": "HierarchicalLogistic",
        }.items()
    }
    | {
        key: f"{_HERE}.handlers.sampling_models:{name}"
        for key, name in {"correlated_gaussian": "CorrelatedGaussian", "neal_funnel": "NealFunnel"}.items()
    },
)
guides = Registry("guide")
inferences = Registry(
    "inference",
    {
        key: f"{_HERE}.handlers.{key}:{key}"
        for key in ("svi", "nuts", "sample", "sampler_race", "evidence", "latent", "signal", "gradient_noise")
    }
    | {key: f"{_HERE}.handlers.structures:{key}" for key in ("enumerate", "structure_gibbs")}
    | {key: f"{_HERE}.handlers.latent_counts:{key}" for key in ("latent_counts", "svi_agreement")}
    | {"independent_pixels": f"{_HERE}.handlers.pixel_heads:independent_pixels"}
    | {"sbc": f"{_HERE}.handlers.calibration:sbc"}
    | {"linear_baseline": f"{_HERE}.handlers.baselines:linear_baseline"},
)
metrics = Registry(
    "metric",
    {
        "held_out_error": f"{_HERE}.handlers.prediction:held_out_error",
        "pixel_law": f"{_HERE}.handlers.pixel_heads:pixel_law",
    },
)


def register_study(function: Callable[[Any], "Study"]) -> Callable[..., "Study"]:
    """Mark a module's ``study(config)`` as the study of that module.

    The decorated function also works without an argument (it takes the module's ``Config()``), and the study
    it returns knows its module, so that ``Study.diagnose`` finds the module's figures. A study that names no
    seed has that of its configuration.

    Raises:
        StudyError: the configuration is of another type.
    """

    @wraps(function)
    def study(config: StudyConfig | None = None) -> "Study":
        module = sys.modules[function.__module__]
        expected = getattr(module, "Config", StudyConfig)
        config = expected() if config is None else config
        if not isinstance(config, expected):
            raise StudyError(
                f"{module.__name__}.study: expected its own Config, given {type(config).__name__}"
            )
        from evidentia.studies.harness.declare.study import Study

        declared = function(config)
        if not isinstance(declared, Study):
            raise StudyError(f"{module.__name__}.study: expected a Study, given {type(declared).__name__}")
        name = getattr(getattr(module, "__spec__", None), "name", None) or module.__name__
        seed = {} if "seed" in declared.model_fields_set else {"seed": config.seed}
        return declared.replace(module=name, **seed)

    study.is_study = True  # type: ignore[attr-defined]
    return study
