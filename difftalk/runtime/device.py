"""The device that a stage runs on, chosen in one place."""


def default_device() -> str:
    """Return `cuda` where torch can use a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
