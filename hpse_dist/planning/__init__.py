"""What a run will need, and which settings of the machine make it quick."""
