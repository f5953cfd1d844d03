"""The model card: README.md of a trained model's folder, from the facts of its training alone."""

import json
from importlib.metadata import version
from typing import Any

from difftalk import __version__
from difftalk.media.clock import FPS
from difftalk.reporting.render import render

# What the card says of the data where the training has recorded it, in this order.
DATA = ("run", "dataset", "split", "clips", "identities", "frames", "shards", "shards_sha256")
SHOWN_LOSSES = 8


def model_card(
    name: str, conditions: tuple[str, ...], facts: dict[str, Any], log: list[dict[str, Any]]
) -> str:
    """Return the text of README.md.

    Nothing that a clock or a machine decides is in it, so that the same training gives the same card.

    Args:
        name: of the model.
        conditions: the model's conditioning inputs.
        facts: `settings` (those of the training), `parameters` (of each network), `first_stage` (its
            `training.json`), and of `DATA` what is known.
        log: entries with `step` and `loss`.
    """
    settings: dict[str, Any] = facts.get("settings", {})
    steps = settings.get("steps", log[-1]["step"] if log else None)
    run = f"results/{facts.get('run', 'demo')}"
    # The velocity model of a short training is worse with many steps: docs/train.md.
    few = settings.get("prediction_type") == "v_prediction"
    losses = [entry for entry in log if "loss" in entry]
    shown = losses[:: max(1, len(losses) // SHOWN_LOSSES)][:-1] + losses[-1:]
    parameters: dict[str, int] = facts.get("parameters", {})
    first_stage: dict[str, Any] = facts.get("first_stage", {})
    packages = {"difftalk": __version__, **{p: version(p) for p in ("torch", "diffusers")}}
    return render(
        "card.md.j2",
        name=name,
        conditions=conditions,
        data=_data(facts),
        training=[(key, _text(value)) for key, value in {"steps done": steps, **settings}.items()],
        losses=[(str(entry["step"]), f"{entry['loss']:.5f}") for entry in shown],
        first_stage=[
            (key, _text(value)) for key, value in first_stage.items() if not isinstance(value, dict)
        ],
        parameters=[(network, f"{count:,}") for network, count in parameters.items()],
        folder=f"{run}/models/{name}",
        run=run,
        sampling_steps=5 if few else 200,
        versions=list(packages.items()),
    )


def _data(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known of the training data."""
    known = {key: _short(facts[key]) for key in DATA if key in facts}
    if "hours" in facts:
        known["hours"] = _short(facts["hours"])
    elif "frames" in facts:
        known["hours"] = f"{facts['frames'] / FPS / 3600:.2f}"
    return list(known.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(value: Any) -> str:
    """A list by its length and its ends."""
    if isinstance(value, list) and len(value) > 6:
        return f"{len(value)}: {value[0]} to {value[-1]}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
