"""KernelGAN: the kernel from adversarial training on the patches of y."""
