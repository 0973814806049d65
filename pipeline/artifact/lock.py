"""Who works on an attempt: the lock is held by the stage's own process, and a dead process holds none."""

from filelock import FileLock, Timeout

from pipeline.artifact.attempt import Attempt


def held(attempt: Attempt) -> bool:
    """Whether a living process works on the attempt."""
    if not (attempt.folder / ".lock").is_file():
        return False
    try:
        with FileLock(attempt.folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False
