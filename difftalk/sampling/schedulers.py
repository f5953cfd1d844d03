"""The samplers: diffusers' schedulers, set up for the noise schedule that a denoiser was trained with."""

from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from difftalk.config.sampling import TRAINING_STEPS, Sampling


def build_scheduler(trained: DDIMScheduler, settings: Sampling) -> Any:
    """Return a scheduler of diffusers with its timesteps set, for one batch.

    DDIM of a model that predicts noise has LDM's steps: 1, 1 + 1000 / steps, ..., and its last one goes to
    the lowest noise level, not to none. The others begin at the highest noise level: with the velocity as
    the prediction, and with few steps, that is what they were made for.

    Args:
        trained: the noise schedule of the training, with its `prediction_type`.
        settings: `sampler` and `steps` are read.
    """
    config = dict(trained.config)
    is_noise = config["prediction_type"] == "epsilon"
    scheduler: Any
    if settings.sampler == "ddim":
        # From 1000 steps on there is no room for an offset of one.
        offset = 1 if settings.steps < TRAINING_STEPS else 0
        spacing = "leading" if is_noise else "trailing"
        scheduler = DDIMScheduler.from_config(
            config, timestep_spacing=spacing, steps_offset=offset, set_alpha_to_one=not is_noise
        )
    elif settings.sampler == "dpm++":
        scheduler = DPMSolverMultistepScheduler.from_config(
            _betas(config), algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="trailing"
        )
    else:
        scheduler = UniPCMultistepScheduler.from_config(
            _betas(config), solver_order=2, timestep_spacing="trailing"
        )
    scheduler.set_timesteps(settings.steps)
    return scheduler


def _betas(config: dict[str, Any]) -> dict[str, Any]:
    """What the multistep schedulers have in common with DDIM's."""
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
    return {name: config[name] for name in names}
