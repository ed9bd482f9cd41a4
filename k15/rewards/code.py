"""Programs, judged by the tests in their prompt's reference (k15.programs.Suite), in the sandbox."""

import json

from k15.ports import Reward, RewardPorts
from k15.programs import Suite
from k15.records import Prompt, Status, Verdict
from k15.rewards.answer import Statement
from k15.rewards.program import fenced, last_program

DEADLINE_S = 300.0  # of a job, waiting for a slot included
PROGRAM = "program"  # in a prompt's metadata: one that passes, where the data set publishes it


def build(ports: RewardPorts) -> Reward:
    """Correct where the last stated program passes every test; ValueError without ports.sandbox."""
    sandbox = ports.sandbox
    if sandbox is None:
        raise ValueError("reward code runs programs where they can touch nothing; give ports.sandbox")

    def code(prompt: Prompt, response: str) -> Verdict:
        try:
            suite = Suite.from_json(prompt.reference)
            program = last_program(response, suite.language)
            if program is None:
                return Verdict(Status.WRONG, "no program stated")
            result = sandbox.judge(suite.job(program, deadline_s=DEADLINE_S))
        except ValueError as error:  # of the reference: the sandbox judges every program
            return Verdict(Status.UNJUDGED, str(error))
        return Verdict(result.status, result.reason)

    return code


def _stated(prompt: Prompt, response: str) -> str | None:
    return last_program(response, Suite.from_json(prompt.reference).language)


def _published(prompt: Prompt) -> str | None:
    program = json.loads(prompt.metadata).get(PROGRAM)
    return None if program is None else fenced(program, Suite.from_json(prompt.reference).language)


STATEMENT = Statement(_stated, _published, is_reference=False)
