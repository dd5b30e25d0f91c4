"""A run folder as a finished study leaves it, written without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from evidentia.studies.harness.declare.points import canon
from evidentia.studies.harness.reporting.verdict import check

FEATURES = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
INCLUSION = (0.0459, 0.9790, 1.000, 0.9999, 0.5696, 0.3789, 0.5684, 0.2029, 1.000, 0.0735)
LEADING = (
    ("{sex, bmi, bp, s3, s5}", 0.2810, 140.9302),
    ("{sex, bmi, bp, s1, s2, s5}", 0.2219, 140.6940),
    ("{sex, bmi, bp, s1, s4, s5}", 0.1156, 140.0416),
)
DATA = {"key": "diabetes", "params": {}}
SHA = "9f" * 32
PRIORS = ("g-prior, uniform", "g-prior, beta-binomial", "N(0, 1), uniform")


def structures(shift: float = 0.0) -> pd.DataFrame:
    """A posterior over 1024 structures that starts with the known leaders."""
    rest = 1024 - len(LEADING)
    tail = np.geomspace(1.0, 1e-6, rest)
    tail *= (1 - sum(p for _, p, _ in LEADING)) / tail.sum()
    names = [f"{{{', '.join(f for i, f in enumerate(FEATURES) if (n >> i) & 1)}}}" for n in range(rest)]
    return pd.DataFrame(
        {
            "structure": [name for name, *_ in LEADING] + names,
            "log_evidence": [value + shift for *_, value in LEADING] + list(135 + np.log(tail)),
            "standard_error": 0.0,
            "kind": "exact",
            "log_prior": -np.log(1024.0),
            "probability": [p for _, p, _ in LEADING] + list(tail),
            "probability_se": np.nan,
            "num_parameters": [5, 6, 6] + [name.count(",") + 1 for name in names],
        }
    )


def inclusion(shift: float = 0.0) -> pd.DataFrame:
    """Inclusion probabilities of the ten features."""
    return pd.DataFrame(
        {"op": FEATURES, "probability": np.clip(np.add(INCLUSION, shift), 0, 1), "standard_error": 0.004}
    )


def write_json(path: Path, value: Any) -> None:
    """Write JSON as a run does."""
    path.write_text(json.dumps(value, sort_keys=True, indent=1) + "\n", encoding="utf-8")


def write_run(
    folder: Path,
    *,
    name: str = "structure-diabetes",
    description: str = (
        "Which of ten measurements predict the progression of diabetes?\n"
        "442 patients, ten features standardised; all 1024 subsets under three priors."
    ),
    priors: tuple[str, ...] = PRIORS,
    sha: str = SHA,
    observations: int = 442,
    done: bool = True,
    figures: bool = False,
) -> Path:
    """Write the folder of a run with one point per prior, and return it."""
    folder.mkdir(parents=True)
    config = {
        "schema": 1,
        "name": name,
        "description": description,
        "tags": ["structure"],
        "data": DATA,
        "model": {"key": "subset_regression", "params": {"prior": "g", "model_prior": "uniform"}},
        "inference": {"key": "enumerate", "params": {"evidence": "exact"}},
        "seed": 0,
        "grid": [{"model.prior": list(priors)}],
        "expect": [
            {"text": "bmi enters under every prior", "metric": "bmi", "op": ">", "value": 0.99},
            {"text": "age stays out under every prior", "metric": "age", "op": "<", "value": 0.01},
            {
                "text": "the N(0, 1) prior leaves less for s4",
                "metric": "s4",
                "where": {"prior": "N(0, 1)"},
                "op": "<",
                "than": {},
            },
        ],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    write_json(
        folder / "environment.json",
        {
            "schema": 1,
            "versions": {"evidentia": "0.1.0", "torch": "2.13.0", "pyro-ppl": "1.9.2", "arviz": "0.23.4"},
            "python": "3.11.7",
            "machine": "Linux-6.1-x86_64",
            "cpu": "A processor with a rather long model name @ 2.50GHz",
            "threads": 1,
            "dtype": "float32",
            "device": "cpu",
            "git": {"commit": "0123456789abcdef", "dirty": False},
            "command": ["evidentia", "run", name, "--set", "inference.evidence=exact", "--seed", "0"],
            "data": {canon(DATA): sha},
        },
    )
    rows = []
    for number, prior in enumerate(priors):
        identity = f"{number:012x}"
        point = folder / "points" / identity
        (point / "tables").mkdir(parents=True)
        posterior, included = structures(float(number)), inclusion(0.01 * number)
        posterior.to_csv(point / "tables" / "structures.csv", index=False)
        included.to_csv(point / "tables" / "inclusion.csv", index=False)
        row = {
            "point": identity,
            "log_evidence": 137.0 + number + 0.123456,
            "standard_error": 0.0,
            "kind": "exact",
            "structure": LEADING[0][0],
            **{f: included["probability"][i] for i, f in enumerate(FEATURES)},
            "seconds": 1.25 + number,
        }
        pd.DataFrame([row]).to_csv(point / "metrics.csv", index=False)
        rows.append({"prior": prior, **row})
        x = {"shape": [observations, 10], "dtype": "float64"}
        write_json(
            point / "point.json",
            {
                "schema": 1,
                "id": identity,
                "seed": 7,
                "settings": {"data": DATA},
                "varied": {"prior": prior},
                "data": {"names": list(FEATURES), "x": x, "y": {"shape": [observations], "dtype": "float64"}},
            },
        )
        checks = [
            check("stop_reason", "converged"),
            check("r_hat", 1.002 + 0.02 * (number == 2), site="gamma/x->f"),
        ]
        write_json(point / "checks.json", {"schema": 1, "checks": [one.as_dict() for one in checks]})
        write_json(
            point / "status.json", {"schema": 1, "state": "done", "heartbeat": "2026-01-01T00:00:00+00:00"}
        )
        (point / "DONE").write_text("done\n")
    if not done:
        (folder / "points" / f"{len(priors) - 1:012x}" / "DONE").unlink()
        write_json(
            folder / "points" / f"{len(priors) - 1:012x}" / "status.json",
            {
                "schema": 1,
                "state": "failed",
                "step": 70,
                "total": 400,
                "heartbeat": "2026-01-01T00:00:00+00:00",
                "error": {
                    "type": "NumericalFailure",
                    "message": "loss is not finite at step 71",
                    "site": "w",
                },
            },
        )
        rows = rows[:-1]
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    write_json(
        folder / "status.json",
        {
            "schema": 1,
            "study": name,
            "state": "done" if done else "failed",
            "heartbeat": "2026-01-01T00:00:00+00:00",
        },
    )
    (folder / "figures").mkdir()
    if figures:
        write_figures(folder / "figures", priors)
    return folder


def write_figures(folder: Path, priors: tuple[str, ...]) -> None:
    """The figures of the study, PNG and SVG."""
    from evidentia.studies.harness.figures.base import plot_simplex, save_figure
    from evidentia.studies.harness.figures.structures import plot_inclusion, plot_structures

    tables = {prior: inclusion(0.01 * number) for number, prior in enumerate(priors)}
    save_figure(plot_inclusion(tables), folder / "1-inclusion.png")
    save_figure(plot_structures(structures(), features=FEATURES), folder / "2-structures.png")
    save_figure(plot_simplex(np.random.default_rng(0).dirichlet([1, 2, 3], 50)), folder / "3-simplex.svg")
