"""Safe unpickling: reads arrays from a pickle without running its code."""
