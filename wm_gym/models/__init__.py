"""V, M and C: the VAE, the memory and the controller, each an nn.Module or plain class with a config beside it."""
