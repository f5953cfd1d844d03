"""Whether SLURM tells how jobs ended: without accounting, the head of a run would wait for them for ever."""

import subprocess

from difftalk.runtime.errors import UserError

TIMEOUT_S = 60.0


def check_status_command(command: str | None) -> None:
    """Check that the command by which the states of jobs are asked for answers.

    Args:
        command: the setting `slurm-status-command`; None without one.

    Raises:
        UserError: if it is `sacct`, and the site keeps no accounting.
    """
    if command != "sacct":
        return
    try:
        done = subprocess.run(["sacct", "-X"], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as e:
        said, status = str(e), 1
    else:
        said, status = " ".join(done.stderr.split()), done.returncode
    if status:
        raise UserError(
            f"sacct does not tell how jobs end ({said}), and this run would wait for ever: set "
            "`slurm-status-command: squeue` in the profile, and delete its lines `slurm-efficiency-report`"
        )
