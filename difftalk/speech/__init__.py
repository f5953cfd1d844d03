"""Speech: features at 50 steps a second (`features`, `mfcc`) and their windows around frames (`windows`)."""
