"""What only the chapters need: checks of exercises, the museum of bugs, live widgets."""
