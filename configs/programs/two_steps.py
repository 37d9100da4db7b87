"""A program of two steps, as `two-steps.yaml` names it: `build` returns a new module each time."""

from __future__ import annotations

from typing import Literal

import dspy


class NameProblem(dspy.Signature):
    """Say in a few words what the customer's problem is."""

    message: str = dspy.InputField()
    problem: str = dspy.OutputField(desc="the problem in at most ten words")


class PickTeam(dspy.Signature):
    """Decide which team solves the problem."""

    problem: str = dspy.InputField()
    team: Literal["billing", "delivery", "technical", "account"] = dspy.OutputField()


class TwoSteps(dspy.Module):
    """First the problem, then the team."""

    def __init__(self) -> None:
        super().__init__()
        self.name_problem = dspy.Predict(NameProblem)
        self.pick_team = dspy.Predict(PickTeam)

    def forward(self, message: str) -> dspy.Prediction:
        problem = self.name_problem(message=message).problem
        return self.pick_team(problem=problem)


def build() -> dspy.Module:
    return TwoSteps()
