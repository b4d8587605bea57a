"""Face identification among a million distractors, from features of any recogniser."""
