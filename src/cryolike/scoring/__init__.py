"""Comparison of images with templates: best poses and likelihoods."""
