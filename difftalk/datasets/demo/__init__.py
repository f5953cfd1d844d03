"""Speakers that need no download: drawn faces (`faces`) that speak (`voice`, `mouth`), rendered by `render`."""
