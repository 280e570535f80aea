"""The parts that several tasks share."""
