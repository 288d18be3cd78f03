"""What a fit leans on: influence, robust covariances, cross-validation."""
