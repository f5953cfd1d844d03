"""The page: two uploads, three options, a button, and the result beside the source."""

import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftalk.app import view
from difftalk.app.isolated import Cancelled, Step
from difftalk.app.jobs import Made, Options, Studio
from difftalk.config.sampling import Sampling
from difftalk.runtime.errors import UserError

if TYPE_CHECKING:
    import gradio

# Divisors of 1000, as DDIM takes them.
STEPS = (2, 5, 10, 20, 50, 100, 200)
LENGTHS = {"the sound": "audio", "the video": "video"}
FACES = {
    "the largest": "largest",
    "the leftmost": "left",
    "the second from the left": "2",
    "the third from the left": "3",
    "the rightmost": "right",
}
# A pass is as fast as it was so far; the first moments say nothing of that.
SETTLED_S = 2.0
# Uploads that no open page needs any more, seconds: looked for how often, and how old.
TIDY_S = (600, 3600)

NO_SOURCE = view.empty("Source", "A video or a picture of a face, looking at you")
NO_RESULT = view.empty("Result", "The video will be here")

CSS = files("difftalk.app").joinpath("page.css").read_text(encoding="utf-8")
SCRIPT = files("difftalk.app").joinpath("page.js").read_text(encoding="utf-8")


class Pace:
    """Tells from the steps of a pass how long it will take."""

    def __init__(self) -> None:
        self._name, self._began_s, self._first = "", 0.0, 0

    def left_s(self, step: object) -> float | None:
        """Return the seconds that are left after a step; None where that cannot be told yet."""
        if not isinstance(step, Step):
            return None
        now = time.monotonic()
        if step.name != self._name:
            self._name, self._began_s, self._first = step.name, now, step.done
        took, passed = now - self._began_s, step.done - self._first
        return (step.total - step.done) * took / passed if passed and took > SETTLED_S else None


def build(studio: Studio, settings: Sampling) -> "gradio.Blocks":
    """Return the page.

    Args:
        studio: what does the work.
        settings: of the sampling, as suggested; the page changes the steps.
    """
    import gradio as gr

    def session(request: gr.Request) -> Any:
        return studio.session(str(request.session_hash))

    def face_chosen(given: str | None, request: gr.Request) -> dict[Any, Any]:
        own = session(request)
        try:
            studio.take(own, "face", _path(given), _name(given))
        except UserError as e:
            return {source: NO_SOURCE, result: NO_RESULT, status: view.refused(str(e))}
        face = own.uploads.get("face")
        shown = view.source(face) if face else NO_SOURCE
        return {source: shown, result: NO_RESULT, status: view.idle(_next_move(own))}

    def sound_chosen(given: str | None, request: gr.Request) -> dict[Any, Any]:
        own = session(request)
        try:
            studio.take(own, "sound", _path(given), _name(given))
        except UserError as e:
            return {status: view.refused(str(e))}
        return {status: view.idle(_next_move(own))}

    def run(
        face: str | None,
        sound: str | None,
        steps: int,
        which: str,
        length: str,
        closes: bool,
        marks: bool,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        own, pace = session(request), Pace()
        idle = {start: gr.update(interactive=True), stop: gr.update(interactive=False)}
        try:
            # As a rule they have been taken when they were chosen.
            studio.take(own, "face", _path(face), _name(face))
            studio.take(own, "sound", _path(sound), _name(sound))
            chosen = settings.model_copy(update={"steps": int(steps)})
            options = Options(
                chosen,
                length="video" if length == "video" else "audio",
                face=which,
                silence="closed" if closes else "audio",
                marked=marks,
            )
            job = studio.enter(own, options)
            busy = {start: gr.update(interactive=False), stop: gr.update(interactive=True)}
            yield {result: NO_RESULT, status: view.working(None, None), **busy}
            for state in studio.watch(job):
                if isinstance(state, Made):
                    yield {result: view.result(state), status: view.done(state), **idle}
                else:
                    yield {status: view.working(state, pace.left_s(state))}
        except UserError as e:
            yield {result: NO_RESULT, status: view.refused(str(e)), **idle}
        except Cancelled:
            yield {result: NO_RESULT, status: view.idle("Cancelled."), **idle}

    def cancel(request: gr.Request) -> None:
        studio.cancel(session(request))

    def closed(request: gr.Request) -> None:
        studio.leave(str(request.session_hash))

    steps = sorted({*STEPS, settings.steps})
    with gr.Blocks(title="difftalk", analytics_enabled=False, delete_cache=TIDY_S) as page:
        gr.HTML(view.header(studio.model.resolve().name, studio.limits))
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                face = gr.File(label="Face: a video or a picture", height=120, elem_id="face")
                sound = gr.Audio(
                    label="Sound: a file, or your voice",
                    sources=["upload", "microphone"],
                    type="filepath",
                    buttons=[],
                    elem_id="sound",
                )
                with gr.Group():
                    chosen_steps = gr.Dropdown(
                        [(f"{n} (suggested)" if n == settings.steps else str(n), n) for n in steps],
                        value=settings.steps,
                        label="Sampling steps",
                        info="More take longer, and are not always better",
                        elem_id="steps",
                    )
                    which = gr.Dropdown(
                        list(FACES.items()), value="largest", label="Of several faces", elem_id="which"
                    )
                    length = gr.Radio(
                        list(LENGTHS.items()), value="audio", label="Length is decided by", elem_id="length"
                    )
                    closes = gr.Checkbox(label="Settle the mouth where nobody speaks", elem_id="silence")
                    marks = gr.Checkbox(label="Write “synthetic” into each frame", elem_id="mark")
                with gr.Row():
                    start = gr.Button("Run", variant="primary", elem_id="run")
                    stop = gr.Button("Cancel", interactive=False, elem_id="cancel", min_width=80)
            with gr.Column(scale=5, min_width=300):
                with gr.Row():
                    with gr.Column(min_width=240):
                        source = gr.HTML(NO_SOURCE)
                    with gr.Column(min_width=240):
                        result = gr.HTML(NO_RESULT)
                status = gr.HTML(view.idle(), elem_id="status")
        for field in (face, sound):
            _take_no_addresses(field)
        quiet: dict[str, Any] = {
            "show_progress": "hidden",
            "concurrency_limit": None,
            "api_visibility": "private",
        }
        face.change(face_chosen, face, [source, result, status], **quiet)
        sound.change(sound_chosen, sound, status, **quiet)
        inputs = [face, sound, chosen_steps, which, length, closes, marks]
        start.click(run, inputs, [result, status, start, stop], **quiet)
        stop.click(cancel, queue=False, **quiet)
        page.unload(closed)
    # The studio has a queue of its own, and says more of it.
    page.queue(default_concurrency_limit=None)
    return page


def theme() -> Any:
    """Return the look of the page, with fonts of the reader's machine alone."""
    import gradio as gr

    own = ["ui-sans-serif", "system-ui", "sans-serif"]
    look = gr.themes.Default(
        primary_hue="teal", font=own, font_mono=["ui-monospace", "monospace"], radius_size="md"
    )
    return look.set(block_info_text_color="*neutral_500", block_info_text_color_dark="*neutral_400")


def _take_no_addresses(field: Any) -> None:
    """Keep the server from fetching what a request made by hand gives as the address of an upload."""
    keep = field.async_move_resource_to_block_cache

    async def keep_files(path: Any) -> str | None:
        if "://" in str(path):
            raise ValueError("an address, not a file")
        kept: str | None = await keep(path)
        return kept

    field.async_move_resource_to_block_cache = keep_files


def _next_move(own: Any) -> str:
    lacking = [role for role in ("face", "sound") if role not in own.uploads]
    if len(lacking) == 2:
        return view.START
    return f"Now choose a {lacking[0]}." if lacking else "Ready: press Run."


def _path(given: str | None) -> Path | None:
    return Path(given) if given else None


def _name(given: str | None) -> str:
    return Path(given).name if given else ""
