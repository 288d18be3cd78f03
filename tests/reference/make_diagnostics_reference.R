# Reference numbers for diagnostics, computed by lme4.
#   Rscript tests/reference/make_diagnostics_reference.R   (from the repository root; writes diagnostics_reference.json)
# Packages: lme4, jsonlite. Deletions are refitted with a tighter optimiser than influence() has, which must agree.

suppressPackageStartupMessages({ library(lme4); library(jsonlite) })
OUT <- "tests/reference/diagnostics_reference.json"
tight <- lmerControl("bobyqa", optCtrl = list(rhobeg = 0.1, rhoend = 1e-10, maxfun = 1e5), calc.derivs = FALSE)
sleepstudy$w <- rep(c(1, 2, 0.5), 60)

left_out <- function(formula, data, by) {        # refits without each level of `by`, or each row
  model <- do.call(lmer, list(formula, data = data, control = tight))
  groups <- if (by == "row") factor(seq_len(nrow(data))) else data[[by]]
  fits <- lapply(levels(groups), function(g) do.call(lmer, list(formula, data = data[groups != g, ], control = tight)))
  beta <- t(sapply(fits, fixef)); dim(beta) <- c(nlevels(groups), length(fixef(model)))
  own <- if (by == "row") influence(model, data = data) else influence(model, by, data = data)
  order <- match(levels(groups), as.character(own$deleted))
  dbeta <- beta - matrix(fixef(model), nrow(beta), ncol(beta), byrow = TRUE)
  gap <- abs(dfbeta(own)[order, , drop = FALSE] - dbeta)
  stopifnot(max(gap) < 1e-3 * max(abs(dbeta)))
  se <- t(sapply(fits, function(f) sqrt(diag(as.matrix(vcov(f)))))); dim(se) <- dim(beta)
  theta <- t(sapply(fits, getME, "theta")); dim(theta) <- c(nrow(beta), length(getME(model, "theta")))
  cooks <- rowSums((dbeta %*% solve(as.matrix(vcov(model)))) * dbeta) / ncol(beta)
  ratio <- cooks.distance(own)[order] / cooks    # lme4 has (n - p)/(n p) for 1/p, n the number of deletions
  stopifnot(abs(ratio / (1 - ncol(beta) / nrow(beta)) - 1) < 5e-2 | cooks < 1e-4)
  list(levels = levels(groups), beta = beta, se = se, theta = theta, sigma = sapply(fits, sigma), cooks = cooks)
}

hat <- function(...) { model <- do.call(lmer, list(..., control = tight)); unname(hatvalues(model)) }

out <- list(
  meta = list(R = R.version.string, lme4 = as.character(packageVersion("lme4"))),
  hatvalues = list(
    sleepstudy = hat(Reaction ~ Days + (Days | Subject), sleepstudy),
    sleepstudy_weighted = hat(Reaction ~ Days + (Days | Subject), sleepstudy, weights = sleepstudy$w),
    Penicillin = hat(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin),
    Pastes = hat(strength ~ 1 + (1 | batch / cask), Pastes)
  ),
  left_out = list(
    sleepstudy_Subject = left_out(Reaction ~ Days + (Days | Subject), sleepstudy, "Subject"),
    sleepstudy_row = left_out(Reaction ~ Days + (Days | Subject), sleepstudy, "row"),
    Penicillin_plate = left_out(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin, "plate"),
    Penicillin_sample = left_out(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin, "sample")
  )
)
write_json(out, OUT, digits = 12, auto_unbox = TRUE, matrix = "rowmajor")
