"""What a sandbox service counts, in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from k15.programs import CaseResult

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter("k15_sandbox_jobs", "Jobs by outcome", ["status"], registry=self.registry)
        self.cases = Counter(
            "k15_sandbox_cases", "Cases by outcome", ["language", "status"], registry=self.registry
        )
        self.refused = Counter("k15_sandbox_refused", "Jobs not admitted", ["why"], registry=self.registry)
        self.replaced = Counter("k15_sandbox_slots_replaced", "Slots", ["why"], registry=self.registry)
        self.admitted = Gauge("k15_sandbox_jobs_admitted", "Jobs running or waiting", registry=self.registry)
        self.case_s = Histogram(
            "k15_sandbox_case_seconds", "Wall time in the slot", buckets=SECONDS, registry=self.registry
        )
        self.job_s = Histogram(
            "k15_sandbox_job_seconds", "From admission to answer", buckets=SECONDS, registry=self.registry
        )

    def case(self, language: str, result: CaseResult) -> None:
        """Count a case."""
        self.cases.labels(language, result.status.value).inc()
        self.case_s.observe(result.wall_s)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
