"""Whether the meter is fit: what each task is waiting for, if anything."""


class Health:
    def __init__(self) -> None:
        self._ills: dict[str, str] = {}
        self.started = False
        self.draining = False

    def ill(self, task: str, reason: str) -> None:
        self._ills[task] = reason

    def well(self, task: str) -> None:
        self._ills.pop(task, None)

    @property
    def ready(self) -> bool:
        return self.started and not self.draining and not self._ills

    @property
    def report(self) -> dict[str, str]:
        """What keeps the meter from being ready, by task."""
        report = dict(self._ills)
        if self.draining:
            report["meter"] = "finishing its batches, then it ends"
        elif not self.started:
            report["meter"] = "starting"
        return report
