"""What is found of a trained model. Nats per image, accumulated in float64, exact over devices."""
