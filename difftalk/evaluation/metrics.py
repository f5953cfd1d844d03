"""Image metrics of frames: PSNR, SSIM and LPIPS, over the whole crop and over the mouth.

Plain functions of arrays, and LPIPS with its network. Frames are (T, H, W, 3) uint8 RGB, the true ones first.
Boxes are x0, y0, x1, y1 in pixels.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from difftalk.pretrained import table as pretrained
from difftalk.runtime.checksums import checksum
from difftalk.runtime.errors import UserError

Box = tuple[int, int, int, int]

LPIPS_BACKBONE = "alexnet-owt-7be5be79.pth"


def psnr(truth: np.ndarray, frame: np.ndarray) -> float | None:
    """Return the PSNR in dB of two uint8 arrays of one shape; None where they are identical.

    >>> round(psnr(np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 16, np.uint8)), 2)
    24.05
    """
    error = np.mean((truth.astype(np.float64) - frame.astype(np.float64)) ** 2)
    return None if error == 0 else float(10 * np.log10(255**2 / error))


def ssim_map(truth: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return the SSIM at each pixel, (H, W), with the Gaussian window of Wang et al. 2004.

    The mean over channels; sigma 1.5 in 11 pixels, population covariance, range 255. The map has its borders,
    so that the SSIM of a region is its mean there. It equals skimage's, in a third of its time.
    """
    import cv2

    kernel = cv2.getGaussianKernel(11, 1.5)

    def blur(values: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(values, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT)

    a, b = truth.astype(np.float64), frame.astype(np.float64)
    mean_a, mean_b = blur(a), blur(b)
    squared = mean_a * mean_a + mean_b * mean_b
    product = mean_a * mean_b
    variances = blur(a * a + b * b) - squared
    covariance = blur(a * b) - product
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * product + c1) * (2 * covariance + c2) / ((squared + c1) * (variances + c2))
    return np.asarray(similar.mean(axis=2))


def ssim(truth: np.ndarray, frame: np.ndarray) -> float:
    """Return the SSIM of a frame as skimage has it: without the border, where the window leaves the frame."""
    return float(inner(ssim_map(truth, frame)).mean())


def inner(values: np.ndarray, border: int = 5) -> np.ndarray:
    """Return a map without its border pixels."""
    return values[border:-border, border:-border]


def region(array: np.ndarray, box: Box) -> np.ndarray:
    """Return the part of (H, W, ...) inside a box."""
    x0, y0, x1, y1 = box
    return array[y0:y1, x0:x1]


def mouth_box(landmarks: np.ndarray, size: tuple[int, int], margin: float) -> Box:
    """Return the mouth region of a clip, the same in all its frames and for all methods.

    The smallest box around points 48-67 of all frames of the true clip, enlarged on every side by `margin` of
    its longer side, rounded outwards and clipped to the frame.

    Args:
        landmarks: (T, 68, 2) of the true clip in pixels of the crop.
        size: width and height of the crop.
        margin: as a part of the longer side.
    """
    points = landmarks[:, 48:68].reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    grow = margin * (high - low).max()
    x0, y0 = np.clip(np.floor(low - grow), 0, np.array(size) - 1).astype(int)
    x1, y1 = np.clip(np.ceil(high + grow), (x0 + 1, y0 + 1), size).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


class Lpips:
    """LPIPS 0.1 with the AlexNet backbone (package `lpips`), over whole frames and over a box.

    Args:
        backbone: torchvision's file of AlexNet, or its tensors as safetensors. The heads are the package's.
        device: device that it is computed on.

    Raises:
        UserError: if the file is damaged or not AlexNet's.
    """

    def __init__(self, backbone: Path, device: str = "cpu") -> None:
        import lpips

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package calls torchvision by an old name
            # pnet_rand only keeps it from downloading: every tensor of the backbone is replaced below.
            self._model: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        try:
            state = _read_state(backbone)
            for name, parameter in self._model.net.named_parameters():
                _, layer, kind = name.split(".")
                parameter.data.copy_(state[f"features.{layer}.{kind}"])
        except Exception as e:  # noqa: BLE001 - torch.load raises many kinds for what is no state dict
            reason = " ".join(str(e).split())[:200]
            raise UserError(f"{backbone}: not the AlexNet backbone of LPIPS: {reason}") from None
        self._model = self._model.to(device).eval().requires_grad_(False)
        self._device = device

    def __call__(
        self, truth: np.ndarray, frames: np.ndarray, box: Box, batch: int = 32
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the LPIPS of each frame, and the mean of its map inside `box`, (T,) float64 both.

        The map is each layer's, resized to the frame bilinearly, as the package's `spatial` does: the mouth
        alone would be too small for the backbone.
        """
        import torch

        whole, inside = [], []
        with torch.no_grad():
            for i in range(0, len(frames), batch):
                maps = self._maps(self._tensor(truth[i : i + batch]), self._tensor(frames[i : i + batch]))
                whole.append(sum(m.mean(dim=(1, 2, 3)) for m in maps).double().cpu().numpy())
                full: Any = sum(
                    torch.nn.functional.interpolate(
                        m, frames.shape[1:3], mode="bilinear", align_corners=False
                    )
                    for m in maps
                )
                x0, y0, x1, y1 = box
                inside.append(full[:, 0, y0:y1, x0:x1].mean(dim=(1, 2)).double().cpu().numpy())
        return np.concatenate(whole), np.concatenate(inside)

    def _maps(self, a: Any, b: Any) -> list[Any]:
        """Weighted squared differences of unit features, one (B, 1, h, w) per layer."""
        from lpips import normalize_tensor

        model = self._model
        features = (model.net(model.scaling_layer(x)) for x in (a, b))
        return [
            head((normalize_tensor(p) - normalize_tensor(q)) ** 2)
            for head, p, q in zip(model.lins, *features, strict=True)
        ]

    def _tensor(self, frames: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def _read_state(path: Path) -> dict[str, Any]:
    """The tensors of a file of weights, by name."""
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    check_hash(path)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def check_hash(path: Path) -> None:
    """Compare a file's sha256 with the digits in its name, `name-7be5be79.pth`, as torch.hub does.

    Raises:
        UserError: if they differ.
    """
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if named and not (found := checksum(path)).startswith(named[1]):
        raise UserError(f"its sha256 starts with {found[:8]}, not with {named[1]}: damaged or cut short")


def find_lpips_backbone(configured: str | None) -> Path | None:
    """Return the file of the AlexNet backbone; None where there is none. Nothing is downloaded.

    It is the configured file, or else the pretrained weights `alexnet`, or else torch.hub's cached file.

    Raises:
        UserError: if the configured file does not exist.
    """
    if configured:
        if not Path(configured).is_file():
            raise UserError(f"evaluation.lpips_backbone: {configured} does not exist")
        return Path(configured)
    if (kept := pretrained.present("alexnet")) is not None:
        return kept
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_BACKBONE
    return path if path.is_file() else None
