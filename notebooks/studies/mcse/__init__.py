"""Grounding a sentence encoder in images, for chapter 13: data, trainings, a student, the study."""
