"""Curvature of the reduced loss: Hessian-vector products, ends of the spectrum, spectral measures."""
