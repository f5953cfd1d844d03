// While the result plays, a source video plays beside it, silent and at the same time.
for (const what of ["play", "pause", "seeked"]) {
  document.addEventListener(what, (event) => {
    const source = document.getElementById("dt-source");
    if (event.target.id !== "dt-result" || !source || source.tagName !== "VIDEO") return;
    source.muted = true;
    const at = event.target.currentTime;
    source.currentTime = Math.min(at, source.duration || at);
    if (what === "pause" || at >= source.duration) source.pause();
    else if (!event.target.paused) source.play().catch(() => {});
  }, true);
}
