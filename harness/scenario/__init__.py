"""Running one scenario: phases, observation, evidence, outcome, verdict."""
