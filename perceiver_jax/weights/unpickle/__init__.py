"""Safe unpickling, which reads arrays without running code of the file."""
