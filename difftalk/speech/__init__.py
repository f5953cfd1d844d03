"""Speech: features at 50 steps a second (`features`) and their windows around frames (`windows`)."""
