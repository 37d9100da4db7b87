"""How candidates are tried: recipes, evaluation, races, who leads, when to give up."""
