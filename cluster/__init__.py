"""The one place of Ray: starting workers, fanning out runs, fitting both to the machines."""
