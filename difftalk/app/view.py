"""The parts of the page that are no form fields, as HTML: two panes, and what is said of the job."""

from collections.abc import Sequence
from urllib.parse import quote

from difftalk.app.isolated import Step
from difftalk.app.jobs import Made, Waiting
from difftalk.app.uploads import Limits, Upload, escaped

# What `animate` calls its passes, and what the page does.
PASSES = {"faces": "Find the face", "sampling": "Generate the mouth", "writing": "Write the video"}
START = "Choose a face and a sound, then press Run."


def header(model: str, limits: Limits) -> str:
    """Return the head of the page."""
    return (
        '<header class="dt-head"><h1>difftalk</h1>'
        "<p>A face, a sound, and a video in which the face says it.</p>"
        f'<p class="dt-fine">Model <b>{escaped(model)}</b> · up to {limits.seconds:g} s of sound · files of '
        f"up to {limits.megabytes:g} MB · all stays on the machine that runs this page, and is removed when "
        "you close it</p></header>"
    )


def empty(title: str, words: str) -> str:
    """Return a pane in which there is nothing yet."""
    return _pane(title, f'<div class="dt-none">{escaped(words)}</div>')


def source(face: Upload) -> str:
    """Return the pane of the face."""
    assert face.shown is not None
    src = file_url(str(face.shown))
    if face.is_video:
        shown = f'<video id="dt-source" src="{src}" controls playsinline preload="metadata"></video>'
    else:
        shown = f'<img id="dt-source" src="{src}" alt="the face that was chosen">'
    width, height = face.size
    facts = f"{width} × {height}"
    if face.seconds:
        facts += f" · {face.seconds:.1f} s"
        if not face.is_video:
            facts += " · its first frame, since a browser does not play this kind of file"
    return _pane("Source", shown, f"{escaped(face.name)} · {facts}")


def result(made: Made) -> str:
    """Return the pane of the video that came out."""
    src = file_url(str(made.path))
    shown = f'<video id="dt-result" src="{src}" controls playsinline preload="auto"></video>'
    save = f'<a class="dt-save" href="{src}" download="difftalk.mp4">Save the video</a>'
    return _pane("Result", shown, f"Tagged as synthetic · {save}")


def idle(words: str = START) -> str:
    """Return the line of a page that does nothing."""
    return f'<div class="dt-status" role="status">{escaped(words)}</div>'


def refused(words: str) -> str:
    """Return the line of something that cannot be done."""
    end = "" if words.endswith((".", "?", "!")) else "."
    return f'<div class="dt-status dt-refused" role="alert">{escaped(words)}{end}</div>'


def working(state: Waiting | Step | None, left_s: float | None) -> str:
    """Return how far a job is.

    Args:
        state: of the job; None: it begins.
        left_s: seconds until its pass is done, where that can be told.
    """
    if isinstance(state, Waiting):
        jobs = "one job is" if state.before == 1 else f"{state.before} jobs are"
        return f'<div class="dt-status dt-working" role="status">Waiting: {jobs} before yours.</div>'
    at = list(PASSES).index(state.name) if state is not None and state.name in PASSES else -1
    rows = []
    for k, words in enumerate(PASSES.values()):
        if k < at:
            rows.append(_row(words, "dt-done", 1.0, "done"))
        elif k == at and state is not None:
            share = state.done / max(state.total, 1)
            said = f"{state.done} of {state.total} frames"
            if left_s is not None:
                said += f" · {_time(left_s)} left"
            rows.append(_row(words, "dt-now", share, said))
        else:
            rows.append(_row(words, "", 0.0, "the model is read" if at < 0 and k == 0 else ""))
    return f'<div class="dt-status dt-working" role="status"><ol>{"".join(rows)}</ol></div>'


def done(made: Made) -> str:
    """Return what is said of a video that came out."""
    rate = made.frames / max(made.seconds, 1e-9)
    said = f"Done: {made.frames} frames in {_time(made.seconds)}, {rate:.1f} frames a second."
    return f'<div class="dt-status dt-good" role="status">{escaped(said)}{_notes(made.notes)}</div>'


def file_url(path: str) -> str:
    """Return where the server shows a file."""
    return f"/gradio_api/file={quote(path)}"


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    sentences = (f"{note[:1].upper()}{note[1:]}." for note in notes)
    return "<br>" + "<br>".join(escaped(sentence) for sentence in sentences)


def _pane(title: str, content: str, below: str = "") -> str:
    """A pane; `content` and `below` are HTML."""
    return (
        f'<figure class="dt-pane"><figcaption>{title}</figcaption><div class="dt-screen">{content}</div>'
        f'<p class="dt-fine">{below or "&nbsp;"}</p></figure>'
    )


def _row(words: str, kind: str, share: float, said: str) -> str:
    return (
        f'<li class="{kind}"><span>{words}</span><progress value="{share:.3f}" max="1"></progress>'
        f"<small>{said}</small></li>"
    )


def _time(seconds: float) -> str:
    """Seconds for people.

    >>> _time(4.2), _time(125)
    ('4 s', '2 min 5 s')
    """
    whole = max(round(seconds), 1)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"
