"""Voice activity: Silero VAD 6 (MIT), whose weights come with the package `silero-vad`, computed with NumPy.

The package is located and never imported: it would bring torch into stages that have no other network, and
its own loader runs a TorchScript archive. Of its ONNX file, which has the same weights, the tensors alone are
read. (Its safetensors file holds the weights of another version.)
"""

from functools import cache

import numpy as np

from difftalk.pretrained.onnx_tensors import read_tensors
from difftalk.pretrained.package_files import package_file

WEIGHTS = "data/silero_vad_16k_op15.onnx"
# The network sees 32 ms, with the last 4 ms before them.
WINDOW, CONTEXT = 512, 64
# Of its short-time Fourier transform, whose last window is filled up by reflection.
FFT, HOP, REFLECTED = 256, 128, 64
SPEECH_PROBABILITY = 0.5
# Windows that are encoded at a time, about a minute: the memory does not grow with the length.
BLOCK = 2048


def speech_share(audio: np.ndarray) -> float | None:
    """Return the part of the audio, 0..1, that is speech; None without audio.

    Args:
        audio: `(N,)` int16 mono 16 kHz.

    Raises:
        UserError: if the package `silero-vad` is not installed.
    """
    probabilities = speech_probabilities(audio)
    return float((probabilities >= SPEECH_PROBABILITY).mean()) if len(probabilities) else None


def speech_probabilities(audio: np.ndarray) -> np.ndarray:
    """Return how likely each 32 ms are speech: `(ceil(N / 512),)` float32 in 0..1.

    The last ones are filled up with silence.

    Args:
        audio: `(N,)` int16 mono 16 kHz.

    Raises:
        UserError: if the package `silero-vad` is not installed.
    """
    count = -(-len(audio) // WINDOW)
    if count == 0:
        return np.zeros(0, np.float32)
    w = weights()
    padded = np.zeros(CONTEXT + count * WINDOW, np.float32)
    padded[CONTEXT : CONTEXT + len(audio)] = audio / np.float32(32768)
    windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + WINDOW)[::WINDOW]
    encoded = [_encoded(windows[k : k + BLOCK], w) for k in range(0, count, BLOCK)]
    hidden = _lstm(np.concatenate(encoded), w)
    logits = np.maximum(hidden, 0) @ w["decoder.decoder.2.weight"][0, :, 0] + w["decoder.decoder.2.bias"]
    return _sigmoid(logits).astype(np.float32)


def _encoded(windows: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """Return what the LSTM sees, `(N, 128)`, of windows `(N, CONTEXT + WINDOW)`."""
    windows = np.concatenate([windows, windows[:, -2 : -2 - REFLECTED : -1]], axis=1)
    pieces = np.lib.stride_tricks.sliding_window_view(windows, FFT, axis=1)[:, ::HOP]
    spectrum = (pieces @ w["stft.forward_basis_buffer"][:, 0].T).transpose(0, 2, 1)
    bins = FFT // 2 + 1
    x = np.sqrt(spectrum[:, :bins] ** 2 + spectrum[:, bins:] ** 2)
    for layer, stride in enumerate((1, 2, 2, 1)):
        name = f"encoder.{layer}.reparam_conv"
        x = np.maximum(_convolve(x, w[f"{name}.weight"], stride) + w[f"{name}.bias"][:, None], 0)
    return x[:, :, 0]


def _convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Convolve `(N, C, T)` with kernels `(O, C, 3)`, zeros beyond both ends: `(N, O, T')`."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=2)[:, :, ::stride]
    return np.tensordot(pieces, kernel, axes=([1, 3], [1, 2])).transpose(0, 2, 1)


def _lstm(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """Return the hidden state `(N, 128)` of the LSTM after each input `(N, 128)`."""
    given = x @ w["decoder.rnn.weight_ih"].T + w["decoder.rnn.bias_ih"] + w["decoder.rnn.bias_hh"]
    recurrent = np.ascontiguousarray(w["decoder.rnn.weight_hh"].T)
    size = recurrent.shape[0]
    # Of enter, forget, value and leave, `value` alone is a tanh: sigmoid(x) = (1 + tanh(x / 2)) / 2.
    scale = np.full(4 * size, 0.5, np.float32)
    scale[2 * size : 3 * size] = 1
    given, recurrent = given * scale, recurrent * scale
    hidden = cell = np.zeros(size, np.float32)
    states = np.empty((len(x), size), np.float32)
    for k, gates in enumerate(given):
        enter, forget, value, leave = np.tanh(gates + hidden @ recurrent).reshape(4, size)
        cell = 0.5 * ((1 + forget) * cell + (1 + enter) * value)
        states[k] = hidden = 0.5 * (1 + leave) * np.tanh(cell)
    return states


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


@cache
def weights() -> dict[str, np.ndarray]:
    """Return the network's weights, float32, by their names without `model.`.

    Raises:
        UserError: if the package `silero-vad` is not installed, or is another version.
    """
    path = package_file("silero_vad", WEIGHTS, "silero-vad>=6.0,<7")
    return {name.removeprefix("model."): value for name, value in read_tensors(path).items()}
