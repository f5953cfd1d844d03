"""Numbers that are keys of the configuration and arguments of commands: their bounds are here alone."""

from typing import Annotated

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Workers = Annotated[int, Field(ge=1, le=1024)]
TrainingProcesses = Annotated[int, Field(ge=1, le=64)]
TrainingNodes = Annotated[int, Field(ge=1, le=1024)]
TrainingWorkers = Annotated[int, Field(ge=0, le=64)]
Crf = Annotated[int, Field(ge=0, le=51)]
Switch = Annotated[int, Field(ge=0, le=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Megabytes = Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]
Days = Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)]
Gigabytes = Annotated[float, Field(ge=0, le=90_000, allow_inf_nan=False)]
