# The one-way Gibbs sampler of the lecture notes: what tests of lj.core.gibbs_kernel and examples/10_gibbs.py compare with.
#   Rscript tests/reference/make_gibbs_reference.R      (from the repository root; writes gibbs.json, about 30 s)
# y_it ~ N(mu + a_i, sigma_e), mu ~ N(0, sigma_mu), a_i ~ N(0, sigma_a), sigma_a and sigma_e ~ InvGamma(alpha, beta). All sigmas
# are variances. Packages: MCMCpack (rinvgamma alone), jsonlite.

suppressPackageStartupMessages({ library(MCMCpack); library(jsonlite) })
OUT <- "tests/reference/gibbs.json"
START <- 0.5; SIGMA_MU <- 0.5; ALPHA <- 2; BETA <- 100      # the variances before the first sweep, and the priors
NAMES <- c("sigma_a", "sigma_e", "mu", paste0("a_", 1:7))

# ---- data: the notes' lines --------------------------------------------------------------------------------------------

set.seed(13)
m <- 2
a <- -3:3
n <- length(a)
T <- rpois(n, lambda = 20)
y <- unlist(lapply(1:n, function(i) rnorm(T[i], m + a[i], 1)))
AFTER_DATA <- .Random.seed                                  # the notes sample on from here; so does each sampler below

# ---- samplers ----------------------------------------------------------------------------------------------------------

group <- rep(seq_len(n), T); N <- sum(T); S <- as.numeric(tapply(y, group, sum))

# feedback : whether mu and a see the variances just drawn, or START for ever. factor : whether the mean of mu has its
# 1/sigma_e. Rows are sweeps; the chain ends where mu or a variance is infinite.
chain <- function(sweeps, feedback, factor) {
  .Random.seed <<- AFTER_DATA
  out <- matrix(NA_real_, sweeps, 3 + n)
  mu <- 0; effects <- rep(0, n); seen <- c(START, START)
  for (s in seq_len(sweeps)) {
    sigma_a <- rinvgamma(1, ALPHA + n / 2, BETA + sum(effects^2) / 2)
    sigma_e <- rinvgamma(1, ALPHA + N / 2, BETA + sum((y - mu - effects[group])^2) / 2)
    if (feedback) seen <- c(sigma_a, sigma_e)
    precision <- N / seen[2] + 1 / SIGMA_MU
    mu <- rnorm(1, sum(y - effects[group]) * (if (factor) 1 / seen[2] else 1) / precision, 1 / sqrt(precision))
    if (!all(is.finite(c(mu, seen)))) break
    effects <- rnorm(n, (S - T * mu) / (T + seen[2] / seen[1]), 1 / sqrt(T / seen[2] + 1 / seen[1]))
    out[s, ] <- c(sigma_a, sigma_e, mu, effects)
  }
  out
}

BATCHES <- 50
mcse <- function(draws) {                                   # of the means, by batch means
  means <- apply(draws, 2, function(x) colMeans(matrix(x, ncol = BATCHES)))
  apply(means, 2, sd) / sqrt(BATCHES)
}
moments <- function(mean, sd, ...) list(mean = setNames(as.list(mean), NAMES), sd = setNames(as.list(sd), NAMES), ...)

run <- function(feedback, factor, sweeps = 50000, discard = 1000) {
  cpu <- system.time(draws <- chain(sweeps, feedback, factor))[["user.self"]]
  finite <- sum(!is.na(draws[, 3]))
  if (finite < sweeps) {
    beyond <- sapply(c(1e3, 1e6, 1e100), function(limit) which(abs(draws[, 3]) > limit)[1])
    return(list(feedback = feedback, factor = factor, diverged = TRUE, finite_sweeps = finite,
                mu_beyond = list(`1e3` = beyond[1], `1e6` = beyond[2], `1e100` = beyond[3])))
  }
  kept <- draws[-seq_len(discard), ]
  c(list(feedback = feedback, factor = factor, diverged = FALSE, sweeps = sweeps, discarded = discard, cpu_seconds = cpu),
    moments(colMeans(kept), apply(kept, 2, sd), mcse = setNames(as.list(mcse(kept)), NAMES)))
}

# ---- closed forms ------------------------------------------------------------------------------------------------------

# Without feedback mu and a are a linear Gaussian recursion, mu' = intercept + slope mu + noise: its stationary law.
stationary <- function(factor) {
  precision <- N / START + 1 / SIGMA_MU
  gain <- (if (factor) 1 / START else 1) / precision        # of sum(y - a) on the mean of mu
  shrink <- T / (T + 1)                                     # a_i ~ N(shrink (mean of y_i - mu), noise), as sigma_e/sigma_a = 1
  noise <- 1 / (T / START + 1 / START)
  slope <- gain * sum(T * shrink)
  mu <- gain * sum(S - S * shrink) / (1 - slope)
  var_mu <- (1 / precision + gain^2 * sum(T^2 * noise)) / (1 - slope^2)
  mean <- c(mu, shrink * (S / T - mu)); sd <- sqrt(c(var_mu, shrink^2 * var_mu + noise))
  list(slope = slope, mean = setNames(as.list(mean), NAMES[-(1:2)]), sd = setNames(as.list(sd), NAMES[-(1:2)]))
}

# The precision of (mu, a) given the variances and y, its Cholesky factor and its inverse, and the mean.
gaussian <- function(sa, se) {
  Q <- diag(c(1 / SIGMA_MU + N / se, 1 / sa + T / se)); Q[1, -1] <- Q[-1, 1] <- T / se
  R <- chol(Q); V <- chol2inv(R); h <- c(sum(S), S) / se
  list(R = R, V = V, h = h, mean = drop(V %*% h))
}

# The posterior itself: two dimensions, log sigma_a and log sigma_e, are left to integrate numerically.
posterior <- function(points = 161) {
  la <- seq(log(2), log(5000), length.out = points); le <- seq(log(0.8), log(8), length.out = points)
  invgamma <- function(l) -ALPHA * l - BETA / exp(l)        # the prior of log sigma
  grid <- expand.grid(la = la, le = le)
  rows <- t(mapply(function(la, le) {
    sa <- exp(la); se <- exp(le); g <- gaussian(sa, se)
    log_density <- invgamma(la) + invgamma(le) - n * la / 2 - N * le / 2 - sum(log(diag(g$R))) -
      (sum(y^2) / se - sum(g$h * g$mean)) / 2
    c(log_density, sa, se, g$mean, sa^2, se^2, g$mean^2 + diag(g$V))
  }, grid$la, grid$le))
  weight <- exp(rows[, 1] - max(rows[, 1]))
  edge <- grid$la %in% range(la) | grid$le %in% range(le)
  stopifnot(max(weight[edge]) < 1e-7)
  all <- colSums(weight * rows[, -1]) / sum(weight)
  moments(all[1:(n + 3)], sqrt(all[-(1:(n + 3))] - all[1:(n + 3)]^2))
}

# ---- all ---------------------------------------------------------------------------------------------------------------

samplers <- list(printed = run(FALSE, FALSE), factor_only = run(FALSE, TRUE), feedback_only = run(TRUE, FALSE), both = run(TRUE, TRUE))
samplers$both_long <- run(TRUE, TRUE, 501000, 1000)
samplers$printed$stationary <- stationary(FALSE)
samplers$factor_only$stationary <- stationary(TRUE)
fixed <- gaussian(START, START)                             # with the factor alone: the posterior had the variances been known
agree <- function(x, y) stopifnot(max(abs(unlist(x) - y)) < 1e-10)
agree(samplers$factor_only$stationary$mean, fixed$mean); agree(samplers$factor_only$stationary$sd, sqrt(diag(fixed$V)))

meta <- list(R = as.character(getRversion()), MCMCpack = as.character(packageVersion("MCMCpack")), RNGkind = RNGkind(), seed = 13, batches = BATCHES)
settings <- list(start = START, sigma_mu = SIGMA_MU, alpha = ALPHA, beta = BETA, m = m, a = a)
every_digit <- function(x) structure(paste0("[", paste(sprintf("%.17g", x), collapse = ","), "]"), class = "json")
all <- list(meta = meta, settings = settings, data = list(T = T, y = every_digit(y)), posterior = posterior(), samplers = samplers)
writeLines(toJSON(all, digits = I(15), auto_unbox = TRUE, json_verbatim = TRUE), OUT)
