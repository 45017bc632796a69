"""KernelGAN: the kernel from an adversarial game on the patches of y, a solver of its own."""
