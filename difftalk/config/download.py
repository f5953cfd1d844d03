"""Section `download`: how videos are downloaded."""

from typing import Literal

from pydantic import Field

from difftalk.config.section import Section


class Download(Section):
    """How videos are downloaded. Nothing here changes what a clip is, so that nothing here causes a rerun."""

    url: str = Field(
        "https://www.youtube.com/watch?v={id}",
        pattern=r"\{id\}",
        description="URL of a video, with `{id}` for its id.",
    )
    max_height: int = Field(
        1080,
        ge=144,
        description="The best format of at most this height is taken, pixels; what is in the store stays.",
    )
    rate_limit: int | None = Field(None, ge=1, description="Of one download, bytes per second; null: none.")
    sleep_s: float = Field(3.0, ge=0, description="Wait before each video, seconds.")
    request_sleep_s: float = Field(0.75, ge=0, description="Wait between requests about a video, seconds.")
    attempts: int = Field(
        5, ge=1, description="Attempts at a video while the site is busy, before the job fails."
    )
    backoff_s: float = Field(
        30.0, ge=0, description="Wait before the second attempt, seconds; doubled each time after."
    )
    ask_again_days: int = Field(
        1,
        ge=0,
        description="A video that the site does not give (removed, private, ...) is asked for again when so "
        "many days have passed: a job that is killed does not ask twice, another run may find it there.",
    )
    timeout_s: float = Field(30.0, gt=0, description="Wait for a response, seconds.")
    cookies: str | None = Field(
        None, description="File of cookies in Netscape's format; it is read, never changed or kept."
    )
    proxy: str | None = Field(None, description="URL of a proxy.")
    js_runtime: Literal["deno", "node", "bun", "quickjs"] = Field(
        "deno",
        description="Program on the PATH with which yt-dlp runs a site's JavaScript; YouTube needs one.",
    )
