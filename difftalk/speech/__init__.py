"""Speech features at 50 steps a second, their table, and their windows around frames."""
