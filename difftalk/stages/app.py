"""Serve a page in the browser on which a face and a sound become a video."""

from difftalk.config.numbers import Megabytes, Port, Seconds
from difftalk.config.sampling import Sampling
from difftalk.runtime.arguments import InputFolder


def run(
    *,
    model: InputFolder,
    settings: Sampling | None = None,
    host: str = "127.0.0.1",
    port: Port = 7860,
    max_seconds: Seconds = 120.0,
    max_megabytes: Megabytes = 200.0,
) -> None:
    """Serve the page until it is told to end; it needs the extra `app`.

    Args:
        model: folder of a trained model.
        settings: the section `sampling` of a configuration, as JSON, of which the page changes the steps;
            without it, as suits the model.
        host: address to listen at; by default none but this machine can reach it.
        port: to listen at; 0: any that is free.
        max_seconds: longest sound that is taken, and longest video that is made.
        max_megabytes: largest file that is taken.

    Raises:
        UserError: if the extra is not installed, or the model or the address cannot be used.
    """
    from difftalk.app.server import serve
    from difftalk.app.uploads import Limits

    serve(model, settings, Limits(max_seconds, max_megabytes), host, port)
