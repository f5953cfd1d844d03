"""Drawn speakers, who need no download: `faces` draws, `voice` and `mouth` speak, `render` writes videos."""
