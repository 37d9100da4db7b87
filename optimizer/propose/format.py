"""`format`: keep the words, change how they are laid out, whether the model thinks first, or its temperature."""

from __future__ import annotations

from dataclasses import replace

from optimizer.candidate import Candidate
from optimizer.propose.operator import Context, Need, Rejection


class Format:
    """The parent with the recipe's format, reasoning and temperature. Needs no LM."""

    name: str = "format"
    needs: frozenset[Need] = frozenset()

    def request(self, context: Context) -> None:
        """Nothing is asked."""

    def parse(self, reply: str, context: Context) -> Candidate:  # noqa: ARG002 - the protocol's shape
        recipe = context.recipe
        changed = replace(
            context.parent, format=recipe.format, reasoning=recipe.reasoning, temperature=recipe.temperature
        )
        if changed == context.parent:
            raise Rejection("nothing changed: the parent already has this format, reasoning and temperature")
        return changed


OPERATOR = Format()
