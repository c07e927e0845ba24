//! Commands, what they print and what they tell their caller.
