"""The stage contract: what `python -m stages.KIND --job URI` does, and what a stage's body works with."""

from k15.stage.context import MetricLog, StageContext, StageStopped
from k15.stage.run import run_stage
from k15.stage.watchdog import watch_stdin

__all__ = ["MetricLog", "StageContext", "StageStopped", "run_stage", "watch_stdin"]
