"""Estimators of how good a model is. Nats per image, accumulated in float64, exact over devices."""
