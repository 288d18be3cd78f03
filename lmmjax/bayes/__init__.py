"""Bayesian fits: priors, Gibbs sampling, the same model in NumPyro, and what to do with the draws."""
