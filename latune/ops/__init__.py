"""What a model calls: the operator, its PyTorch reference, and the slopes models use."""
