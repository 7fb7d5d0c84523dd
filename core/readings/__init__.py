"""Answering questions from one shared forward pass: one reader per kind of question, and the batch that feeds them."""
