"""Speech from text by espeak-ng, called in-process, with the time of every phoneme; and something to say.

The library and its data come with the package `espeakng-loader`. Calls run one at a time, for
espeak-ng keeps global state; each begins from the same state, so the same words in the same voice give
the same samples.
"""

import _ctypes
import atexit
import ctypes
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

# From espeak-ng's speak_lib.h.
_SYNCHRONOUS, _PHONEME_EVENTS, _DONT_EXIT = 2, 0x0001, 0x8000
_EVENT_END, _EVENT_PHONEME = 0, 7
_CHARS_UTF8, _POSITION_CHARACTER = 1, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_LONGEST_PATH = 120  # espeak-ng copies its data path into short fixed buffers

_REMEDY = "Install it with `pip install espeakng-loader`."

_lock = threading.Lock()


class VoiceError(RuntimeError):
    """espeak-ng is missing or refused to speak; the message says what to do."""


@dataclass(frozen=True)
class Phoneme:
    """One phoneme from start_s to end_s, in seconds; name as espeak-ng writes it, stress marks removed.

    "_" is a pause.
    """

    start_s: float
    end_s: float
    name: str


@dataclass(frozen=True)
class Speech:
    """Spoken text: samples (N,) int16 mono at sample_rate Hz, and its phonemes in order."""

    samples: np.ndarray
    sample_rate: int
    phonemes: list[Phoneme]


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def speak(text: str, *, pitch: int = 50, rate: int = 170, voice: str = "en-us") -> Speech:
    """Speak a text.

    pitch: 0 to 99. rate: words per minute, 80 to 450. voice: an espeak-ng voice, e.g. "en-us" or "en-us+f3".
    Raises VoiceError where espeak-ng is missing or does not know the voice.
    """
    blocks: list[bytes] = []
    events: list[tuple[int, str]] = []

    def collect(samples: Any, count: int, event: Any) -> int:
        if samples and count:
            blocks.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while event[index].type != _EVENT_END:
            if event[index].type == _EVENT_PHONEME:
                events.append((event[index].sample, event[index].id.string.decode("utf-8", "replace")))
            index += 1
        return 0

    callback = _Callback(collect)
    encoded = text.encode() + b"\0"
    with _espeak() as (library, sample_rate):
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise VoiceError(f"espeak-ng has no voice {voice!r}")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        for parameter, value in ((_RATE, rate), (_VOLUME, 100), (_PITCH, pitch), (_RANGE, 50)):
            library.espeak_SetParameter(parameter, int(value), 0)
        status = library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded)), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        if status != 0:
            raise VoiceError(f"espeak-ng failed with status {status} on {text!r}")
    samples = np.frombuffer(b"".join(blocks), np.int16).copy()
    return Speech(samples, sample_rate, _phonemes(events, len(samples), sample_rate))


def sentence(rng: np.random.Generator, words: int = 9) -> str:
    """Make up an English-like sentence of about the given number of words (2 or more)."""

    def pick(kind: str) -> str:
        return str(rng.choice(_VOCABULARY[kind]))

    subject = [pick("name")] if rng.random() < 0.3 else [pick("determiner"), pick("adjective"), pick("noun")]
    said = (subject if words > 3 else [pick("name")]) + [pick("verb")]
    while len(said) < words:
        left = words - len(said)
        if left == 1:
            said += [pick("adverb")]
        elif left == 2:
            said += [pick("determiner"), pick("noun")]
        elif left < 6 or rng.random() < 0.6:
            said += [pick("preposition"), pick("determiner")]
            said += [pick("adjective"), pick("noun")] if left > 3 else [pick("noun")]
        else:
            said[-1] += ","
            said += [pick("conjunction"), pick("determiner"), pick("noun"), pick("verb")]
    text = " ".join(said)
    return text[0].upper() + text[1:] + "."


def _phonemes(events: list[tuple[int, str]], count: int, sample_rate: int) -> list[Phoneme]:
    """Turn the starts of phonemes, in samples, into intervals; the last one ends with the audio."""
    found = []
    for (start, name), (end, _) in pairwise([*events, (count, "")]):
        name = name.lstrip("',%=|")
        if end > start and name:
            found.append(
                Phoneme(start / sample_rate, end / sample_rate, "_" if name.startswith("_") else name)
            )
    return found


@contextmanager
def _espeak() -> Iterator[tuple[ctypes.CDLL, int]]:
    """espeak-ng as it is after loading, with its sample rate.

    Its oscillators and noise carry on from one text to the next, even through espeak_Terminate. Loading the
    library again for each text (1 ms) is what makes a text sound the same whatever was said before.
    """
    library_path, data_path = _paths()
    with _lock:
        try:
            library = ctypes.CDLL(library_path)
        except OSError as error:
            raise VoiceError(f"cannot load espeak-ng from {library_path}: {error}. {_REMEDY}") from error
        try:
            sample_rate = library.espeak_Initialize(
                _SYNCHRONOUS, 0, os.fsencode(data_path), _PHONEME_EVENTS | _DONT_EXIT
            )
            if sample_rate <= 0:
                raise VoiceError(f"espeak-ng cannot read its data in {data_path}. {_REMEDY}")
            yield library, sample_rate
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)


@lru_cache(maxsize=1)
def _paths() -> tuple[str, str]:
    """Where the shared library and its data lie."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise VoiceError(f"the package espeakng-loader is not installed. {_REMEDY}") from error
    library, data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
    if not Path(data).is_dir():
        raise VoiceError(f"espeak-ng has no data in {data}. {_REMEDY}")
    if len(os.fsencode(data)) > _LONGEST_PATH:
        folder = tempfile.mkdtemp(prefix="espeak-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        link = Path(folder, "espeak-ng-data")
        link.symlink_to(data, target_is_directory=True)
        data = str(link)
    return str(library), str(data)


_WORDS = {
    "determiner": "the a my our your his her this that one some every",
    "name": """
        Mama Papa Bob Pam Tom Amy Emma Molly Bruno Fiona Paul Barbara Oscar Sophie Mark Anna Julia
        Robert Victor Naomi Abby Moby Eva Leo""",
    "noun": """
        apple baby ball balloon banana barn basket beach bear bee bell bird boat book bottle bowl
        box boy bread bridge brother bubble bus butter butterfly cabin camel camp car carpet castle
        cat cave chair cheese cloud coat coffee cow cup dog door dragon dream drum elephant family
        farm farmer father feather field fire fish flower food fork fox friend frog garden gate
        glove goat grandma green guitar hammer harbor hat hill home honey horse house island jam
        kitchen kite lake lamb lamp leaf letter lemon lion map market meadow meal milk mirror money
        monkey moon morning mother mountain mouse movie music night noodle ocean onion orange palm
        panda paper park party path peach pearl people pepper piano picture pie pig pillow pizza
        plane plum pocket poem pond pony potato puppy purple puzzle rabbit radio rain ribbon river
        road robot roof room rope rose school sea sheep ship shoe snow soap song soup spoon spring
        star stone storm story street summer sun table tiger tomato tower town toy train tree tulip
        valley village violin wagon wall water wave wheel whale wind window winter wolf woman wood
        zebra""",
    "adjective": """
        amber amazing beautiful big blue bold brave bright broken brown busy calm careful cheap
        clean clever cold cool curious deep empty famous fancy fast fat fine foggy free fresh
        friendly full funny gentle golden good gray great green happy heavy high hollow hot huge
        humble lazy little lonely long loud lovely lucky mad marble modern muddy narrow new noble
        old open orange pale patient perfect pink plain poor proud pure purple quiet rapid red rich
        rough round sad sharp shiny silver simple slow small smart smooth soft sour square steep
        strong sunny sweet tall tame tiny tired tough warm weak wet white whole wild wise wooden
        yellow young""",
    "verb": """
        adopts asks babbles bakes beams begins believes blows borrows bounces breaks brings builds
        buys calls carries catches climbs combs cooks crawls dances digs draws dreams drives drops
        falls feeds feels finds fixes floats flies follows forms gathers gives goes grabs grows
        hears helps hides holds hopes hums hunts imagines jumps keeps knows laughs leaps learns
        leaves lifts looks loves makes meets moves needs offers opens paints passes pays picks plays
        plants pops pours prepares promises pulls pushes puts reads remembers rides rolls roars rows
        runs sails saves sees sells shops shows sings skips sleeps smiles speaks stops swims takes
        talks teaches tells throws tumbles visits waits walks wants warms washes watches waves
        whispers wins wonders works writes""",
    "preposition": """
        above across after against along among around before behind below beneath beside between
        beyond by for from inside into near of off on over past through to toward under upon with
        without""",
    "conjunction": "and but so while because before until",
    "adverb": """
        again almost always away boldly calmly early everywhere fast happily home later loudly maybe
        more never often outdoors perhaps quickly quietly slowly somehow soon together tomorrow
        twice warmly""",
}
_VOCABULARY = {kind: words.split() for kind, words in _WORDS.items()}
